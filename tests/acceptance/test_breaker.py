"""An endpoint that only fails is left alone but for single probes, and gets everything when it is well again."""

from collections.abc import Callable
from itertools import pairwise

from tests.acceptance.conftest import LongRun
from tests.acceptance.subscriber import Answer
from tests.acceptance.world import PATIENCE_S, World, until

# Ten failures open the breaker; more are made in the 50 ms until a worker's answers are in Redis.
BEFORE_OPEN = 150
FIRST_PROBE_S = 5.0


def test_after_ten_failures_an_endpoint_waits_until_probes_succeed(make_world: Callable[..., World]) -> None:
    world = make_world(delivery__delay=0.3)
    sub = world.subscriber
    path = world.endpoint("crm", retry_delays=(1.0,) * 50)
    sub.answers(path, Answer(status=500))
    ids = world.emit("crm", 500)
    world.workers(2)
    until(lambda: world.registry.health(["crm"])["crm"].open)
    sub.answers(path, Answer())
    world.wait_for(path, ids, FIRST_PROBE_S + PATIENCE_S)
    assert sorted(sub.taken(path)) == sorted(ids)
    hits = sub.hits(path)
    refused = [hit for hit in hits if hit.status == 500]
    assert 10 <= len(refused) <= BEFORE_OPEN
    probe = hits[len(refused)]
    assert probe.at >= refused[9].at + FIRST_PROBE_S


def test_an_endpoint_that_stays_down_gets_single_probes_that_become_rarer(long_run: LongRun) -> None:
    sub = long_run.world.subscriber
    until(lambda: len(sub.hits("/down")) >= 10)
    opened = sub.hits("/down")[9].at

    def probes() -> list[float]:
        return [hit.at for hit in sub.hits("/down") if hit.at >= opened + FIRST_PROBE_S]

    until(lambda: len(probes()) >= 2, 3 * FIRST_PROBE_S + PATIENCE_S)
    assert len(sub.hits("/down")) - len(probes()) <= BEFORE_OPEN
    waits = [later - earlier for earlier, later in pairwise(probes())]
    # Each probe waits twice as long as the one before, a minute at most.
    expected = [min(60.0, FIRST_PROBE_S * 2**number) for number in range(1, len(waits) + 1)]
    assert all(wait >= least for wait, least in zip(waits, expected, strict=True))
    assert long_run.world.backlog("down") == len(long_run.down)
