"""When the dispatcher looks again: as soon as something is due, and a second later at most."""

from typing import Any

import pytest

from kasplo_notify.config import Config
from kasplo_notify.dispatcher import AGAIN_S, LEAVE_S, Dispatcher
from kasplo_notify.store import Call

NOW_MS = 1_795_430_000_000


class Peeked:
    """A store that answers every look with one reply, in the shape of peek.lua's."""

    def __init__(
        self, *, due: int = 0, first_in_ms: int | None = None, idle: int = 1, busy: int = 0, call: int = 0
    ) -> None:
        first = b"" if first_in_ms is None else b"%d" % (NOW_MS + first_in_ms)
        late = b"%d" % max(0, -(first_in_ms or 0))
        self.reply = [b"%d" % NOW_MS, b"1", due, first, idle, busy, late, call]

    def run(self, call: Call) -> Any:
        assert call.script == "peek"
        return self.reply


def looked(store: Peeked, *, queued: int = 0) -> tuple[float, list[str]]:
    """One look: the seconds until the next, and the drains that were asked for."""
    asked: list[str] = []
    dispatcher = Dispatcher(
        store,  # type: ignore[arg-type]  # all that a look needs of a store
        Config(),
        name="w",
        enqueue=asked.append,
        queued=lambda: queued,
    )
    return dispatcher._look(), asked


def test_it_never_looks_away_for_longer_than_a_second() -> None:
    # An event may come any time that is due before anything on the schedule.
    assert looked(Peeked()) == (1.0, [])
    assert looked(Peeked(first_in_ms=3_600_000)) == (1.0, [])


def test_it_looks_when_the_first_is_due_and_not_before() -> None:
    wait, asked = looked(Peeked(first_in_ms=300))
    assert 0.3 < wait <= 0.31
    assert asked == []


def test_a_drain_that_runs_gets_a_moment_to_take_it() -> None:
    wait, _ = looked(Peeked(first_in_ms=300, busy=1))
    assert 0.3 < wait <= 0.31 + LEAVE_S
    assert LEAVE_S <= 0.1


def test_what_is_due_is_asked_for_in_its_turn_and_looked_for_again_at_once() -> None:
    wait, asked = looked(Peeked(due=2, first_in_ms=-1500, call=1))
    assert (wait, asked) == (AGAIN_S, ["deliver due events: 2 queues due, 1.5 s late"])
    assert AGAIN_S <= 0.1
    assert looked(Peeked(due=2, first_in_ms=-1500, call=0)) == (AGAIN_S, [])


def test_many_queues_are_not_counted_to_the_end() -> None:
    (told,) = looked(Peeked(due=100, first_in_ms=-20, call=1))[1]
    assert told == "deliver due events: 100+ queues due, 0.0 s late"


@pytest.mark.parametrize(("idle", "queued", "asks"), [(1, 0, True), (1, 1, False), (3, 2, True), (0, 0, False)])
def test_no_more_drains_are_asked_for_than_there_are_idle_workers(idle: int, queued: int, *, asks: bool) -> None:
    _, asked = looked(Peeked(due=1, first_in_ms=0, idle=idle, call=1), queued=queued)
    assert bool(asked) is asks
