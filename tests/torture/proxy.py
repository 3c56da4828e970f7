"""The network between Redis and those who use it, and what can be wrong with it.

A TCP port in front of the server's socket, carried by an event loop in a thread of its own. Every fault is for what
passes while it is set; `harm` sets several with their probabilities, per packet that comes from the server.
"""

import asyncio
import random
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_PACKET = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Harm:
    """What happens to packets. Probabilities are per packet of the server's replies.

    Attributes:
        latency: Seconds that each packet is late, each way, at most.
        cut: Probability that a reply is not carried and its connection ends: the request was executed.
        tear: Probability that a reply is carried in part and its connection is reset.
        hole: Probability that a connection carries nothing any more, either way, and stays open.
        slices: Probability that a packet, either way, is carried in pieces of 1 to 7 bytes.
    """

    latency: float = 0.0
    cut: float = 0.0
    tear: float = 0.0
    hole: float = 0.0
    slices: float = 0.0


class Proxy:
    """The port; a context manager.

    Attributes:
        harm: What happens to packets from now on.
        lost: Replies that were cut, torn or swallowed so far.
    """

    def __init__(self, socket: Path, seed: int) -> None:
        self._socket = str(socket)
        self._rng = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._connections: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._port = 0
        self._closed = False
        self.harm = Harm()
        self.lost = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def refuse(self, *, closed: bool) -> None:
        """Refuse connections, and end those that are open; or let them in again."""
        self._closed = closed
        if closed:
            asyncio.run_coroutine_threadsafe(self._end_all(), self._loop).result(30)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._carry, "127.0.0.1", 0, limit=_PACKET)
        self._port = self._listener.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self._listener is not None:
            self._listener.close()
        await self._end_all()

    async def _end_all(self) -> None:
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if not self._closed:
                with suppress(OSError, asyncio.IncompleteReadError):
                    await self._both_ways(reader, writer)
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _both_ways(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(self._socket, limit=_PACKET)
        ways = (
            asyncio.ensure_future(self._requests(reader, to_server)),
            asyncio.ensure_future(self._replies(from_server, writer)),
        )
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            to_server.transport.abort()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_PACKET):
            await self._write(writer, data)

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_PACKET):
            harm, chance = self.harm, self._rng.random()
            if chance < harm.cut:
                self.lost += 1
                return
            if chance < harm.cut + harm.tear:
                self.lost += 1
                writer.write(data[: len(data) // 2])
                return
            if chance < harm.cut + harm.tear + harm.hole:
                self.lost += 1
                # The client gives up; that ends the other way, and so this one.
                await asyncio.Event().wait()
            await self._write(writer, data)

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if self.harm.latency:
            await asyncio.sleep(self._rng.uniform(0, self.harm.latency))
        if self._rng.random() >= self.harm.slices:
            writer.write(data)
            await writer.drain()
            return
        while data:
            size = self._rng.randint(1, 7)
            writer.write(data[:size])
            data = data[size:]
            # A packet of its own: the loop sends what is written when it comes round.
            await asyncio.sleep(0)
        await writer.drain()
