"""An endpoint that only fails is left alone but for single probes, and gets everything when it is well again."""

from collections.abc import Callable

from tests.acceptance.subscriber import Answer
from tests.acceptance.world import PATIENCE_S, World, until

WAITING = 500
# Ten failures open the breaker; more are made in the 50 ms until a worker's answers are in Redis.
BEFORE_OPEN = 150
FIRST_PROBE_S = 5.0


def test_the_breaker_sends_probes_only_and_lets_everything_through_afterwards(
    make_world: Callable[..., World],
) -> None:
    world = make_world(delivery__delay=0.3)
    sub = world.subscriber
    down = world.endpoint("down", retry_delays=(1.0,) * 50)
    better = world.endpoint("better", retry_delays=(1.0,) * 50)
    for path in (down, better):
        sub.answers(path, Answer(status=500))
    world.emit("down", WAITING)
    ids = world.emit("better", WAITING)
    world.workers(2)
    until(lambda: all(health.open for health in world.registry.health(["down", "better"]).values()))
    sub.answers(better, Answer())

    world.wait_for(better, ids, FIRST_PROBE_S + PATIENCE_S)
    assert sorted(sub.taken(better)) == sorted(ids)
    hits = sub.hits(better)
    refused = [hit for hit in hits if hit.status == 500]
    assert len(refused) <= BEFORE_OPEN
    probes = hits[len(refused) :]
    assert probes[0].at >= refused[9].at + FIRST_PROBE_S

    # The other one is still down: a probe after 5 s, the next 10 s after that.
    until(lambda: len(probes_of(world, down)) >= 2, FIRST_PROBE_S * 3 + PATIENCE_S)
    first, second = probes_of(world, down)[:2]
    assert len(sub.hits(down)) - len(probes_of(world, down)) <= BEFORE_OPEN
    assert second - first >= 2 * FIRST_PROBE_S
    assert world.backlog("down") == WAITING


def probes_of(world: World, path: str) -> list[float]:
    """When requests came that were later than the failures that opened the breaker."""
    hits = world.subscriber.hits(path)
    return [hit.at for hit in hits if hit.at >= hits[9].at + FIRST_PROBE_S]
