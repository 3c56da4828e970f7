"""The dispatcher: the part of each worker process that asks for a drain when something is due and somebody is idle."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from kasplo_notify.config import Config
from kasplo_notify.endpoint import milliseconds
from kasplo_notify.errors import NotifyError
from kasplo_notify.store import Arg, Call, Store

log = logging.getLogger(__name__)

LOOK_S = 1.0
# While drains run they look by themselves; and an asked-for drain needs a moment to claim what is due.
LEAVE_S, AGAIN_S = 0.05, 0.06
BELIEVED_MS = 3000
MAINTENANCE_MS = 300_000
DAY_MS = 86_400_000


class Dispatcher(threading.Thread):
    """Sleeps until the schedule's first score, a second at most, and asks for drains. Survives every exception.

    Args:
        store: A connection of its own, closed when the thread ends.
        config: The configuration.
        name: The worker's name.
        enqueue: Asks for one drain; takes its description.
        queued: How many drains have been asked for and not begun.
    """

    def __init__(
        self,
        store: Store,
        config: Config,
        *,
        name: str,
        enqueue: Callable[[str], object],
        queued: Callable[[], int],
    ) -> None:
        super().__init__(name="kasplo-dispatcher", daemon=True)
        self._store = store
        self._config = config
        self._worker = name
        self._enqueue = enqueue
        self._queued = queued
        self._state = "idle"
        self._ended = False
        self._look_now = threading.Event()
        self._maintain_at = time.monotonic()

    def drain_begins(self) -> None:
        """This worker runs a drain."""
        self._state = "busy"
        self._look_now.set()

    def drain_ended(self) -> None:
        """This worker can be asked for a drain."""
        self._state = "idle"
        self._look_now.set()

    def look(self) -> None:
        """Look at once: something is due, and another worker could take it."""
        self._look_now.set()

    def stop(self) -> None:
        """End the thread; the worker counts neither as idle nor as busy any more."""
        self._ended = True
        self._look_now.set()
        self.join(timeout=5.0)

    def run(self) -> None:
        away = False
        while not self._ended:
            wait = LOOK_S
            try:
                wait = self._look()
                self._maintain()
                if away:
                    log.warning("redis_back")
                away = False
            except NotifyError as error:
                if not away:
                    log.warning("redis_away: %s", error)
                away = True
            except Exception:
                log.exception("dispatcher_failed: it looks again in a second")
            self._look_now.wait(wait)
            self._look_now.clear()
        self._leave()

    def _look(self) -> float:
        """One look; returns the seconds until the next."""
        now, _, due, first, idle, busy, late, call = self._store.run(
            Call("peek", [self._worker, self._state, BELIEVED_MS])
        )
        if call and idle > self._queued():
            queues = "1 queue" if due == 1 else f"{due}{'+' if due == 100 else ''} queues"
            self._enqueue(f"deliver due events: {queues} due, {int(late) / 1000:.1f} s late")
        if due:
            return AGAIN_S
        if not first:
            return LOOK_S
        return min(LOOK_S, (float(first) - float(now)) / 1000 + 0.001 + (LEAVE_S if busy else 0.0))

    def _maintain(self) -> None:
        """Every five minutes one worker checks that nothing was forgotten."""
        if time.monotonic() < self._maintain_at:
            return
        self._maintain_at = time.monotonic() + 60
        keys = self._store.keys
        lock = ("SET", keys("maintenance"), self._worker, "NX", "PX", MAINTENANCE_MS)
        (first,) = self._store.read(lock)
        if not first:
            return
        registered, dead = self._store.read(("HKEYS", keys.endpoints), ("HKEYS", keys("dead")))
        settings = self._config
        limits: list[Arg] = [settings.dead.max_bytes, int(settings.dead.keep_days * DAY_MS)]
        common = [milliseconds(settings.delivery.delay), *limits, milliseconds(settings.worker.lease)]
        for names in _batches(sorted({*registered, *dead})):
            for queue in self._store.run(Call("repair", [*common, *names])):
                log.error("queue_repaired: %s held events and was not on the schedule", queue.decode())

    def _leave(self) -> None:
        try:
            self._store.run(Call("peek", [self._worker, "gone", 0]))
        except Exception as error:  # noqa: BLE001 - the entry ends by itself in BELIEVED_MS
            log.debug("could not sign off: %s", error)
        finally:
            self._store.close()


def _batches(names: Sequence[bytes], size: int = 100) -> Iterable[list[bytes]]:
    rest = iter(names)
    while batch := list(islice(rest, size)):
        yield batch
