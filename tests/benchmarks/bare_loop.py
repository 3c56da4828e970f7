"""The baseline of delivering: a bare `aiohttp.ClientSession` that POSTs one body over and over.

Run as a program with URL, number of requests and concurrency; the body comes on stdin. No queue, no signature, no
timers of its own, one header. It prints the seconds of CPU that the requests took.
"""

import asyncio
import sys
import time

from aiohttp import ClientSession, DummyCookieJar, TCPConnector


async def _post_all(url: str, requests: int, concurrency: int, body: bytes) -> float:
    numbers = iter(range(requests))
    headers = {"Content-Type": "application/json"}
    async with ClientSession(connector=TCPConnector(limit=0), cookie_jar=DummyCookieJar()) as session:

        async def post() -> None:
            for _ in numbers:
                async with session.post(url, data=body, headers=headers) as response:
                    await response.read()
                    if response.status != 200:
                        raise RuntimeError(f"answered with {response.status}")

        began = time.process_time()
        await asyncio.gather(*(post() for _ in range(concurrency)))
        return time.process_time() - began


if __name__ == "__main__":
    sys.stdout.write(
        f"{asyncio.run(_post_all(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.stdin.buffer.read()))}\n"
    )
