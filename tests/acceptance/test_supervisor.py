"""The supervisor over real processes: it restarts the dead, passes a stop on, and leaves nobody behind."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from kasplo_notify.config import Config, RedisConfig
from kasplo_notify.supervisor import Supervisor, worker_command
from kasplo_notify.up import run_workers
from tests.acceptance.world import ROOT, lives, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT)}
# Whoever supervises speaks to no Redis; the children of these tests do not either.
URL = "unix:///nowhere"

# A child that appends its pid to a file, and another line when it was asked to stop.
CHILD = """
import os, signal, sys, time
from pathlib import Path
from kasplo_notify.stopping import watch_parent
journal = Path(sys.argv[1])
def write(word):
    with journal.open("a") as file:
        file.write(f"{word} {os.getpid()}\\n")
def stop(*_):
    time.sleep(float(sys.argv[2]))
    write("stopped")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
watch_parent()
write("started")
time.sleep(60)
"""
RUN = """
import logging, sys
from kasplo_notify.config import Config, RedisConfig
from kasplo_notify.up import run_workers
logging.basicConfig(level="INFO", stream=sys.stdout)
config = Config(redis=RedisConfig(url=sys.argv[1]))
sys.exit(run_workers(config, workers=int(sys.argv[2]), burst=False, worker=sys.argv[3:]))
"""


def child(journal: Path, stop_takes: float = 0) -> list[str]:
    return [sys.executable, "-c", CHILD, str(journal), str(stop_takes)]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def pids(journal: Path, word: str = "started") -> list[int]:
    lines = journal.read_text().splitlines() if journal.exists() else []
    return [int(line.split()[1]) for line in lines if line.startswith(word)]


def poll_until(supervisor: Supervisor, condition: Callable[[], bool]) -> None:
    until(lambda: (supervisor.poll(), condition())[1])


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "journal"
    yield path
    for pid in pids(path):
        if lives(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def supervise() -> Iterator[Callable[..., Supervisor]]:
    made: list[Supervisor] = []

    def make(command: list[str], count: int = 1, **options: float) -> Supervisor:
        made.append(Supervisor(command, count, environ=ENVIRON, **options))  # type: ignore[arg-type]
        made[-1].start()
        return made[-1]

    yield make
    for supervisor in made:
        supervisor.kill()
        until(lambda supervisor=supervisor: not supervisor.poll())  # type: ignore[misc]


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """A supervisor as a process of its own."""
    made: list[subprocess.Popen[str]] = []

    def run(count: int, command: list[str]) -> subprocess.Popen[str]:
        words = [*python(RUN), URL, str(count), *command]
        made.append(subprocess.Popen(words, env=ENVIRON, stdout=subprocess.PIPE, text=True))
        return made[-1]

    yield run
    for process in made:
        process.kill()
        process.communicate()


def test_a_dead_child_is_started_again(journal: Path, supervise: Callable[..., Supervisor]) -> None:
    supervisor = supervise(child(journal), 2, first_delay=0.05)
    until(lambda: len(pids(journal)) == 2)
    os.kill(pids(journal)[0], signal.SIGKILL)
    poll_until(supervisor, lambda: len(pids(journal)) == 3)
    assert sorted(supervisor.pids) == sorted(pids(journal)[1:])


def test_a_child_that_keeps_dying_is_tried_with_growing_delays_and_told_in_one_sentence(
    supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = supervise(python("raise SystemExit(3)"), first_delay=0.05)
    poll_until(supervisor, lambda: "4 times" in caplog.text)
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == [
        "worker 1 ended with exit code 3; next start in 0.05 s",
        "worker 1 ended with exit code 3; next start in 0.1 s",
        "worker 1 keeps ending soon after its start (3 times, the last with exit code 3); next try in 0.2 s",
        "worker 1 keeps ending soon after its start (4 times, the last with exit code 3); next try in 0.4 s",
    ]


def test_the_delay_ends_at_30_s_and_begins_anew_after_a_settled_run(
    supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    supervisor = supervise(python("raise SystemExit(1)"), clock=lambda: now[0])
    for _ in range(8):
        until(lambda: bool(supervisor.poll() and not supervisor.pids))
        now[0] += 30
        supervisor.poll()
    now[0] += 60
    until(lambda: bool(supervisor.poll() and not supervisor.pids))
    delays = [record.getMessage().split(" in ")[1] for record in caplog.records if " in " in record.getMessage()]
    assert delays == ["1 s", "2 s", "4 s", "8 s", "16 s", "30 s", "30 s", "30 s", "1 s"]


def test_sigterm_is_passed_on_and_waited_for(journal: Path, spawn: Callable[..., subprocess.Popen[str]]) -> None:
    process = spawn(2, child(journal, 0.5))
    until(lambda: len(pids(journal)) == 2)
    process.terminate()
    assert process.wait(10) == 0
    assert sorted(pids(journal, "stopped")) == sorted(pids(journal))


def test_ctrl_c_in_a_terminal_lets_children_finish(journal: Path, spawn: Callable[..., subprocess.Popen[str]]) -> None:
    """A terminal signals the whole foreground group; children are not in it."""
    process = spawn(1, child(journal, 0.2))
    until(lambda: len(pids(journal)) == 1)
    assert os.getpgid(pids(journal)[0]) != os.getpgid(process.pid)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    assert pids(journal, "stopped") == pids(journal)


def test_a_second_ctrl_c_kills_at_once(journal: Path, spawn: Callable[..., subprocess.Popen[str]]) -> None:
    process = spawn(2, child(journal, 50))
    until(lambda: len(pids(journal)) == 2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.6)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 1
    assert not any(lives(pid) for pid in pids(journal))
    assert pids(journal, "stopped") == []


def test_kill_9_of_the_supervisor_ends_its_children(journal: Path, spawn: Callable[..., subprocess.Popen[str]]) -> None:
    process = spawn(2, child(journal))
    until(lambda: len(pids(journal)) == 2)
    process.kill()
    until(lambda: not any(lives(pid) for pid in pids(journal)))
    assert sorted(pids(journal, "stopped")) == sorted(pids(journal))


def test_a_child_that_ignores_the_stop_is_killed_in_the_end(
    journal: Path, supervise: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kasplo_notify.supervisor._GRACE_S", 0.3)
    supervisor = supervise(child(journal, 50))
    until(lambda: len(pids(journal)) == 1)
    supervisor.stop()
    until(lambda: not supervisor.poll())
    assert supervisor.exit_code == 1


def test_a_burst_ends_when_every_child_has_ended_with_0() -> None:
    config = Config(redis=RedisConfig(url=URL))
    assert run_workers(config, workers=3, burst=True, worker=python("pass")) == 0


def test_in_a_burst_a_failing_child_is_tried_three_times(
    supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = supervise(python("raise SystemExit(7)"), burst=True, first_delay=0.01)
    until(lambda: not supervisor.poll())
    assert supervisor.exit_code == 7
    assert "worker 1 failed 3 times and is given up: exit code 7" in caplog.text


def test_in_a_burst_a_child_that_succeeds_at_the_second_try_is_a_success(
    tmp_path: Path, supervise: Callable[..., Supervisor]
) -> None:
    seen = tmp_path / "seen"
    code = f"import pathlib, sys; p = pathlib.Path({str(seen)!r}); e = p.exists(); p.touch(); sys.exit(not e)"
    supervisor = supervise(python(code), burst=True, first_delay=0.01)
    until(lambda: not supervisor.poll())
    assert supervisor.exit_code == 0


def test_the_pipe_of_one_child_is_not_kept_open_by_another(
    journal: Path, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    """Otherwise children started later would keep earlier ones alive after the supervisor's death."""
    process = spawn(3, child(journal, 0))
    until(lambda: len(pids(journal)) == 3)
    os.kill(pids(journal)[0], signal.SIGKILL)
    until(lambda: len(pids(journal)) == 4)
    process.kill()
    until(lambda: not any(lives(pid) for pid in pids(journal)))


def test_a_worker_process_is_this_python_and_not_a_folder_nearby() -> None:
    command = worker_command(["--config", "my.toml"], burst=True)
    assert command[0] == sys.executable
    assert command[1:] == ["-P", "-m", "kasplo_notify", "--config", "my.toml", "worker-child", "--burst"]
