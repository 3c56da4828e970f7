"""One deadline for the steps of a call."""

from types import SimpleNamespace

import pytest

from kasplo_notify import patience
from kasplo_notify.errors import StorageBroken, StorageUnavailable
from kasplo_notify.patience import Patience


class Clock:
    """Seconds that pass only when they are set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(patience, "monotonic", clock)
    return clock


@pytest.mark.parametrize(("passed", "pause", "stops"), [(0.3, 0.1, False), (0.3, 0.25, True), (0.6, 0.0, True)])
def test_no_try_begins_after_a_pause_that_outlasts_the_deadline(
    clock: Clock, *, passed: float, pause: float, stops: bool
) -> None:
    tries = Patience().tries()
    clock.now += passed
    assert tries["stop"](SimpleNamespace(upcoming_sleep=pause)) is stops


def test_what_is_broken_is_not_tried_again(clock: Clock) -> None:
    assert not Patience().ends_with(StorageUnavailable("away"))
    assert Patience().ends_with(StorageBroken("not ours"))


def test_only_what_was_pushed_gives_the_call_more_time(clock: Clock) -> None:
    call = Patience()
    clock.now += 0.6
    call.heed(0)
    assert call.left() == 0
    call.heed(500)
    assert call.left() == patience.GIVE_UP
    clock.now += 0.6
    call.heed(500)
    assert call.left() == 0


def test_time_alone_ends_no_call_that_had_its_answers(clock: Clock) -> None:
    call = Patience()
    clock.now += 10
    call.check()
    call.ends_with(StorageUnavailable("away"))
    with pytest.raises(StorageUnavailable, match="did not answer within a second"):
        call.check()
