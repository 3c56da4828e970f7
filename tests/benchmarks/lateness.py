"""How late events are at low load: a worker process, 20 events/s, one endpoint."""

import time
from typing import Any, cast

from kasplo_notify import Notifier
from kasplo_notify.console import Console
from kasplo_notify.stored import StoredEvent

from .figure import BenchmarkError, Figure, Plan, quantile
from .stage import QUEUES, Stage, event, wait_until

_PER_SECOND = 20
_GRACE_S = 15.0


def measure(stage: Stage, plan: Plan, console: Console) -> list[Figure]:
    """Lateness is arrival less the return of `emit()` less the delay. Early is what Redis' clock says is early."""
    name = stage.add_endpoint(plan.delay)
    emitted: dict[str, float] = {}
    pushes = _Pushes(stage, name)
    with stage.worker(), Notifier(config=stage.config) as notifier:
        began = time.monotonic()
        for number in range(int(plan.paced_s * _PER_SECOND)):
            due = began + number / _PER_SECOND
            time.sleep(max(0.0, due - time.monotonic()))
            receipt = notifier.emit(cast("Any", event(number)))
            emitted[receipt.id] = time.time()
            if number % _PER_SECOND == _PER_SECOND - 1:
                pushes.look()
                console.status(f"{number + 1} of {int(plan.paced_s * _PER_SECOND)} events, {_PER_SECOND}/s")

        def arrived() -> bool:
            count = int(stage.receiver.ask("report")["requests"])
            console.status(f"{count} of {len(emitted)} delivered")
            return count >= len(emitted)

        wait_until(arrived, plan.delay + _GRACE_S, f"{len(emitted)} events were delivered")
        wait_until(lambda: stage.waiting(name) == 0, 10, "all were settled")
    arrivals = stage.receiver.ask("arrivals")
    if arrivals.keys() != emitted.keys():
        raise BenchmarkError("what arrived is not what was emitted")
    late = sorted((arrivals[event_id] - at - plan.delay) * 1000 for event_id, at in emitted.items())
    # An id drops the microseconds of the push: only a millisecond later is it certain that none is early.
    early = sum(arrivals[each] < (pushes.ms[each] + 1) / 1000 + plan.delay for each in emitted)
    how = f"over a delay of {plan.delay:g} s, {len(late)} events at {_PER_SECOND}/s"
    return [
        Figure(name="lateness, p50", unit="ms", value=quantile(late, 0.5), note=how),
        Figure(name="lateness, p99", unit="ms", value=quantile(late, 0.99)),
        Figure(name="lateness, most", unit="ms", value=late[-1]),
        Figure(name="lateness, least", unit="ms", value=late[0]),
        Figure(name="events that were early by Redis' clock", unit="", value=float(early)),
    ]


class _Pushes:
    """When events were pushed, by Redis' clock: the ids of their entries, read while they wait."""

    def __init__(self, stage: Stage, endpoint: str) -> None:
        self._client = stage.registry.store.client
        self._after = {stage.registry.store.keys(f"new:{endpoint}.{number}"): "-" for number in range(QUEUES)}
        self.ms: dict[str, int] = {}

    def look(self) -> None:
        """To be called once within each delay."""
        for key, after in self._after.items():
            for entry_id, fields in cast("Any", self._client.xrange(key, after)):
                self.ms[StoredEvent.unpack(fields[b"e"]).id] = int(entry_id.partition(b"-")[0])
                self._after[key] = f"({entry_id.decode()}"
