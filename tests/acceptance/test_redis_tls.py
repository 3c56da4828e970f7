"""`rediss://`: producers, workers, RQ and the command line over TLS, to a server whose certificate is verified."""

import asyncio
import json
import re
import ssl
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from kasplo_notify import AsyncNotifier, Notifier, StorageUnavailable
from kasplo_notify.cli import root
from tests.acceptance.tls import TlsFront
from tests.acceptance.world import World, scomp, until


@dataclass(frozen=True, slots=True, kw_only=True)
class Secured:
    """An installation whose server is reached over TLS.

    Attributes:
        world: It.
        port: Where TLS is.
        strict: Where TLS is that asks for a client's certificate.
        files: Certificates: `ca.pem`, `other-ca.pem`, `client.pem` with its key in it.
    """

    world: World
    port: int
    strict: int
    files: Path

    def url(self, *, host: str = "localhost", port: int = 0, ca: str = "ca.pem", **options: str) -> str:
        given = {"ssl_ca_certs": str(self.files / ca)} | options
        return f"rediss://{host}:{port or self.port}/0?" + "&".join(f"{name}={quote(at)}" for name, at in given.items())

    def command(self, url: str, *args: str, given: str | None = None) -> Result:
        environ = {name: value for name, value in self.world.environ.items() if name.startswith("KASPLO_")}
        return CliRunner().invoke(root, list(args), env=environ | {"KASPLO_REDIS__URL": url}, input=given)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    files, authority = tmp_path_factory.mktemp("certificates"), trustme.CA()
    authority.cert_pem.write_to_path(str(files / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(files / "other-ca.pem"))
    authority.issue_cert("producer.example.com").private_key_and_cert_chain_pem.write_to_path(str(files / "client.pem"))
    contexts = [ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2)]
    for context in contexts:
        authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(contexts[1])
    contexts[1].verify_mode = ssl.CERT_REQUIRED
    with World(tmp_path_factory.mktemp("world"), delivery__delay=0.1) as world:
        path = world.config.redis.url.removeprefix("unix://")
        with TlsFront(path, contexts[0]) as front, TlsFront(path, contexts[1]) as strict:
            yield Secured(world=world, port=front.port, strict=strict.port, files=files)


async def emit_async(url: str) -> str:
    async with AsyncNotifier(url) as notifier:
        return (await notifier.emit(scomp(2), mail_class="crm")).id


def test_everybody_works_over_tls(secured: Secured) -> None:
    world, url = secured.world, secured.url()
    path = world.endpoint("crm")
    with Notifier(url) as notifier:
        ids = [notifier.emit(scomp(1), mail_class="crm").id]
    ids.append(asyncio.run(emit_async(url)))
    given = json.dumps({**scomp(3), "mail_class": "crm", "event_id": "typed"})
    assert secured.command(url, "emit", given=given).exit_code == 0
    world.environ["KASPLO_REDIS__URL"] = url
    worker = world.start([sys.executable, "-m", "kasplo_notify", "worker"])
    world.wait_for(path, [*ids, "typed"])
    worker.terminate()
    assert worker.wait() == 0
    assert "rq_ended" not in worker.output
    ids = world.emit("crm", 3)
    until(lambda: world.registry.backlog(["crm"])["crm"].late_ms, what="the moment when they are due")
    rq = [sys.executable, "-m", "rq.cli", "worker", "-w", "workers.NotifyWorker", "--burst", "-u", url, "kasplo"]
    assert world.start(rq).wait() == 0
    world.wait_for(path, ids)
    assert "crm" in secured.command(url, "status").output
    assert secured.command(url, "doctor").exit_code == 1  # no worker runs


def test_a_client_that_has_to_show_a_certificate_shows_it(secured: Secured) -> None:
    mine = str(secured.files / "client.pem")
    url = secured.url(port=secured.strict, ssl_certfile=mine, ssl_keyfile=mine)
    assert secured.command(url, "status").exit_code == 0
    refused = secured.command(secured.url(port=secured.strict), "status")
    assert refused.exit_code == 4
    assert len(refused.stderr.splitlines()) == 1


def test_wherever_the_url_is_shown_the_password_of_a_key_is_not(secured: Secured) -> None:
    mine, password = secured.files / "client.pem", "hunter2-swordfish"
    key = load_pem_private_key(mine.read_bytes(), None)
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password.encode()))
    (secured.files / "client.key").write_bytes(encrypted)
    url = secured.url(
        port=secured.strict,
        ssl_certfile=str(mine),
        ssl_keyfile=str(secured.files / "client.key"),
        ssl_password=password,
    )
    shown = [
        secured.command(url, *args)
        for args in (["doctor"], ["doctor", "--json"], ["config", "show"], ["config", "show", "--json"])
    ]
    assert all("ssl_password=***" in each.stdout for each in shown)
    refused = secured.command(url.replace("localhost", "127.0.0.1"), "status")
    assert refused.exit_code == 4
    secured.world.environ["KASPLO_REDIS__URL"] = url
    up = secured.world.start([sys.executable, "-m", "kasplo_notify", "up"])
    until(lambda: "Next, in another terminal" in up.output, what="what `up` says first")
    up.terminate()
    assert up.wait() == 0
    assert "ssl_password=***" in up.output
    assert password not in up.output + "".join(each.output for each in (*shown, refused))


@pytest.mark.parametrize(
    ("host", "ca", "told"),
    [
        (
            "localhost",
            "other-ca.pem",
            "the certificate of Redis is not accepted: unable to get local issuer certificate",
        ),
        ("127.0.0.1", "ca.pem", "the certificate of Redis is not accepted: IP address mismatch"),
    ],
    ids=["an authority that is not trusted", "another name"],
)
def test_a_wrong_certificate_is_refused_in_one_sentence(secured: Secured, host: str, ca: str, told: str) -> None:
    url = secured.url(host=host, ca=ca)
    for args in (["status"], ["worker"], ["endpoint", "list"]):
        refused = secured.command(url, *args)
        assert refused.exit_code == 4
        (line,) = refused.stderr.splitlines()
        assert line.startswith(f"Error: {told}")
        assert line.endswith("Check the host in redis.url, and ?ssl_ca_certs=FILE behind it")
    with Notifier(url) as notifier, pytest.raises(StorageUnavailable, match="certificate of Redis is not accepted"):
        notifier.emit(scomp(1), mail_class="crm")
    with pytest.raises(StorageUnavailable, match="certificate of Redis is not accepted"):
        asyncio.run(emit_async(url))


def test_without_an_authority_of_its_own_the_systems_are_asked(secured: Secured) -> None:
    refused = secured.command(f"rediss://localhost:{secured.port}/0", "status")
    assert refused.exit_code == 4
    assert "the certificate of Redis is not accepted" in refused.stderr


def test_who_wants_no_verification_has_to_say_so(secured: Secured) -> None:
    url = f"rediss://127.0.0.1:{secured.port}/0?ssl_cert_reqs=none"
    assert secured.command(url, "status").exit_code == 0


def test_a_file_that_cannot_be_read_is_named(secured: Secured) -> None:
    refused = secured.command(secured.url(ca="none.pem"), "status")
    assert refused.exit_code == 3
    assert refused.stderr.startswith("Error: redis.url: ssl_ca_certs is '")
    # A long path is cut.
    assert re.search(r"none\..*, which cannot be read here", refused.stderr)
