"""TLS: certificates are verified, and what is wrong with one is said in words that its owner understands."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from kasplo_notify.config import Config
from kasplo_notify.config_sections import DeliveryConfig, EgressConfig
from kasplo_notify.guard import EgressGuard
from kasplo_notify.outcome import Outcome
from kasplo_notify.request import Request
from kasplo_notify.transport import Transport

CONFIG = Config(egress=EgressConfig(allow=("127.0.0.0/8", "::1/128")), delivery=DeliveryConfig(connect_timeout=1))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority of our own."""
    return trustme.CA()


@pytest.fixture
def certificate(authority: trustme.CA) -> Callable[..., ssl.SSLContext]:
    """Makes server contexts: certificates for `names`, good for `days`."""

    def make(*names: str, days: int = 1) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        until = datetime.now(UTC) + timedelta(days=days)
        authority.issue_cert(*names, not_before=until - timedelta(days=2), not_after=until).configure_cert(context)
        return context

    return make


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


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our authority is the one that this machine trusts."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


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
