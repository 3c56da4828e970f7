"""`doctor`: what is wrong with Redis, the clock, the limits, the workers."""

import shutil
import sys
import textwrap
import time
from typing import Any, Final

import click

from kasplo_notify.cli.errors import FAILED, STORAGE, complain
from kasplo_notify.cli.moments import iso
from kasplo_notify.cli.root import Command
from kasplo_notify.cli.session import Session, pass_session
from kasplo_notify.cli.text import Cell, Painted, document, printable, table
from kasplo_notify.doctor import LEVELS, Finding, Level, Reading, examine, read_all
from kasplo_notify.quantities import counted

_COLOURS: Final[dict[Level, str]] = {"fault": "red", "warning": "yellow", "ok": "green"}
# A narrower column of sentences is worse than lines that the terminal breaks.
_NARROWEST: Final = 40


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@pass_session
def doctor(session: Session, *, as_json: bool) -> None:
    """Say what is wrong, and what to do.

    It looks at Redis, its clock and this machine's, limits, workers and endpoints, and changes nothing. Run it where
    workers run.

    Exit codes: 0 nothing worse than a warning, 1 a fault, 3 the configuration is wrong,
                4 Redis cannot be reached.

    Example: kasplo-notify doctor
    """
    reading = read_all(session.config)
    findings = examine(reading)
    if as_json:
        document(_json(reading, findings))
    else:
        table(["LEVEL", "CHECK", "FINDING"], _rows(findings))
        click.echo()
        click.echo(_summary(findings))
    if reading.away:
        complain(reading.away)
        click.get_current_context().exit(STORAGE)
    if _count(findings, "fault"):
        click.get_current_context().exit(FAILED)


def _rows(findings: list[Finding]) -> list[list[Cell]]:
    """A row for each; on a terminal its sentence is broken within its own column."""
    before = sum(max(map(len, column)) + 2 for column in (LEVELS, [each.name for each in findings]))
    width = shutil.get_terminal_size().columns - before
    breaks = sys.stdout.isatty() and width >= _NARROWEST
    rows: list[list[Cell]] = []
    for each in findings:
        text = printable(each.text)
        first, *more = textwrap.wrap(text, width, break_on_hyphens=False) if breaks else [text]
        colour = _COLOURS.get(each.level)
        rows.append([Painted(each.level, colour) if colour else each.level, each.name, first])
        rows += [["", "", line] for line in more]
    return rows


def _summary(findings: list[Finding]) -> str:
    faults, warnings, notes = (_count(findings, level) for level in LEVELS[:3])
    worst = f"{counted(faults, 'fault')}, {counted(warnings, 'warning')}, {counted(notes, 'note')}"
    return f"{worst}; {_count(findings, 'ok')} of {counted(len(findings), 'check')} in order."


def _count(findings: list[Finding], level: Level) -> int:
    return sum(each.level == level for each in findings)


def _json(reading: Reading, findings: list[Finding]) -> dict[str, Any]:
    return {
        "at": iso(time.time() * 1000),
        "error": reading.away or None,
        "findings": [{"name": each.name, "level": each.level, "text": printable(each.text)} for each in findings],
        "counts": {level: _count(findings, level) for level in LEVELS},
    }
