"""The command line without Redis: help for everything, a sentence and an exit code for every mistake."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import trustme
from click.testing import CliRunner, Result

from kasplo_notify.catalogue import EVENT_TYPES
from kasplo_notify.cli import root
from kasplo_notify.cli.ask import ask

GROUPS = ("endpoint", "dead", "config")


@pytest.fixture(autouse=True)
def _bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration but the defaults, and nothing in the data folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KASPLO_REDIS__DATA_DIR", str(tmp_path / "data"))


def run(*args: str, given: str | None = None) -> Result:
    return CliRunner().invoke(root, list(args), input=given)


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    """The path of every command that is not hidden."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if command.hidden:
            continue
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


@pytest.mark.parametrize("path", list(commands(root)), ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...]) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert "Example: " in result.output
    assert "\b" not in result.output
    assert "..." not in result.output.partition("Commands:")[2]
    assert run(*path, "-h").output == result.output


def test_the_commands_are_those_of_the_contract() -> None:
    assert {" ".join(path) for path in commands(root)} == {
        *("up", "worker", "route", "events", "emit", "status", "attempts", "doctor", *GROUPS),
        *(f"endpoint {name}" for name in ("add", "list", "show", "update", "pause", "resume", "remove", "test")),
        *("endpoint rotate-secret", "endpoint export", "endpoint apply"),
        *(f"dead {name}" for name in ("list", "show", "replay", "purge", "export")),
        *("config check", "config show"),
        *("spool", "spool flush"),
    }


def test_help_shows_the_commands_by_task_and_not_the_hidden_one() -> None:
    output = run("--help").output
    positions = [output.index(f"\n  {name} ") for name in ("up", "worker", "endpoint", "emit", "status", "dead")]
    assert positions == sorted(positions)
    assert "worker-child" not in output


