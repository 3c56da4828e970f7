"""The double for embedders' tests takes what the real notifier takes."""

import pytest

from kasplo_notify import InvalidEvent
from kasplo_notify.testing import RecordingNotifier

SCOMP = {"event_type": "scomp", "email": "a@example.com", "listid": "1", "sendid": "2", "click_tracking_id": ""}


def test_an_event_is_recorded_as_it_would_be_delivered() -> None:
    notifier = RecordingNotifier()
    receipt = notifier.emit(SCOMP, mail_class="promo")
    (event,) = notifier.events
    assert (event.id, event.mail_class, event.event_type, event.fields) == (receipt.id, "promo", "scomp", SCOMP)
    assert receipt.endpoints == ()


def test_an_id_that_was_emitted_before_is_recorded_once() -> None:
    notifier = RecordingNotifier()
    first, again = notifier.emit(SCOMP, event_id="mine"), notifier.emit(SCOMP, event_id="mine")
    assert (first.repeated, again.repeated, len(notifier.events)) == (False, True, 1)
    assert [receipt.repeated for receipt in notifier.emit_many([{**SCOMP, "event_id": "a"}] * 2)] == [False, True]


def test_of_many_events_none_is_recorded_unless_all_are_valid() -> None:
    notifier = RecordingNotifier()
    with pytest.raises(InvalidEvent, match="event 1: "):
        notifier.emit_many([SCOMP, {**SCOMP, "email": 5}])
    assert notifier.events == []
