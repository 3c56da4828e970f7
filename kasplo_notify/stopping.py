"""How processes are asked to stop: by signals from outside, by a closed pipe from their parent."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    _Handler = Callable[[int, FrameType | None], object]

# SIGHUP: the terminal was closed.
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SAME_S = 0.5  # one Ctrl+C may come twice: from the terminal, and from make or honcho
_LAST_RESORT_S = 90.0  # far above the longest request that a lease allows; after it, nothing is worth waiting for


class Signals:
    """Counts the requests to stop and wakes a sleeping main thread on them, and on the death of a child.

    A context manager for the main thread; the handlers of before come back at its end.
    """

    def __init__(self) -> None:
        self.stops = 0
        self._stopped_at = float("-inf")
        self._reader, self._writer = socket.socketpair()
        self._old: dict[int, _Handler | int | None] = {}
        self._old_fd = -1

    def wait(self, seconds: float) -> None:
        """Sleep, at most until the next signal."""
        if select.select([self._reader], [], [], max(seconds, 0.0))[0]:
            self._reader.recv(512)

    def __enter__(self) -> Self:
        for end in (self._reader, self._writer):
            end.settimeout(0)
        self._old_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in _STOPS:
            # nohup has SIGHUP ignored from the start, and means it. A shell that starts us with `&` has
            # SIGINT ignored too, but whoever sends that to us by name wants us to stop.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._old[number] = signal.signal(number, self._stop)
        # Without a handler of Python's the wakeup does not happen.
        self._old[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(self._old_fd)
        self._reader.close()
        self._writer.close()

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._stopped_at > _SAME_S:
            self.stops += 1
        self._stopped_at = now


def watch_parent() -> None:
    """For a supervised child: when its stdin closes it sends itself SIGTERM, once.

    The supervisor closes the pipe to stop a child, and the kernel closes it when the supervisor dies, so a
    child hears of both in the same way and never gets a second signal, which would end it without grace. A
    child that does not end on SIGTERM is killed after 90 s: nothing outlives its supervisor for good.
    """
    pipe = os.dup(sys.stdin.fileno())
    threading.Thread(target=_end_after, args=(pipe,), name="watch-parent", daemon=True).start()


def _end_after(pipe: int) -> None:
    while os.read(pipe, 512):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_LAST_RESORT_S)
    os.kill(os.getpid(), signal.SIGKILL)