@pytest.mark.parametrize("args", [(), *((group,) for group in GROUPS)])
def test_without_a_command_the_help_is_shown(args: tuple[str, ...]) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert "Commands:" in result.stderr or "Watch:" in result.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("endpont",), "did you mean 'endpoint'?"),
        (("frobnicate",), "the commands are up, worker, endpoint"),
        (("dead", "lst"), "did you mean 'list'?"),
        (("events", "--jsn"), "--json"),
        (("events", "engine_clik"), "did you mean engine_click?"),
        (("route",), "--event-type"),
        (("route", "--event-type", "click"), "'click' is not an event type"),
        (("route", "--event-type", "scomp", "--mail-class", ""), "mail_class"),
        (("endpoint", "add", "crm"), "URL"),
        (("endpoint", "add", "CRM", "https://example.com"), "lower-case"),
        (("endpoint", "add", "crm", "http://127.0.0.1/"), "egress.allow"),
        (("endpoint", "add", "crm", "ftp://example.com/"), "https://"),
        (("endpoint", "add", "crm", "https://u:p@example.com/"), "--basic"),
        (("endpoint", "add", "crm", "https://example.com", "--header", "x"), "Name: value"),
        (("endpoint", "add", "crm", "https://example.com", "--header", "Host: x"), "Host"),
        (("endpoint", "add", "crm", "https://example.com", "--secret", "x"), "whsec_"),
        (("endpoint", "add", "crm", "https://example.com", "--delay", "soon"), "not a number"),
        (("endpoint", "add", "crm", "https://example.com", "--delay", "nan"), "delay"),
        (("endpoint", "add", "crm", "https://example.com", "--timeout", "26"), "worker.lease"),
        (("endpoint", "add", "crm", "https://example.com", "--queues", "9" * 5000), "--queues"),
        (("endpoint", "add", "crm", "https://example.com", "--queues", "1e3"), "not a whole number"),
        (("endpoint", "add", "crm", "https://example.com", "--method", "PUT"), "method is POST or GET, not 'PUT'"),
        (("endpoint", "add", "crm", "https://example.com", "--event-type", "scmp"), "did you mean scomp?"),
        (("endpoint", "update", "crm"), "at least one option"),
        (("endpoint", "update", "crm", "--no-basic", "--basic", "a:b"), "exclude each other"),
        (("endpoint", "rotate-secret", "crm", "--secret", "none"), "whsec_"),
        (("endpoint", "rotate-secret", "crm", "--overlap", "-1"), "--overlap"),
        (("dead", "list", "--since", "yesterday"), "ISO 8601"),
        (("dead", "list", "--since", "1h", "--until", "2h"), "before --since"),
        (("dead", "replay", "--pace", "fast"), "--pace"),
        (("endpoint", "add", "crm", "https://example.com", "--format", "xml"), "format is json or form, not 'xml'"),
        (("attempts", "crm", "-n", "0"), "-n"),
        (("attempts", "crm", "-n", "many"), "'many' is not a whole number from 1 to 1,000,000"),
        (("dead", "list", "-n", "0"), "'0' is not a whole number from 1 to 1,000,000"),
        (("dead", "show", "-n", "9" * 5000), "is not a whole number from 1 to 1,000,000"),
        (("worker", "-n", "0"), "from 1 to 256"),
        (("emit", "no-such-file"), "cannot be read"),
        (("emit", "."), "cannot be read"),
        (("emit", "--mail-class", "\x1b[31m"), "mail_class"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_exit_code_2(args: tuple[str, ...], words: str) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert words in line
    assert line.isprintable()


HUGE = "x" * 100_000


@pytest.mark.parametrize(
    "args",
    [
        (HUGE,),
        ("events", HUGE),
        ("events", f"--{HUGE}"),
        ("attempts", "crm", "-n", HUGE),
        ("dead", "list", "--since", HUGE),
        ("dead", "list", "--until", f"{HUGE} \x1b"),
        ("dead", "replay", "--pace", HUGE),
        ("dead", "show", "--event-type", HUGE),
        ("endpoint", "add", HUGE, "https://example.com"),
        ("endpoint", "add", "crm", f"https://{HUGE}"),
        ("endpoint", "add", "crm", f"{HUGE}://example.com"),
        ("endpoint", "add", "crm", "https://example.com", "--method", HUGE),
        ("endpoint", "add", "crm", "https://example.com", "--format", HUGE),
        ("endpoint", "add", "crm", "https://example.com", "--delay", HUGE),
        ("endpoint", "add", "crm", "https://example.com", "--header", f"{HUGE}: x"),
        ("endpoint", "add", "crm", "https://example.com", "--retry-delays", HUGE),
        ("endpoint", "rotate-secret", "crm", "--overlap", HUGE),
        ("endpoint", "rotate-secret", "crm", "--secret", HUGE),
        ("emit", HUGE),
        ("emit", "--mail-class", HUGE),
        ("--config", HUGE, "status"),
        ("--redis-url", f"redis://{HUGE}", "status"),
    ],
    ids=lambda args: " ".join(args)[:40],
)
def test_a_huge_argument_does_not_come_back_whole(args: tuple[str, ...]) -> None:
    result = run(*args)
    assert result.exit_code in (2, 3)
    (line,) = result.stderr.splitlines()
    assert len(line) < 700
    assert line.isprintable()


def test_of_a_long_sentence_the_beginning_and_the_end_are_shown(tmp_path: Path) -> None:
    assert "..." in run("emit", HUGE).stderr
    assert run("emit", HUGE).stderr.startswith("Error: xxx")
    assert run("emit", HUGE).stderr.endswith("cannot be read: File name too long.\n")


@pytest.mark.parametrize("answer", ["y", "n"])
def test_what_is_no_text_is_no_answer(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    given = io.BytesIO(answer.encode() + b"\xff\n")
    # click's runner has an input of its own, which is no terminal.
    monkeypatch.setattr("kasplo_notify.cli.ask.sys.stdin", Terminal(given, encoding="utf-8", errors="strict"))
    with click.Context(root), pytest.raises(click.exceptions.Exit) as ended:
        ask("Go on?", yes=False)
    assert ended.value.exit_code == 1


def test_every_command_that_reads_takes_json() -> None:
    """All do, but for those that change something or stay."""
    acting = {"up", "worker", "emit", "endpoint update", "endpoint pause", "endpoint resume", "endpoint remove"}
    acting |= {"dead replay", "dead purge", "spool flush"}
    found = {" ".join(path): command for path, command in leaves(root)}
    assert acting <= found.keys()
    for name in found.keys() - acting:
        options = [option for parameter in found[name].params for option in parameter.opts]
        assert "--json" in options, name


def leaves(group: click.Group) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that is no group, with its path."""
    for path in commands(group):
        command: click.Command | None = group
        for name in path:
            assert isinstance(command, click.Group)
            command = command.get_command(click.Context(command), name)
        assert command is not None
        if not isinstance(command, click.Group):
            yield path, command


def test_the_check_of_the_configuration_says_that_it_asks_no_server(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[delivery]\ndelay = 3\n[report]\nkeep = 0\n")
    output = run("config", "check").output
    assert "This does not ask Redis" in output
    assert "report.keep is given and has no effect" in output
    file = str(Path.cwd() / "config.toml")
    given = dict.fromkeys(("delivery.delay", "report.keep"), f"file {file}")
    given["redis.data_dir"] = "environment variable KASPLO_REDIS__DATA_DIR"
    assert json.loads(run("config", "check", "--json").output) == {
        "in_order": True,
        "file": file,
        "given": given,
        "without_effect": ["report.keep"],
        "redis_asked": False,
    }


def test_a_path_that_is_no_text_can_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KASPLO_REDIS__DATA_DIR", "/nowhere/\udcff")
    for args in (("config", "show"), ("config", "show", "--json"), ("config", "check", "--json")):
        assert run(*args).exit_code == 0, args


def test_the_configuration_is_checked_by_every_command(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[delivery]\ndely = 3\n")
    for args in (("status",), ("config", "check"), ("worker",), ("up",), ("emit", "-"), ("dead", "list")):
        for whole in (("--config", "bad.toml", *args), (*args, "--config", "bad.toml")):
            result = run(*whole)
            assert result.exit_code == 3, whole
            assert "did you mean delivery.delay?" in result.stderr
            assert len(result.stderr.splitlines()) == 1


def test_the_environment_configures_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KASPLO_DELIVERY__DELAY", "-1")
    for args in (("status",), ("route", "--event-type", "scomp"), ("endpoint", "list")):
        result = run(*args)
        assert result.exit_code == 3
        assert "KASPLO_DELIVERY__DELAY" in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("status",),
        ("endpoint", "list"),
        ("endpoint", "add", "crm", "https://example.com"),
        ("attempts", "crm"),
        ("dead", "list"),
        ("dead", "purge", "--yes"),
        ("route", "--event-type", "scomp"),
    ],
    ids=" ".join,
)
def test_without_a_server_the_exit_code_is_4_and_the_remedy_is_named(args: tuple[str, ...]) -> None:
    result = run(*args)
    assert result.exit_code == 4
    assert "kasplo-notify up" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_config_show_tells_values_sources_and_no_secrets(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        '[redis]\nurl = "redis://joe:hunter2@example.com/0"\n[web]\ntoken = "a-token-of-many-letters"\n'
    )
    for args in (("config", "show"), ("config", "show", "--json")):
        output = run(*args).output
        assert "hunter2" not in output
        assert "a-token-of-many-letters" not in output
        assert "delivery.delay" in output
        assert f"file {Path.cwd()}/config.toml" in output
    checked = run("config", "check")
    assert (checked.exit_code, "3 keys given" in checked.output) == (0, True)


def test_events_shows_the_catalogue() -> None:
    output = run("events").output
    assert [line.split()[0] for line in output.splitlines()[1:8]] == list(EVENT_TYPES)
    for name, event_type in EVENT_TYPES.items():
        shown = run("events", name).output
        assert all(f"\n{field.name} " in shown for field in event_type.fields)


def test_only_the_module_of_a_command_is_imported() -> None:
    """`events` in a shell loop does not pay for redis-py, aiohttp and RQ."""
    code = (
        "import sys; from kasplo_notify.cli import root\n"
        "try: root(['events'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'redis', 'aiohttp', 'rq'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_fault_of_ours_is_one_sentence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("it\nbroke")

    monkeypatch.setattr("kasplo_notify.cli.config.table", broken)
    result = run("config", "show")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "RuntimeError: it\\nbroke" in line


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_outputs_are_no_error_and_belong_to_no_other_file(closed: str) -> None:
    program = (
        "import os, subprocess, sys; import kasplo_notify.cli as cli; cli._open_outputs();"
        "print('out'); print('err', file=sys.stderr); sys.stdout.isatty();"
        "assert all(os.get_inheritable(number) for number in (1, 2));"
        "assert open(os.devnull).fileno() not in (1, 2); sys.exit(7)"
    )
    done = subprocess.run(["/bin/sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, program], check=False)
    assert done.returncode == 7


def test_a_command_whose_output_is_closed_ends_well() -> None:
    command = f"exec {sys.executable} -m kasplo_notify config show >&-"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_bounds_of_a_duration_are_readable() -> None:
    refused = run("endpoint", "add", "crm", "https://crm.example.com/", "--retry-delays", "-1")
    assert refused.exit_code == 2
    assert "from 0 s to 2,592,000 s" in refused.stderr


@pytest.fixture
def _pems(tmp_path: Path) -> None:
    """Files in the working folder: ca.pem, client.pem and client.key, other.key."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    client = authority.issue_cert("us")
    client.cert_chain_pems[0].write_to_path(str(tmp_path / "client.pem"))
    client.private_key_pem.write_to_path(str(tmp_path / "client.key"))
    authority.issue_cert("us").private_key_pem.write_to_path(str(tmp_path / "other.key"))


@pytest.mark.usefixtures("_pems")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--ca-file", "no.pem"), "The file 'no.pem' of --ca-file cannot be read: No such file or directory."),
        (("--ca-file", "."), "cannot be read: Is a directory."),
        (("--client-key", ""), "The file '' of --client-key cannot be read"),
        (("--client-cert", "a\0b"), "The file 'a\\x00b' of --client-cert cannot be read: that is no path."),
        (("--ca-file", "client.key"), "the CA file has no certificate in PEM"),
        (("--ca-file", "/dev/zero"), "the CA file is over 64 KiB"),
        (("--client-cert", "client.pem"), "give both, --client-cert and --client-key"),
        (("--client-cert", "client.pem", "--client-key", "other.key"), "does not belong to the client certificate"),
        (("--ca-file", "ca.pem", "--no-ca-file"), "to set and to clear the CA file exclude each other"),
        (("--client-key", "client.key", "--no-client-cert"), "to set and to clear the client key exclude each other"),
    ],
    ids=str,
)
def test_a_file_that_cannot_be_used_is_told_in_one_line(tmp_path: Path, options: tuple[str, ...], told: str) -> None:
    clearing = any(option.startswith("--no-") for option in options)
    result = run("endpoint", *(("update", "crm") if clearing else ("add", "crm", "https://example.com")), *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not any(line in result.stderr for line in (tmp_path / "client.key").read_text().splitlines())


@pytest.mark.usefixtures("_pems")
def test_a_ca_file_needs_https() -> None:
    environ = {"KASPLO_EGRESS__HTTPS_ONLY": "false"}
    result = CliRunner().invoke(
        root, ["endpoint", "add", "crm", "http://example.com", "--ca-file", "ca.pem"], env=environ
    )
    assert (result.exit_code, "needs a URL that begins with https://" in result.stderr) == (2, True)


def test_an_argument_too_many_is_told_and_not_repeated() -> None:
    for args in (("endpoint", "add", "crm", "https://h.example/", "--header", "Authorization:", "Bearer", "hunter2"),):
        done = run(*args)
        assert done.exit_code == 2
        assert done.stderr.startswith("Error: 2 arguments more than it takes; put quotes around what has spaces in it.")
        assert "hunter2" not in done.output


CONFIDENTIAL = ("--secret", "--basic", "--header")


@pytest.mark.parametrize("option", CONFIDENTIAL)
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file or directory"),
        (b"", "it has 0 lines, and one is wanted"),
        (b"hunter2\nhunter2\n", "it has 2 lines, and one is wanted"),
        (b"hunter2\xff\n", "it is not UTF-8"),
        (b"hunter2" * 20_000, ""),
        (b"hunter2\x00", ""),
    ],
)
def test_a_file_that_has_no_value_in_it_is_refused_and_nothing_of_it_repeated(
    option: str, content: bytes | None, told: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "value").write_bytes(content)
    done = run("endpoint", "add", "crm", "https://h.example/", option, f"@{tmp_path}/value")
    assert done.exit_code == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "hunter2" not in done.output


