"""Secrets are shown once, where they are made, and nowhere else: not by any command, error, log or traceback."""

import base64
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import click
import orjson
import pytest
import trustme
from click.testing import CliRunner

from kasplo_notify.cli import root
from kasplo_notify.signature import generate_secret
from tests.acceptance.commands import COMMAND, Cli, Ran, installation
from tests.acceptance.subscriber import Answer, closed_port

BEARER, PASSWORD, API_KEY = "Bearer open-sesame-7f3a", "hunter2-swordfish", "k-99b1c0ffee-tulip"
REFUSED = generate_secret()


@dataclass(frozen=True, slots=True)
class Vault:
    """An installation with secrets of every kind.

    Attributes:
        cli: In this installation.
        hidden: Every text that must not be seen.
        once: Of each command that makes a secret, what it showed; and that secret.
    """

    cli: Cli
    hidden: tuple[str, ...]
    once: tuple[tuple[Ran, str], ...]

    def check(self, ran: Ran, *args: str) -> None:
        for text in self.hidden:
            assert text not in ran.out + ran.err, args


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    """Two endpoints: `keys`, where nobody listens, and `basic`, which refuses; their events are dead letters."""
    with installation(tmp_path_factory.mktemp("secrets")) as cli, closed_port() as nobody:
        world = cli.world
        issued = trustme.CA().issue_cert("us")
        issued.cert_chain_pems[0].write_to_path(str(world.folder / "client.pem"))
        issued.private_key_pem.write_to_path(str(world.folder / "client.key"))
        headers = ("--header", f"Authorization: {BEARER}", "--header", f"X-Api-Key: {API_KEY}")
        client = ("--client-cert", "client.pem", "--client-key", "client.key")
        port = nobody.getsockname()[1]
        only = ("--retry-delays", "0.1", "--queues", "1")
        added = cli.ok("endpoint", "add", "keys", f"https://127.0.0.1:{port}/", *headers, *client, *only)
        (first,) = (word for word in added.out.split() if word.startswith("whsec_") and len(word) > 30)
        rotated = cli.ok("endpoint", "rotate-secret", "keys", "--json")
        second = rotated.json["secret"]
        own = generate_secret()
        basic = ("--basic", f"joe:{PASSWORD}", "--secret", own)
        other = cli.ok("endpoint", "add", "basic", world.subscriber.url("/basic"), *basic, *only, "--json")
        world.subscriber.answers("/basic", Answer(status=500))
        (world.folder / "registry.toml").write_text(
            f'[endpoints.keys]\nurl = "https://127.0.0.1:{port}/"\nqueues = 1\nretry_delays = [0.1]\n'
            f'headers = ["Authorization: {BEARER}-2", "X-Api-Key: {API_KEY}-2"]\n'
            f'[endpoints.basic]\nurl = "{world.subscriber.url("/basic")}"\nqueues = 1\nretry_delays = [0.1]\n'
            f'basic = "joe:{PASSWORD}-3"\nsecret = "{REFUSED}"\n'
        )
        (world.folder / "wrong.toml").write_text(
            f'[endpoints.keys]\nurl = "https://joe:{PASSWORD}@example.com"\nheaders = ["Authorization {BEARER}"]\n'
            f'basic = "{PASSWORD}"\nsecret = "{REFUSED}="\nold_secret = "{REFUSED}="\nclient_key = "{PASSWORD}"\n'
        )
        (world.folder / "no.toml").write_text(f'[endpoints.keys]\nbasic = "{PASSWORD}\n')
        texts = [BEARER, BEARER.removeprefix("Bearer "), PASSWORD, API_KEY, REFUSED.removeprefix("whsec_")]
        texts += [each.removeprefix("whsec_") for each in (first, second, own)]
        texts.append(base64.b64encode(f"joe:{PASSWORD}".encode()).decode())
        texts += (world.folder / "client.key").read_text().splitlines()[1:-1]
        yield Vault(cli, tuple(texts), ((added, first), (rotated, second), (other, own)))


def test_a_secret_is_shown_once_by_the_command_that_makes_it_and_nothing_else_with_it(vault: Vault) -> None:
    for ran, secret in vault.once:
        assert (ran.out + ran.err).count(secret) == 1
        others = [text for text in vault.hidden if text not in secret]
        assert not any(text in ran.out + ran.err for text in others)


