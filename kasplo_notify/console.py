"""Calm terminal output: lines, one line that changes in place, colour where somebody looks at it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from typing import TextIO

_ANSI = re.compile(r"\033\[[0-9;]*m")


class Console:
    """Writes to a stream; a closed terminal or pipe is not an error, the work goes on.

    Args:
        stream: standard output by default.
        live: whether a person watches: lines may change in place, and have colour unless NO_COLOR is set;
            by default whether the stream is a terminal.
    """

    def __init__(self, stream: TextIO | None = None, *, live: bool | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self.live = (self._stream.isatty() and os.environ.get("TERM") != "dumb") if live is None else live
        self._colour = self.live and not os.environ.get("NO_COLOR")
        self._status = ""

    def line(self, text: str = "") -> None:
        """A line that stays."""
        self._write(f"{self._clear()}{text}\n")

    def status(self, text: str) -> None:
        """A line that the next line or status replaces; nothing when nobody watches."""
        if self.live and text != self._status:
            width = shutil.get_terminal_size().columns
            plain = _ANSI.sub("", text)
            self._write(self._clear() + (text if len(plain) < width else plain[: width - 1]))
            self._status = text

    def done(self) -> None:
        """Remove the status."""
        self._write(self._clear())

    def bold(self, text: str) -> str:
        return self._paint("1", text)

    def dim(self, text: str) -> str:
        return self._paint("2", text)

    def good(self, text: str) -> str:
        return self._paint("32", text)

    def bad(self, text: str) -> str:
        return self._paint("31", text)

    def notable(self, text: str) -> str:
        return self._paint("33", text)

    def _paint(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._colour else text

    def _clear(self) -> str:
        cleared, self._status = self._status, ""
        return "\r\033[K" if cleared else ""

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()
