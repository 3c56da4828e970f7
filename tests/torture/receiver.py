"""Subscribers: one HTTP server whose answer follows from the endpoint's name in the path, scripted from outside.

Run as a program with the path of the ledger; its listening sockets are inherited. It prints nothing but answers to
commands on stdin, one JSON line each:

    {"script": {"<endpoint>": "<behaviour>"}}   from now on   -> {}
    {"ask": "peaks"}                             the most requests of each endpoint that were open at once
    {"ask": "idle"}                              seconds since the last request

It shares no code with the sender but the ledger, so that what arrives is judged by the sockets alone.
"""

import asyncio
import json
import re
import socket
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from email.utils import formatdate
from pathlib import Path
from typing import Any
from zlib import crc32

from tests.torture.ledger import Ledger, Received, digest

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ID = re.compile(rb"\r\nwebhook-id: *([!-~]+)", re.IGNORECASE)
_ATTEMPT = re.compile(rb"\r\nx-kasplo-attempt: *(\d+)", re.IGNORECASE)
_PATH = re.compile(rb"(?:POST|GET) /([a-z0-9_-]+) HTTP/1\.1\r\n")
_ENDLESS_S = 60.0


def answer(status: int, *headers: str, body: bytes = b'{"status":"OK"}') -> bytes:
    lines = [f"HTTP/1.1 {status} Scripted", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


_OK = answer(200)
_GZIP_BOMB = bytes.fromhex("1f8b08000000000000ff") + b"\xec\xc1\x01\x01" + b"\x00" * 65_000


class Subscribers:
    """What the endpoints do, and what came in."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.scripts: dict[str, str] = {}
        self.open: Counter[str] = Counter()
        self.peaks: Counter[str] = Counter()
        self.turns: Counter[str] = Counter()
        self.last = time.time()

    def began(self, endpoint: str) -> None:
        self.open[endpoint] += 1
        self.peaks[endpoint] = max(self.peaks[endpoint], self.open[endpoint])

    def ended(self, endpoint: str) -> None:
        self.open[endpoint] -= 1

    def status(self, endpoint: str, event_id: bytes, attempt: int) -> tuple[int, str]:
        """What a request is answered, and the behaviour behind it. 0: no answer, or not one in time."""
        behaviour, _, detail = self.scripts.get(endpoint, "ok").partition(" ")
        if behaviour in ("ok", "insecure"):
            return 200, behaviour
        if behaviour == "status":
            return int(detail), behaviour
        if behaviour == "flaky":  # so many percent of the events are answered 500 at their first attempt
            return (500 if attempt == 1 and crc32(event_id) % 100 < int(detail) else 200), behaviour
        if behaviour == "turns":  # one request of so many is taken
            self.turns[endpoint] += 1
            return (500 if self.turns[endpoint] % int(detail) else 200), behaviour
        if behaviour == "throttle":
            return 429, f"throttle {detail}"
        if behaviour in _SLOW:
            return _SLOW[behaviour][0], f"{behaviour} {detail}"
        raise ValueError(behaviour)


class Conversation(asyncio.Protocol):
    """One connection; HTTP/1.1 with Content-Length and keep-alive, nothing else."""

    def __init__(self, subscribers: Subscribers) -> None:
        self._subscribers = subscribers
        self._transport: asyncio.Transport
        self._data = b""
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, _error: Exception | None) -> None:
        for task in self._tasks:
            task.cancel()

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end]
            length = _LENGTH.search(head)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._data) < whole:
                return
            body, self._data = self._data[end + 4 : whole], self._data[whole:]
            self._take(head, body)

    def _take(self, head: bytes, body: bytes) -> None:
        path, event_id, attempt = _PATH.match(head), _ID.search(head), _ATTEMPT.search(head)
        assert path, head
        assert event_id, head
        assert attempt, head
        them, endpoint = self._subscribers, path[1].decode()
        status, behaviour = them.status(endpoint, event_id[1], int(attempt[1]))
        them.last = time.time()
        them.began(endpoint)
        received = Received(
            them.last, event_id[1].decode(), digest(body), endpoint, int(attempt[1]), status, them.open[endpoint]
        )
        them.ledger.write([received.line()])
        name, _, detail = behaviour.partition(" ")
        if name in _SLOW:
            task = asyncio.ensure_future(_SLOW[name][1](self._transport, detail))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda _: them.ended(endpoint))
            return
        self._transport.write(_OK if status == 200 else answer(status, *_headers(name, detail)))
        them.ended(endpoint)


def _headers(behaviour: str, detail: str) -> list[str]:
    if behaviour != "throttle":
        return ["Location: /elsewhere"]
    at = {"date": formatdate(time.time() + 2, usegmt=True)}.get(detail, detail)
    return [f"Retry-After: {at}"]


async def _hang(_transport: asyncio.Transport, _detail: str) -> None:
    await asyncio.sleep(_ENDLESS_S)


async def _hang_after_headers(transport: asyncio.Transport, _detail: str) -> None:
    transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
    await asyncio.sleep(_ENDLESS_S)


async def _slow(transport: asyncio.Transport, detail: str) -> None:
    await asyncio.sleep(float(detail))
    transport.write(_OK)


async def _reset(transport: asyncio.Transport, _detail: str) -> None:
    transport.abort()


async def _reset_in_body(transport: asyncio.Transport, _detail: str) -> None:
    transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    await asyncio.sleep(0.01)
    transport.abort()


async def _endless_body(transport: asyncio.Transport, _detail: str) -> None:
    transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    end = time.monotonic() + _ENDLESS_S
    while time.monotonic() < end and not transport.is_closing():
        transport.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
        await asyncio.sleep(0.005)


async def _gzip_bomb(transport: asyncio.Transport, _detail: str) -> None:
    transport.write(answer(200, "Content-Encoding: gzip", body=_GZIP_BOMB))


async def _trickle(transport: asyncio.Transport, _detail: str) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK":
        transport.write(bytes([byte]))
        await asyncio.sleep(1.0)


# What takes time, or is no ordinary answer: the status that the ledger has, and how it is done. An answer whose
# headers come whole and in time is the answer, whatever happens to its body.
_Slow = Callable[[asyncio.Transport, str], Coroutine[Any, Any, None]]
_SLOW: dict[str, tuple[int, _Slow]] = {
    "hang": (0, _hang),
    "hang-after-headers": (200, _hang_after_headers),
    "slow": (200, _slow),
    "reset": (0, _reset),
    "reset-in-body": (200, _reset_in_body),
    "endless-body": (200, _endless_body),
    "gzip-bomb": (200, _gzip_bomb),
    "trickle": (0, _trickle),
}


class Commands(asyncio.Protocol):
    """Stdin: a command a line."""

    def __init__(self, subscribers: Subscribers, ended: asyncio.Event) -> None:
        self._subscribers = subscribers
        self._ended = ended
        self._data = b""

    def data_received(self, data: bytes) -> None:
        *lines, self._data = (self._data + data).split(b"\n")
        for line in lines:
            sys.stdout.write(f"{json.dumps(self._answer(json.loads(line)))}\n")
            sys.stdout.flush()

    def _answer(self, command: dict[str, Any]) -> object:
        them = self._subscribers
        if "script" in command:
            them.scripts |= command["script"]
            return {}
        return them.peaks if command["ask"] == "peaks" else time.time() - them.last

    def connection_lost(self, _error: Exception | None) -> None:
        self._ended.set()


async def _serve(ledger: str, plain: str, secure: str, certificate: str) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    subscribers = Subscribers(Ledger(Path(ledger)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    for descriptor, tls in ((int(plain), None), (int(secure), context)):
        listener = socket.socket(fileno=descriptor)
        await loop.create_server(lambda: Conversation(subscribers), sock=listener, backlog=1024, ssl=tls)
    await loop.connect_read_pipe(lambda: Commands(subscribers, ended), sys.stdin)
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
