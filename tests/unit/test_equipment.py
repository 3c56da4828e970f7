"""What the drains of a worker process share."""

import pytest

from kasplo_notify import equipment
from kasplo_notify.config import Config
from kasplo_notify.equipment import Equipment, Tally


def made() -> Equipment:
    # Neither is used before something is delivered.
    return Equipment(config=Config(), store=None, transport=None, name="w")  # type: ignore[arg-type]


def test_a_window_outlives_the_holding_of_its_queue() -> None:
    gear = made()
    window = gear.window("crm.0")
    assert gear.window("crm.1") is not window
    assert gear.window("crm.0") is window


def test_of_too_many_windows_the_one_unused_for_longest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equipment, "MAX_WINDOWS", 2)
    gear = made()
    for queue in ("a.0", "b.0", "a.0", "c.0"):
        gear.window(queue)
    assert list(gear.windows) == ["a.0", "c.0"]


def test_a_tally_says_what_is_not_0() -> None:
    assert str(Tally(delivered=1234, seconds=2.04)) == "1,234 delivered in 2.0 s"
    assert str(Tally(delivered=1, failed=2, dead=3)) == "1 delivered, 2 failed, 3 dead in 0.0 s"
