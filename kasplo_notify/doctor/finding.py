"""A finding: one thing that was looked at, how grave it is, and what to do."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

Level = Literal["fault", "warning", "note", "ok"]
# The gravest first.
LEVELS: Final[tuple[Level, ...]] = ("fault", "warning", "note", "ok")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: A stable word for it.
        level: `fault`: events may be lost or are not delivered. `warning`: they may be before long. `note`: good to
            know. `ok`: as it should be.
        text: One sentence that says what is and, if that is not well, what to do.
    """

    name: str
    level: Level
    text: str


def fault(name: str, text: str) -> Finding:
    return Finding(name=name, level="fault", text=text)


def warning(name: str, text: str) -> Finding:
    return Finding(name=name, level="warning", text=text)


def note(name: str, text: str) -> Finding:
    return Finding(name=name, level="note", text=text)


def ok(name: str, text: str) -> Finding:
    return Finding(name=name, level="ok", text=text)


def by_gravity(findings: Iterable[Finding]) -> list[Finding]:
    """The gravest first, else in the order in which they were found."""
    return sorted(findings, key=lambda each: LEVELS.index(each.level))
