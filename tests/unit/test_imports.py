"""One way down: which module may import which. A new module, or a new import, is a line in this table."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Each line may import only from the lines above it, so there are no circles. Of `cli`, which is a folder, the line
# says what its modules import from outside of it. Imports inside functions and for type checks count as well.
ALLOWED = """
errors:
catalogue:
console:
invocation:
outcome:
stopping:
quantities:
stored:
window:
addresses:
health:
backoff:
resolver:
forking:

json_lines:       errors
field_checks:     catalogue errors
events:           catalogue errors field_checks
config_checks:    errors
config_sources:   errors
config_sections:  config_checks errors
config:           config_sections config_sources errors

headers:          errors
signature:        errors
tls:              errors
endpoint:         errors headers signature tls
guard:            addresses config_sections errors
endpoint_checks:  config endpoint errors events guard headers signature tls
routing:          endpoint

storage_errors:   errors
store:            config_checks errors storage_errors
datadir:          errors
server_program:   errors
server_process:   datadir errors server_program
embedded:         config datadir errors server_process server_program

emission:         config endpoint errors events routing store stored
patience:         errors
carrier:          config embedded emission errors forking patience routing store
spool:            carrier config datadir emission errors events forking
notifier:         carrier config emission errors forking spool
kasplo_notify:    config emission errors forking notifier
testing:          emission

registry:         config embedded endpoint errors health routing store
dead:             errors registry store stored
status:           endpoint errors health registry store
doctor:           config config_checks endpoint errors quantities registry routing spool status store

request:          endpoint signature stored tls
verdict:          backoff outcome stored
failures:         guard outcome
exchange:         failures outcome
transport:        config errors exchange failures guard outcome request resolver tls
book:             config endpoint errors request store verdict
held:             book stored window
settlement:       config endpoint held outcome store stored verdict
equipment:        book config endpoint store transport window
line:             errors store
sender:           book equipment errors held line outcome request settlement store verdict window
intake:           book equipment errors held line registry sender store
drain:            equipment held intake line sender settlement store
dispatcher:       config endpoint errors store
workers:          book config dispatcher doctor drain embedded equipment errors guard storage_errors store
                  transport

supervisor:
receiver:         signature
demo_screen:      console invocation receiver
demo_remains:     config datadir errors registry status
demo:             catalogue config config_checks config_sections console datadir demo_remains demo_screen embedded
                  endpoint notifier receiver registry signature stopping supervisor
up:               config config_checks console datadir embedded errors invocation registry stopping supervisor
cli:              carrier catalogue config console dead demo doctor emission endpoint endpoint_checks errors events
                  guard headers json_lines kasplo_notify notifier outcome quantities registry request routing
                  signature spool status stored stopping supervisor tls transport up verdict workers
__main__:         cli
"""

# Who may know each heavy dependency.
HEAVY = {
    "rq": "workers",
    "redis": "storage_errors store workers",
    "aiohttp": "transport exchange failures resolver receiver",
    "tenacity": "backoff carrier patience",
    "click": "cli",
    "platformdirs": "config_sections",
    "tomli_w": "cli",
}


@cache
def allowed() -> dict[str, set[str]]:
    table: dict[str, set[str]] = {}
    name = ""
    for line in ALLOWED.splitlines():
        head, colon, rest = line.rpartition(":")
        name = head or name
        table.setdefault(name, set()).update(rest.split() if colon else line.split())
    table.pop("", None)
    return table


@cache
def modules() -> dict[str, Path]:
    """Every module of the product by its full name."""
    found = [*ROOT.glob("kasplo_notify/**/*.py"), *ROOT.glob("workers/**/*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in found}


def imported(name: str) -> Iterator[str]:
    """The full names of all modules that a module imports, wherever in its text."""
    for node in ast.walk(ast.parse(modules()[name].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import; write it in full"
            base = node.module or ""
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in modules() else base


def station(module: str) -> str:
    """The name of a module in the table."""
    parts = module.split(".")
    return parts[1] if parts[0] == "kasplo_notify" and len(parts) > 1 else parts[0]


def imports_of(wanted: str) -> set[str]:
    """What a line of the table imports, itself aside."""
    found = {each for name in modules() if station(name) == wanted for each in imported(name)}
    return {station(each) for each in found} - {wanted}


@pytest.mark.parametrize("name", sorted({station(name) for name in modules()}))
def test_a_module_imports_only_what_the_table_allows(name: str) -> None:
    assert name in allowed(), f"{name} is new: say in the table what it may import"
    ours = {station(module) for module in modules()}
    assert imports_of(name) & ours - allowed()[name] == set()


def test_the_table_allows_nothing_that_is_not_used_and_names_no_module_that_is_not_there() -> None:
    assert set(allowed()) == {station(name) for name in modules()}
    unused = {name: imports - imports_of(name) for name, imports in allowed().items()}
    assert {name: imports for name, imports in unused.items() if imports} == {}


def test_the_table_has_one_direction() -> None:
    seen: set[str] = set()
    for name, imports in allowed().items():
        assert imports <= seen, f"{name} imports what stands below it: {sorted(imports - seen)}"
        seen.add(name)


def test_no_two_modules_import_each_other_inside_the_command_line_either() -> None:
    graph = {name: {each for each in imported(name) if each in modules()} for name in modules()}
    while leaves := {name for name, needs in graph.items() if not needs & graph.keys()}:
        graph = {name: needs for name, needs in graph.items() if name not in leaves}
    assert graph == {}


@pytest.mark.parametrize("heavy", HEAVY)
def test_a_heavy_dependency_is_known_to_few(heavy: str) -> None:
    knowing = {station(name) for name in modules() if any(each.split(".")[0] == heavy for each in imported(name))}
    assert knowing == set(HEAVY[heavy].split())


def loaded_by(program: str) -> set[str]:
    """The heavy dependencies that a fresh interpreter has loaded after a program."""
    show = f"import sys; print(*({set(HEAVY)!r} & sys.modules.keys()))"
    run = subprocess.run(
        [sys.executable, "-c", f"{program}\n{show}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


def test_importing_the_package_loads_no_heavy_dependency() -> None:
    assert loaded_by("import kasplo_notify") & {"rq", "aiohttp", "click", "redis", "tenacity"} == set()


def test_the_double_for_tests_loads_no_heavy_dependency() -> None:
    program = (
        "from kasplo_notify.testing import RecordingNotifier\n"
        "RecordingNotifier().emit('scomp', email='a@example.com', listid='1', sendid='2', click_tracking_id='')"
    )
    assert loaded_by(program) & {"rq", "aiohttp", "click", "redis", "tenacity"} == set()


def test_emitting_loads_neither_rq_nor_aiohttp_nor_click() -> None:
    program = (
        "from kasplo_notify import Config, Notifier, StorageUnavailable\n"
        "from kasplo_notify.config import RedisConfig\n"
        "notifier = Notifier(config=Config(redis=RedisConfig(url='unix:///nowhere/at/all')))\n"
        "try:\n"
        "    notifier.emit('scomp', email='a@example.com', listid='1', sendid='2', click_tracking_id='')\n"
        "except StorageUnavailable:\n"
        "    pass\n"
    )
    assert loaded_by(program) == {"redis", "tenacity", "platformdirs"}
