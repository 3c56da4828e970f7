"""Output: aligned tables and lists for people, one JSON document for programs.

What comes out of Redis or from a subscriber's server is a stranger's text: `printable`, and in JSON `json_text`, makes
it harmless to a terminal.
"""

import os
import re
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from json import dumps
from typing import Any, Final

import click
import orjson

_GAP: Final = "  "
MASK: Final = "***"
_SECRET_NAME = re.compile(r"auth|cookie|credential|key|pass|secret|session|sign|token", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"(?:basic|bearer|digest|token)\s|(?=\S*[0-9])(?=\S*[A-Za-z])\S{20,}", re.IGNORECASE)


# What is neither a line break of an indented document nor of printable ASCII.
_UNSURE = re.compile(r"[^\n -~]+")


@dataclass(frozen=True, slots=True)
class Painted:
    """A cell with a colour, for a terminal that shows colours."""

    text: str | int
    colour: str


Cell = str | int | Painted


def printable(text: str | bytes) -> str:
    r"""The text on one line, with escapes (`\n`, `\x1b`) for whatever is not a printable character."""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def clipped(text: str, width: int) -> str:
    """The beginning of a long text, for people; where the output is no terminal, all of it."""
    if len(text) <= width or sys.stdout is None or not sys.stdout.isatty():
        return text
    return f"{text[:width]}..."


def masked_header(name: str, value: str) -> str:
    """A header's value, unless its name or its look says that it is a credential."""
    return MASK if _SECRET_NAME.search(name) or _SECRET_VALUE.match(value) else value


def masked_basic(credentials: str) -> str:
    """The user of HTTP Basic credentials."""
    return f"{credentials.partition(':')[0]}:{MASK}"


def masked_secret(secret: str) -> str:
    """That there is a secret."""
    return f"{secret[:6]}{MASK}"


def paint(text: str, colour: str) -> str:
    """`text` in a colour; click takes it out again where the output is not a terminal."""
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=colour)


def table(titles: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Rows under titles; columns are as wide as what is in them, numbers stand on the right."""
    right = [bool(rows) and all(isinstance(_value(row[at]), int) for row in rows) for at in range(len(titles))]
    texts = [[_plain(cell) for cell in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(titles, *texts, strict=True)]
    click.echo(_line([_pad(*each) for each in zip(titles, widths, right, strict=True)]))
    for row, plain in zip(rows, texts, strict=True):
        cells = [_pad(*each) for each in zip(plain, widths, right, strict=True)]
        click.echo(_line([_coloured(*each) for each in zip(row, cells, strict=True)]))


def fields(rows: Sequence[tuple[str, Cell]], *, indent: str = "  ") -> None:
    """Names and values, one pair a line."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{indent}{name:<{width}}{_GAP}{_coloured(value, _plain(value))}".rstrip())


def document(value: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json_text(value, orjson.OPT_INDENT_2))


def json_text(value: Any, option: int = 0) -> str:
    r"""JSON with escapes (`\u009b`, `\u202e`) for what is no printable character. To whoever reads it it is the same.

    RFC 8259 wants only what is below U+0020 to be escaped; a terminal obeys others as well.

    Args:
        value: What orjson takes; keys are strings.
        option: Of orjson.
    """
    text = orjson.dumps(value, option=option).decode()
    return _UNSURE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    run = found[0]
    return run if run.isprintable() else "".join(each if each.isprintable() else dumps(each)[1:-1] for each in run)


def _value(cell: Cell) -> str | int:
    return cell.text if isinstance(cell, Painted) else cell


def _plain(cell: Cell) -> str:
    value = _value(cell)
    return f"{value:,}" if isinstance(value, int) else printable(value)


def _coloured(cell: Cell, text: str) -> str:
    return paint(text, cell.colour) if isinstance(cell, Painted) else text


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(each) in "WF" for each in text)
    return len(text) + wide - sum(map(bool, map(unicodedata.combining, text)))


def _pad(text: str, width: int, right: bool) -> str:  # noqa: FBT001 - one of three columns that are zipped
    space = " " * (width - _width(text))
    return space + text if right else text + space


def _line(cells: Sequence[str]) -> str:
    return _GAP.join(cells).rstrip()
