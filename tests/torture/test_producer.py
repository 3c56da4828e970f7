"""When an event may have been stored first: what no attempt is made before, whatever its producer went through."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from kasplo_notify import Notifier, QueueFull, StorageUnavailable
from tests.torture import producer
from tests.torture.ledger import Emitted
from tests.torture.producer import Load, event

IDS = ("a", "b", "c")


class Answers:
    """A notifier whose calls end as they are told to; a second passes with each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: Sequence[Exception | None]) -> None:
        self._answers = iter(answers)
        self._now = 0.0
        monkeypatch.setattr(producer, "true_time", lambda: self._now)

    def emit_many(self, _events: Any) -> Iterator[Any]:
        self._now += 1.0
        if error := next(self._answers):
            raise error
        return (type("Receipt", (), {"id": each})() for each in IDS)


def emitted(monkeypatch: pytest.MonkeyPatch, folder: Path, *answers: Exception | None) -> list[Emitted]:
    batch = [("promo", event(number)) for number in range(3)]
    load = Load(0, 3, 3, 0.0, {"promo": ["crm"]}, 1, str(folder / "emitted"), str(folder / "refusals"))
    return producer._emit(cast("Notifier", Answers(monkeypatch, answers)), batch, load)


def full(pushed: int) -> QueueFull:
    return QueueFull("full", event_ids=IDS, pushed=pushed)


def away(pushed: int) -> StorageUnavailable:
    return StorageUnavailable("away", event_ids=IDS, pushed=pushed)


@pytest.mark.parametrize(
    ("answers", "began"),
    [
        ((None,), [0, 0, 0]),
        ((full(0), full(0), None), [2, 2, 2]),
        ((full(1), full(2), None), [0, 1, 2]),
        # Refused before it came as far as the first call.
        ((full(2), full(0), None), [0, 0, 2]),
        ((away(0), None), [0, 0, 0]),
        ((full(1), away(1), full(1), None), [0, 1, 1]),
    ],
)
def test_an_event_that_was_certainly_not_stored_begins_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answers: tuple[Exception | None, ...], began: list[int]
) -> None:
    events = emitted(monkeypatch, tmp_path, *answers)
    assert [each.began for each in events] == began
    assert {each.ended for each in events} == {len(answers)}
    assert all(each.stored for each in events)
