"""`endpoint remove` waits for the queues that workers hold, but not for ever."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import pytest

from kasplo_notify.cli import removal

if TYPE_CHECKING:
    from kasplo_notify.registry import Registry


class FakeRegistry:
    """Steps of a removal, as the registry would yield them."""

    def __init__(self, steps: Iterator[tuple[int, int]]) -> None:
        self._steps = steps

    def remove(self, name: str, *, drop: bool) -> Iterator[tuple[int, int]]:
        return self._steps


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only sleeping moves."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def sweep(steps: Iterator[tuple[int, int]]) -> tuple[int, int]:
    return removal.sweep(cast("Registry", FakeRegistry(steps)), "crm", drop=False)


def test_a_backlog_is_swept_without_waiting(clock: list[float]) -> None:
    assert sweep(iter([(500, 0), (1000, 0), (1204, 0)])) == (1204, 0)
    assert clock == [0.0]


def test_held_queues_are_waited_for(clock: list[float]) -> None:
    assert sweep(iter([(500, 2), *[(500, 2)] * 10, (900, 1), (1000, 0)])) == (1000, 0)
    assert clock[0] == pytest.approx(2.0)


def test_queues_that_stay_held_are_left_to_the_workers(clock: list[float]) -> None:
    def stuck() -> Iterator[tuple[int, int]]:
        while True:
            yield 500, 2

    assert sweep(stuck()) == (500, 2)
    assert 15 <= clock[0] < 16
