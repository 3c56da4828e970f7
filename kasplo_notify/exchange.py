"""One request on one connection: write it, wait for the status and the headers, take some of the body.

`Peer` is aiohttp's protocol with what it lacks: how often the connection was used, what came in since the
request, and an end to how much that may be. Its parser loses an answer's headers when what follows them in the
same packet is broken; the copy in `Peer.head` does not.
"""

import asyncio
import re

from aiohttp import StreamReader
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError, RawResponseMessage
from multidict import istr

from kasplo_notify.failures import exchange_failure
from kasplo_notify.outcome import Failure, Outcome

BODY_BYTES = 16_384
BODY_SECONDS = 2.0
# On the wire, from the request on: announcements (1xx), headers, the part of the body that is read, and whatever
# chunks, their extensions and trailers add to it.
ANSWER_BYTES = 65_536
EXCERPT_BYTES = 512
_HEAD_BYTES = 16_384
_TICK_SECONDS = 0.05
_AGAIN_SECONDS = 1.0
_RETRY_AFTER = istr("Retry-After")

# Announcements may come before the answer. Possessive, so that no answer makes it try anything twice.
_COMPLETE_HEAD = re.compile(
    rb"[\r\n]*+(?:HTTP/1\.[01] 1(?!01)[0-9][0-9](?: [^\r\n]*+)?\r?\n(?:[^\r\n]++\r?\n)*+\r?\n)*+"
    rb"HTTP/1\.[01] ([2-9][0-9][0-9])(?: [^\r\n]*+)?\r?\n(?:[^\r\n]++\r?\n)*+\r?\n"
)


class Peer(ResponseHandler):
    """The other end of a connection.

    Attributes:
        exchanges: Requests sent so far.
        idle: In the pool; nothing is expected from it.
        head: The first bytes that came since the last request was sent.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, kept: "Kept | None" = None) -> None:
        super().__init__(loop)
        self._kept: Kept = {} if kept is None else kept
        self.exchanges = 0
        self.idle = False
        self.head = b""
        self._answered = False
        self._left = ANSWER_BYTES

    def begin(self) -> None:
        """A request is about to be sent: what comes from here on answers it."""
        self.exchanges += 1
        self._kept.pop(self, None)
        self.idle, self.head = False, b""
        self._answered, self._left = False, ANSWER_BYTES
        self.set_response_params(read_until_eof=True, auto_decompress=False, read_bufsize=BODY_BYTES)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        if self.idle:
            # Bytes that nobody asked for (a 408 before an idle connection is closed, a second answer) would
            # pass for the answer to the next request.
            self.abort()
            return
        if not self._left:
            return
        if len(data) > self._left:
            data = data[: self._left]
        self._left -= len(data)
        if not self.head:
            self.head = data[:_HEAD_BYTES]
        elif len(self.head) < _HEAD_BYTES:
            self.head += data[: _HEAD_BYTES - len(self.head)]
        super().data_received(data)
        if not self._left:
            self.set_exception(AnswerTooLong(message=f"more than {ANSWER_BYTES} bytes"))

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Called by the parser for each answer that it has read the headers of."""
        code = data[0].code
        if self._answered:
            self.force_close()
        # 1xx announce the answer (RFC 9110, section 15.2); after 101 the connection is no longer HTTP.
        elif code >= 200 or code < 100 or code == 101:
            self._answered = True
            super().feed_data(data, size)

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        """Nothing more is read: it is broken, too long, too late, or the connection is lost.

        Of a body that has begun the rest is given up. aiohttp itself forgets to end it where it is broken.
        """
        if exc_cause is None:
            super().set_exception(exc)
        else:
            super().set_exception(exc, exc_cause)
        self._left = 0
        if self._payload is not None and not self._payload.is_eof():
            self._payload.feed_eof()

    def close(self) -> None:
        """Close at once.

        aiohttp's would wait for the other side: until it has taken what is still to be written, however long it
        takes, and with TLS half a minute for its goodbye.
        """
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        self._kept.pop(self, None)
        super().abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Called by asyncio."""
        self._kept.pop(self, None)
        super().connection_lost(exc)

    @classmethod
    def of(cls, connection: Connection) -> "Peer":
        """The peer of a connection that has not been given back yet."""
        peer = connection.protocol
        if not isinstance(peer, cls):
            raise TypeError("the connection was not made by the transport's connector")
        return peer


# The connections that have no request, the one that is idle for longest first, and where the pool has each of them.
Kept = dict[Peer, ConnectionKey]


class AnswerTooLong(HttpProcessingError):
    """Raised by reading from a connection that has sent more than an answer may be long."""


class TimeIsUp(TimeoutError):
    """Raised by reading from a connection whose exchange has outlasted its time."""


class Clock:
    """Ends exchanges that have outlasted their time, up to 50 ms late.

    One timer for all of them: with one each, setting and cancelling it took a tenth of a request's CPU time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._running: set[Exchange] = set()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, exchange: "Exchange") -> None:
        """End `exchange` at its deadline, until `forget` is called."""
        self._running.add(exchange)
        if self._timer is None:
            self._timer = self._loop.call_later(_TICK_SECONDS, self._tick)

    def forget(self, exchange: "Exchange") -> None:
        """`exchange` is over."""
        self._running.discard(exchange)

    def close(self) -> None:
        """Stop ticking; whoever calls this closes the connections, which ends what is still running."""
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        now = self._loop.time()
        for exchange in [each for each in self._running if each.deadline <= now]:
            try:
                exchange.expire()
            except Exception as error:  # noqa: BLE001 - the others have deadlines, too
                exchange.deadline = now + _AGAIN_SECONDS
                self._loop.call_exception_handler({"message": "a request could not be ended", "exception": error})
        self._timer = self._loop.call_later(_TICK_SECONDS, self._tick) if self._running else None


