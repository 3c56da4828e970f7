"""No event leaves before its delay has passed, by Redis' clock; and then it leaves soon."""

from collections.abc import Callable

from tests.acceptance.conftest import LongRun
from tests.acceptance.world import PATIENCE_S, World, scomp, until


def test_none_of_many_events_is_early(make_world: Callable[..., World]) -> None:
    world = make_world(delivery__delay=2)
    path = world.endpoint("crm")
    own = world.endpoint("own", mail_classes=("crm",), delay=0.5)
    world.workers(2)
    # Redis and the subscriber share one clock, so arrivals compare with what Redis said before the emit.
    emitted = {}
    for number in range(200):
        before = world.now()
        emitted[world.notifier.emit(scomp(number), mail_class="crm").id] = before
    for where, delay in ((path, 2.0), (own, 0.5)):
        world.wait_for(where, emitted)
        waited = [hit.at - emitted[hit.id] for hit in world.subscriber.hits(where)]
        assert len(waited) == 200
        assert min(waited) >= delay
        assert max(waited) < delay + PATIENCE_S


def test_an_event_is_held_for_the_real_thirty_seconds(long_run: LongRun) -> None:
    sub = long_run.world.subscriber
    until(lambda: len(sub.hits("/real")) >= 6, 30 + PATIENCE_S)
    hits = sub.hits("/real")
    assert sorted(hit.line.split(" ")[0] for hit in hits) == ["GET"] * 3 + ["POST"] * 3
    waited = [hit.at - long_run.emitted[hit.id] for hit in hits]
    assert min(waited) >= 30.0
    assert max(waited) < 30.0 + PATIENCE_S
