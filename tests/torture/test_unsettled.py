"""What a death may cost is known exactly: the requests that a killed worker had begun and not settled."""

import time
from pathlib import Path

from tests.torture.arena import Arena
from tests.torture.fleet import PATIENCE_S
from tests.torture.ledger import read_received

HANGING = 3


def test_a_killed_worker_leaves_the_number_of_its_requests_that_are_not_settled(tmp_path: Path) -> None:
    with Arena(tmp_path, seed=1, settings={"DELIVERY__TIMEOUT": 60.0, "WORKER__LEASE": 90.0}) as arena:
        well, hangs = arena.endpoint("well", "flaky 50"), arena.endpoint("hangs", "hang")
        arena.work(2)
        arena.emit(100, {well: [well]})
        arena.fleet.join("producer")
        arena.until_drained(PATIENCE_S)
        arena.emit(HANGING, {hangs: [hangs]})
        deadline = time.monotonic() + PATIENCE_S
        while sum(each.endpoint == hangs for each in read_received(arena.received)) < HANGING:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for pid in arena.fleet.alive("worker"):
            arena.fleet.kill(pid)
        arena.fleet.join("worker")
        assert sum(arena.fleet.unsettled) == HANGING


def test_a_worker_that_ends_by_itself_explains_nothing(tmp_path: Path) -> None:
    with Arena(tmp_path, seed=1) as arena:
        arena.work(1)
        arena.fleet.stop("worker")
        assert arena.fleet.unsettled == []
        assert not list(arena.fleet.counts.iterdir())
