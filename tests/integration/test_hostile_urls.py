"""Every input of both tables of hostile URLs, when it is registered and when it is in Redis all the same.

The second by a real drain with a real transport, in which only the network is not one: see `StubNetwork`.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

import orjson
import pytest
import redis
import trustme

from kasplo_notify.config import Config
from kasplo_notify.config_sections import DeliveryConfig, EgressConfig
from kasplo_notify.drain import Drain
from kasplo_notify.embedded import EmbeddedServer
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.endpoint_checks import make_endpoint
from kasplo_notify.equipment import Equipment
from kasplo_notify.errors import EndpointError
from kasplo_notify.guard import EgressGuard
from kasplo_notify.request import Request
from kasplo_notify.store import AsyncStore, connect_async
from kasplo_notify.transport import Transport
from tests.integration.hostile_urls import GIVEN, PUBLIC, ROWS, Row, StubNetwork
from tests.integration.shard import Shard

CONFIG = Config(delivery=DeliveryConfig(connect_timeout=10, timeout=20))
REFUSED = ("blocked", "dns")

each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def test_no_input_is_lost() -> None:
    assert len(GIVEN) == 124
    assert len(ROWS) > 200


# --- registration ------------------------------------------------------------------------------------------------


@each_row
def test_what_is_refused_when_it_is_registered(row: Row) -> None:
    def register() -> None:
        make_endpoint(CONFIG, name="crm", url=row.url, headers=row.headers)

    # Names are not resolved, so DNS decides later; so does the answer. A port is refused at once.
    if row.verdict == "allow" or (row.kind in ("DNS", "REBIND", "REDIRECT") and row.verdict == "block"):
        register()
    else:
        with pytest.raises(EndpointError) as refused:
            register()
        assert str(refused.value).isprintable()


def test_http_is_refused_where_https_only_is_set() -> None:
    config = replace(CONFIG, egress=EgressConfig(https_only=True))
    for row in ROWS:
        if row.url.startswith("http://"):
            with pytest.raises(EndpointError):
                make_endpoint(config, name="crm", url=row.url)


# --- a record that was written past the registry -------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Arrived:
    """What came to the servers of this machine that the stub network leads to.

    Attributes:
        heads: The requests' heads by event id.
    """

    heads: dict[str, bytes] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=lambda: {row.name: row for row in ROWS})

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                event_id = re.search(rb"(?i)webhook-id: (\S+)", head)
                assert event_id is not None
                self.heads[event_id[1].decode()] = head
                writer.write(self._answer(self.rows[event_id[1].decode().partition("_")[0]]))
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    def _answer(self, row: Row) -> bytes:
        status, _, location = row.given.partition(" ")
        if row.kind != "REDIRECT":
            return b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        if status == "200":
            return b"HTTP/1.1 200 OK\r\nRefresh: 0; url=http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"
        return f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bypassed:
    """What came of the rows.

    Attributes:
        heads: What arrived, by event id: `<row>_1`, and for a name that is rebound `<row>_2` after that.
        dialled: What was dialled.
        reasons: Event id -> the reason of its attempt.
        paused: Row -> why its endpoint is paused.
    """

    heads: dict[str, bytes]
    dialled: set[tuple[str, int]]
    reasons: dict[str, str]
    paused: dict[str, str]


@asynccontextmanager
async def servers(network: StubNetwork, arrived: Arrived, authority: trustme.CA) -> AsyncIterator[None]:
    """One server with TLS, which port 443 is led to, and one without for all other ports."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    names = [row.host for row in ROWS if row.kind in ("DNS", "REBIND")]
    addresses = ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"]
    authority.issue_cert("example.com", "*.example.com", *addresses, *names).configure_cert(tls)
    secure = await asyncio.start_server(arrived.converse, "127.0.0.1", 0, ssl=tls)
    plain = await asyncio.start_server(arrived.converse, "127.0.0.1", 0)
    network.ports = {443: secure.sockets[0].getsockname()[1], None: plain.sockets[0].getsockname()[1]}
    try:
        yield
    finally:
        secure.close()
        plain.close()
        await asyncio.sleep(0.05)


def write_past_the_registry(shard: Shard, row: Row) -> None:
    record = orjson.loads(Endpoint(name=row.name, url="https://hooks.example.com/", queues=1).to_json())
    # What may be registered is there as registration has written it.
    url = EgressGuard(CONFIG.egress).check_url(row.url) if row.verdict == "allow" else row.url
    record |= {"url": url, "headers": row.headers}
    shard.client.hset("kasplo:endpoints", row.name, orjson.dumps(record))


async def deliver(url: str, network: StubNetwork) -> None:
    """One drain, as a worker has it."""
    transport = Transport(CONFIG, EgressGuard(CONFIG.egress, in_worker=True))
    store = AsyncStore(connect_async(url), "kasplo:")
    with network.instead_of_the_real_one():
        await transport.start()
        try:
            gear = Equipment(config=CONFIG, store=store, transport=transport, name="tester")
            await asyncio.wait_for(Drain(gear, linger=0.0).run(), 60)
        finally:
            await transport.close()
            await store.close()


