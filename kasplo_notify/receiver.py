"""A sample receiver: the "Sample API" of the document, for the demo and for acceptance tests.

It listens on a free port of 127.0.0.1, answers `{"status":"OK"}` at /v1/webhook to POST and GET, and verifies
signatures as a subscriber should. It can refuse an event a few times, so that a requeue can be watched.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Self

from aiohttp import web

from kasplo_notify import signature

if TYPE_CHECKING:
    from collections.abc import Callable

PATH = "/v1/webhook"
_BODIES = {200: b'{"status":"OK"}', 503: b'{"status":"Service Unavailable"}'}


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One request as it came in, and how it was answered."""

    method: str
    path: str  # as sent, with the query string
    headers: tuple[tuple[str, str], ...]  # as sent, in order
    body: bytes
    verified: bool  # signed with one of the known secrets, within five minutes of now
    received_at: float  # Unix s
    status: int  # what it was answered

    def header(self, name: str) -> str:
        """The first value of a header, whatever its case; empty when it is missing."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")

    @property
    def event_id(self) -> str:
        return self.header("webhook-id")

    @property
    def event_type(self) -> str:
        return self.header("X-Kasplo-Event-Type")

    @property
    def attempt(self) -> int:
        """1, 2, ...; 0 when the header is missing or not a number."""
        value = self.header("X-Kasplo-Attempt")
        return int(value) if value.isdecimal() else 0


class Receiver:
    """The receiver on the running event loop.

    Args:
        on_delivery: called with every request at `/v1/webhook`, on the loop; it must not block.
    """

    def __init__(self, on_delivery: Callable[[Delivery], None]) -> None:
        self._on_delivery = on_delivery
        self._secrets: list[str] = []
        self._refusals: Counter[str] = Counter()
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Where it listens, once it is started."""
        return f"http://127.0.0.1:{self._port}{PATH}"

    def know(self, secret: str) -> None:
        """Signatures with this secret count as verified."""
        self._secrets.append(secret)

    def refuse(self, event_id: str, times: int) -> None:
        """Answer 503 to the next attempts of an event."""
        self._refusals[event_id] += times

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("POST", PATH, self._receive)
        app.router.add_route("GET", PATH, self._receive)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        received_at = time.time()
        body = await request.read()
        event_id = request.headers.get("webhook-id", "")
        status = HTTPStatus.OK
        if self._refusals[event_id] > 0:
            self._refusals[event_id] -= 1
            status = HTTPStatus.SERVICE_UNAVAILABLE
        self._on_delivery(
            Delivery(
                method=request.method,
                path=request.raw_path,
                headers=tuple((_text(key), _text(value)) for key, value in request.raw_headers),
                body=body,
                verified=any(signature.verify(secret, request.headers, body, received_at) for secret in self._secrets),
                received_at=received_at,
                status=status.value,
            )
        )
        return web.Response(body=_BODIES[status], status=status, content_type="application/json")


class ReceiverThread:
    """A receiver on an event loop of its own, in a thread; a context manager."""

    def __init__(self, on_delivery: Callable[[Delivery], None]) -> None:
        self.receiver = Receiver(on_delivery)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sample-receiver", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.receiver.start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            asyncio.run_coroutine_threadsafe(self.receiver.close(), self._loop).result(10)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")