def test_workers_show_none_whatever_goes_wrong(vault: Vault) -> None:
    world = vault.cli.world
    keys = world.registry.store.keys
    key = keys.endpoints
    record = orjson.loads(world.redis.hget(key, "keys") or b"")
    world.endpoint("shattered", queues=1)
    world.redis.hset(key, "shattered", orjson.dumps({**record, "name": "shattered", "basic": "no colon", "timeout": 0}))
    world.endpoint("jumbled", queues=1)
    world.redis.hset(key, "jumbled", orjson.dumps({**record, "name": "jumbled"}))
    for name in ("promo", "shattered", "jumbled"):
        world.emit(name, 3)
    # A note of deaths that is no text makes a worker write a traceback.
    world.redis.hset(keys("owner"), "jumbled.0", "a drain that died")
    world.redis.hset(keys("suspect"), "jumbled.0", b"\xff")
    time.sleep(0.2)
    log = ""
    for how in ("json", "human"):
        done = subprocess.run(
            [*COMMAND, "worker", "-n", "1", "--burst"],
            env=world.environ | {"KASPLO_LOG__FORMAT": how},
            cwd=world.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        log += done.stdout + done.stderr
        time.sleep(0.3)
    vault.check(Ran(0, log, ""), "worker")
    assert "Traceback" in log
    assert "the record of shattered is broken" in log
    assert world.dead("keys")
    assert world.dead("basic")


READING: tuple[tuple[str, ...], ...] = (
    *(("endpoint", "list"), ("endpoint", "show", "keys"), ("endpoint", "show", "basic"), ("endpoint", "test", "keys")),
    *(("endpoint", "test", "basic"), ("endpoint", "show", "shattered"), ("status",), ("attempts", "keys")),
    *(("attempts", "basic"), ("doctor",), ("dead", "list"), ("dead", "show"), ("dead", "export"), ("events",)),
    *(("endpoint", "export"), ("endpoint", "apply", "registry.toml", "--dry-run")),
    *(("route", "--event-type", "scomp"), ("config", "show"), ("config", "check"), ("spool",)),
)
CHANGING: tuple[tuple[str, ...], ...] = (
    *(
        ("endpoint", "update", "keys", "--timeout", "7"),
        ("endpoint", "update", "basic", "--basic", f"joe:{PASSWORD}-2"),
    ),
    ("endpoint", "apply", "registry.toml"),
    *(("endpoint", "pause", "keys"), ("endpoint", "resume", "keys"), ("dead", "replay", "keys", "--yes"), ("emit",)),
    *(("dead", "purge", "basic", "--yes"), ("spool", "flush"), ("endpoint", "remove", "keys", "--yes")),
)
WRONG: tuple[tuple[str, ...], ...] = (
    ("endpoint", "add", "basic", "https://example.com", "--basic", PASSWORD),
    ("endpoint", "add", "new", "https://example.com", "--secret", f"{REFUSED}="),
    ("endpoint", "add", "new", "https://example.com", "--header", f"Authorization: {BEARER}\x07"),
    ("endpoint", "add", "new", "https://example.com", "--header", f"Authorization {BEARER}"),
    ("endpoint", "add", "new", "https://example.com", "--header", f"Authorization={BEARER}: x"),
    ("endpoint", "add", "new", "https://example.com", "--header", f"Authorization {BEARER}: x"),
    ("endpoint", "add", "new", f"https://joe:{PASSWORD}@example.com"),
    ("endpoint", "add", "new", f"joe:{PASSWORD}@example.com"),
    ("endpoint", "add", "new", f"{PASSWORD}@example.com"),
    ("endpoint", "add", "new", f"https://joe:{PASSWORD}/"),
    ("endpoint", "add", "new", f"https://joe:{PASSWORD}/@example.com"),
    ("endpoint", "add", "new", f"http://joe:{PASSWORD}?@example.com"),
    ("endpoint", "add", "new", f"https://joe:{PASSWORD}%40example.com/"),
    ("endpoint", "add", "new", f"https://{PASSWORD}%40example.com/"),
    ("endpoint", "update", "keys", "--url", f"joe:{PASSWORD}@example.com"),
    ("endpoint", "add", "new", "https://example.com", "--basic", f"joe:{PASSWORD}\x07"),
    ("endpoint", "update", "keys", "--basic", f"joe:{PASSWORD}"),
    ("endpoint", "update", "keys", "--client-cert", "client.key"),
    ("endpoint", "update", "keys", "--client-key", "client.pem"),
    *(("endpoint", "apply", "wrong.toml"), ("endpoint", "apply", "no.toml")),
)


def leaves(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that is not hidden, with its path."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from leaves(command, *path, name)
        elif not command.hidden:
            yield (*path, name), command


def test_no_command_shows_one(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    # In this process: as processes of their own they would take half a minute.
    monkeypatch.chdir(vault.cli.world.folder)
    environ = vault.cli.world.environ | {"KASPLO_SPOOL__PATH": str(vault.cli.world.folder / "spool")}
    with_json = {path for path, command in leaves(root) if any("--json" in each.opts for each in command.params)}
    runs = [*READING, *((*args, "--json") for args in READING if {args[:1], args[:2]} & with_json), *WRONG, *CHANGING]
    for args in runs:
        result = CliRunner().invoke(root, list(args), env=environ)
        assert result.exit_code in ((2,) if args in WRONG else (0, 1)), (args, result.output)
        assert isinstance(result.exception, SystemExit | None), args
        vault.check(Ran(result.exit_code, result.stdout, result.stderr), *args)
    assert len(runs) > 45


def test_every_command_is_among_them() -> None:
    run = {path for args in (*READING, *CHANGING) for path in (args[:1], args[:2])}
    # Those that make a secret, and those that run workers.
    run |= {("endpoint", "add"), ("endpoint", "rotate-secret"), ("worker",), ("up",)}
    assert {path for path, _ in leaves(root)} - run == set()
