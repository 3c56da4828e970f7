"""Name resolution on threads of its own.

asyncio's default executor has a handful of threads (cores + 4); a name whose servers do not answer holds one
for ten seconds and more, so a few dead subscribers would stop all others from being resolved. And the interpreter
waits for the threads of an executor when it ends; it does not wait for these.
"""

import asyncio
import errno
import socket
import threading
from contextlib import suppress
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

_THREADS = 64
# Of each family. Those that do not answer are dialled side by side, and each is a socket: a name may have hundreds.
_ADDRESSES = 4


class PooledResolver(AbstractResolver):
    """`getaddrinfo`, and so /etc/hosts and the system's resolver, on up to 64 threads."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(_THREADS)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of `host`, in the system's order: the first four of each family.

        Raises:
            OSError: It has none, or the name servers do not answer: a `socket.gaierror`. Any other: this machine
                could not look.
        """
        found = await self._look_up(host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)
        numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        left = {socket.AF_INET: _ADDRESSES, socket.AF_INET6: _ADDRESSES}
        results = []
        for kind, _, protocol, _, address in found:
            if left.get(kind):
                left[kind] -= 1
                at = str(address[0])
                results.append(
                    ResolveResult(hostname=host, host=at, port=port, family=kind, proto=protocol, flags=numeric)
                )
        if not results:
            raise socket.gaierror(socket.EAI_NONAME, "no IPv4 or IPv6 address")
        return results

    async def close(self) -> None:
        """A lookup that is still running ends by itself, and with the process at the latest."""

    async def _look_up(self, *arguments: Any) -> list[Any]:
        loop = asyncio.get_running_loop()
        looked_up: asyncio.Future[list[Any]] = loop.create_future()

        def done(found: list[Any], error: BaseException | None) -> None:
            # Who gave up waiting has its seat until the thread has ended: the number of threads is what is bounded.
            self._free.release()
            if looked_up.cancelled():
                return
            if error is None:
                looked_up.set_result(found)
            else:
                looked_up.set_exception(error)

        def look_up() -> None:
            found: list[Any] = []
            error: Exception | None = None
            try:
                found = _addresses(*arguments)
            except Exception as raised:  # noqa: BLE001 - it is raised where it is waited for
                error = raised
            with suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(done, found, error)

        await self._free.acquire()
        try:
            threading.Thread(target=look_up, name="kasplo-dns", daemon=True).start()
        except RuntimeError as error:
            self._free.release()
            raise OSError(errno.EAGAIN, f"no thread could be started for it: {error}") from error
        return await looked_up


def _addresses(*arguments: Any) -> list[Any]:
    try:
        return socket.getaddrinfo(*arguments)
    except socket.gaierror:
        # Where it could open no file or socket it may say that there is no such name, or that no server answers.
        socket.socket().close()
        raise
