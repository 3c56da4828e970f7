"""A subscriber's HTTP server for tests: raw, scripted by path, and it records every byte.

It shares no code with the sender, so that what arrives is judged by the sockets alone.
"""

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How to answer one request.

    Attributes:
        status: The status code.
        headers: Besides Content-Length.
        wait: Seconds before the answer.
        held: Wait for :meth:`Subscriber.release` instead.
        body: Its body.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    wait: float = 0.0
    held: bool = False
    body: bytes = b'{"status":"OK"}'

    def wire(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} Scripted", *(f"{name}: {value}" for name, value in self.headers)]
        return "\r\n".join([*lines, f"Content-Length: {len(self.body)}", "", ""]).encode() + self.body


@dataclass(slots=True, kw_only=True)
class Hit:
    """One request as it came in.

    Attributes:
        at: Unix seconds when its head was complete, so never earlier than it was sent.
        line: The request line.
        headers: As sent, in order.
        body: Its bytes.
        peer: The port that the sender used.
        status: What it was answered; 0 while it waits for that.
        gone: The sender gave up before the answer.
    """

    at: float
    line: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    peer: int
    status: int = 0
    gone: bool = False

    @property
    def path(self) -> str:
        return self.line.split(" ")[1].partition("?")[0]

    def header(self, name: str) -> str:
        """The only value of a header, by its exact name."""
        (value,) = (value for key, value in self.headers if key == name)
        return value

    @property
    def id(self) -> str:
        return self.header("webhook-id")

    @property
    def attempt(self) -> int:
        return int(self.header("X-Kasplo-Attempt"))

    @property
    def waits(self) -> bool:
        return not self.status and not self.gone


Script = Callable[[Hit], Answer]


@dataclass(slots=True)
class _Path:
    answers: list[Answer] = field(default_factory=lambda: [Answer()])
    script: Script | None = None
    hits: list[Hit] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def answer(self, hit: Hit) -> Answer:
        if self.script is not None:
            return self.script(hit)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Subscriber:
    """The server, in a thread of its own; a context manager. Unscripted paths answer 200 at once.

    Args:
        listener: A socket that is bound, and refuses connections until the server starts.
        tls: Speak TLS with this context.
    """

    def __init__(self, listener: socket.socket | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        self._listener = listener or closed_port()
        self._tls = tls
        self._base = f"http{'s' if tls else ''}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._paths: dict[str, _Path] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="subscriber", daemon=True)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    def url(self, path: str) -> str:
        return self._base + path

    def answers(self, path: str, *answers: Answer) -> None:
        """Answer the next requests to a path so, one after another; all others as the last of them."""
        scripted = self._path(path)
        scripted.answers, scripted.script = list(answers), None

    def decides(self, path: str, script: Script) -> None:
        """Let a function choose the answers of a path."""
        self._path(path).script = script

    def release(self, path: str) -> None:
        """Answer what is held on a path, now and later."""
        self._loop.call_soon_threadsafe(self._path(path).released.set)

    def hits(self, path: str) -> list[Hit]:
        """The requests to a path so far, in the order in which they came."""
        return list(self._path(path).hits)

    def waiting(self, path: str) -> list[Hit]:
        """The requests to a path that wait for their answer."""
        return [hit for hit in self.hits(path) if hit.waits]

    def taken(self, path: str) -> list[str]:
        """The ids of the events that were answered with 200 on a path."""
        return [hit.id for hit in self.hits(path) if hit.status == 200]

    def _path(self, path: str) -> _Path:
        return self._paths.setdefault(path, _Path())

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._converse, sock=self._listener, backlog=1024, ssl=self._tls)

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection goes on."""
        head = await reader.readuntil(b"\r\n\r\n")
        at = time.time()
        line, *rest = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        headers = tuple((name, value) for name, _, value in (each.partition(": ") for each in rest))
        length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
        body = await reader.readexactly(length)
        hit = Hit(at=at, line=line, headers=headers, body=body, peer=writer.get_extra_info("peername")[1])
        path = self._path(hit.path)
        path.hits.append(hit)
        answer = path.answer(hit)
        if (answer.held or answer.wait) and not await self._wait(answer, path, reader):
            hit.gone = True
            return False
        writer.write(answer.wire())
        # Before the drain: once it is answered, the sender may be faster than this thread.
        hit.status = answer.status
        await writer.drain()
        return True

    async def _wait(self, answer: Answer, path: _Path, reader: asyncio.StreamReader) -> bool:
        """Wait as the answer says; whether the sender is still there."""
        waited = asyncio.ensure_future(path.released.wait() if answer.held else asyncio.sleep(answer.wait))
        closed = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({waited, closed}, return_when=asyncio.FIRST_COMPLETED)
            return not closed.done()
        finally:
            waited.cancel()
            closed.cancel()
            await asyncio.gather(waited, closed, return_exceptions=True)


def closed_port() -> socket.socket:
    """A socket on a free port that is reserved, and refuses connections."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    return listener
