"""The registry as a file: what `endpoint export` writes, `endpoint apply` makes of another registry, or of its own."""

import json
import os
import stat
import tomllib
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import CliRunner

from kasplo_notify.cli import root
from kasplo_notify.cli.registry_file import KEPT, MAX_BYTES
from kasplo_notify.signature import generate_secret
from tests.acceptance.commands import Cli, Ran, installation

SECRET, OLD = generate_secret(), generate_secret()
PASSWORD, BEARER = "hunter2-swordfish", "Bearer open-sesame-7f3a"
OPTIONS = ("--basic", f"joe:{PASSWORD}", "--header", "X-Tenant: 42", "--header", "X-Api-Key: k-99b1c0ffee-tulip")
LIMITS = ("--delay", "2.5", "--timeout", "5", "--max-in-flight", "8", "--queues", "2", "--retry-delays", "1,60")


class Here(Cli):
    """Runs commands in this process: as processes of their own these many would take two minutes."""

    def run(self, *args: str, given: bytes = b"", environ: Mapping[str, str] | None = None) -> Ran:
        with pytest.MonkeyPatch.context() as there:
            there.chdir(self.world.folder)
            result = CliRunner().invoke(root, list(args), input=given, env={**self.world.environ, **(environ or {})})
        assert isinstance(result.exception, SystemExit | None)
        return Ran(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    with installation(tmp_path_factory.mktemp("files")) as cli:
        yield Here(cli.world)


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, client.pem and client.key."""
    folder = tmp_path_factory.mktemp("pems")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    client = authority.issue_cert("us")
    client.cert_chain_pems[0].write_to_path(str(folder / "client.pem"))
    client.private_key_pem.write_to_path(str(folder / "client.key"))
    return folder


@pytest.fixture
def filled(cli: Cli, pems: Path) -> Cli:
    """Three endpoints: `plain`, `rich` with all that there is, its secret rotated, and `bare`, which is not signed."""
    cli.world.redis.flushall()
    cli.ok("endpoint", "add", "plain", cli.world.subscriber.url("/plain"))
    tls = ("--ca-file", "ca.pem", "--client-cert", "client.pem", "--client-key", "client.key")
    files = [str(pems / each) if each.endswith((".pem", ".key")) else each for each in tls]
    where = ("--method", "GET", "--format", "form", "--mail-class", "a", "--event-type", "scomp")
    cli.ok("endpoint", "add", "rich", "https://rich.example.com/", *where, *OPTIONS, *LIMITS, *files, "--secret", OLD)
    cli.ok("endpoint", "rotate-secret", "rich", "--secret", SECRET)
    cli.ok("endpoint", "add", "bare", cli.world.subscriber.url("/bare"), "--secret", "none")
    return cli


def records(cli: Cli) -> tuple[str, dict[bytes, bytes]]:
    """The registry: its version, and every record byte for byte."""
    registry = cli.world.registry
    (stored,) = registry.store.read(("HGETALL", registry.store.keys.endpoints))
    return registry.read()[0], stored


def write(cli: Cli, text: str, name: str = "wanted.toml") -> str:
    (cli.world.folder / name).write_text(text)
    return name


def test_an_export_has_what_differs_from_the_defaults_and_no_secret(filled: Cli, pems: Path) -> None:
    ran = filled.ok("endpoint", "export")
    key_lines = (pems / "client.key").read_text().splitlines()[1:-1]
    for hidden in (SECRET, OLD, PASSWORD, "k-99b1c0ffee-tulip", *key_lines):
        assert hidden not in ran.out + ran.err
    tables = tomllib.loads(ran.out)["endpoints"]
    assert list(tables) == ["bare", "plain", "rich"]
    assert tables["plain"] == {"url": filled.world.subscriber.url("/plain"), "secret": KEPT}
    assert tables["bare"] == {"url": filled.world.subscriber.url("/bare"), "secret": "none"}
    assert tables["rich"] == {
        "url": "https://rich.example.com/",
        "method": "GET",
        "format": "form",
        "mail_classes": ["a"],
        "event_types": ["scomp"],
        "headers": ["X-Tenant: 42", f"X-Api-Key: {KEPT}"],
        "secret": KEPT,
        "basic": KEPT,
        "ca": (pems / "ca.pem").read_text(),
        "client_cert": (pems / "client.pem").read_text(),
        "client_key": KEPT,
        "delay": 2.5,
        "timeout": 5.0,
        "max_in_flight": 8,
        "queues": 2,
        "retry_delays": [1.0, 60.0],
    }
    assert ran.err == "3 endpoints exported.\n"
    assert filled.ok("endpoint", "export", "--json").json == {"endpoints": tables}


def test_a_file_with_secrets_is_only_for_its_owner_and_replaces_what_was_there(filled: Cli) -> None:
    path = filled.world.folder / "secret.toml"
    path.write_text("before")
    path.chmod(0o644)
    filled.ok("endpoint", "export", "secret.toml", "--with-secrets")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    rich = tomllib.loads(path.read_text())["endpoints"]["rich"]
    assert (rich["secret"], rich["old_secret"], rich["basic"]) == (SECRET, OLD, f"joe:{PASSWORD}")
    assert "PRIVATE KEY" in rich["client_key"]
    assert [each.name for each in filled.world.folder.glob(".secret.toml*")] == []


@pytest.mark.parametrize("file", ["no/such/folder", ".", "/dev/full", "a\0b"])
def test_an_export_that_cannot_be_written_is_told_in_one_sentence(cli: Cli, file: str) -> None:
    ran = cli.run("endpoint", "export", file)
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1)


def test_a_record_that_is_not_readable_is_told_and_left_out(filled: Cli) -> None:
    filled.world.redis.hset(filled.world.registry.store.keys.endpoints, "plain", b"{}")
    ran = filled.run("endpoint", "export")
    assert ran.code == 1
    assert list(tomllib.loads(ran.out)["endpoints"]) == ["bare", "rich"]
    assert "Left out: a stored endpoint has a format that this version does not know" in ran.err


@pytest.mark.parametrize("options", [(), ("--with-secrets",)], ids=str)
def test_an_export_that_is_applied_changes_nothing(filled: Cli, options: tuple[str, ...]) -> None:
    before = records(filled)
    filled.ok("endpoint", "export", "own.toml", *options)
    ran = filled.ok("endpoint", "apply", "own.toml", "--prune")
    assert ran.out == "0 added, 0 changed, 0 removed, 3 unchanged.\n"
    assert records(filled) == before


def test_an_export_with_secrets_makes_the_same_registry_anew(filled: Cli) -> None:
    before = filled.world.registry.endpoints()
    text = filled.ok("endpoint", "export", "--with-secrets").out
    filled.world.redis.flushall()
    ran = filled.ok("endpoint", "apply", "-", given=text.encode())
    assert "3 added" in ran.out
    for hidden in (SECRET, OLD, PASSWORD):
        assert hidden not in ran.out + ran.err
    after = filled.world.registry.endpoints()
    assert after.keys() == before.keys()
    for name, endpoint in after.items():
        ages = {"created_at": 0}
        assert _fields(endpoint) | ages == _fields(before[name]) | ages


def _fields(endpoint: Any) -> dict[str, Any]:
    return dict(json.loads(endpoint.to_json()))


def test_what_is_done_is_what_the_dry_run_shows(filled: Cli) -> None:
    world = filled.world
    world.emit("default", 3)
    rich = tomllib.loads(filled.ok("endpoint", "export").out)["endpoints"]["rich"]
    assert rich["headers"][1] == f"X-Api-Key: {KEPT}"
    text = (
        f'[endpoints.plain]\nurl = "{world.subscriber.url("/plain")}"\ntimeout = 7\n'
        f'[endpoints.bare]\nurl = "{world.subscriber.url("/bare")}"\nsecret = "{SECRET}"\n'
        'headers = ["Authorization: Bearer open-sesame-7f3a"]\n'
        f'[endpoints.new]\nurl = "{world.subscriber.url("/new")}"\nmail_classes = ["b"]\n'
    )
    file = write(filled, text)
    before = records(filled)
    dry = filled.ok("endpoint", "apply", file, "--prune", "--dry-run")
    assert records(filled) == before
    done = filled.ok("endpoint", "apply", file, "--prune", "--yes")
    (secret,) = (word for word in done.out.split() if word.startswith("whsec_") and len(word) > 30)
    assert dry.out.splitlines()[:-1] == [
        "  A secret will be generated, and shown once." if secret in line else line
        for line in done.out.splitlines()[:-1]
    ]
    assert dry.out.endswith("1 to add, 2 to change, 1 to remove, 0 unchanged. Nothing was done.\n")
    assert done.out.endswith("1 added, 2 changed, 1 removed, 0 unchanged.\n")
    assert SECRET not in dry.out + done.out
    assert "open-sesame" not in dry.out + done.out
    squeezed = [" ".join(line.split()) for line in done.out.splitlines()]
    assert "timeout 10 s (default) -> 7 s" in squeezed
    assert "header Authorization none -> ***" in squeezed
    endpoints = world.registry.endpoints()
    assert list(endpoints) == ["bare", "new", "plain"]
    assert (endpoints["new"].secret, endpoints["new"].mail_classes) == (secret, ("b",))
    assert (endpoints["plain"].timeout, endpoints["bare"].secret) == (7.0, SECRET)
    assert "unchanged" in filled.ok("endpoint", "apply", file, "--prune").out


def test_what_is_removed_keeps_its_events_as_dead_letters_and_is_asked_for(filled: Cli) -> None:
    world = filled.world
    world.emit("a", 4)
    held = world.registry.backlog(["plain"])["plain"].waiting
    assert held == 4
    file = write(filled, f'[endpoints.bare]\nurl = "{world.subscriber.url("/bare")}"\nsecret = "none"\n')
    before = records(filled)
    unasked = filled.run("endpoint", "apply", file, "--prune")
    assert (unasked.code, "pass --yes" in unasked.err, "plain, rich" in unasked.err) == (2, True, True)
    assert filled.answer(b"n\n", "endpoint", "apply", file, "--prune").code == 1
    assert records(filled) == before
    assert "0 removed" in filled.ok("endpoint", "apply", file).out
    answered = filled.ok("endpoint", "apply", file, "--prune", "--yes", "--json").json
    assert answered["removed"] == {"plain": 4, "rich": world.registry.backlog(["rich"])["rich"].dead}
    assert list(world.registry.endpoints()) == ["bare"]
    assert len(world.dead("plain")) == 4


def test_json_has_the_secrets_that_were_made_and_no_others(filled: Cli) -> None:
    url = filled.world.subscriber.url("/x")
    text = f'[endpoints.made]\nurl = "{url}"\n[endpoints.given]\nurl = "{url}"\nsecret = "{SECRET}"\n'
    file = write(filled, text)
    dry = filled.ok("endpoint", "apply", file, "--json", "--dry-run").json
    assert [each["secret"] for each in dry["added"]] == ["whsec_***"] * 2
    done = filled.ok("endpoint", "apply", file, "--json").json
    made = filled.world.registry.get("made").secret
    assert {each["name"]: each["secret"] for each in done["added"]} == {"made": made, "given": "whsec_***"}
    assert done | {"added": []} == {"dry_run": False, "added": [], "changed": {}, "removed": {}, "unchanged": 0}


def test_secrets_that_were_made_and_could_not_be_written_are_said_to_be_lost(filled: Cli) -> None:
    url = filled.world.subscriber.url("/x")
    for form in ((), ("--json",)):
        name = f"lost{len(form)}"
        path = filled.world.folder / write(filled, f'[endpoints.{name}]\nurl = "{url}"\n')
        ran = filled.full("endpoint", "apply", str(path), *form)
        assert ran.code == 1
        remedy = f"Nobody has seen its secret: kasplo-notify endpoint rotate-secret {name} gives another."
        assert remedy in ran.err
        assert filled.world.registry.get(name).secret


GOOD = '[endpoints.good]\nurl = "https://good.example.com/"\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no table [endpoints.NAME]"),
        ("endpoints = 3", "has no table [endpoints.NAME]"),
        ("[endpoints", "is not TOML: "),
        ("\udcff", "is not TOML: it is not UTF-8."),
        ("a = " + "[" * 100_000, "is not TOML: "),
        ("a = 1" + "0" * 5000, "is not TOML: "),
        ("#" * (MAX_BYTES + 1), "is over 16 MiB."),
        ("[endpoint.crm]", "a key 'endpoint' that is not known; did you mean endpoints?"),
        ("[redis]\nurl = 'x'", "a key 'redis' that is not known; an endpoint is a table"),
        ("[endpoints]\ncrm = 3", "crm: an endpoint is a table [endpoints.crm], not 3."),
        ("[endpoints.CRM]\nurl = 'https://x.example.com'", "lower-case letters"),
        ('[endpoints."\\u202e"]', "lower-case letters"),
        ("[endpoints.crm]", "crm.url: it is missing."),
        ("[endpoints.crm]\nurl = 3", "crm.url: "),
        ("[endpoints.crm]\nurl = 'http://10.0.0.1/'", "crm.url: "),
        (
            "[endpoints.crm]\nurl = 'https://x.example.com'\ntimout = 3",
            "there is no key 'timout'; did you mean timeout?\n",
        ),
        ("[endpoints.crm]\nurl = 'https://x.example.com'\ntimeout = nan", "crm.timeout: timeout has to be"),
        ("[endpoints.crm]\nurl = 'https://x.example.com'\nqueues = 1979-05-27", "crm.queues: "),
        ("[endpoints.crm]\nurl = 'https://x.example.com'\nqueues = true", "crm.queues: "),
        ("[endpoints.crm]\nurl = 'https://x.example.com'\nmax_in_flight = 1", "crm: max_in_flight is 1"),
        ("[endpoints.crm]\nurl = 'https://x.example.com'\nevent_types = 'scomp'", "crm.event_types: "),
        ("[endpoints.crm]\nurl = 'https://x.example.com'\nheaders = ['Host: x']", "crm.headers: the header Host"),
        ("[endpoints.crm]\nurl = 'https://x.example.com'\nheaders = {X = 'y'}", "crm.headers: headers are a list"),
        ("[endpoints.crm]\nurl = 'https://x.example.com'\nheaders = [['X', 'y']]", "crm.headers: a header is a string"),
        (f"[endpoints.crm]\nurl = 'https://x.example.com'\nheaders = ['X: {KEPT}']", "no header X is"),
        (f"[endpoints.crm]\nurl = 'https://x.example.com'\nbasic = '{KEPT}'", "crm.basic: <kept> stands for"),
        ("[endpoints.crm]\nurl = 'https://x.example.com'\nsecret = 'hunter2'", "crm.secret: "),
        ("[endpoints.crm]\nurl = 'https://x.example.com'\nsecret = 'generate'", "crm.secret: leave it out"),
        (f"[endpoints.crm]\nurl = 'https://x.example.com'\nold_secret = '{OLD}'", "crm: old_secret, old_secret_until"),
        (
            "[endpoints.crm]\nurl = 'https://x.example.com'\nold_secret_until = 1979-05-27",
            "crm.old_secret_until: a time",
        ),
        ("[endpoints.crm]\nurl = 'https://x.example.com'\nca = 'x'", "crm.ca: the CA file has no certificate"),
    ],
    ids=count(),  # one of them is made anew in each process
)
def test_a_file_that_is_wrong_changes_nothing(filled_once: Cli, text: str, told: str) -> None:
    before = records(filled_once)
    content = (GOOD + text if text.startswith("[endpoints.") else text).encode(errors="surrogateescape")
    ran = filled_once.run("endpoint", "apply", "-", "--prune", "--yes", given=content)
    assert (ran.code, ran.out) == (2, "")
    assert told in ran.err
    assert "fault in kasplo-notify" not in ran.err
    assert len(ran.err) < 1200
    assert "hunter2" not in ran.err
    assert all(line.isprintable() for line in ran.err.splitlines())
    assert records(filled_once) == before


@pytest.fixture(scope="module")
def filled_once(cli: Cli) -> Cli:
    """An endpoint that must be there at the end of each test."""
    cli.world.redis.flushall()
    cli.ok("endpoint", "add", "there", cli.world.subscriber.url("/there"))
    return cli


def test_each_fault_is_named_with_its_endpoint_and_key(filled_once: Cli) -> None:
    text = "[endpoints.a]\nurl = 'ftp://x'\ndelay = -1\n[endpoints.b]\nurl = 'https://x.example.com'\nmethod = 'PUT'\n"
    ran = filled_once.run("endpoint", "apply", "-", given=text.encode())
    assert [line.partition(": ")[0] for line in ran.err.splitlines()] == ["a.url", "a.delay", "b.method", "Error"]
    assert "has 3 faults; nothing was changed." in ran.err
    many = "".join(f"[endpoints.e{number}]\n" for number in range(1000))
    ran = filled_once.run("endpoint", "apply", "-", given=many.encode())
    assert len(ran.err.splitlines()) == 51
    assert "has 1,000 faults" in ran.err


@pytest.mark.parametrize("file", ["no-such-file", ".", os.fsdecode(b"\xff")], ids=ascii)
def test_a_file_that_cannot_be_read_is_told_in_one_sentence(filled_once: Cli, file: str) -> None:
    ran = filled_once.run("endpoint", "apply", file)
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1)
    assert "cannot be read: " in ran.err


def test_a_broken_record_is_registered_again_or_left_alone(filled: Cli) -> None:
    filled.world.redis.hset(filled.world.registry.store.keys.endpoints, "plain", b"{}")
    bare = f'[endpoints.bare]\nurl = "{filled.world.subscriber.url("/bare")}"\nsecret = "none"\n'
    ran = filled.run("endpoint", "apply", write(filled, bare), "--prune", "--yes")
    assert ran.code == 1
    assert "Left alone: a stored endpoint has a format" in ran.err
    again = f'{bare}[endpoints.plain]\nurl = "{filled.world.subscriber.url("/plain")}"\n'
    assert "1 added" in filled.ok("endpoint", "apply", write(filled, again), "--prune").out
    assert filled.world.registry.get("plain").secret
