"""TLS: certificates are verified, and what is wrong with one is said in words that its owner understands."""

import asyncio
import contextlib
import errno
import gc
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from OpenSSL import SSL

from kasplo_notify.config import Config
from kasplo_notify.config_sections import DeliveryConfig, EgressConfig
from kasplo_notify.guard import EgressGuard
from kasplo_notify.outcome import Outcome
from kasplo_notify.request import Request
from kasplo_notify.tls import Tls, context_of
from kasplo_notify.transport import Transport

CONFIG = Config(egress=EgressConfig(allow=("127.0.0.0/8", "::1/128")), delivery=DeliveryConfig(connect_timeout=1))
LONG_AGO = datetime(2001, 1, 3, tzinfo=UTC)


@contextlib.asynccontextmanager
async def serving(tls: ssl.SSLContext | None, greeting: bytes = b"") -> AsyncIterator[int]:
    """The port of a server that answers every request with 200, or any first bytes with `greeting`."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if greeting:
                await reader.read(1)
                writer.write(greeting)
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while not greeting:
                    await reader.readuntil(b"\r\n\r\n")
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    # A failed handshake is what these tests are about; asyncio's own report of it is not.
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def transporting() -> AsyncIterator[Transport]:
    transport = Transport(CONFIG, EgressGuard(CONFIG.egress))
    await transport.start()
    try:
        yield transport
    finally:
        await transport.close()


async def send(transport: Transport, url: str, tls: Tls | None = None) -> Outcome:
    return replace(await transport.send(Request("POST", url, (), b"", tls), timeout=2), duration_ms=0)


async def outcome_of(url: str, requests: int = 1, tls: Tls | None = None) -> Outcome:
    async with transporting() as transport:
        for _ in range(requests):
            outcome = await send(transport, url, tls)
        return outcome


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_good_certificate(certificate: Callable[..., ssl.SSLContext], host: str) -> None:
    async with serving(certificate("localhost", "127.0.0.1")) as port:
        outcome = await outcome_of(f"https://{host}:{port}/", requests=3)
    assert outcome == Outcome(status=200, duration_ms=0, excerpt=b"ok")


async def failing(tls: ssl.SSLContext | None, host: str = "localhost", greeting: bytes = b"") -> tuple[str, str]:
    async with serving(tls, greeting) as port:
        outcome = await outcome_of(f"https://{host}:{port}/")
    assert outcome.status is None
    return outcome.error, outcome.detail


async def test_an_unknown_authority(certificate: Callable[..., ssl.SSLContext]) -> None:
    error, detail = await failing(certificate("localhost"))
    assert error == "tls"
    assert detail.startswith("certificate is signed by an authority that is not trusted")


async def test_a_self_signed_certificate(authority: trustme.CA, tmp_path: Path) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.private_key_pem.write_to_path(str(tmp_path / "ca.key"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.pem", tmp_path / "ca.key")
    assert await failing(context) == ("tls", "certificate is self-signed")


@pytest.mark.usefixtures("trusted")
async def test_an_expired_certificate(certificate: Callable[..., ssl.SSLContext]) -> None:
    assert await failing(certificate("localhost", days=-1)) == ("tls", "certificate expired")


@pytest.mark.usefixtures("trusted")
async def test_a_certificate_for_another_name(certificate: Callable[..., ssl.SSLContext]) -> None:
    assert await failing(certificate("other.example")) == ("tls", "certificate is for another name")
    address = await failing(certificate("localhost"), host="127.0.0.1")
    assert address == ("tls", "certificate is for another address")


async def test_a_server_that_speaks_plain_http() -> None:
    bad_request = b"HTTP/1.1 400 Bad Request\r\n\r\n"
    assert await failing(None, greeting=bad_request) == ("tls", "the server does not speak TLS on this port")


async def test_a_server_without_a_safe_version() -> None:
    alert = bytes.fromhex("15030100020246")
    assert await failing(None, greeting=alert) == ("tls", "the server offers no TLS version from 1.2 on")


async def test_a_server_that_refuses_the_handshake() -> None:
    alert = bytes.fromhex("15030300020228")
    assert await failing(None, greeting=alert) == ("tls", "the server refused the TLS handshake")


async def test_a_server_that_hangs_in_the_handshake() -> None:
    assert await failing(None) == ("connect_timeout", "no connection within 1 s")


@pytest.mark.usefixtures("trusted")
async def test_no_goodbye_is_waited_for(certificate: Callable[..., ssl.SSLContext]) -> None:
    """A server that never closes would else hold a socket of ours for half a minute after each answer."""
    context = certificate("localhost")

    def serve(listening: socket.socket) -> bytes:
        peer, _ = listening.accept()
        with peer.dup() as raw, context.wrap_socket(peer, server_side=True) as speaking:
            speaking.recv(65536)
            speaking.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            raw.settimeout(15)
            with contextlib.suppress(ConnectionError):
                while raw.recv(65536):
                    pass
            return b"closed"

    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(asyncio.to_thread(serve, listening))
        transport = Transport(CONFIG, EgressGuard(CONFIG.egress))
        await transport.start()
        url = f"https://localhost:{listening.getsockname()[1]}/"
        assert (await transport.send(Request("POST", url, (), b""), timeout=5)).status == 200
        assert await serving == b"closed"
        await transport.close()


@pytest.mark.usefixtures("trusted")
async def test_a_handshake_is_not_done_again(authority: trustme.CA) -> None:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)  # there is none in TLS 1.3
    authority.issue_cert("localhost").configure_cert(context)

    def serve(listening: socket.socket) -> bool:
        plain, _ = listening.accept()
        with plain:
            speaking = SSL.Connection(context, plain)
            speaking.set_accept_state()
            speaking.do_handshake()
            speaking.recv(65536)
            assert speaking.renegotiate()
            speaking.do_handshake()
            with contextlib.suppress(SSL.Error):
                speaking.recv(1)
            return not speaking.renegotiate_pending()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(asyncio.to_thread(serve, listening))
        outcome = await outcome_of(f"https://localhost:{listening.getsockname()[1]}/")
        again = await serving
    assert not again
    assert (outcome.status, outcome.error) == (None, "tls")
    assert outcome.detail == "the server refused the TLS handshake"


# --- what an endpoint brings along -------------------------------------------------------------------------------


def text(*blobs: trustme.Blob) -> str:
    return b"".join(blob.bytes() for blob in blobs).decode()


def identity(authority: trustme.CA, name: str = "client.example", **options: Any) -> Tls:
    """A client certificate and its key."""
    issued = authority.issue_cert(name, **options)
    return Tls(cert=text(*issued.cert_chain_pems), key=text(issued.private_key_pem))


def mutual(context: ssl.SSLContext, authority: trustme.CA) -> ssl.SSLContext:
    """The context of a server that takes nobody without a certificate of `authority`."""
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    return context


@contextlib.contextmanager
def explaining(context: ssl.SSLContext) -> Iterator[int]:
    """The port of a server that answers with 200, and says why when it ends a handshake.

    asyncio's servers drop the alert, and one that closes before it has read the request resets the connection, which
    may lose it.
    """

    def serve(plain: socket.socket) -> None:
        with plain, contextlib.suppress(OSError):
            plain.settimeout(10)
            with context.wrap_socket(plain.dup(), server_side=True, do_handshake_on_connect=False) as wrapped:
                try:
                    wrapped.do_handshake()
                    wrapped.recv(65_536)
                    wrapped.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    wrapped.recv(1)
                except ssl.SSLError:
                    plain.shutdown(socket.SHUT_WR)
                    while plain.recv(65_536):
                        pass

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threads.append(threading.Thread(target=serve, args=(listener.accept()[0],)))
                threads[-1].start()

    listener = socket.create_server(("127.0.0.1", 0))
    threads = [threading.Thread(target=accept)]
    threads[0].start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(20)
        listener.close()


async def test_an_own_authority_is_trusted_for_its_endpoint_and_no_other(
    authority: trustme.CA, certificate: Callable[..., ssl.SSLContext]
) -> None:
    own = Tls(ca=text(authority.cert_pem))
    async with serving(certificate("localhost")) as port, transporting() as transport:
        url = f"https://localhost:{port}/"
        # Each of these finds a connection in the pool that another endpoint's authority has verified.
        for tls, status in ((own, 200), (None, None), (Tls(ca=text(trustme.CA().cert_pem)), None), (own, 200)):
            assert (await send(transport, url, tls)).status == status


@pytest.mark.usefixtures("trusted")
async def test_an_own_authority_is_trusted_instead_of_the_systems(certificate: Callable[..., ssl.SSLContext]) -> None:
    stranger = Tls(ca=text(trustme.CA().cert_pem))
    async with serving(certificate("localhost")) as port:
        assert (await outcome_of(f"https://localhost:{port}/")).status == 200
        refused = await outcome_of(f"https://localhost:{port}/", tls=stranger)
    assert (refused.status, refused.error) == (None, "tls")
    assert refused.detail.startswith("certificate is signed by an authority that is not trusted")


async def test_the_name_counts_with_an_own_authority_too(
    authority: trustme.CA, certificate: Callable[..., ssl.SSLContext]
) -> None:
    async with serving(certificate("other.example")) as port:
        refused = await outcome_of(f"https://localhost:{port}/", tls=Tls(ca=text(authority.cert_pem)))
    assert (refused.error, refused.detail) == ("tls", "certificate is for another name")


async def test_an_intermediate_authority_or_the_certificate_itself_may_be_what_is_trusted() -> None:
    root = trustme.CA()
    middle = root.create_child_ca()
    issued = middle.issue_cert("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    async with serving(context) as port:
        for pem in (root.cert_pem, middle.cert_pem, issued.cert_chain_pems[0]):
            assert (await outcome_of(f"https://localhost:{port}/", tls=Tls(ca=text(pem)))).status == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_client_certificate_opens_a_server_that_asks_for_one(
    authority: trustme.CA, certificate: Callable[..., ssl.SSLContext], version: ssl.TLSVersion
) -> None:
    clients = trustme.CA()
    context = mutual(certificate("localhost"), clients)
    context.maximum_version = version
    ca = text(authority.cert_pem)
    expired = identity(clients, not_before=LONG_AGO - timedelta(days=2), not_after=LONG_AGO)
    with explaining(context) as port:
        async with transporting() as transport:
            good, none, foreign, old = [
                await send(transport, f"https://localhost:{port}/", replace(tls, ca=ca))
                # The pool keeps the connection of the first, and no other is served by it.
                for tls in (identity(clients), Tls(), identity(trustme.CA()), expired)
            ]
    assert good == Outcome(status=200, duration_ms=0, excerpt=b"ok")
    assert [(each.status, each.error) for each in (none, foreign, old)] == [(None, "tls")] * 3
    # Before 1.3 there is no alert of its own for this.
    assert none.detail in ("the server wants a client certificate", "the server refused the TLS handshake")
    refused = "the server does not accept the client certificate"
    assert foreign.detail == f"{refused}: its authority is not known there"
    assert old.detail == f"{refused}: it has expired"


@pytest.mark.usefixtures("trusted")
async def test_a_client_certificate_goes_with_the_systems_authorities(
    certificate: Callable[..., ssl.SSLContext],
) -> None:
    clients = trustme.CA()
    async with serving(mutual(certificate("localhost"), clients)) as port:
        assert (await outcome_of(f"https://localhost:{port}/", tls=identity(clients))).status == 200


async def test_a_server_that_speaks_only_tls_1_1_is_refused_with_an_own_authority_too(authority: trustme.CA) -> None:
    alert = bytes.fromhex("15030100020246")
    async with serving(None, alert) as port:
        refused = await outcome_of(f"https://localhost:{port}/", tls=Tls(ca=text(authority.cert_pem)))
    assert (refused.error, refused.detail) == ("tls", "the server offers no TLS version from 1.2 on")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Tls]:
    """What contexts were made of, in their order."""
    made: list[Tls] = []

    def counted(tls: Tls | None = None) -> ssl.SSLContext:
        if tls is not None:
            made.append(tls)
        return context_of(tls)

    monkeypatch.setattr("kasplo_notify.transport.context_of", counted)
    return made


async def test_a_context_is_made_once_for_an_endpoint_however_many_ask_at_once(
    authority: trustme.CA, certificate: Callable[..., ssl.SSLContext], made: list[Tls]
) -> None:
    one, two = (Tls(text(authority.cert_pem), each.cert, each.key) for each in map(identity, [authority] * 2))
    async with serving(certificate("localhost")) as port, transporting() as transport:
        outcomes = await asyncio.gather(
            *(
                send(transport, f"https://localhost:{port}/{path}", tls)
                for path in ("", "?query=1", "other")
                for tls in (one, two, replace(one))
            )
        )
        assert [each.status for each in outcomes] == [200] * 9
    assert made == [one, two]


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("system", [True, False])
async def test_of_the_contexts_those_are_kept_that_were_used_last_and_no_connection_keeps_another(
    authority: trustme.CA,
    certificate: Callable[..., ssl.SSLContext],
    made: list[Tls],
    monkeypatch: pytest.MonkeyPatch,
    system: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    monkeypatch.setattr(
        "kasplo_notify.transport._CACHED_SYSTEM" if system else "kasplo_notify.transport._CACHED_OWN", 2
    )
    ca = None if system else text(authority.cert_pem)
    one, two, three = (Tls(ca, each.cert, each.key) for each in map(identity, [authority] * 3))
    async with serving(certificate("localhost")) as port, transporting() as transport:
        for tls in (one, two, one, three, one, three):
            assert (await send(transport, f"https://localhost:{port}/", tls)).status == 200
        assert made == [one, two, three]
        gc.collect()
        assert {*transport._contexts} == {one, three}
        assert (await send(transport, f"https://localhost:{port}/", two)).status == 200
        assert made == [one, two, three, two]


async def test_others_send_while_a_context_is_made(
    authority: trustme.CA, certificate: Callable[..., ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def slow(tls: Tls | None = None) -> ssl.SSLContext:
        if tls == own:
            assert go_on.wait(20)
        return context_of(tls)

    async with serving(certificate("localhost")) as port, serving(None) as other, transporting() as transport:
        own = Tls(ca=text(authority.cert_pem))
        monkeypatch.setattr("kasplo_notify.transport.context_of", slow)
        waiting = asyncio.create_task(send(transport, f"https://localhost:{port}/", own))
        try:
            assert (await send(transport, f"http://127.0.0.1:{other}/")).status == 200
            assert not waiting.done()
        finally:
            go_on.set()
        assert (await waiting).status == 200


async def test_a_context_that_is_not_made_in_time_is_the_workers_fault(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    async with transporting() as transport:
        monkeypatch.setattr("kasplo_notify.transport.context_of", lambda _: go_on.wait(20))
        try:
            outcome = await transport.send(
                Request("POST", "https://localhost:1/", (), b"", identity(authority)), timeout=0.1
            )
        finally:
            go_on.set()
    assert (outcome.error, outcome.detail) == ("worker", "this worker could not load the certificates within 0.1 s")


async def test_no_thread_to_make_a_context_on_is_the_workers_fault(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with transporting() as transport:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", none_left)
            outcome = await send(transport, "https://localhost:1/", identity(authority))
    assert outcome.error == "worker"
    assert outcome.detail.startswith("this worker can start no more threads")


async def test_a_key_that_cannot_be_read_is_an_outcome(authority: trustme.CA) -> None:
    broken = replace(identity(authority), key="nonsense")
    outcome = await outcome_of("https://localhost:1/", tls=broken)
    assert (outcome.status, outcome.error) == (None, "tls")


async def test_a_worker_without_a_file_to_read_a_key_from_is_what_is_at_fault(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("kasplo_notify.tls._load", none_left)
    outcome = await outcome_of("https://localhost:1/", tls=identity(authority))
    assert (outcome.status, outcome.error) == (None, "worker")
