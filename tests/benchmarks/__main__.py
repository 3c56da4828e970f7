"""The command: measure one figure after another, show the table, write the JSON."""

import argparse
import platform
import signal
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import orjson

from kasplo_notify.console import Console

from . import delivering, emitting, lateness
from .figure import BenchmarkError, Figure, Plan, table
from .stage import Stage

_PARTS: dict[str, Callable[[Stage, Plan, Console], list[Figure]]] = {
    "delivering": delivering.measure,
    "emitting": emitting.measure,
    "memory": emitting.measure_memory,
    "lateness": lateness.measure,
}
_FULL = Plan(rounds=5, backlog=20_000, turns=31, emits=300, batches=6, stored=20_000, delay=30.0, paced_s=60.0)
_QUICK = Plan(rounds=3, backlog=12_000, turns=15, emits=200, batches=4, stored=20_000, delay=2.0, paced_s=20.0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure, and print a table.")
    parser.add_argument("--quick", action="store_true", help="less of each; lateness over 2 s instead of 30 s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--only", choices=_PARTS, action="append", help="only this part; may be repeated")
    options = parser.parse_args()
    plan = _QUICK if options.quick else _FULL
    console, began = Console(), time.monotonic()
    # The children end and the folder goes on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    figures: list[Figure] = []
    try:
        with Stage.open() as stage:
            server = stage.server_name()
            for name in options.only or _PARTS:
                stage.clear()
                console.line(console.dim(f"{name} ..."))
                figures += _PARTS[name](stage, plan, console)
    except BenchmarkError as error:
        console.line(f"stopped: {error}")
        return 1
    except KeyboardInterrupt:
        console.line("stopped")
        return 130
    machine = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "server": server,
        **{name: version(name) for name in ("aiohttp", "redis", "rq")},
    }
    console.done()
    console.line()
    for line in table(figures):
        console.line(line)
    console.line()
    console.line(console.dim(f"{', '.join(f'{k} {v}' for k, v in machine.items())}; {time.monotonic() - began:.0f} s"))
    if options.json is not None:
        report = {"plan": plan, "machine": machine, "figures": figures}
        options.json.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
