"""The lock that keeps a fork away from what is half-made.

A forked child has one thread. What another thread of its parent held or was about to make stays held and half-made
for ever: locks, and above all a module in its first import, for which the child would wait. So whatever is made once
for all threads is made while :func:`starting` is held, and a fork waits for it.
"""

# The hooks of what is imported first are the last to run before a fork. The other way round a fork would hold the
# lock of logging while it waits for a thread whose import needs it.
import logging  # noqa: F401 - for its hooks
import os
import threading
from typing import Final, Protocol
from weakref import WeakSet

# Nothing takes this long. A hook of somebody else's may hold what the thread needs; then the fork goes on unprotected.
_LONGEST_WAIT_S: Final = 5.0


class Disowning(Protocol):
    """What has connections or locks of its own."""

    def disown(self) -> None:
        """Begin anew in a forked child: the connections are its parent's, and nobody is left to release a lock."""


# Reentrant, as a signal handler may fork.
_lock = threading.RLock()
_known: "WeakSet[Disowning]" = WeakSet()
_fork = threading.local()


def starting() -> "threading.RLock":
    """The lock to hold while making what all threads will use."""
    return _lock


def disown_after_fork(each: Disowning) -> None:
    """Have `each.disown()` called in every child that is forked while it lives."""
    _known.add(each)


def _wait() -> None:
    _fork.waited = _lock.acquire(timeout=_LONGEST_WAIT_S)


def _go_on() -> None:
    if _fork.waited:
        _lock.release()


def _begin() -> None:
    # A new lock, not a release: a server that forks in C may not have called `_wait`.
    global _lock  # noqa: PLW0603 - one lock for the process
    _lock = threading.RLock()
    for each in _known:
        each.disown()


os.register_at_fork(before=_wait, after_in_parent=_go_on, after_in_child=_begin)
