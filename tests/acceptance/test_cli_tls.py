"""An endpoint with a CA file and a client certificate, from the files to the subscriber that asks for one."""

import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson
import pytest
import trustme

from kasplo_notify.endpoint import Endpoint
from tests.acceptance.commands import Cli, installation
from tests.acceptance.subscriber import Subscriber


@dataclass(frozen=True, slots=True)
class House:
    """A subscriber whose certificate is of its own authority, and which takes nobody without one of another.

    Attributes:
        cli: In this installation; the files lie in its folder.
        subscriber: The subscriber.
    """

    cli: Cli
    subscriber: Subscriber

    def add(self, name: str, *options: str, path: str = "") -> list[str]:
        return ["endpoint", "add", name, self.subscriber.url(path or f"/{name}"), "--mail-class", name, *options]


FILES = ("--ca-file", "ca.pem", "--client-cert", "client.pem", "--client-key", "client.key")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with installation(tmp_path_factory.mktemp("tls")) as cli:
        folder = cli.world.folder
        authority, clients = trustme.CA(), trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        context.verify_mode = ssl.CERT_REQUIRED
        clients.configure_trust(context)
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        long_ago = datetime(2001, 2, 3, 12, tzinfo=UTC)
        client, expired = clients.issue_cert("us"), clients.issue_cert("us", not_before=long_ago, not_after=long_ago)
        for name, issued in (("client", client), ("expired", expired)):
            issued.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
            issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        with Subscriber(tls=context) as subscriber:
            yield House(cli, subscriber)


def test_the_files_are_read_once_and_deliveries_use_what_is_in_the_record(house: House) -> None:
    cli, world = house.cli, house.cli.world
    added = cli.ok(*house.add("mutual", *FILES))
    assert added.err == ""
    for words in ("authorities", "1 certificate of its own, until ", "client cert", "sha256 ", "client key     ***"):
        assert words in added.out
    # A record with somebody else's key: that endpoint is paused, the other is served.
    spoilt = orjson.loads(world.registry.get("mutual").to_json())
    spoilt |= {"name": "spoilt", "client_key": (world.folder / "expired.key").read_text(), "mail_classes": ["mutual"]}
    world.registry.add(Endpoint(name="spoilt", url=house.subscriber.url("/spoilt"), mail_classes=("mutual",)))
    world.redis.hset(world.registry.store.keys.endpoints, "spoilt", orjson.dumps(spoilt))
    # Workers have nothing but the records.
    for name in ("ca.pem", "client.pem", "client.key"):
        (cli.world.folder / name).rename(cli.world.folder / f"{name}.away")
    try:
        assert "HTTP 200" in cli.ok("endpoint", "test", "mutual").out
        ids = cli.world.emit("mutual", 20)
        time.sleep(0.2)
        log = cli.ok("worker", "-n", "1", "--burst").err
    finally:
        for name in ("ca.pem", "client.pem", "client.key"):
            (cli.world.folder / f"{name}.away").rename(cli.world.folder / name)
    taken = house.subscriber.taken("/mutual")
    assert sorted(each for each in taken if not each.startswith("test_")) == sorted(ids)
    assert "endpoint_paused: the record of spoilt is broken; its events wait" in log
    assert house.subscriber.hits("/spoilt") == []
    listed = cli.ok("endpoint", "list", "--json")
    broken, shown = (next(each for each in listed.json if each["name"] == name) for name in ("spoilt", "mutual"))
    assert "the client key does not belong to the client certificate" in broken["broken"]
    ((fingerprint,), cert) = ([each["sha256"] for each in shown["ca"]], shown["client_cert"])
    assert (len(fingerprint), len(cert["sha256"]), shown["client_key"]) == (64, 64, "***")
    assert cert["not_before"] < cert["not_after"]


def test_each_part_can_be_taken_back_and_an_expired_one_is_warned_of(house: House) -> None:
    cli = house.cli
    cli.ok(*house.add("changing", *FILES))
    without = cli.ok("endpoint", "update", "changing", "--no-client-cert", "--no-ca-file").out
    assert "*** -> none" in without
    assert house.cli.world.registry.get("changing").tls is None
    refused = cli.run("endpoint", "test", "changing")
    assert (refused.code, "an authority that is not trusted" in refused.out) == (1, True)
    late = cli.ok("endpoint", "update", "changing", "--client-cert", "expired.pem", "--client-key", "expired.key")
    assert late.err.startswith("Warning: the client certificate expired on 2001-02-03 ")
    assert len(late.err.splitlines()) == 1
    assert ", expired 2001-02-03 " in late.out