async def deliver_all(shard: Shard, network: StubNetwork, arrived: Arrived, authority: trustme.CA) -> None:
    async with servers(network, arrived, authority):
        for row in ROWS:
            write_past_the_registry(shard, row)
            shard.put(f"{row.name}.0", f"{row.name}_1")
        await deliver(shard.url, network)
        for row in ROWS:
            if row.kind == "REBIND":
                shard.put(f"{row.name}.0", f"{row.name}_2")
        await deliver(shard.url, network)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[trustme.CA]:
    """The only authority that this process trusts; and an environment that would lead requests astray."""
    made = trustme.CA()
    folder = tmp_path_factory.mktemp("authority")
    made.cert_pem.write_to_path(str(folder / "ca.pem"))
    (folder / ".netrc").write_text("machine hooks.example.com login x password y\n")
    (folder / ".netrc").chmod(0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
        patch.setenv("HOME", str(folder))
        patch.setenv("NETRC", str(folder / ".netrc"))
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
            patch.setenv(name, "http://10.0.0.9:3128")
        yield made


@pytest.fixture(scope="module")
def bypassed(server: EmbeddedServer, authority: trustme.CA) -> Bypassed:
    network, arrived = StubNetwork(ROWS), Arrived()
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        shard = Shard(client, server.url)
        asyncio.run(deliver_all(shard, network, arrived, authority))
        reasons: dict[str, str] = {}
        for row in ROWS:
            for attempt in shard.attempts(row.name):
                reasons.setdefault(attempt["id"], attempt["reason"])
        paused = {row.name: shard.health(row.name).get("paused", "") for row in ROWS}
        client.flushall()
    return Bypassed(heads=arrived.heads, dialled=set(network.dialled), reasons=reasons, paused=paused)


@each_row
def test_what_a_worker_sends_of_a_record_that_nobody_checked(row: Row, bypassed: Bypassed) -> None:
    last = f"{row.name}_{2 if row.kind == 'REBIND' else 1}"
    assert (last in bypassed.heads) is row.arrives
    if row.kind == "REDIRECT" and row.verdict == "block":
        assert bypassed.reasons[last] == f"http_{row.given[:3]}"
    elif row.arrives:
        assert bypassed.reasons[last] == "delivered"
    else:
        assert bypassed.reasons.get(last) in REFUSED or bypassed.paused[row.name] == "broken"


def test_a_name_is_called_while_its_answer_is_public(bypassed: Bypassed) -> None:
    assert all(f"{row.name}_1" in bypassed.heads for row in ROWS if row.kind == "REBIND")


def test_nothing_but_public_addresses_is_ever_dialled(bypassed: Bypassed) -> None:
    addresses = {PUBLIC, "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "2606:4700::1111"}
    assert bypassed.dialled == {(address, port) for address in addresses for port in (80, 443)} - {
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", 80),
        ("2606:4700::1111", 443),
    }
    assert all(ip_address(address).is_global for address, _ in bypassed.dialled)


def test_no_environment_adds_credentials(bypassed: Bypassed) -> None:
    with_credentials = {event for event, head in bypassed.heads.items() if b"authorization:" in head.lower()}
    given = {f"{row.name}_1" for row in ROWS if row.arrives and row.given.startswith("Authorization:")}
    assert with_credentials == given


# --- the guard alone -----------------------------------------------------------------------------------------------


async def test_the_address_that_is_dialled_decides_where_nobody_checks_the_url(
    monkeypatch: pytest.MonkeyPatch, authority: trustme.CA
) -> None:
    monkeypatch.setattr(EgressGuard, "check_url", lambda _, url: url)
    network, arrived = StubNetwork(ROWS), Arrived()
    guarded = [row for row in ROWS if row.guarded]
    assert len(guarded) > 100
    async with servers(network, arrived, authority):
        for turn in (1, 2):
            # The names that are rebound have a public address at their first turn.
            transport = Transport(CONFIG, EgressGuard(CONFIG.egress, in_worker=True))
            with network.instead_of_the_real_one():
                await transport.start()
                outcomes = [
                    await transport.send(
                        Request("POST", each.url, (("webhook-id", f"{each.name}_{turn}"),), b""), timeout=10
                    )
                    for each in guarded
                ]
                await transport.close()
            for row, outcome in zip(guarded, outcomes, strict=True):
                if turn == 2 or row.kind != "REBIND":
                    assert (row.name, outcome.status) == (row.name, None)
                    # aiohttp itself has no way with some of these names.
                    assert (row.name, outcome.error in (*REFUSED, "other")) == (row.name, True)
    assert {address for address, _ in network.dialled} <= {PUBLIC}
