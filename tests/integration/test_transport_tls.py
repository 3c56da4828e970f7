"""TLS: certificates are verified, and what is wrong with one is said in words that its owner understands."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from OpenSSL import SSL

from kasplo_notify.config import Config
from kasplo_notify.config_sections import DeliveryConfig, EgressConfig
from kasplo_notify.guard import EgressGuard
from kasplo_notify.outcome import Outcome
from kasplo_notify.request import Request
from kasplo_notify.transport import Transport

CONFIG = Config(egress=EgressConfig(allow=("127.0.0.0/8", "::1/128")), delivery=DeliveryConfig(connect_timeout=1))


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


async def outcome_of(url: str, requests: int = 1) -> Outcome:
    transport = Transport(CONFIG, EgressGuard(CONFIG.egress))
    await transport.start()
    try:
        for _ in range(requests):
            outcome = await transport.send(Request("POST", url, (), b""), timeout=2)
        return replace(outcome, duration_ms=0)
    finally:
        await transport.close()


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
async def test_a_server_that_wants_a_client_certificate_tells_so_after_the_handshake(
    certificate: Callable[..., ssl.SSLContext],
) -> None:
    context = certificate("localhost")
    context.verify_mode = ssl.CERT_REQUIRED

    def serve(listening: socket.socket) -> None:
        peer, _ = listening.accept()
        with peer.dup() as raw, context.wrap_socket(peer, server_side=True, do_handshake_on_connect=False) as speaking:
            with pytest.raises(ssl.SSLError):
                speaking.do_handshake()
            # What was sent and is not read would be answered with a reset.
            with contextlib.suppress(ConnectionError):
                while raw.recv(65536):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(asyncio.to_thread(serve, listening))
        outcome = await outcome_of(f"https://localhost:{listening.getsockname()[1]}/")
        await serving
    assert (outcome.error, outcome.detail) == ("tls", "the server wants a client certificate")


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
