"""Read JSON lines from a file or a pipe: whatever comes in, a line costs bounded memory, and none waits for others."""

import io
import json
import os
import select
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

import orjson

from kasplo_notify.errors import quoted

MAX_LINE_BYTES: Final = 524_288
_READ_BYTES: Final = 65_536
_BOM: Final = b"\xef\xbb\xbf"
_ONE_A_LINE: Final = "give one event a line; for example jq -c '.[]' makes lines of an array, jq -c . of objects"


@dataclass(frozen=True, slots=True)
class Line:
    """One line that is not blank.

    Attributes:
        number: Counted from 1.
        size: Its bytes.
        fields: The JSON object; empty when the line is refused.
        refused: Why; empty otherwise.
    """

    number: int
    size: int
    fields: dict[str, object]
    refused: str


def read_lines(stream: BinaryIO, *, quiet_s: float = 0.2) -> Iterator[Line | None]:
    """The lines of a stream that are not blank; None whenever nothing came for `quiet_s` seconds.

    A line over 512 KiB is refused and skipped without being held in memory.

    Raises:
        OSError: The stream cannot be read.
    """
    number, held, skipped, began = 0, bytearray(), 0, False
    for chunk in _chunks(stream, quiet_s):
        if chunk is None:
            yield None
            continue
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            number += 1
            line = _line(number, bytes(held) + part if held else part, skipped, first=not began)
            held.clear()
            skipped = 0
            if line is not None:
                began = True
                yield line
        if skipped or len(held) + len(rest) > MAX_LINE_BYTES:
            skipped += len(held) + len(rest)
            held.clear()
        else:
            held += rest
    last = _line(number + 1, bytes(held), skipped, first=not began)
    if last is not None:
        yield last


def _line(number: int, line: bytes, skipped: int, *, first: bool) -> Line | None:
    size = skipped + len(line)
    if size > MAX_LINE_BYTES:
        return Line(number, 0, {}, f"the line has {size:,} bytes, and at most {MAX_LINE_BYTES:,} are taken")
    if number == 1:
        line = line.removeprefix(_BOM)
    line = line.strip()
    if not line:
        return None
    # What begins like this is one document over many lines: the first refusal says so, the others would not help.
    hint = f"; {_ONE_A_LINE}" if first and (line == b"{" or line.startswith(b"[")) else ""
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return Line(number, size, {}, _not_json(line, error) + hint)
    if type(fields) is not dict:
        return Line(number, size, {}, f"it is JSON, but not an object with an event's fields{hint}")
    if repeated := _repeated(line):
        return Line(number, size, {}, f"it has the name {quoted(repeated)} twice in one object; give each once")
    return Line(number, size, fields, "")


def _repeated(line: bytes) -> str:
    """A name that an object of the line has twice; empty when there is none.

    orjson keeps the last of them and says nothing. To look with `json` takes 5 of the 26 microseconds that `emit` takes
    for a line in all.
    """
    found: list[str] = []

    def look(pairs: list[tuple[str, object]]) -> None:
        if len(dict(pairs)) < len(pairs):
            seen: set[str] = set()
            for name, _ in pairs:
                if name in seen:
                    found.append(name)
                seen.add(name)

    try:
        json.loads(line, object_pairs_hook=look, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return ""  # deeper than an event may be, and refused for that
    return found[0] if found else ""


def _not_json(line: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        line.decode()
    except UnicodeDecodeError as wrong:
        return f"it is not UTF-8 at byte {wrong.start + 1}"
    return f"it is not JSON at character {error.colno}: {error.msg}"


def _chunks(stream: BinaryIO, quiet_s: float) -> Iterator[bytes | None]:
    try:
        descriptor = stream.fileno()
    except (io.UnsupportedOperation, OSError):
        while chunk := stream.read(_READ_BYTES):
            yield chunk
        return
    # Past the stream's buffer, so that select sees all that is there. It calls a file always ready.
    while True:
        if not select.select([descriptor], [], [], quiet_s)[0]:
            yield None
            continue
        chunk = os.read(descriptor, _READ_BYTES)
        if not chunk:
            return
        yield chunk
