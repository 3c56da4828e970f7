"""Programs that are told what to do line by line, and the processes that one of them, the zygote, forks."""

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Container, Mapping
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self

from tests.torture import unsettled

# For what is only late on a busy machine.
PATIENCE_S = 60.0


class Program:
    """A program that answers lines on stdin with lines of JSON on stdout; a context manager that ends it."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self._lines: SimpleQueue[Any] = SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="program", daemon=True)
        self._reader.start()

    def ask(self, command: Mapping[str, object]) -> Any:
        """The next line that it says after `command`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()
        return self.next_line(PATIENCE_S)

    def next_line(self, seconds: float) -> Any:
        """Raises `queue.Empty` when it says nothing for so long."""
        return self._lines.get(timeout=seconds)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(json.loads(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(PATIENCE_S)
        self._process.stdout.close()


class Fleet:
    """The processes of a run, forked by the zygote.

    Attributes:
        workers: Process id of each worker that lives -> the options it was started with.
        kills: How many of all processes were killed.
        counts: A folder in which each worker counts what it has open, in a file named by its process id.
        unsettled: Of each worker that was killed, the requests that it had begun and not settled.
        codes: Exit codes of those that ended otherwise.
    """

    def __init__(self, zygote: Program, folder: Path) -> None:
        self._zygote = zygote
        self._folder = folder
        self._alive: dict[int, str] = {}
        self._killed: set[int] = set()
        self.counts = folder / "open"
        self.counts.mkdir()
        self.kills = 0
        self.unsettled: list[int] = []
        self.codes: list[int] = []

    def fork(self, role: str, environ: Mapping[str, str], options: Mapping[str, object]) -> int:
        """Start a `worker` or a `producer`; its process id."""
        command = {"role": role, "environ": environ, "options": options, "log": str(self._folder / f"{role}.log")}
        line = self._zygote.ask(command)
        while "started" not in line:
            self._note(line)
            line = self._zygote.next_line(PATIENCE_S)
        pid = int(line["started"])
        self._alive[pid] = role
        return pid

    @property
    def workers(self) -> list[int]:
        """Process ids of the workers that lived when that was last looked at."""
        return [pid for pid, role in list(self._alive.items()) if role == "worker"]

    def alive(self, role: str) -> list[int]:
        """The process ids of those of a role that have not ended."""
        with suppress(Empty):
            while True:
                self._note(self._zygote.next_line(0.001))
        return [pid for pid, known in self._alive.items() if known == role]

    def kill(self, pid: int) -> None:
        """Kill -9."""
        self._killed.add(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.kills += 1

    def kill_one(self, role: str, rng: random.Random) -> None:
        """Kill -9 of one of a role, if any lives, and wait until it is gone."""
        if living := self.alive(role):
            self.kill(pid := rng.choice(living))
            while pid in self.alive(role):
                time.sleep(0.002)

    def stop(self, role: str) -> None:
        """SIGTERM for all of a role; wait until they have ended."""
        for pid in self.alive(role):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        self.join(role)

    def join(self, role: str, seconds: float = PATIENCE_S, *, only: Container[int] | None = None) -> None:
        """Wait until all of a role have ended, or those of them that are named by their process ids."""
        deadline = time.monotonic() + seconds
        while living := [pid for pid in self.alive(role) if only is None or pid in only]:
            assert time.monotonic() < deadline, f"the {role}s {living} do not end"
            time.sleep(0.02)

    def _note(self, line: Mapping[str, int]) -> None:
        pid, code = line["ended"], line["code"]
        role = self._alive.pop(pid, None)
        count = unsettled.take(self.counts / str(pid))
        if pid not in self._killed and code != -signal.SIGKILL:
            self.codes.append(code)
            return
        self.kills += pid not in self._killed  # by its own hand
        if role == "worker":
            self.unsettled.append(count)