class Exchange:
    """One request, from the moment of construction.

    Attributes:
        deadline: When it has to be over, on the event loop's clock.
    """

    __slots__ = ("_clock", "_loop", "_peer", "_start", "_timeout", "deadline")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, timeout: float) -> None:
        self._loop, self._clock, self._timeout = loop, clock, timeout
        self._start = loop.time()
        self.deadline = self._start + timeout
        self._peer: Peer | None = None

    async def run(self, connection: Connection, wire: bytes) -> Outcome | None:
        """Write the request `wire`, read the answer, give the connection back.

        None: a kept connection that the other side had closed before a byte of an answer came.
        """
        self._peer = peer = Peer.of(connection)
        reused = peer.exchanges > 0
        peer.begin()
        self._clock.watch(self)
        try:
            if peer.transport is not None:  # else reading tells why
                peer.transport.write(wire)
            message, payload = await peer.read()
            if payload.is_eof() and payload.exception() is None:
                body, whole = payload.read_nowait(), True
            else:
                body, whole = await self._body(payload)
        except Exception as error:  # noqa: BLE001 - anything may come of parsing what a stranger sends
            connection.close()
            return self._unanswered(error, peer.head, reused=reused)
        except BaseException:
            connection.close()
            raise
        finally:
            self._clock.forget(self)
        if whole and peer.transport is not None and not peer.transport.get_write_buffer_size():
            peer.idle, peer.head = True, b""
            connection.release()
        else:
            connection.close()
        return self._answered(message.code, message.headers.get(_RETRY_AFTER), body)

    def expire(self) -> None:
        """Called by the clock: whatever is being read from the connection ends with `TimeIsUp`."""
        if self._peer is not None:
            self._peer.set_exception(TimeIsUp())

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
        if match := _COMPLETE_HEAD.match(head, 0, _HEAD_BYTES):
            return self._answered(int(match[1]), None, b"", "the answer could be read no further than its headers")
        return self.failed(*exchange_failure(error, began=bool(head), seconds=self._timeout))

    async def _body(self, payload: StreamReader) -> tuple[bytes, bool]:
        """The body as far as it is wanted, and whether that was all of it."""
        self.deadline = min(self.deadline, self._loop.time() + BODY_SECONDS)
        body = b""
        try:
            while len(body) < BODY_BYTES and not payload.at_eof():
                body += await payload.readany()
        except Exception:  # noqa: BLE001 - the status is known: nothing about the body changes the outcome
            return body, False
        return body, payload.at_eof()

    def _elapsed_ms(self) -> int:
        return round((self._loop.time() - self._start) * 1000)
