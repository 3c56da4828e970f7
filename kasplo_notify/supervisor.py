"""N worker processes, kept alive: the dead are started again, a stop is passed on and waited for.

A child is told to stop in one way only: its stdin, a pipe from here, closes (`stopping.watch_parent` turns
that into SIGTERM). Children lead sessions of their own, so Ctrl+C in a terminal reaches this process alone.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

logger = logging.getLogger("kasplo_notify.supervisor")

_MAX_DELAY_S = 30.0
_SETTLED_S = 60.0  # a child that lived this long did not die at its start; its next death starts the backoff anew
_GRACE_S = 60.0  # above the longest request and its settling; then SIGKILL
_BURST_STARTS = 3


@dataclass(slots=True, kw_only=True)
class _Child:
    number: int  # 1, 2, ... as log lines name it
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0  # monotonic s
    start_at: float = 0.0  # monotonic s; when to start it again
    starts_in_a_row: int = 0  # each of which ended within a minute
    exit_code: int | None = None  # of the last run; negative: the signal


class Supervisor:
    """Runs `count` copies of a command. Call `poll` often: it does not block.

    Args:
        command: what a child runs; it must heed its stdin (`stopping.watch_parent`).
        count: how many children.
        burst: a child that ends with 0 has done its work; one that fails is tried three times.
        environ: the children's environment; ours by default.
        output: a file that gets what the children write; by default they write where we do.
        first_delay: seconds until the first restart; it doubles up to 30.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        *,
        burst: bool = False,
        environ: Mapping[str, str] | None = None,
        output: BinaryIO | None = None,
        first_delay: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command = list(command)
        self._burst = burst
        self._environ = dict(os.environ if environ is None else environ)
        self._output = output
        self._first_delay = first_delay
        self._clock = clock
        self._children = [_Child(number=number) for number in range(1, count + 1)]
        self._stopping_since: float | None = None

    @property
    def pids(self) -> list[int]:
        """Of the children that run."""
        return [child.process.pid for child in self._children if child.process is not None]

    @property
    def failing(self) -> bool:
        """Whether a child has ended soon after its start three times in a row."""
        return any(child.process is None and child.starts_in_a_row > 2 for child in self._children)

    def start(self) -> None:
        """Start all children.

        Raises:
            OSError: the command cannot be run at all.
        """
        for child in self._children:
            self._start(child)

    def poll(self) -> bool:
        """Note the dead and start again what is due.

        Returns:
            False when nothing runs and nothing will be started.
        """
        now = self._clock()
        for child in self._children:
            if child.process is not None:
                code = child.process.poll()
                if code is None:
                    continue
                self._ended(child, code, now)
            if self._wanted(child) and now >= child.start_at:
                self._start(child)
        if self._stopping_since is not None and self.pids and now - self._stopping_since > _GRACE_S:
            logger.error("workers %s did not end within %d s and are killed", self.pids, _GRACE_S)
            self.kill()
        return any(child.process is not None or self._wanted(child) for child in self._children)

    def stop(self) -> None:
        """Ask all children to finish what is in flight and end; go on polling until they have."""
        if self._stopping_since is None:
            for child in self._children:
                if child.process is None and self._wanted(child):
                    child.exit_code = None  # it waits for its restart: what it died of is not the result
            self._stopping_since = self._clock()
            for child in self._children:
                if child.process is not None and child.process.stdin is not None:
                    child.process.stdin.close()

    def kill(self) -> None:
        """End all children at once. What they had in flight is delivered again later."""
        self.stop()
        for child in self._children:
            if child.process is not None:
                child.process.kill()

    def end(self, *, grace: float = 0.0) -> None:
        """Leave no child, whatever happened: wait `grace` seconds for those that still run, then kill."""
        self.stop()
        deadline = self._clock() + grace
        while self.poll() and self._clock() < deadline:
            time.sleep(0.02)
        self.kill()
        for child in self._children:
            if child.process is not None:
                self._ended(child, child.process.wait(), self._clock())

    @property
    def exit_code(self) -> int:
        """0 when the last run of every child ended as it should: by itself, or by SIGTERM.

        Else the code with which they failed, when it is one and the same; else 1.
        """
        failed = {child.exit_code or 0 for child in self._children} - {0, -signal.SIGTERM}
        return max(1, failed.pop()) if len(failed) == 1 else min(1, len(failed))

    def _wanted(self, child: _Child) -> bool:
        if self._stopping_since is not None:
            return False
        if self._burst:
            return child.exit_code != 0 and child.starts_in_a_row < _BURST_STARTS
        return True

    def _start(self, child: _Child) -> None:
        child.started_at = self._clock()
        child.starts_in_a_row += 1
        child.process = subprocess.Popen(  # noqa: S603 - our own command
            self._command,
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=self._output,
            env=self._environ,
            start_new_session=True,
        )
        logger.info("worker %d started (pid %d)", child.number, child.process.pid)

    def _ended(self, child: _Child, code: int, now: float) -> None:
        if child.process is not None and child.process.stdin is not None:
            child.process.stdin.close()
        child.process, child.exit_code = None, code
        if self._stopping_since is not None or (self._burst and code == 0):
            logger.info("worker %d ended (%s)", child.number, _how(code))
            return
        if now - child.started_at >= _SETTLED_S:
            child.starts_in_a_row = 0
        delay = min(self._first_delay * 2 ** max(child.starts_in_a_row - 1, 0), _MAX_DELAY_S)
        child.start_at = now + delay
        if not self._wanted(child):
            logger.error(
                "worker %d failed %d times and is given up: %s",
                child.number,
                child.starts_in_a_row,
                _how(code),
            )
        elif child.starts_in_a_row > 2:
            logger.error(
                "worker %d keeps ending soon after its start (%d times, the last with %s); next try in %g s",
                *(child.number, child.starts_in_a_row, _how(code), delay),
            )
        else:
            logger.warning("worker %d ended with %s; next start in %g s", child.number, _how(code), delay)

    def pause(self) -> float:
        """Seconds until `poll` has something to do unless a signal comes first."""
        now = self._clock()
        due = [child.start_at - now for child in self._children if child.process is None and self._wanted(child)]
        return min([1.0, *due])


def worker_command(config_args: Sequence[str], *, burst: bool) -> list[str]:
    """What a worker process runs. `-P`: a folder named `workers` where it happens to start is not ours."""
    words = [sys.executable, "-P", "-m", "kasplo_notify", *config_args, "worker-child"]
    return [*words, "--burst"] if burst else words


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
