"""Servers on loopback that answer with scripted bytes, and the transport that meets them."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

from kasplo_notify.config import Config
from kasplo_notify.config_sections import DeliveryConfig, EgressConfig, WorkerConfig
from kasplo_notify.guard import EgressGuard
from kasplo_notify.request import Request
from kasplo_notify.transport import Transport

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
OPEN = EgressConfig(allow=("127.0.0.0/8", "::1/128"))

Script = Callable[["Visit"], Awaitable[None]]


class Visit:
    """One connection to a scripted server. In `sent` scripts count what they like."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number, self.reader, self.writer = number, reader, writer
        self.sent = 0

    async def request(self) -> bytes:
        """The next request, whole."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        return head + (await self.reader.readexactly(int(length)) if length else b"")

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """RST instead of FIN."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Wait until the client has closed."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


class Server:
    """Runs one script for each connection, and keeps the requests."""

    def __init__(self, script: Script) -> None:
        self.script, self.connections = script, 0
        self.requests: list[bytes] = []
        self.visits: list[Visit] = []
        self.port = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        visit = Visit(self.connections, reader, writer)
        self.visits.append(visit)
        read = visit.request

        async def recorded() -> bytes:
            self.requests.append(await read())
            return self.requests[-1]

        visit.request = recorded  # type: ignore[method-assign]
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await self.script(visit)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/in"


@contextlib.asynccontextmanager
async def serving(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    made = Server(script)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(made.handle(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls, limit=1 << 20)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


@contextlib.asynccontextmanager
async def transporting(
    egress: EgressConfig = OPEN, connect_timeout: float = 1.0, max_in_flight: int = 256
) -> AsyncIterator[Transport]:
    delivery, worker = DeliveryConfig(connect_timeout=connect_timeout), WorkerConfig(max_in_flight=max_in_flight)
    config = Config(egress=egress, delivery=delivery, worker=worker)
    transport = Transport(config, EgressGuard(egress))
    await transport.start()
    try:
        yield transport
    finally:
        await transport.close()


def request(url: str, method: str = "POST", body: bytes = b'{"a":1}') -> Request:
    return Request(method, url, (("Content-Type", "application/json"), ("X-A", "b")), body)


def answering(*answers: bytes, then: str = "keep") -> Script:
    """One answer per request of a connection; then keep it, close it or reset it."""

    async def script(visit: Visit) -> None:
        for answer in answers:
            await visit.request()
            await visit.send(answer)
        if then == "keep":
            await visit.gone()
        elif then == "reset":
            visit.reset()

    return script
