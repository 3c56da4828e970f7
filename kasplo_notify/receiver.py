"""A sample receiver: the "Sample API" of the document, for the demo and for acceptance tests.

It listens on a port of 127.0.0.1, answers `{"status":"OK"}` at /v1/webhook to POST and GET, and verifies
signatures as a subscriber should. It can refuse an event a few times, so that a requeue can be watched.

`python -m kasplo_notify.receiver [PORT]` shows what comes, and verifies nothing: it knows no secret.
"""

from __future__ import annotations

import asyncio
import sys
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
        port: 0 for a free one.
    """

    def __init__(self, on_delivery: Callable[[Delivery], None], port: int = 0) -> None:
        self._on_delivery = on_delivery
        self._secrets: list[str] = []
        self._refusals: Counter[str] = Counter()
        self._runner: web.AppRunner | None = None
        self._port = port

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
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
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


def main(arguments: list[str]) -> int:
    """Run a receiver on a port and write a line about each request, until Ctrl+C."""
    port = arguments[0] if arguments else "8900"
    if len(arguments) > 1 or not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        print("Usage: python -m kasplo_notify.receiver [PORT]", file=sys.stderr)  # noqa: T201 - a program
        return 2
    try:
        asyncio.run(_show(int(port)))
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        print(f"Error: port {port} cannot be listened on: {error.strerror}. Name another.", file=sys.stderr)  # noqa: T201 - as above
        return 1
    return 0


async def _show(port: int) -> None:
    def say(line: str) -> None:
        # Whoever sends is a stranger: a terminal obeys nothing of it.
        print("".join(each if each.isprintable() else ascii(each)[1:-1] for each in line), flush=True)  # noqa: T201 - as above

    def tell(each: Delivery) -> None:
        say(f"{each.method} {each.path}  attempt {each.attempt}  {each.body.decode(errors='replace')}")

    receiver = Receiver(tell, port)
    await receiver.start()
    say(f"Receiving at {receiver.url}; Ctrl+C ends.")
    await asyncio.Event().wait()


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
