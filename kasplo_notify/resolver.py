"""Name resolution on threads of its own.

asyncio's default executor has a handful of threads (cores + 4); a name whose servers do not answer holds one
for ten seconds and more, so a few dead subscribers would stop all others from being resolved.
"""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor

from aiohttp.abc import AbstractResolver, ResolveResult

_THREADS = 64


class PooledResolver(AbstractResolver):
    """`getaddrinfo`, and so /etc/hosts and the system's resolver, on up to 64 threads."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="kasplo-dns")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of `host`.

        Raises:
            OSError: It has none, or the name servers do not answer.
        """
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._pool, socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG
        )
        numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        results = [
            ResolveResult(hostname=host, host=str(address[0]), port=port, family=kind, proto=protocol, flags=numeric)
            for kind, _, protocol, _, address in found
            if kind in (socket.AF_INET, socket.AF_INET6)
        ]
        if not results:
            raise socket.gaierror(socket.EAI_NONAME, "no IPv4 or IPv6 address")
        return results

    async def close(self) -> None:
        """End the threads; a lookup that is still running ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)
