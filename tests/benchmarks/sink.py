"""A receiver that is too fast to be the limit: every request is answered with 200, and counted.

Run as a program. It prints its port, then answers commands on stdin, one JSON line each: `reset`; `report`, the
number of requests and the times of the first and the last; `arrivals`, the time of each `webhook-id`. Times are
Unix seconds, by the clock that the Redis server of this machine has. It ends when stdin does.
"""

import asyncio
import json
import re
import sys
import time

_ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{"status":"OK"}'
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ID = re.compile(rb"\r\nwebhook-id: *([!-~]+)", re.IGNORECASE)


class Seen:
    """What has arrived since the last reset; `again` counts requests whose id had been there before."""

    def __init__(self) -> None:
        self.requests = self.again = 0
        self.first = self.last = 0.0
        self.arrivals: dict[bytes, float] = {}

    def add(self, head: bytes) -> None:
        self.last = time.time()
        if not self.requests:
            self.first = self.last
        self.requests += 1
        if found := _ID.search(head):
            if found[1] in self.arrivals:
                self.again += 1
            else:
                self.arrivals[found[1]] = self.last

    def report(self) -> dict[str, float]:
        return {"requests": self.requests, "again": self.again, "first": self.first, "last": self.last}


class Sink(asyncio.Protocol):
    """One connection; HTTP/1.1 with Content-Length and keep-alive, nothing else."""

    def __init__(self, seen: list[Seen]) -> None:
        self._seen = seen
        self._transport: asyncio.Transport | None = None
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        data = self._data + data
        answered = 0
        while (end := data.find(b"\r\n\r\n")) >= 0:
            head = data[:end]
            length = _LENGTH.search(head)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(data) < whole:
                break
            self._seen[0].add(head)
            data = data[whole:]
            answered += 1
        self._data = data
        if answered and self._transport is not None:
            self._transport.write(_ANSWER * answered)


class Commands(asyncio.Protocol):
    """Stdin: a command a line."""

    def __init__(self, seen: list[Seen], ended: asyncio.Event) -> None:
        self._seen = seen
        self._ended = ended

    def data_received(self, data: bytes) -> None:
        for command in data.split():
            answer: object = None
            if command == b"reset":
                self._seen[0] = Seen()
            elif command == b"report":
                answer = self._seen[0].report()
            elif command == b"arrivals":
                answer = {name.decode(): at for name, at in self._seen[0].arrivals.items()}
            sys.stdout.write(f"{json.dumps(answer)}\n")
            sys.stdout.flush()

    def connection_lost(self, _error: Exception | None) -> None:
        self._ended.set()


async def _serve() -> None:
    loop, seen, ended = asyncio.get_running_loop(), [Seen()], asyncio.Event()
    server = await loop.create_server(lambda: Sink(seen), "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await loop.connect_read_pipe(lambda: Commands(seen, ended), sys.stdin)
    await ended.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(_serve())
