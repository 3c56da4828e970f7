"""What `doctor` says of the clocks, and of what this machine allows."""

import pytest

from kasplo_notify.config import Config, WorkerConfig
from kasplo_notify.doctor.clock import Clock, clocks, stepped_back
from kasplo_notify.doctor.machine import Machine, limits
from kasplo_notify.doctor.spooled import Spooled, spool

GIB = 1 << 30


@pytest.mark.parametrize(
    ("ahead_s", "uncertainty_s", "level", "told"),
    [
        (0.0, 0.0001, "ok", "at most 1 ms apart"),
        (-0.4, 0.1, "ok", "at most 500 ms apart"),
        (1.05, 0.1, "ok", "at most 1,150 ms apart"),
        (1.2, 0.1, "warning", "1.2 s ahead of this machine's: deliveries are on time"),
        (-30.0, 0.1, "warning", "30.0 s behind this machine's"),
        (60.05, 0.1, "warning", "1 min ahead of"),
        (61.0, 0.1, "fault", "subscribers refuse requests whose webhook-timestamp"),
        (-7200.0, 0.1, "fault", "2 h behind"),
        (1.5, 2.0, "note", "compared to 2.0 s only"),
        (90.0, 2.0, "fault", "1 min 30 s ahead of"),
    ],
)
def test_clocks_are_apart_by_what_the_round_trip_leaves_for_certain(
    ahead_s: float, uncertainty_s: float, level: str, told: str
) -> None:
    (found,) = clocks(Clock(ahead_s=ahead_s, uncertainty_s=uncertainty_s))
    assert (found.name, found.level) == ("clock", level)
    assert told in found.text


def test_a_clock_that_was_set_back_is_told_by_the_queues_that_remember() -> None:
    assert list(stepped_back(0)) == []
    (found,) = stepped_back(2)
    assert (found.name, found.level) == ("clock_stepped", "warning")
    assert "2 queues" in found.text


@pytest.mark.parametrize(("open_files", "level"), [(1919, "warning"), (1920, "ok"), (None, "ok")])
def test_a_worker_may_open_as_many_files_as_it_may_need(open_files: int | None, level: str) -> None:
    (found,) = limits(Machine(open_files=open_files), Config())
    assert (found.name, found.level) == ("open_files", level)
    assert "1,920" in found.text


def test_fewer_requests_need_fewer_files() -> None:
    config = Config(worker=WorkerConfig(max_in_flight=10, max_slow=0))
    assert [each.level for each in limits(Machine(open_files=158), config)] == ["ok"]


@pytest.mark.parametrize(("free", "level"), [(GIB - 1, "warning"), (GIB, "ok")])
def test_the_embedded_server_needs_room_on_its_disk(free: int, level: str) -> None:
    found = {each.name: each for each in limits(Machine(open_files=None, disk_free=free), Config())}
    assert found["disk"].level == level


@pytest.mark.parametrize(
    ("spooled", "level", "told"),
    [
        (Spooled(), "ok", "empty"),
        (Spooled(size=100, waiting=1, oldest_s=2), "note", "1 segment of the spool"),
        (Spooled(size=100, waiting=1, oldest_s=301), "warning", "for 5 min 1 s; if Redis is up nobody sends"),
        (Spooled(size=100, aside=1), "warning", "kept aside"),
        (Spooled(size=GIB * 4 // 5 + 1, waiting=900, oldest_s=2), "warning", "80 % full (819.2 MiB of 1.0 GiB)"),
    ],
)
def test_what_waits_in_the_spool_is_told_by_how_long_it_waits(spooled: Spooled, level: str, told: str) -> None:
    (found,) = spool(spooled, Config())
    assert (found.name, found.level) == ("spool", level)
    assert told in found.text
