"""The transport against real servers on loopback that answer with scripted bytes: what happened is one Outcome."""

import asyncio
import contextlib
import gzip
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kasplo_notify.config import Config
from kasplo_notify.config_sections import EgressConfig
from kasplo_notify.guard import EgressGuard
from kasplo_notify.outcome import Outcome
from kasplo_notify.request import Request
from kasplo_notify.transport import Transport
from tests.integration.scripted import OK, Script, Visit, answering, request, serving, transporting


def same(outcome: Outcome, **expected: object) -> None:
    """The outcome exactly, but for the milliseconds."""
    assert replace(outcome, duration_ms=0) == Outcome(**{"status": None, "duration_ms": 0} | expected)  # type: ignore[arg-type]
    assert 0 <= outcome.duration_ms < 5000


async def exchange(script: Script, *, method: str = "POST", timeout: float = 0.5) -> Outcome:  # noqa: ASYNC109
    async with serving(script) as server, transporting() as transport:
        return await transport.send(request(server.url, method), timeout=timeout)


async def test_the_request_on_the_wire() -> None:
    async with serving(answering(OK)) as server, transporting() as transport:
        outcome = await transport.send(request(server.url + "?q=1"), timeout=1)
        same(outcome, status=200, excerpt=b"ok")
        assert server.requests == [
            b"POST /in?q=1 HTTP/1.1\r\n"
            b"Host: 127.0.0.1:%d\r\n"
            b"Accept: */*\r\nAccept-Encoding: identity\r\n"
            b"Content-Type: application/json\r\nX-A: b\r\n"
            b"Content-Length: 7\r\n\r\n"
            b'{"a":1}' % server.port
        ]


async def test_a_get_carries_its_body() -> None:
    async with serving(answering(OK)) as server, transporting() as transport:
        same(await transport.send(request(server.url, "GET"), timeout=1), status=200, excerpt=b"ok")
        assert server.requests[0].startswith(b"GET /in HTTP/1.1\r\n")
        assert server.requests[0].endswith(b'\r\nContent-Length: 7\r\n\r\n{"a":1}')


async def test_a_get_without_a_body_has_no_length_a_post_has() -> None:
    async with serving(answering(OK, OK)) as server, transporting() as transport:
        for method in ("GET", "POST"):
            await transport.send(request(server.url, method, b""), timeout=1)
        assert b"Content-Length" not in server.requests[0]
        assert server.requests[1].endswith(b"\r\nContent-Length: 0\r\n\r\n")


async def test_204_has_no_body_and_keeps_the_connection() -> None:
    async with serving(answering(b"HTTP/1.1 204 No Content\r\n\r\n", OK)) as server, transporting() as transport:
        same(await transport.send(request(server.url), timeout=1), status=204)
        same(await transport.send(request(server.url), timeout=1), status=200, excerpt=b"ok")
        assert server.connections == 1


