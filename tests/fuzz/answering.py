"""The answer reader without a socket: the exchange of a request with a server that is a list of pieces."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from kasplo_notify.exchange import Clock, Exchange, Peer
from kasplo_notify.outcome import Outcome

if TYPE_CHECKING:
    from aiohttp.connector import Connection

_TIMEOUT_S = 3600.0
# Of the event loop, for what is left to do when nothing more comes.
_STEPS = 20


class _Socket(asyncio.Transport):
    """asyncio's side of a connection, as far as the exchange and its parser look at it."""

    def __init__(self, peer: Peer) -> None:
        super().__init__()
        self.peer, self.closed, self.paused = peer, False, False

    def write(self, data: object) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.peer.connection_lost, None)

    abort = close


class _Connection:
    """What the pool gives."""

    def __init__(self, peer: Peer) -> None:
        self.protocol, self.given_back = peer, 0

    def close(self) -> None:
        self.given_back += 1
        self.protocol.close()

    def release(self) -> None:
        self.given_back += 1


def answered(pieces: Sequence[bytes], loop: asyncio.AbstractEventLoop, *, reused: bool = False) -> Outcome | None:
    """What comes of a request that is answered with these pieces, after which the connection is closed.

    Raises:
        AssertionError: The request did not end with the connection, or gave the connection back twice or never.
    """
    return loop.run_until_complete(_answered(pieces, loop, reused=reused))


async def _answered(pieces: Sequence[bytes], loop: asyncio.AbstractEventLoop, *, reused: bool) -> Outcome | None:
    peer, clock = Peer(loop), Clock(loop)
    socket = _Socket(peer)
    peer.connection_made(socket)
    peer.exchanges = int(reused)
    connection = _Connection(peer)
    running = loop.create_task(Exchange(loop, clock, _TIMEOUT_S).run(cast("Connection", connection), b"POST"))
    await asyncio.sleep(0)
    for piece in pieces:
        for _ in range(_STEPS):
            if socket.paused and not socket.closed:
                await asyncio.sleep(0)
        if not socket.closed:
            peer.data_received(piece)
        await asyncio.sleep(0)
    socket.close()
    for _ in range(_STEPS):
        await asyncio.sleep(0)
    clock.close()
    assert running.done(), "the request goes on although the connection is closed"
    outcome = await running
    assert connection.given_back == 1
    return outcome
