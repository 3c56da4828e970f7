"""README.md and docs/ hold what they say: every command, name, link, table and example is looked up in the code.

Two tables are generated: `python tests/unit/test_docs.py` writes them anew.
"""

import ast
import importlib
import importlib.util
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, get_args

import click
import orjson
import pytest
import rq.cli

import kasplo_notify
from kasplo_notify import status
from kasplo_notify.catalogue import EVENT_TYPES
from kasplo_notify.cli import errors, root, states
from kasplo_notify.config import Config
from kasplo_notify.emission import Receipt
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.errors import StorageUnavailable
from kasplo_notify.outcome import Failure
from kasplo_notify.request import RequestBuilder
from kasplo_notify.signature import verify
from kasplo_notify.stored import StoredEvent
from kasplo_notify.testing import RecordingNotifier

ROOT = Path(__file__).parents[2]
PAGES = [*(ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md")), *sorted((ROOT / "docs").glob("*.md"))]
README, OPERATIONS = ROOT / "README.md", ROOT / "docs/operations.md"
SECURITY = ROOT / "docs/security.md"
EVENTS, RECEIVING = ROOT / "docs/events.md", ROOT / "docs/receiving.md"
SOURCES = [*(ROOT / "kasplo_notify").rglob("*.py"), *(ROOT / "workers").rglob("*.py")]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


# --- reading a page ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """What stands between two fences: its language and its text."""

    language: str
    text: str


_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, *languages: str) -> list[Block]:
    found = [Block(match[1], match[2]) for match in _FENCE.finditer(page.read_text())]
    return [block for block in found if block.language in languages]


def prose(page: Path) -> str:
    """The page without its blocks."""
    return _FENCE.sub("", page.read_text())


def inline(page: Path) -> list[str]:
    """What stands between backticks in the prose."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def table(page: Path, head: str) -> list[list[str]]:
    """The cells of the rows below the line `head`."""
    rows = prose(page).partition(f"\n{head}\n")[2].partition("\n\n")[0].splitlines()[1:]
    assert rows, f"{page.name} has no table {head}"
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def words(cells: Sequence[str]) -> set[str]:
    """What is between backticks in these cells."""
    return {word for cell in cells for word in re.findall(r"`([^`]+)`", cell)}


# --- commands ----------------------------------------------------------------------------------------------------


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every command that the page shows: in sh blocks, behind a `$` in console blocks, inline."""
    lines = [line for block in blocks(page, "sh") for line in block.text.splitlines()]
    consoles = [line for block in blocks(page, "console") for line in block.text.splitlines()]
    lines += [line.removeprefix("$ ") for line in consoles if line.startswith("$ ")]
    lines += [code for code in inline(page) if code.partition(" ")[0] in {"kasplo-notify", "make", "honcho", "rq"}]
    lines += re.findall(r"ExecStart=\S*/(\S.*)", page.read_text())
    for line in lines:
        yield from _split(line)


def _split(line: str) -> Iterator[list[str]]:
    """A line of shell as its commands, without variables and redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    command: list[str] = []
    for word in [*lexer, ";"]:
        if word in {"|", "&&", ";"}:
            if command:
                yield command
            command = []
        elif command or not re.match(r"[A-Z_]+=", word):
            command.append(word)


def parse(group: click.Group, name: str, given: Sequence[str]) -> None:
    """Parse a command line as click would before it runs the command; a `click.ClickException` says what is wrong."""
    context = group.make_context(name, list(given))
    command: click.Command | None = group
    while isinstance(command, click.Group):
        rest = [*vars(context).get("_protected_args", ()), *context.args]
        if not rest:
            return
        found, command, rest = command.resolve_command(context, rest)
        assert command is not None, f"{name} has no command {found}"
        context = command.make_context(found, rest, parent=context)


def check_kasplo(given: Sequence[str]) -> None:
    # A group alone names its commands and ends.
    if list(given) not in ([], ["endpoint"], ["dead"], ["config"]):
        parse(root, "kasplo-notify", given)


def check_rq(given: Sequence[str]) -> None:
    parse(rq.cli.main, "rq", given)
    if "-w" in given:
        module, _, name = given[list(given).index("-w") + 1].partition(".")
        assert hasattr(importlib.import_module(module), name)


def check_make(given: Sequence[str]) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(given) <= set(targets)


def check_pip(given: Sequence[str]) -> None:
    verb, name = given
    assert verb == "install"
    if name.startswith(("kasplo", ".")):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extra = re.fullmatch(r"(?:kasplo-notify|\.)(?:\[(\w+)\])?", name)
        assert extra
        assert extra[1] in {None, *project["optional-dependencies"]}


def check_python(given: Sequence[str]) -> None:
    if given[0] == "-m":
        assert importlib.util.find_spec(given[1])


def check_activate(given: Sequence[str]) -> None:
    assert list(given) == [".venv/bin/activate"]


def check_honcho(given: Sequence[str]) -> None:
    assert list(given) == ["start"]
    for line in (ROOT / "Procfile").read_text().splitlines():
        ((name, *rest),) = _split(line.partition(": ")[2])
        PROGRAMS[name](rest)


def check_export(given: Sequence[str]) -> None:
    for assignment in given:
        assert re.fullmatch(r"KASPLO_[A-Z_]+=.+", assignment)


PROGRAMS: Mapping[str, Callable[[Sequence[str]], None]] = {
    "kasplo-notify": check_kasplo,
    "rq": check_rq,
    "make": check_make,
    "pip": check_pip,
    "python": check_python,
    "python3": check_python,
    ".": check_activate,
    "honcho": check_honcho,
    "export": check_export,
    "pass": lambda _: None,
    "tail": lambda _: None,
    "sleep": lambda _: None,
}


@each_page
def test_every_command_exists_with_these_options(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, *given in commands(page):
        try:
            PROGRAMS[name](given)
        except (click.ClickException, AssertionError, KeyError) as error:
            message = error.format_message() if isinstance(error, click.ClickException) else repr(error)
            pytest.fail(f"{page.name}: {shlex.join([name, *given])}: {message}")


def test_commands_that_do_not_exist_are_noticed() -> None:
    for line in ("status --watch", "endpoint ad crm https://crm.example.com/", "worker -n many", "endpoint pause"):
        with pytest.raises(click.ClickException):
            check_kasplo(line.split())
    assert [name for name, *_ in commands(README)].count("kasplo-notify") > 5
    assert len(list(commands(OPERATIONS))) > 30


# --- names -------------------------------------------------------------------------------------------------------


@each_page
def test_every_python_name_can_be_imported(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    resolve(f"{node.module}.{alias.name}")
    for code in inline(page):
        for name in re.findall(r"^((?:kasplo_notify|workers)(?:\.\w+)+)$", code):
            resolve(name)


def resolve(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert hasattr(importlib.import_module(module), attribute), name


@each_page
def test_every_key_of_the_configuration_exists(page: Path) -> None:
    keys = {setting.key for setting in Config().describe()}
    sections = {key.partition(".")[0] for key in keys}
    for code in inline(page):
        named = re.fullmatch(r"([a-z]+)\.[a-z_]+", code)
        if named and named[1] in sections:
            assert code in keys, f"{page.name} names {code}"
    variables = {f"KASPLO_{key.replace('.', '__').upper()}" for key in keys} | {"KASPLO_CONFIG"}
    assert set(re.findall(r"KASPLO_[A-Z_]+", page.read_text())) <= variables


def test_the_keys_that_are_said_to_have_no_effect_have_none() -> None:
    (sentence,) = re.findall(r"^These keys .*?no effect.*?\n\n", prose(OPERATIONS), re.MULTILINE | re.DOTALL)
    named = {key.partition(".")[0] for key in words([sentence])}
    assert named
    for path in SOURCES:
        assert not re.search(rf"\b(?:config|settings)\.(?:{'|'.join(named)})\b", path.read_text()), path


# --- links -------------------------------------------------------------------------------------------------------

_LINK = re.compile(r"\[([^\]\n]*)\]\(([^)\s]+)\)")


def links(page: Path) -> Iterator[tuple[str, Path, str]]:
    """Text, file and anchor of every link inside the repository."""
    for text, target in _LINK.findall(prose(page)):
        if not target.startswith(("http://", "https://")):
            path, _, anchor = target.partition("#")
            yield text, (page.parent / path).resolve() if path else page, anchor


def anchors(page: Path) -> set[str]:
    """The headings as links name them."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    for _, path, anchor in links(page):
        assert path.is_relative_to(ROOT), path
        assert path.exists(), path
        assert not anchor or anchor in anchors(path), f"{page.name}: {path.name}#{anchor}"


@pytest.mark.parametrize(
    ("page", "head"),
    [(README, "| guarantee | proved by |"), (SECURITY, "| defence | shown by |")],
    ids=["guarantees", "defences"],
)
def test_every_promise_names_tests_that_exist(page: Path, head: str) -> None:
    proofs = [cells[1] for cells in table(page, head)]
    assert all(_LINK.search(proof) for proof in proofs)
    named = [(text.strip("`"), path) for text, path, _ in links(page) if text.startswith("`test_")]
    assert len(named) >= len(proofs)
    for name, path in named:
        functions = {
            node.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert name in functions, f"{path.name} has no {name}"


# --- tables ------------------------------------------------------------------------------------------------------


def catalogue() -> str:
    """The fields and an example of every event type."""
    parts = []
    for event in EVENT_TYPES.values():
        lines = [f"### {event.name}", "", f"{event.title}.", ""]
        lines += ["| field | required | type | meaning | source |", "|---|---|---|---|---|"]
        for field in event.fields:
            required = "yes" if field.required else "no"
            lines.append(f"| `{field.name}` | {required} | {field.type} | {field.description} | {field.source} |")
        lines += ["", "```json", orjson.dumps(dict(event.example)).decode(), "```"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def schedule() -> str:
    """When the attempts of an event are made, by default."""
    delivery = Config().delivery
    lines = ["| attempt | after the one before | since the first, on average |", "|---|---|---|"]
    lines.append("| 1 | | |")
    since = 0.0
    for number, delay in enumerate(delivery.retry_delays, start=2):
        since += delay
        least, most = delay * (1 - delivery.jitter), delay * (1 + delivery.jitter)
        lines.append(f"| {number} | {span(least)} to {span(most)} | {span(since)} |")
    return "\n".join(lines)


def span(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f}".removesuffix(".0") + f" {unit}"
    return f"{seconds:g} s"


GENERATED: Mapping[str, tuple[Path, Callable[[], str]]] = {
    "catalogue": (EVENTS, catalogue),
    "schedule": (RECEIVING, schedule),
}


def with_table(page: Path, mark: str, text: str) -> str:
    """The page with this text between its marks."""
    before, opening, rest = page.read_text().partition(f"<!-- {mark} -->\n")
    _, closing, after = rest.partition(f"<!-- /{mark} -->")
    assert opening
    assert closing
    return f"{before}{opening}\n{text}\n\n{closing}{after}"


@pytest.mark.parametrize("mark", GENERATED)
def test_a_generated_table_is_what_the_code_says(mark: str) -> None:
    page, text = GENERATED[mark]
    assert page.read_text() == with_table(page, mark, text()), "run: python tests/unit/test_docs.py"


def test_the_headers_are_those_that_are_sent() -> None:
    rows = table(RECEIVING, "| header | |")
    request = sample_request()
    on_the_wire = {"Host", "Accept", "Accept-Encoding", "Content-Length"}
    assert words([cells[0] for cells in rows]) == on_the_wire | {name for name, _ in request}


def sample_request() -> tuple[tuple[str, str], ...]:
    endpoint = Endpoint(name="crm", url="https://crm.example.com/hook", secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    event = StoredEvent("msg_844851069d0814e97d65c096", "promo", orjson.dumps(dict(EVENT_TYPES["scomp"].example)))
    return RequestBuilder(endpoint).build(event, 1, 1317305282).headers


def test_the_request_that_is_shown_is_genuine() -> None:
    (block,) = blocks(RECEIVING, "http")
    head, _, body = block.text.partition("\n\n")
    headers = dict(line.split(": ", 1) for line in head.splitlines()[1:])
    body = body.removesuffix("\n")
    (secret,) = {code for code in inline(RECEIVING) if re.fullmatch(r"whsec_\w{20,}", code)}
    assert verify(secret, headers, body.encode(), now=float(headers["webhook-timestamp"]))
    assert headers["Content-Length"] == str(len(body.encode()))
    assert tuple(headers.items())[-len(sample_request()) - 1 : -1] == sample_request()


def test_the_states_and_reasons_are_those_of_the_program() -> None:
    assert words([row[0] for row in table(OPERATIONS, "| `state` | in words | what it means, what to do |")]) == set(
        states._COLOURS
    )
    pauses = {cells[0].strip("`"): cells[1] for cells in table(OPERATIONS, "| reason | in words | what to do |")}
    assert pauses == status._PAUSED
    failures = words([cells[0] for cells in table(OPERATIONS, "| reason | |")])
    assert failures == set(get_args(Failure)) - {""}


def test_the_reasons_of_dead_letters_are_those_of_the_program() -> None:
    package = ROOT / "kasplo_notify"
    reasons = set(re.findall(r'_give_up\([^")]*"(\w+)"', (package / "sender.py").read_text()))
    reasons |= set(re.findall(r'action="dead", reason="(\w+)"', (package / "verdict.py").read_text()))
    for script in (package / "scripts").glob("*.lua"):
        reasons |= set(re.findall(r"(?:sweep|take|bury)\([^'\n]*(?:''[^'\n]*)?'(\w{3,})'", script.read_text()))
    assert words([cells[0] for cells in table(OPERATIONS, "| reason | why |")]) == reasons


def test_the_log_messages_are_those_of_the_program() -> None:
    logged: dict[str, set[str]] = {}
    for path in SOURCES:
        for level, name in re.findall(r'\blog\.(info|warning|error|exception)\(\s*"([a-z_]+)[:"]', path.read_text()):
            logged.setdefault(name, set()).add("error" if level == "exception" else level)
    told = {
        name: set(cells[1].split(", "))
        for cells in table(OPERATIONS, "| message | level | what it means, what to do |")
        for name in words(cells[:1])
    }
    assert told == logged


def test_the_findings_are_those_of_the_program() -> None:
    found: dict[str, set[str]] = {}
    for path in (ROOT / "kasplo_notify/doctor").glob("*.py"):
        for level, name in re.findall(r'\b(fault|warning|note)\(\s*"([a-z_]+)"', path.read_text()):
            found.setdefault(name, set()).add(level)
    told = {
        name: set(cells[1].split(", "))
        for cells in table(OPERATIONS, "| finding | level | what it means, what to do |")
        for name in words(cells[:1])
    }
    assert told == found


def test_the_exit_codes_are_those_of_the_program() -> None:
    codes = {0, errors.FAILED, errors.USAGE, errors.CONFIGURATION, errors.STORAGE, errors.INTERRUPTED}
    assert {int(cells[0]) for cells in table(OPERATIONS, "| code | meaning |")} == codes


# --- examples ----------------------------------------------------------------------------------------------------


class OnceAway(RecordingNotifier):
    """A Redis that is away for the first `emit_many`."""

    made: "list[OnceAway]" = []  # noqa: RUF012 - emptied by the fixture

    def __init__(self, *_: object) -> None:
        super().__init__()
        self.away = True
        self.made.append(self)

    def emit_many(self, events: Any) -> list[Receipt]:
        events = list(events)
        if self.away:
            self.away = False
            raise StorageUnavailable("away", event_ids=[f"id-{number}" for number in range(len(events))])
        return super().emit_many(events)


class Awaited:
    """An AsyncNotifier that records."""

    def __init__(self, *_: object) -> None:
        self.recording = OnceAway()

    async def emit(self, *arguments: Any, **named: Any) -> Receipt:
        return self.recording.emit(*arguments, **named)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.recording.close()


@pytest.fixture
def doubles(monkeypatch: pytest.MonkeyPatch) -> list[OnceAway]:
    """The notifiers that examples use, instead of real ones."""
    OnceAway.made.clear()
    monkeypatch.setattr(kasplo_notify, "_default", OnceAway())
    monkeypatch.setattr(kasplo_notify, "Notifier", OnceAway)
    monkeypatch.setattr(kasplo_notify, "AsyncNotifier", Awaited)
    return OnceAway.made


def test_the_readmes_emit_example_runs(doubles: list[OnceAway], capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks(README, "python")
    exec(compile(block.text, "README.md", "exec"), {})  # noqa: S102 - our own text
    (event,) = doubles[0].events
    assert (event.event_type, event.mail_class) == ("engine_click", "promo")
    assert event.id in capsys.readouterr().out


def test_the_examples_for_producers_run(doubles: list[OnceAway]) -> None:
    for block in blocks(EVENTS, "python"):
        exec(compile(block.text, "docs/events.md", "exec"), {})  # noqa: S102 - our own text
    ids = [[event.id for event in double.events] for double in doubles]
    assert [len(each) for each in ids] == [1, 1, 3]
    assert ids[2] == ["id-0", "id-1", "id-2"]


def test_the_readme_keeps_a_place_for_measured_figures() -> None:
    assert "<!-- figures -->" in README.read_text().partition("\n## Figures\n")[2].partition("\n## ")[0]


if __name__ == "__main__":
    for name, (target, make) in GENERATED.items():
        target.write_text(with_table(target, name, make()))
        sys.stdout.write(f"{target.relative_to(ROOT)}: {name}\n")
