"""A command that is shown works where this process was started."""

import sys
from pathlib import Path

import pytest

from kasplo_notify.invocation import invocation


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with an installation in .venv, which is the current folder; nothing is on the PATH."""
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    for name in ("kasplo-notify", "python"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.setattr(sys, "argv", [".venv/bin/kasplo-notify", "up", "--demo"])
    return tmp_path


def test_on_the_path_it_is_the_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder / ".venv/bin"))
    assert invocation() == "kasplo-notify"


def test_off_the_path_it_is_a_path_from_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert invocation() == ".venv/bin/kasplo-notify"
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    monkeypatch.setattr(sys, "argv", ["../.venv/bin/kasplo-notify"])
    assert invocation().endswith(".venv/bin/kasplo-notify")
    assert Path(invocation()).is_absolute()
    monkeypatch.chdir(folder / ".venv/bin")
    monkeypatch.setattr(sys, "argv", ["./kasplo-notify"])
    assert invocation() == "./kasplo-notify"


def test_another_installation_on_the_path_is_not_this_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = folder / "other"
    other.mkdir()
    (other / "kasplo-notify").write_text("#!/bin/sh\n")
    (other / "kasplo-notify").chmod(0o755)
    monkeypatch.setenv("PATH", str(other))
    assert invocation() == ".venv/bin/kasplo-notify"


def test_run_as_a_module_it_is_the_program_beside_that_python(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(folder / "kasplo_notify/__main__.py")])
    assert invocation() == ".venv/bin/kasplo-notify"
    (folder / ".venv/bin/kasplo-notify").unlink()
    assert invocation() == ".venv/bin/python -m kasplo_notify"
