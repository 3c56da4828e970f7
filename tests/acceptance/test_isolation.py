"""Subscribers that hang, fail or are down cost the others nothing."""

from collections.abc import Callable

from tests.acceptance.subscriber import Answer, closed_port
from tests.acceptance.world import World, until

EACH = 60
HANGING = ("hang-1", "hang-2", "hang-3")
FAILING = ("fail-1", "fail-2")
HEALTHY = ("well-1", "well-2", "well-3", "well-4")


def test_healthy_endpoints_get_everything_while_others_hang(make_world: Callable[..., World]) -> None:
    # Each of the hanging endpoints alone could fill this worker: 16 requests at once, and 32 slow ones.
    world = make_world(
        delivery__delay=0.3,
        delivery__timeout=25,
        worker__max_in_flight=16,
        worker__max_slow=32,
    )
    sub = world.subscriber
    with closed_port() as nobody:
        down = f"http://127.0.0.1:{nobody.getsockname()[1]}/"
        world.endpoint("down", url=down, mail_classes=("ill",), retry_delays=(0.5,) * 50)
        for name in HANGING:
            sub.answers(world.endpoint(name, mail_classes=("ill",)), Answer(held=True))
        for name in FAILING:
            path = world.endpoint(name, mail_classes=("ill",), retry_delays=(0.5,) * 50)
            sub.answers(path, Answer(status=500))
        for name in HEALTHY:
            world.endpoint(name, mail_classes=("well",))
        world.emit("ill", EACH)
        world.workers(1)
        until(lambda: all(sub.waiting(f"/{name}") for name in HANGING))
        held = {name: sub.waiting(f"/{name}") for name in HANGING}

        # While these are held: once what is due already, once what comes due meanwhile.
        for _ in range(2):
            ids = world.emit("well", EACH)
            for name in HEALTHY:
                world.wait_for(f"/{name}", ids)
        for name in HANGING:
            assert all(hit.waits for hit in held[name]), "the hanging requests ended before the healthy ones"
            assert len(sub.hits(f"/{name}")) < EACH
        for name in HEALTHY:
            assert len(sub.hits(f"/{name}")) == 2 * EACH
        for name in HANGING:
            sub.release(f"/{name}")


def test_seventy_slow_subscribers_that_answer_in_the_end_starve_nobody(make_world: Callable[..., World]) -> None:
    # They are never failures, so no breaker helps: together they have more queues than a worker serves at a time,
    # and a backlog to read ahead.
    world = make_world(delivery__delay=0.3)
    slow = [f"slow-{number}" for number in range(70)]
    for name in slow:
        world.subscriber.answers(world.endpoint(name, mail_classes=("ill",)), Answer(wait=3.0))
    well = world.endpoint("well", mail_classes=("well",))
    world.emit("ill", 80)
    world.workers(1)
    until(lambda: all(world.subscriber.hits(f"/{name}") for name in slow))
    world.wait_for(well, world.emit("well", 200))
    for name in slow:
        assert len(world.subscriber.hits(f"/{name}")) < 80, "the slow ones were done before the healthy one was"
