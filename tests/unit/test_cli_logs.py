"""How the long-running commands log."""

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from kasplo_notify.cli.logs import start_logging


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in (None, "kasplo_notify", "workers")]
    before = [(logger, logger.level, [*logger.handlers]) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers = handlers


@pytest.mark.parametrize(
    ("how", "stream", "human"),
    [
        ("auto", Terminal(), True),
        ("auto", io.StringIO(), False),
        ("human", io.StringIO(), True),
        ("json", Terminal(), False),
    ],
)
def test_lines_are_for_people_on_a_terminal_unless_they_are_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, how: str, stream: io.StringIO, *, human: bool
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    start_logging(how)
    logging.getLogger("kasplo_notify.drain").info("drained: 3 delivered")
    line = stream.getvalue().strip()
    assert line.endswith("drained: 3 delivered") if human else json.loads(line)["message"] == "drained: 3 delivered"


def test_a_fault_is_one_json_line_with_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    start_logging("json")
    try:
        1 / 0  # noqa: B018 - what it raises is wanted
    except ZeroDivisionError:
        logging.getLogger("kasplo_notify").exception("drain_failed")
    line = json.loads(stream.getvalue())
    assert (line["level"], line["message"], line["logger"]) == ("error", "drain_failed", "kasplo_notify")
    assert line["traceback"].endswith("ZeroDivisionError: division by zero")


def test_libraries_are_heard_from_warnings_on(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    start_logging("human")
    logging.getLogger("some.library").info("not this")
    logging.getLogger("some.library").warning("but this")
    assert [line.rpartition(": ")[2] for line in stream.getvalue().splitlines()] == ["but this"]


def test_without_stderr_nothing_is_logged_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    before = list(logging.getLogger().handlers)
    start_logging("auto")
    assert logging.getLogger().handlers == before
