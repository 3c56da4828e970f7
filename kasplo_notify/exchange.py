"""One request on one connection: write it, wait for the status and the headers, take some of the body.

`Peer` is aiohttp's protocol with what it forgets: how often the connection was used, and what came in since
the request. Its parser loses an answer's headers when what follows them in the same packet is broken; the copy
in `Peer.head` does not.
"""

import asyncio
import re

from aiohttp import StreamReader
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from kasplo_notify.failures import exchange_failure
from kasplo_notify.outcome import Failure, Outcome

BODY_BYTES = 16_384
BODY_SECONDS = 2.0
EXCERPT_BYTES = 512
_HEAD_BYTES = 16_384

_COMPLETE_HEAD = re.compile(rb"HTTP/1\.[01] ([2-9][0-9][0-9])(?: [^\r\n]*)?\r?\n(?:[^\r\n]+\r?\n)*\r?\n")


class Peer(ResponseHandler):
    """The other end of a connection.

    Attributes:
        exchanges: Requests sent so far.
        idle: In the pool; nothing is expected from it.
        head: The first bytes that came since the last request was sent.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.exchanges = 0
        self.idle = False
        self.head = b""

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        if self.idle:
            # Bytes that nobody asked for (a 408 before an idle connection is closed, a second answer) would
            # pass for the answer to the next request.
            self.abort()
            return
        if len(self.head) < _HEAD_BYTES:
            self.head += data[:_HEAD_BYTES]
        super().data_received(data)

    @classmethod
    def of(cls, connection: Connection) -> "Peer":
        """The peer of a connection that has not been given back yet."""
        peer = connection.protocol
        if not isinstance(peer, cls):
            raise TypeError("the connection was not made by the transport's connector")
        return peer


class TimeIsUp(TimeoutError):  # noqa: N818 - the name says what happened
    """Set on a connection by the timer of its exchange."""


class Exchange:
    """One request and its clock, which runs from construction for `timeout` seconds."""

    __slots__ = ("_deadline", "_loop", "_start", "_timeout")

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        self._loop, self._timeout = loop, timeout
        self._start = loop.time()
        self._deadline = self._start + timeout

    async def run(self, connection: Connection, wire: bytes) -> Outcome | None:
        """Write the request `wire`, read the answer, give the connection back.

        None: a kept connection that the other side had closed before a byte of an answer came.
        """
        peer = Peer.of(connection)
        reused, peer.exchanges = peer.exchanges > 0, peer.exchanges + 1
        peer.idle, peer.head = False, b""
        peer.set_response_params(read_until_eof=True, auto_decompress=False, read_bufsize=BODY_BYTES)
        timer = self._loop.call_at(self._deadline, peer.set_exception, TimeIsUp())
        try:
            if peer.transport is not None:  # else reading tells why
                peer.transport.write(wire)
            message, payload = await peer.read()
            # 1xx announce the answer (RFC 9110, section 15.2); after 101 the connection is no longer HTTP.
            while 100 <= message.code <= 199 and message.code != 101:
                message, payload = await peer.read()
        except Exception as error:  # noqa: BLE001 - anything may come of parsing what a stranger sends
            connection.close()
            return self._unanswered(error, peer.head, reused=reused)
        finally:
            timer.cancel()
        body, whole = (payload.read_nowait(), True) if payload.is_eof() else await self._body(payload)
        if whole and peer.transport is not None and not peer.transport.get_write_buffer_size():
            peer.idle = True
            connection.release()
        else:
            connection.close()
        return self._answered(message.code, message.headers.get("Retry-After"), body)

    def failed(self, error: Failure, detail: str) -> Outcome:
        """The outcome of a request that got no answer."""
        return Outcome(status=None, error=error, detail=detail, duration_ms=self._elapsed_ms())

    def _answered(self, status: int, retry_after: str | None, body: bytes, detail: str = "") -> Outcome:
        return Outcome(
            status=status,
            detail=detail,
            retry_after=retry_after,
            excerpt=body[:EXCERPT_BYTES],
            duration_ms=self._elapsed_ms(),
        )

    def _unanswered(self, error: Exception, head: bytes, *, reused: bool) -> Outcome | None:
        if reused and not head and not isinstance(error, TimeoutError):
            return None
        if match := _COMPLETE_HEAD.match(head):
            return self._answered(
                int(match[1]), None, b"", "the answer could be read no further than its headers"
            )
        return self.failed(*exchange_failure(error, began=bool(head), seconds=self._timeout))

    async def _body(self, payload: StreamReader) -> tuple[bytes, bool]:
        """The body as far as it is wanted, and whether that was all of it."""
        end = min(self._deadline, self._loop.time() + BODY_SECONDS)
        timer = self._loop.call_at(end, payload.set_exception, TimeIsUp())
        body = b""
        try:
            while len(body) < BODY_BYTES and not payload.at_eof():
                body += await payload.readany()
        except Exception:  # noqa: BLE001 - the status is known: nothing about the body changes the outcome
            return body, False
        finally:
            timer.cancel()
        return body, payload.at_eof()

    def _elapsed_ms(self) -> int:
        return round((self._loop.time() - self._start) * 1000)
