"""How things stand, as it is read from a shard."""

import pytest

from kasplo_notify.registry import Registry
from kasplo_notify.status import read_overview
from tests.integration.shard import Shard


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_workers_count_for_as_long_as_they_are_believed_to_live(shard: Shard, registry: Registry, state: str) -> None:
    # A worker that was killed takes itself off neither list; its entry ends by itself.
    lives, was_killed = shard.now() + 60_000, shard.now() - 1
    shard.client.zadd(shard.keys(state), {"lives": lives, "lives-too": lives, "was-killed": was_killed})
    overview = read_overview(registry)
    expected = {"idle": 0, "busy": 0, state: 2}
    assert {"idle": overview.idle, "busy": overview.busy} == expected


def test_counters_and_time_are_the_servers(shard: Shard, registry: Registry) -> None:
    shard.client.hset(shard.keys("counters"), mapping={"emitted": 12, "unrouted": 3})
    before = shard.now()
    overview = read_overview(registry)
    assert before <= overview.now_ms <= shard.now()
    assert dict(overview.counters) == {"emitted": 12, "unrouted": 3}
    assert overview.endpoints == ()
