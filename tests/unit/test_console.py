"""The console: colour and moving lines for a person, plain lines for a pipe."""

from __future__ import annotations

import io

import pytest

from kasplo_notify.console import Console


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def test_a_pipe_gets_lines_without_colour_or_status(stream: io.StringIO) -> None:
    console = Console(stream)
    console.status("working")
    console.line(console.good("done"))
    assert stream.getvalue() == "done\n"


def test_a_terminal_gets_colour_and_a_status_that_the_next_line_replaces(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    console = Console(stream, live=True)
    console.status("working")
    console.status("working")
    console.line(console.good("done"))
    assert stream.getvalue() == "working\r\033[K\033[32mdone\033[0m\n"


def test_no_color_is_respected(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert Console(stream, live=True).bad("x") == "x"


def test_a_status_wider_than_the_terminal_is_cut(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "10")
    console = Console(stream, live=True)
    console.status(console.bold("a" * 20))
    assert stream.getvalue() == "a" * 9


def test_a_closed_pipe_does_not_stop_the_work() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    Console(Closed()).line("nobody reads this")