def test_what_begins_with_an_at_and_names_no_file_is_not_repeated() -> None:
    for given in ("@joe:hunter2", "@hunter2\0", "@"):
        done = run("endpoint", "add", "crm", "https://h.example/", "--basic", given)
        assert done.exit_code == 2
        assert "What the @ of --basic leads to cannot be read: " in done.stderr
        assert "hunter2" not in done.output


def test_standard_input_that_has_ended_is_told() -> None:
    done = run("endpoint", "rotate-secret", "crm", "--secret", "@-", given="")
    assert done.exit_code == 2
    assert "What the @ of --secret leads to cannot be read: standard input has ended." in done.stderr


def test_what_is_typed_at_a_terminal_is_not_shown() -> None:
    command = [sys.executable, "-m", "kasplo_notify", "endpoint", "add", "crm", "https://h.example/", "--secret", "@-"]
    spawn = f"import pty, sys; sys.exit(pty.spawn({command!r}) >> 8)"
    with subprocess.Popen(
        [sys.executable, "-c", spawn], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        shown = b""
        # Only then the terminal has stopped to repeat what is typed.
        while b"not shown" not in shown and (piece := os.read(process.stdout.fileno(), 4096)):
            shown += piece
        process.stdin.write(b"whsec_hunter2!\n")
        process.stdin.flush()
        shown += process.stdout.read()
        assert process.wait(timeout=60) == 2
    assert b"what follows whsec_ in the secret is not base64" in shown
    assert b"hunter2" not in shown
