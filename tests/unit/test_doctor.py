"""`doctor` as a whole: what it makes of a reading, and how that is shown."""

import os
import shutil
from dataclasses import replace

import pytest
from click.testing import CliRunner

from kasplo_notify.cli import root
from kasplo_notify.cli.doctor import _rows
from kasplo_notify.cli.text import Painted
from kasplo_notify.config import Config
from kasplo_notify.doctor import Finding, Reading, examine
from kasplo_notify.doctor.attempt import Unread
from kasplo_notify.doctor.clock import Clock
from kasplo_notify.doctor.machine import Machine
from kasplo_notify.doctor.server import Server

READING = Reading(config=Config(), machine=Machine(open_files=4096))


def levels(reading: Reading) -> dict[str, str]:
    return {each.name: each.level for each in examine(reading)}


def test_without_redis_what_this_machine_knows_is_judged() -> None:
    found = levels(replace(READING, away="Redis is not available"))
    assert found == {"redis": "fault", "open_files": "ok", "configuration": "ok", "lease": "ok"}


def test_the_gravest_comes_first() -> None:
    server = Server(settings={"appendonly": "no", "maxmemory": "0", "appendfsync": "everysec"})
    clock = Clock(ahead_s=0.0, uncertainty_s=0.001)
    order = [each.level for each in examine(replace(READING, server=server, clock=clock))]
    assert order[:2] == ["fault", "warning"]
    assert order == sorted(order, key=["fault", "warning", "note", "ok"].index)


def test_how_fast_redis_answers_is_told_and_no_password() -> None:
    config = Config.load(environ={}, overrides={"redis.url": "redis://joe:hunter2@db.example.com:6379/0"})
    clock = Clock(ahead_s=0.0, uncertainty_s=0.004)
    (redis, *_) = examine(replace(READING, config=config, clock=clock))
    assert redis.text == "Redis answers within 8.0 ms (redis://***@db.example.com:6379/0)"


def test_what_was_not_shown_is_one_finding_a_reason() -> None:
    unread = [
        Unread(what="INFO", why="denied", needed=False),
        Unread(what="CONFIG GET", why="denied", needed=False),
        Unread(what="the registry", why="denied", needed=True),
    ]
    found = [(each.level, each.text) for each in examine(replace(READING, unread=unread)) if each.name == "unread"]
    assert found == [
        ("fault", "the registry could not be looked at, and workers need that: denied"),
        ("note", "INFO and CONFIG GET could not be looked at, and nothing of it is judged: denied"),
    ]


def test_keys_without_effect_are_a_note() -> None:
    config = Config.load(environ={"KASPLO_REPORT__KEEP": "5"})
    assert levels(replace(READING, config=config))["configuration"] == "note"


def test_on_a_terminal_a_sentence_is_broken_within_its_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((80, 24)))
    text = "appendonly is no: a restart of Redis loses what came since its last snapshot; set it to yes"
    rows = _rows([Finding(name="appendonly", level="fault", text=text)])
    assert rows[0][:2] == [Painted("fault", "red"), "appendonly"]
    assert rows[1][:2] == ["", ""]
    lines = [str(row[2]) for row in rows]
    assert " ".join(lines) == text
    assert max(map(len, lines)) <= 80 - len("warning  appendonly  ")
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((40, 24)))
    assert [row[2] for row in _rows([Finding(name="appendonly", level="fault", text=text)])] == [text]


def test_text_that_a_terminal_would_obey_is_harmless_and_notes_have_no_colour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kasplo_notify.cli.doctor.read_all", lambda _: READING)
    monkeypatch.setattr(
        "kasplo_notify.cli.doctor.examine", lambda _: [Finding(name="x", level="note", text="a\x1b[2Jb\nc")]
    )
    result = CliRunner().invoke(root, ["doctor"], color=True)
    assert "a\\x1b[2Jb\\nc" in result.stdout
    assert "\x1b" not in result.stdout
    assert result.stdout.endswith("\n0 faults, 0 warnings, 1 note; 0 of 1 check in order.\n")
