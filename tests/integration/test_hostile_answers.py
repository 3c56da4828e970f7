"""Whatever a subscriber's server answers: the verdict, the memory and the time are what they should be.

Each row is one hostile server. The bounds of time are generous: without the limit that a row is about it would end
much later, or never. Those of memory are far below what the row sends.
"""

import asyncio
import contextlib
import gzip
import random
import resource
import socket
import ssl
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import trustme

from kasplo_notify.exchange import ANSWER_BYTES, Peer
from kasplo_notify.outcome import Outcome
from kasplo_notify.stored import Progress
from kasplo_notify.verdict import Policy, Verdict, decide
from tests.integration.scripted import Script, Visit, request, serving, transporting

POLICY = Policy(retry_delays=(30.0,), jitter=0.0)
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
# Both ends are in this process, and asyncio has a buffer of 256 KiB for each.
TLS_MEMORY = 4 << 20
SWALLOWED = 32 << 20  # far more than the buffers of the sockets, far less than what comes in the time


@dataclass(frozen=True, kw_only=True)
class Row:
    """A server, and what becomes of an event that is sent to it.

    Attributes:
        script: What the server does.
        verdict: The reason of the verdict; `delivered`, or else the event is retried.
        timeout: Of the endpoint, in seconds.
        seconds: The exchange takes less.
        memory: Python allocates less at once, in bytes.
        method: Of the request.
        body: Bytes of the request's body.
    """

    script: Script
    verdict: str
    timeout: float = 30.0
    seconds: float = 20.0
    memory: int = 1 << 20
    method: str = "POST"
    body: int = 7


def says(*answers: bytes, then: str = "keep") -> Script:
    """The pieces of an answer, one after another; then the connection is kept, closed or reset."""

    async def script(visit: Visit) -> None:
        await visit.request()
        for answer in answers:
            await visit.send(answer)
            await asyncio.sleep(0.01)
        if then == "keep":
            await visit.gone()
        elif then == "reset":
            visit.reset()

    return script


def endless(begin: bytes, piece: bytes, pause: float = 0.0) -> Script:
    """A beginning, and then the same piece for ever; at full speed when there is no pause."""

    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(begin)
        while True:
            await visit.send(piece)
            visit.sent += len(piece)
            if pause:
                await asyncio.sleep(pause)

    return script


async def never_reads(visit: Visit) -> None:
    visit.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(60)


async def speaks_first(visit: Visit) -> None:
    await visit.send(b"SSH-2.0-OpenSSH_9.2p1\r\n")
    await visit.gone()


async def answers_before_the_body(visit: Visit) -> None:
    await visit.reader.readuntil(b"\r\n\r\n")
    visit.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await visit.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    await asyncio.sleep(60)


async def closes_its_half(visit: Visit) -> None:
    await visit.request()
    visit.writer.write_eof()
    await visit.gone()


async def answers_and_closes_its_half(visit: Visit) -> None:
    await visit.request()
    await visit.send(HEAD + b"\r\nall")
    visit.writer.write_eof()
    await visit.gone()


def answering_anything(begin: bytes, piece: bytes = b"", *, again: bool = False) -> Script:
    """What a server does that speaks no TLS: it answers the first bytes, whatever they are."""

    async def script(visit: Visit) -> None:
        await visit.reader.read(1)
        await visit.send(begin)
        while again:
            await visit.send(piece or begin)
            visit.sent += len(piece or begin)
            await asyncio.sleep(0.01 if piece else 0)
        await visit.gone()

    return script


async def knows_no_tls_from_1_2_on(visit: Visit) -> None:
    # Not asyncio's server, which forgets to send why it ends a handshake.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    arrived, answer = ssl.MemoryBIO(), ssl.MemoryBIO()
    arrived.write(await visit.reader.read(65536))
    with contextlib.suppress(ssl.SSLError):
        context.wrap_bio(arrived, answer, server_side=True).do_handshake()
    await visit.send(answer.read())
    await visit.gone()