async def test_a_connection_is_used_again_after_good_and_bad_answers() -> None:
    answers = [OK, b"HTTP/1.1 500 X\r\nContent-Length: 5\r\n\r\nerror", b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n"]
    async with serving(answering(*answers * 20)) as server, transporting() as transport:
        statuses = [(await transport.send(request(server.url), timeout=1)).status for _ in range(60)]
        assert statuses == [200, 500, 404] * 20
        assert server.connections == 1


async def test_concurrent_requests_open_as_many_connections_and_no_more() -> None:
    async def script(visit: Visit) -> None:
        while True:
            await visit.request()
            await asyncio.sleep(0.02)
            await visit.send(OK)

    async with serving(script) as server, transporting() as transport:
        for _ in range(3):
            outcomes = await asyncio.gather(*(transport.send(request(server.url), timeout=2) for _ in range(20)))
            assert {outcome.status for outcome in outcomes} == {200}
        assert server.connections == 20


async def test_a_body_in_pieces_is_read_so_that_the_connection_can_be_kept() -> None:
    async def script(visit: Visit) -> None:
        while True:
            await visit.request()
            await visit.send(b"HTTP/1.1 500 X\r\nContent-Length: 4000\r\n\r\n")
            for _ in range(4):
                await asyncio.sleep(0.01)
                await visit.send(b"x" * 1000)

    async with serving(script) as server, transporting() as transport:
        for _ in range(2):
            same(await transport.send(request(server.url), timeout=2), status=500, excerpt=b"x" * 512)
        assert server.connections == 1


async def test_connection_close_is_obeyed() -> None:
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    async with serving(answering(answer)) as server, transporting() as transport:
        for _ in range(2):
            same(await transport.send(request(server.url), timeout=1), status=200, excerpt=b"ok")
        assert server.connections == 2


async def test_http_1_0_with_a_body_until_the_end() -> None:
    same(await exchange(answering(b"HTTP/1.0 200 OK\r\n\r\nbye", then="close")), status=200, excerpt=b"bye")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(status: int) -> None:
    answer = b"HTTP/1.1 %d X\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n" % status
    async with serving(answering(answer, OK)) as server, transporting() as transport:
        same(await transport.send(request(server.url), timeout=1), status=status)
        assert len(server.requests) == 1


async def test_a_status_out_of_the_ordinary_passes_through() -> None:
    same(await exchange(answering(b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n")), status=999)
    same(await exchange(answering(b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")), status=101)


async def test_retry_after_is_handed_on() -> None:
    answer = b"HTTP/1.1 503 X\r\nretry-after: 120\r\nContent-Length: 4\r\n\r\nbusy"
    same(await exchange(answering(answer)), status=503, retry_after="120", excerpt=b"busy")


async def test_announcements_before_the_answer_are_skipped() -> None:
    announced = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    same(await exchange(answering(announced + OK)), status=200, excerpt=b"ok")


async def test_a_hang_before_the_headers_is_a_timeout() -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.gone()

    outcome = await exchange(script, timeout=0.3)
    same(outcome, error="timeout", detail="no answer within 0.3 s")
    assert 290 <= outcome.duration_ms < 1000


async def test_a_hang_in_the_middle_of_the_headers_is_a_timeout() -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(b"HTTP/1.1 200 OK\r\nX-A: ")
        await visit.gone()

    same(await exchange(script, timeout=0.3), error="timeout", detail="the answer's headers did not end within 0.3 s")


async def test_a_trickle_of_headers_is_a_timeout() -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(b"HTTP/1.1 200 OK\r\nX-A: ")
        while True:
            await visit.send(b"a")
            await asyncio.sleep(0.02)

    same(await exchange(script, timeout=0.3), error="timeout", detail="the answer's headers did not end within 0.3 s")


async def test_endless_announcements_are_a_timeout() -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        while True:
            await visit.send(b"HTTP/1.1 102 Processing\r\n\r\n")
            await asyncio.sleep(0.01)

    same(await exchange(script, timeout=0.3), error="timeout", detail="the answer's headers did not end within 0.3 s")


@pytest.mark.parametrize("status", [200, 500])
async def test_a_hang_after_the_headers_changes_nothing(status: int) -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(b"HTTP/1.1 %d X\r\nContent-Length: 100\r\n\r\nbegun" % status)
        await visit.gone()

    same(await exchange(script, timeout=0.3), status=status, excerpt=b"begun")


async def test_a_trickle_of_a_body_ends_after_two_seconds() -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            await visit.send(b"a")
            await asyncio.sleep(0.05)

    outcome = await exchange(script, timeout=10)
    assert (outcome.status, outcome.error) == (200, "")
    assert set(outcome.excerpt) == {ord("a")}
    assert 1950 <= outcome.duration_ms <= 2500


async def test_an_endless_body_is_cut_off() -> None:
    sent = 0

    async def script(visit: Visit) -> None:
        nonlocal sent
        await visit.request()
        await visit.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await visit.send(b"x" * 65536)
            sent += 65536

    outcome = await exchange(script, timeout=10)
    same(outcome, status=200, excerpt=b"x" * 512)
    assert outcome.duration_ms < 1000
    assert sent < 64 << 20


async def test_a_gzip_bomb_is_not_inflated() -> None:
    bomb = gzip.compress(bytes(50 << 20))
    answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(bomb), bomb)
    same(await exchange(answering(answer)), status=200, excerpt=bomb[:512])


async def test_a_chunked_body_is_joined() -> None:
    chunked = b"HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n"
    async with serving(answering(chunked, OK)) as server, transporting() as transport:
        same(await transport.send(request(server.url), timeout=1), status=500, excerpt=b"abcdefg")
        same(await transport.send(request(server.url), timeout=1), status=200, excerpt=b"ok")
        assert server.connections == 1


async def test_broken_chunks_after_the_headers_change_nothing() -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await asyncio.sleep(0.05)
        await visit.send(b"nonsense\r\n")
        await visit.gone()

    outcome = await exchange(script)
    assert (outcome.status, outcome.error) == (200, "")


async def test_broken_chunks_in_the_packet_of_the_headers_change_nothing() -> None:
    broken = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n"
    same(
        await exchange(answering(broken)),
        status=200,
        detail="the answer could be read no further than its headers",
    )


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize("status", [200, 500])
async def test_a_close_or_reset_after_the_headers_changes_nothing(status: int, then: str) -> None:
    answer = b"HTTP/1.1 %d X\r\nContent-Length: 100\r\n\r\nbegun" % status
    outcome = await exchange(answering(answer, then=then))
    assert (outcome.status, outcome.error) == (status, "")


async def test_a_close_before_an_answer_is_a_failure() -> None:
    async def script(visit: Visit) -> None:
        await visit.request()

    for method in ("POST", "GET"):
        async with serving(script) as server, transporting() as transport:
            outcome = await transport.send(request(server.url, method), timeout=1)
            same(outcome, error="reset", detail="connection closed before an answer")
            assert len(server.requests) == 1


async def test_a_reset_before_an_answer_is_a_failure() -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        visit.reset()

    for method in ("POST", "GET"):
        async with serving(script) as server, transporting() as transport:
            outcome = await transport.send(request(server.url, method), timeout=1)
            same(outcome, error="reset", detail="connection reset before an answer")
            assert len(server.requests) == 1


async def test_a_close_in_the_middle_of_the_headers_is_a_failure() -> None:
    outcome = await exchange(answering(b"HTTP/1.1 200 OK\r\nX-A: b\r\n", then="close"))
    same(outcome, error="reset", detail="connection closed in the middle of the answer's headers")


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_kept_connection_that_was_closed_is_replaced_at_once(method: str, how: str) -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(OK)
        if visit.number <= 3:
            # Close only once the next request is there: before, the pool would notice by itself.
            await visit.reader.read(1)
            if how == "reset":
                visit.reset()
            return
        await visit.gone()

    async with serving(script) as server, transporting() as transport:
        first = await asyncio.gather(*(transport.send(request(server.url, method), timeout=1) for _ in range(3)))
        assert [outcome.status for outcome in first] == [200] * 3
        assert server.connections == 3
        same(await transport.send(request(server.url, method), timeout=1), status=200, excerpt=b"ok")
        assert server.connections == 4
        assert len(server.requests) == 4


async def test_it_is_replaced_once_and_never_after_a_byte_of_an_answer() -> None:
    async def always_closing(visit: Visit) -> None:
        await visit.request()
        if visit.number == 1:
            await visit.send(OK)
            await visit.request()

    async with serving(always_closing) as server, transporting() as transport:
        await transport.send(request(server.url, "GET"), timeout=1)
        outcome = await transport.send(request(server.url, "GET"), timeout=1)
        same(outcome, error="reset", detail="connection closed before an answer")
        assert server.connections == 2
        assert len(server.requests) == 3

    async with serving(answering(OK, b"H", then="close")) as server, transporting() as transport:
        await transport.send(request(server.url), timeout=1)
        outcome = await transport.send(request(server.url), timeout=1)
        same(outcome, error="reset", detail="connection closed in the middle of the answer's headers")
        assert server.connections == 1


async def test_a_timeout_on_a_kept_connection_is_not_sent_again() -> None:
    async with serving(answering(OK)) as server, transporting() as transport:
        await transport.send(request(server.url), timeout=1)
        same(
            await transport.send(request(server.url), timeout=0.2),
            error="timeout",
            detail="no answer within 0.2 s",
        )
        assert server.connections == 1


async def test_bytes_that_nobody_asked_for_are_no_answer() -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(OK)
        await asyncio.sleep(0.05)
        await visit.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        await visit.gone()

    async with serving(script) as server, transporting() as transport:
        for number in (1, 2):
            same(await transport.send(request(server.url), timeout=1), status=200, excerpt=b"ok")
            assert server.connections == number
            await asyncio.sleep(0.15)


async def test_two_answers_to_one_request_count_as_one() -> None:
    async with serving(answering(OK + OK)) as server, transporting() as transport:
        for number in (1, 2):
            same(await transport.send(request(server.url), timeout=1), status=200, excerpt=b"ok")
            assert server.connections == number


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b"220 mx ESMTP\r\n", b"\x00" * 50, b"\x15\x03\x01\x00\x02\x02\x46"]
)
async def test_what_is_not_http_is_a_protocol_failure(answer: bytes) -> None:
    same(await exchange(answering(answer)), error="protocol", detail="the answer is not HTTP")


async def test_headers_beyond_all_measure_are_a_protocol_failure() -> None:
    many = b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: %b\r\n" % (n, b"v" * 50) for n in range(1000)) + b"\r\n"
    same(await exchange(answering(many)), error="protocol", detail="the answer has too many headers")
    long = b"HTTP/1.1 200 OK\r\nX-Long: " + b"v" * 200_000 + b"\r\n\r\n"
    same(await exchange(answering(long)), error="protocol", detail="the answer's headers are too long")


async def test_more_headers_than_usual_do_not_turn_success_into_failure() -> None:
    many = b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: v\r\n" % n for n in range(200)) + b"Content-Length: 0\r\n\r\n"
    outcome = await exchange(answering(many))
    assert (outcome.status, outcome.error) == (200, "")


async def test_an_answer_before_the_whole_request_was_read_counts() -> None:
    async def script(visit: Visit) -> None:
        await visit.reader.readuntil(b"\r\n\r\n")
        await visit.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await visit.gone()

    async with serving(script) as server, transporting() as transport:
        outcome = await transport.send(request(server.url, body=b"x" * (4 << 20)), timeout=2)
        same(outcome, status=413)


async def test_a_refused_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        async with transporting() as transport:
            same(await transport.send(request(url), timeout=1), error="refused", detail="connection refused")


async def test_several_addresses_that_fail_each_in_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        async with transporting(EgressConfig(allow=("127.0.0.0/8", "::1/128"))) as transport:
            # Where some are blocked and some refused the last one that was tried counts; either is true.
            for addresses, errors in (
                (["127.0.0.1", "::1"], {"refused", "unreachable"}),
                (["127.0.0.1", "127.0.0.2"], {"refused"}),
                (["10.0.0.1", "127.0.0.1", "::1"], {"refused", "unreachable", "blocked"}),
                (["10.0.0.1", "10.0.0.2", "fd00::1"], {"blocked"}),
            ):
                resolving(monkeypatch, *addresses)
                assert transport._connector is not None
                transport._connector.clear_dns_cache()
                outcome = await transport.send(request(f"http://hooks.example.com:{port}/"), timeout=1)
                assert outcome.status is None
                assert outcome.error in errors
                assert "Errno" not in outcome.detail


async def test_a_server_that_does_not_accept_is_a_connect_timeout() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(8)]
        try:
            for filler in fillers:
                filler.setblocking(False)  # noqa: FBT003
                filler.connect_ex(full.getsockname())
            await asyncio.sleep(0.05)
            async with transporting(connect_timeout=0.2) as transport:
                url = f"http://127.0.0.1:{full.getsockname()[1]}/"
                outcome = await transport.send(request(url), timeout=0.6)
            same(outcome, error="connect_timeout", detail="no connection within 0.2 s")
        finally:
            for filler in fillers:
                filler.close()


async def test_a_name_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nothing)
    async with transporting() as transport:
        outcome = await transport.send(request("http://hooks.example.com/"), timeout=1)
    same(outcome, error="dns", detail="name does not resolve")


async def test_name_servers_that_do_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def later(*_: object) -> list[object]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", later)
    async with transporting() as transport:
        outcome = await transport.send(request("http://hooks.example.com/"), timeout=1)
    same(outcome, error="dns", detail="name servers do not answer for this name")


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Every name resolves to `addresses`."""

    def answer(host: str, port: int, *_: object) -> list[tuple[object, ...]]:
        return [
            (
                socket.AF_INET6 if ":" in each else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (each, port, 0, 0) if ":" in each else (each, port),
            )
            for each in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", answer)


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["169.254.169.254"],
        ["64:ff9b::a9fe:a9fe"],
        ["127.0.0.1", "10.0.0.1"],
        ["127.0.0.1", "::1"],
        ["::1", "10.0.0.1", "192.168.0.1"],
    ],
    ids=",".join,
)
async def test_a_public_name_with_a_private_address_is_blocked(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    async with serving(answering(OK)) as server, transporting(EgressConfig()) as transport:
        resolving(monkeypatch, *addresses)
        outcome = await transport.send(request(f"http://hooks.example.com:{server.port}/"), timeout=1)
        assert (outcome.status, outcome.error) == (None, "blocked")
        assert "egress.allow" in outcome.detail
        assert server.connections == 0


async def test_one_allowed_address_among_blocked_ones_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(answering(OK, OK)) as server, transporting(EgressConfig(allow=("127.0.0.0/8",))) as transport:
        resolving(monkeypatch, "10.0.0.1", "fd00::1", "127.0.0.1")
        url = f"http://hooks.example.com:{server.port}/"
        same(await transport.send(request(url), timeout=2), status=200, excerpt=b"ok")


async def test_a_name_that_is_rebound_between_connections_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    async with serving(answering(answer)) as server, transporting(EgressConfig(allow=("127.0.0.1/32",))) as transport:
        url = f"http://hooks.example.com:{server.port}/"
        resolving(monkeypatch, "127.0.0.1")
        same(await transport.send(request(url), timeout=1), status=200)
        resolving(monkeypatch, "127.0.0.2")
        assert transport._connector is not None
        transport._connector.clear_dns_cache()
        assert (await transport.send(request(url), timeout=1)).error == "blocked"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"])
async def test_loopback_is_refused_unless_allowed(host: str) -> None:
    async with serving(answering(OK)) as server:
        async with transporting(EgressConfig()) as transport:
            outcome = await transport.send(request(f"http://{host}:{server.port}/"), timeout=1)
            assert (outcome.status, outcome.error, server.connections) == (None, "blocked", 0)
        if host in ("127.0.0.1", "localhost"):
            async with transporting() as transport:
                outcome = await transport.send(request(f"http://{host}:{server.port}/"), timeout=1)
                same(outcome, status=200, excerpt=b"ok")


async def test_the_guard_decides_even_where_the_url_check_is_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = EgressGuard(EgressConfig())
    monkeypatch.setattr(EgressGuard, "check_url", lambda _, url: url)
    async with serving(answering(OK)) as server:
        transport = Transport(Config(), guard)
        await transport.start()
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]"):  # noqa: S104
            outcome = await transport.send(request(f"http://{host}:{server.port}/"), timeout=1)
            assert (host, outcome.error) == (host, "blocked")
        # aiohttp refuses these by itself.
        for host in ("0x7f000001", "2130706433", "127.1", "0177.0.0.1"):
            outcome = await transport.send(request(f"http://{host}:{server.port}/"), timeout=1)
            assert (host, outcome.status, outcome.error in ("blocked", "dns")) == (host, None, True)
        await transport.close()
        assert server.connections == 0


@pytest.mark.parametrize(
    "url",
    ["", "javascript:alert(1)", "http://", "//x/", "http://user:pw@hooks.example.com/", "http://h.example.com:25/"],
)
async def test_a_url_that_could_not_be_registered_is_blocked(url: str) -> None:
    async with transporting(EgressConfig()) as transport:
        outcome = await transport.send(request(url), timeout=1)
    assert (outcome.status, outcome.error) == (None, "blocked")
    assert outcome.detail


@pytest.mark.parametrize("header", [("X-A", "b\r\nX-Evil: 1"), ("X-A\n", "b"), ("X-A", "b\r"), ("X-A", "é")])
async def test_a_header_with_a_line_break_is_never_sent(header: tuple[str, str]) -> None:
    async with serving(answering(OK)) as server, transporting() as transport:
        outcome = await transport.send(Request("POST", server.url, (header,), b""), timeout=1)
        assert (outcome.status, outcome.error, server.connections) == (None, "other", 0)


async def test_proxies_and_netrc_of_the_environment_are_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login x password y\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    async with serving(answering(OK)) as server, transporting() as transport:
        same(await transport.send(request(server.url), timeout=1), status=200, excerpt=b"ok")
        assert b"authorization" not in server.requests[0].lower()


async def test_cookies_are_not_kept() -> None:
    answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"
    async with serving(answering(answer, answer)) as server, transporting() as transport:
        for _ in range(2):
            same(await transport.send(request(server.url), timeout=1), status=200)
        assert b"cookie" not in server.requests[1].lower()


async def test_a_cancelled_request_closes_its_connection() -> None:
    closed = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.gone()
        closed.set()

    async with serving(script) as server, transporting() as transport:
        task = asyncio.create_task(transport.send(request(server.url), timeout=5))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(closed.wait(), 1)


async def test_closing_ends_what_is_in_flight_and_may_be_repeated() -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.gone()

    async with serving(script) as server, transporting() as transport:
        task = asyncio.create_task(transport.send(request(server.url), timeout=5))
        await asyncio.sleep(0.1)
        await transport.close()
        assert (await asyncio.wait_for(task, 1)).status is None
        assert (await transport.send(request(server.url), timeout=1)).status is None


async def test_many_hanging_servers_time_out_together() -> None:
    async def script(visit: Visit) -> None:
        await visit.gone()

    async with serving(script) as server, transporting() as transport:
        started = time.monotonic()
        outcomes = await asyncio.gather(*(transport.send(request(server.url), timeout=2) for _ in range(80)))
        assert {outcome.error for outcome in outcomes} == {"timeout"}
        assert time.monotonic() - started < 4


async def test_the_whole_exchange_has_one_timeout_also_when_a_kept_connection_was_closed() -> None:
    with socket.socket() as full, contextlib.ExitStack() as fillers:
        full.bind(("127.0.0.1", 0))
        full.listen(0)

        def serve() -> None:
            peer, _ = full.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(OK)
                peer.recv(65536)
                # From here on nobody else gets in.
                for _ in range(8):
                    filler = fillers.enter_context(socket.socket())
                    filler.setblocking(False)  # noqa: FBT003
                    filler.connect_ex(full.getsockname())
                time.sleep(0.5)

        url = f"http://127.0.0.1:{full.getsockname()[1]}/"
        serving = asyncio.create_task(asyncio.to_thread(serve))
        async with transporting(connect_timeout=30) as transport:
            assert (await transport.send(request(url), timeout=1)).status == 200
            outcome = await transport.send(request(url), timeout=1)
        await serving
    assert outcome.error == "connect_timeout"
    assert "no connection within 0." in outcome.detail
    assert 990 <= outcome.duration_ms < 5000


async def test_a_request_that_is_not_read_is_dropped_with_its_connection() -> None:
    over = asyncio.Event()
    arrived = asyncio.get_running_loop().create_future()

    async def script(visit: Visit) -> None:
        visit.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await over.wait()
        visit.writer.transport.resume_reading()  # type: ignore[attr-defined]
        count = 0
        with contextlib.suppress(ConnectionError):
            while data := await visit.reader.read(65536):
                count += len(data)
        arrived.set_result(count)

    async with serving(script) as server, transporting() as transport:
        same(
            await transport.send(request(server.url, body=bytes(32 << 20)), timeout=0.2),
            error="timeout",
            detail="no answer within 0.2 s",
        )
        over.set()
        # Else the rest would be sent to whoever reads it, and the socket be there as long as nobody does.
        assert await asyncio.wait_for(arrived, 20) < 32 << 20


async def test_a_body_that_breaks_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kasplo_notify.exchange.BODY_SECONDS", 30.0)

    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await asyncio.sleep(0.05)
        await visit.send(b"nonsense\r\n")
        await visit.gone()

    same(await exchange(script, timeout=30), status=200, excerpt=b"abc")


@pytest.mark.parametrize(("size", "seconds", "least_ms"), [(16_384, 30.0, 0), (16_383, 0.3, 290)])
async def test_a_body_is_waited_for_until_16_kib_of_it_are_there(
    size: int, seconds: float, least_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kasplo_notify.exchange.BODY_SECONDS", seconds)

    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\n" + b"x" * size)
        await visit.gone()

    outcome = await asyncio.wait_for(exchange(script, timeout=30), 20)
    assert (outcome.status, outcome.excerpt) == (200, b"x" * 512)
    assert outcome.duration_ms >= least_ms