def headers(count: int, size: int) -> bytes:
    return HEAD + b"".join(b"X-%d: %b\r\n" % (n, b"v" * size) for n in range(count)) + b"\r\n"


def lengths(*lines: bytes, status: bytes = b"200") -> bytes:
    return b"HTTP/1.1 " + status + b" X\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\nok"


def retry_after(value: bytes) -> Script:
    return says(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\nRetry-After: " + value + b"\r\n\r\n")


BOMB = gzip.compress(bytes(64 << 20))
PACKED = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB

ROWS = {
    # Bodies: the status is known, so they change nothing.
    "endless body": Row(script=endless(HEAD + b"\r\n", b"x" * 65536), verdict="delivered"),
    "endless body of an error": Row(script=endless(b"HTTP/1.1 500 X\r\n\r\n", b"x" * 65536), verdict="http_500"),
    "endless chunk": Row(script=endless(CHUNKED + b"FFFFFFFFFFFF\r\n", b"x" * 65536), verdict="delivered"),
    "endless small chunks": Row(script=endless(CHUNKED, b"1\r\nx\r\n" * 8192), verdict="delivered"),
    "body trickle": Row(script=endless(HEAD + b"\r\n", b"x", 0.05), verdict="delivered"),
    "gzip bomb": Row(script=says(PACKED), verdict="delivered"),
    "gzip bomb in chunks": Row(
        script=says(HEAD + b"Content-Encoding: gzip\r\n" + CHUNKED[len(HEAD) :] + b"%x\r\n%b" % (len(BOMB), BOMB)),
        verdict="delivered",
    ),
    "broken gzip": Row(
        script=says(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok"), verdict="delivered"
    ),
    "chunk extension without end": Row(script=endless(CHUNKED + b"5;a=", b"x" * 65536), verdict="delivered"),
    "chunk extensions without end": Row(script=endless(CHUNKED + b"5", b";a=b" * 16384), verdict="delivered"),
    "chunk size without end": Row(script=endless(CHUNKED, b"0" * 65536), verdict="delivered"),
    "chunk size beyond all numbers": Row(script=says(CHUNKED, b"F" * 17 + b"\r\nx"), verdict="delivered"),
    "negative chunk size": Row(script=says(CHUNKED, b"-5\r\nhello\r\n"), verdict="delivered"),
    "trailers without end": Row(script=endless(CHUNKED + b"0\r\n", b"X-A: b\r\n" * 8192), verdict="delivered"),
    "trailer without end": Row(script=endless(CHUNKED + b"0\r\nX-A: ", b"b" * 65536), verdict="delivered"),
    # Headers.
    "5,000 headers": Row(script=says(headers(5000, 400)), verdict="protocol"),
    "endless headers": Row(script=endless(HEAD, b"X-A: b\r\n" * 8192), verdict="protocol"),
    "2 MB header": Row(script=says(HEAD + b"X-A: " + b"v" * (2 << 20) + b"\r\n\r\n"), verdict="protocol"),
    "2 MB name of a header": Row(script=says(HEAD + b"x" * (2 << 20) + b": v\r\n\r\n"), verdict="protocol"),
    "headers of 8 kB each": Row(script=says(headers(100, 8000)), verdict="protocol"),
    "flood of cookies": Row(
        script=says(HEAD + b"Set-Cookie: a=%b\r\n" % (b"b" * 4000) * 500 + b"\r\n"), verdict="protocol"
    ),
    "reason of 1 MB": Row(script=says(b"HTTP/1.1 200 " + b"x" * (1 << 20) + b"\r\n\r\n"), verdict="protocol"),
    "header trickle": Row(script=endless(HEAD + b"X-A: ", b"a", 0.02), verdict="timeout", timeout=0.3),
    "status line trickle": Row(script=endless(b"HTTP/1.1 200 ", b"O", 0.02), verdict="timeout", timeout=0.3),
    "empty lines": Row(script=endless(b"", b"\r\n" * 32768), verdict="protocol"),
    "folded header": Row(script=says(HEAD + b"X-A: b\r\n c\r\nContent-Length: 0\r\n\r\n"), verdict="delivered"),
    "NUL in a header": Row(script=says(HEAD + b"X-A: \x00\r\nContent-Length: 0\r\n\r\n"), verdict="delivered"),
    "NUL in a header, in pieces": Row(script=says(HEAD, b"X-A: \x00\r\nX-B: c\r\n", b"\r\n"), verdict="protocol"),
    "bytes above ASCII": Row(script=says(HEAD + b"X-A: \xff\xfe\r\nContent-Length: 0\r\n\r\n"), verdict="delivered"),
    # Announcements.
    "endless 100 Continue": Row(
        script=endless(b"", b"HTTP/1.1 100 C\r\n\r\n" * 4096), verdict="protocol", memory=4 << 20
    ),
    "endless 103 with headers": Row(
        script=endless(b"", b"HTTP/1.1 103 E\r\nLink: </%b>\r\n\r\n" % (b"a" * 4000)), verdict="protocol"
    ),
    "100 Continue trickle": Row(
        script=endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02), verdict="timeout", timeout=0.3
    ),
    "100 Continue before an answer": Row(
        script=says(b"HTTP/1.1 100 Continue\r\n\r\n" * 100 + HEAD + b"\r\n", then="close"), verdict="delivered"
    ),
    "100 Continue before an answer that is broken": Row(
        script=says(b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + b"nonsense\r\n"), verdict="delivered"
    ),
    "101 without end": Row(
        script=endless(b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", b"x" * 65536),
        verdict="http_101",
    ),
    # More than one answer: the first counts.
    "two answers in one": Row(
        script=says(HEAD + b"Content-Length: 0\r\n\r\n" + b"HTTP/1.1 500 X\r\n\r\n"), verdict="delivered"
    ),
    "an error and a success in one": Row(
        script=says(b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n" + HEAD + b"\r\n"), verdict="http_500"
    ),
    "endless answers in one": Row(
        script=endless(b"", (HEAD + b"Content-Length: 0\r\n\r\n") * 2000), verdict="delivered", memory=4 << 20
    ),
    # Ends.
    "closed before": Row(script=says(then="close"), verdict="reset"),
    "reset before": Row(script=says(then="reset"), verdict="reset"),
    "reset before, GET": Row(script=says(then="reset"), verdict="reset", method="GET"),
    "closed in the middle of the headers": Row(script=says(HEAD + b"X-A", then="close"), verdict="reset"),
    "reset in the middle of the headers": Row(script=says(HEAD + b"X-A", then="reset"), verdict="reset"),
    "closed in the middle of the body": Row(
        script=says(lengths(b"Content-Length: 9"), then="close"), verdict="delivered"
    ),
    "reset in the middle of the body": Row(
        script=says(lengths(b"Content-Length: 9"), then="reset"), verdict="delivered"
    ),
    "reset after": Row(script=says(lengths(b"Content-Length: 2"), then="reset"), verdict="delivered"),
    "closes its half before an answer": Row(script=closes_its_half, verdict="reset"),
    "closes its half after an answer": Row(script=answers_and_closes_its_half, verdict="delivered"),
    "never reads": Row(script=never_reads, verdict="timeout", timeout=0.3, body=256 << 10),
    "answers before the request is there": Row(script=answers_before_the_body, verdict="http_413", body=256 << 10),
    # Lengths that are none, or not one. What the status says has been said.
    "two lengths": Row(script=says(lengths(b"Content-Length: 2", b"Content-Length: 5")), verdict="delivered"),
    "one length twice": Row(script=says(lengths(b"Content-Length: 2", b"Content-Length: 2")), verdict="delivered"),
    "two lengths of an error": Row(
        script=says(lengths(b"Content-Length: 2", b"Content-Length: 5", status=b"503")), verdict="http_503"
    ),
    "length and chunks": Row(
        script=says(lengths(b"Content-Length: 2", b"Transfer-Encoding: chunked")), verdict="delivered"
    ),
    "negative length": Row(script=says(lengths(b"Content-Length: -1")), verdict="delivered"),
    "length beyond all numbers": Row(script=says(lengths(b"Content-Length: " + b"9" * 30)), verdict="delivered"),
    "length of the largest number": Row(
        script=says(lengths(b"Content-Length: %d" % (2**64 - 1))), verdict="delivered", timeout=0.3
    ),
    "unknown coding": Row(script=says(lengths(b"Transfer-Encoding: x"), then="close"), verdict="delivered"),
    # Status lines.
    "status 999": Row(script=says(lengths(b"Content-Length: 2", status=b"999")), verdict="http_999"),
    "status 000": Row(script=says(lengths(b"Content-Length: 2", status=b"000")), verdict="http_0"),
    "status 99": Row(script=says(lengths(status=b"99")), verdict="protocol"),
    "status 1000": Row(script=says(lengths(status=b"1000")), verdict="protocol"),
    "status -1": Row(script=says(lengths(status=b"-1")), verdict="protocol"),
    "status 2OO": Row(script=says(lengths(status=b"2OO")), verdict="protocol"),
    "a page without a head (HTTP/0.9)": Row(script=says(b"<html>ok</html>", then="close"), verdict="protocol"),
    "version 9.9": Row(script=says(b"HTTP/9.9 200 OK\r\n\r\n"), verdict="protocol"),
    "preface of HTTP/2": Row(script=says(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), verdict="protocol"),
    "settings of HTTP/2": Row(
        script=says(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64"), verdict="protocol"
    ),
    "a request": Row(script=says(b"POST / HTTP/1.1\r\nHost: a\r\n\r\n"), verdict="protocol"),
    "SSH banner": Row(script=says(b"SSH-2.0-OpenSSH_9.2p1\r\n"), verdict="protocol"),
    "SSH banner, unasked": Row(script=speaks_first, verdict="protocol"),
    "greeting of SMTP": Row(script=says(b"220 mx ESMTP\r\n"), verdict="protocol"),
    "zeros": Row(script=endless(b"", bytes(65536)), verdict="protocol"),
    # Elsewhere.
    "a file as its location": Row(
        script=says(b"HTTP/1.1 302 X\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"), verdict="http_302"
    ),
    # Waits; what each comes to is in the tests of the verdict.
    "Retry-After of 10^9": Row(script=retry_after(b"1000000000"), verdict="http_503"),
    "Retry-After, negative": Row(script=retry_after(b"-1"), verdict="http_503"),
    "Retry-After of NaN": Row(script=retry_after(b"NaN"), verdict="http_503"),
    "Retry-After of 8 kB of digits": Row(script=retry_after(b"9" * 8000), verdict="http_503"),
    "Retry-After of 10 kB of digits": Row(script=retry_after(b"9" * 10000), verdict="http_503"),
    "Retry-After in other digits": Row(script=retry_after("٣٣".encode()), verdict="http_503"),
    "Retry-After long ago": Row(script=retry_after(b"Thu, 01 Jan 1970 00:00:00 GMT"), verdict="http_503"),
    "Retry-After in 8,000 years": Row(script=retry_after(b"Fri, 31 Dec 9999 23:59:59 GMT"), verdict="http_503"),
}


class Measured:
    """What one exchange took."""

    seconds = 0.0
    peak = 0


@contextlib.contextmanager
def measured() -> Iterator[Measured]:
    taken = Measured()
    tracemalloc.start()
    started = time.monotonic()
    try:
        yield taken
    finally:
        taken.seconds = time.monotonic() - started
        taken.peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


def verdict(outcome: Outcome) -> Verdict:
    return decide(outcome, Progress(0, 0, 0), POLICY, 1_700_000_000.0, random.Random(1))


@pytest.mark.parametrize("name", ROWS)
async def test_a_hostile_answer(name: str) -> None:
    row = ROWS[name]
    async with serving(row.script) as server, transporting() as transport:
        wanted = request(server.url, row.method, b"x" * row.body)
        async with asyncio.timeout(60):
            with measured() as taken:
                outcome = await transport.send(wanted, timeout=row.timeout)
        told = verdict(outcome)
        assert (told.action, told.reason) == ("delivered" if row.verdict == "delivered" else "retry", row.verdict)
        assert outcome.status is not None or outcome.detail
        assert told.endpoint_wait is None or 1 <= told.endpoint_wait <= 3600
        assert len(outcome.excerpt) <= 512
        assert taken.seconds < row.seconds
        assert taken.peak < row.memory
        # A hostile answer neither is asked for again nor leads anywhere else.
        assert server.connections == 1
        assert len(server.requests) <= 1
        assert sum(visit.sent for visit in server.visits) < SWALLOWED


@dataclass(frozen=True, kw_only=True)
class TlsRow:
    """A server with a certificate.

    Attributes:
        names: What the certificate is for.
        days: How long it is good; it begins two days before that.
        tls: Whether the test does the handshake; else the script has all bytes.
        script: What the server does once the handshake is over.
        verdict: As in `Row`.
        detail: What the operator is told.
    """

    names: tuple[str, ...] = ("localhost",)
    days: int = 1
    tls: bool = True
    script: Script = field(default_factory=lambda: says(lengths(b"Content-Length: 2")))
    verdict: str = "tls"
    detail: str = ""


TLS_ROWS = {
    "good": TlsRow(verdict="delivered"),
    "expired": TlsRow(days=-1, detail="certificate expired"),
    "not valid yet": TlsRow(days=9, detail="certificate is not valid yet"),
    "for another name": TlsRow(names=("other.example",), detail="certificate is for another name"),
    "self-signed": TlsRow(names=(), detail="certificate is self-signed"),
    "TLS 1.1": TlsRow(
        tls=False, script=knows_no_tls_from_1_2_on, detail="the server offers no TLS version from 1.2 on"
    ),
    "plain HTTP": TlsRow(
        tls=False,
        script=answering_anything(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        detail="the server does not speak TLS on this port",
    ),
    "SSH": TlsRow(
        tls=False,
        script=answering_anything(b"SSH-2.0-OpenSSH_9.2p1\r\n"),
        detail="the server does not speak TLS on this port",
    ),
    "zeros without end": TlsRow(
        tls=False,
        script=answering_anything(bytes(65536), again=True),
        detail="the server does not speak TLS on this port",
    ),
    "silent": TlsRow(
        tls=False,
        script=answering_anything(b""),
        verdict="connect_timeout",
        detail="no connection within 1 s",
    ),
    "handshake trickle": TlsRow(
        # The head of a record of 16 KiB, whose bytes come one after another.
        tls=False,
        script=answering_anything(b"\x16\x03\x03\x40\x00\x02", b"\x00", again=True),
        verdict="connect_timeout",
        detail="no connection within 1 s",
    ),
    "endless body": TlsRow(script=endless(HEAD + b"\r\n", b"x" * 65536), verdict="delivered"),
    "endless 100 Continue": TlsRow(
        script=endless(b"", b"HTTP/1.1 100 C\r\n\r\n" * 4096),
        verdict="protocol",
        detail="the answer's headers are too long",
    ),
    "cut off without a goodbye": TlsRow(script=says(HEAD + b"\r\nthe beginning", then="reset"), verdict="delivered"),
    "cut off without a goodbye before an answer": TlsRow(
        script=says(then="reset"), verdict="reset", detail="connection reset before an answer"
    ),
}


@pytest.mark.usefixtures("trusted")
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
@pytest.mark.parametrize("name", TLS_ROWS)
async def test_a_hostile_server_with_tls(name: str, certificate: Callable[..., ssl.SSLContext], tmp_path: Path) -> None:
    row = TLS_ROWS[name]
    if row.names:
        context = certificate(*row.names, days=row.days)
    else:
        unknown = trustme.CA()
        unknown.cert_pem.write_to_path(str(tmp_path / "self.pem"))
        unknown.private_key_pem.write_to_path(str(tmp_path / "self.key"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "self.pem", tmp_path / "self.key")
    # A failed handshake is what this is about; asyncio's own report of it is not.
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    async with (
        serving(row.script, context if row.tls else None) as server,
        transporting() as transport,
        asyncio.timeout(60),
    ):
        wanted = request(f"https://localhost:{server.port}/in")
        with measured() as taken:
            outcome = await transport.send(wanted, timeout=30)
        told = verdict(outcome)
        assert (told.action, told.reason) == ("delivered" if row.verdict == "delivered" else "retry", row.verdict)
        assert outcome.detail == row.detail
        assert taken.seconds < 20
        assert taken.peak < TLS_MEMORY
        assert len(server.requests) <= 1
        assert sum(visit.sent for visit in server.visits) < SWALLOWED


async def test_slow_answers_hold_little_memory_however_many_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worst case of a worker: all of `worker.max_slow`, and each holds nearly as much as an answer may be long."""
    count, most = 1024, 256 << 10
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    whole = headers(127, 500)[:-2]
    assert ANSWER_BYTES - 2048 < len(whole) < ANSWER_BYTES
    came, all_came = 0, asyncio.Event()

    class Counting(Peer):
        def data_received(self, data: bytes) -> None:
            nonlocal came
            came += len(data)
            if came == count * len(whole):
                all_came.set()
            super().data_received(data)

    try:
        async with serving(says(whole)) as server, transporting(connect_timeout=60) as transport:
            counting = partial(Counting, loop=asyncio.get_running_loop())
            monkeypatch.setattr(transport._connector, "_factory", counting)
            with measured() as taken:
                wanted = request(server.url)
                sending = [asyncio.create_task(transport.send(wanted, timeout=120)) for _ in range(count)]
                await asyncio.wait_for(all_came.wait(), 60)
            await transport.close()
            assert {verdict(await each).action for each in sending} == {"retry"}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert taken.peak < count * most


async def test_a_request_that_waits_is_held_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is written. What the other side does not take asyncio holds until then, before Python 3.12 as a copy."""
    count, size = 64, 200_000
    everyone = asyncio.Event()
    written: list[asyncio.WriteTransport] = []
    begin = Peer.begin

    def noted(peer: Peer) -> None:
        assert isinstance(peer.transport, asyncio.WriteTransport)
        written.append(peer.transport)
        if len(written) == count:
            everyone.set()
        begin(peer)

    monkeypatch.setattr(Peer, "begin", noted)
    with socket.create_server(("127.0.0.1", 0), backlog=2 * count) as nobody_reads:
        url = f"http://127.0.0.1:{nobody_reads.getsockname()[1]}/"
        async with transporting(connect_timeout=60) as transport:
            tracemalloc.start()
            try:
                sending = [
                    asyncio.create_task(transport.send(request(url, "POST", bytes(size)), timeout=60))
                    for _ in range(count)
                ]
                await asyncio.wait_for(everyone.wait(), 60)
                unwritten = sum(each.get_write_buffer_size() for each in written)
                held = sum(each.size for each in tracemalloc.take_snapshot().traces if each.size >= size // 2)
            finally:
                tracemalloc.stop()
            await transport.close()
            await asyncio.gather(*sending)
    assert count * size <= held <= count * (size + 4096) + 2 * unwritten
