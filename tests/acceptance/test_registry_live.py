"""The registry changes while workers run: each change counts for the next emit, and soon in the workers."""

import time
from collections.abc import Iterator

import pytest

from kasplo_notify.endpoint import Endpoint
from tests.acceptance.subscriber import Answer
from tests.acceptance.world import PATIENCE_S, Flow, World, until

# A drain hears of a change within a second (tests/integration/test_drain.py); the rest is for a busy machine.
EFFECTIVE_S = 2.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("registry"), delivery__delay=0.3) as world:
        world.workers(2)
        yield world


def test_an_endpoint_added_before_emit_began_gets_the_event(world: World) -> None:
    world.endpoint("first", mail_classes=("news",))
    # From here on this producer and the workers know the routes.
    world.wait_for("/first", world.emit("news"))
    for number in range(3):
        name = f"added-{number}"
        path = world.endpoint(name, mail_classes=("news",))
        receipt = world.notifier.emit("scomp", mail_class="NEWS", **someone())
        assert name in receipt.endpoints
        world.wait_for(path, [receipt.id])


def test_an_endpoint_removed_before_emit_began_gets_nothing(world: World) -> None:
    path = world.endpoint("short-lived")
    world.wait_for(path, world.emit("short-lived"))
    remove(world, "short-lived")
    assert world.notifier.emit("scomp", mail_class="short-lived", **someone()).endpoints == ()


def test_a_pause_stops_requests_and_a_resume_sends_what_waited(world: World) -> None:
    path = world.endpoint("pausing")
    # So slow that a worker would keep its queues, and go on with them, for longer than this test looks.
    world.subscriber.answers(path, Answer(wait=1.2))
    ids = world.emit("pausing", 100)
    until(lambda: len(world.subscriber.hits(path)) >= 10)
    world.registry.pause("pausing")
    paused_at = time.time()
    ids += world.emit("pausing", 10)
    time.sleep(2 * EFFECTIVE_S)
    assert [hit for hit in world.subscriber.hits(path) if hit.at > paused_at + EFFECTIVE_S] == []
    assert world.backlog("pausing") == len(ids) - len(world.subscriber.hits(path)) > 10
    world.subscriber.answers(path, Answer())
    world.registry.resume("pausing")
    world.wait_for(path, ids)
    assert sorted(hit.id for hit in world.subscriber.hits(path)) == sorted(ids)


def test_an_update_moves_the_flow_to_the_new_url(world: World) -> None:
    old = world.endpoint("moving", path="/old")
    with Flow(world, "moving") as flow:
        world.wait_for(old, first(flow, 10))
        changed = Endpoint(name="moving", url=world.subscriber.url("/new"), mail_classes=("moving",), method="GET")
        world.registry.update("moving", lambda _: changed)
        moved_at = time.time()
        until(lambda: len(world.subscriber.hits("/new")) > 10)
        time.sleep(EFFECTIVE_S)
    until(lambda: len(world.subscriber.hits(old)) + len(world.subscriber.hits("/new")) >= len(flow.ids))
    assert [hit for hit in world.subscriber.hits(old) if hit.at > moved_at + EFFECTIVE_S] == []
    assert sorted(hit.id for path in (old, "/new") for hit in world.subscriber.hits(path)) == sorted(flow.ids)
    assert {hit.line for hit in world.subscriber.hits("/new")} == {"GET /new HTTP/1.1"}


def test_a_longer_and_a_shorter_delay_count_for_what_waits(world: World) -> None:
    path = world.endpoint("hurried", delay=3600)
    ids = world.emit("hurried", 5)
    changed = Endpoint(name="hurried", url=world.subscriber.url(path), mail_classes=("hurried",), delay=0)
    world.registry.update("hurried", lambda _: changed)
    world.wait_for(path, ids)


@pytest.mark.parametrize("drop", [False, True])
def test_remove_takes_the_whole_backlog(world: World, *, drop: bool) -> None:
    name = f"removed-{drop}".lower()
    path = world.endpoint(name, retry_delays=(3600,))
    world.subscriber.answers(path, Answer(status=500))
    attempted = world.emit(name, 4)
    until(lambda: world.registry.backlog([name])[name].retrying == 4)
    world.registry.pause(name)
    waiting = world.emit(name, 700)
    assert world.backlog(name) == 704
    remove(world, name, drop=drop)
    assert name not in world.registry.endpoints()
    if drop:
        assert name not in dict(world.redis.hgetall(world.registry.store.keys("dead")))
    else:
        letters = world.dead(name)
        assert {letter.reason for letter in letters} == {"endpoint_removed"}
        assert sorted(letter.event.id for letter in letters if letter.event) == sorted(attempted + waiting)
    # The name is free again, and its past does not come back.
    world.endpoint(name, path=f"{path}/again")
    world.wait_for(f"{path}/again", ids := world.emit(name, 3))
    assert sorted(hit.id for hit in world.subscriber.hits(f"{path}/again")) == sorted(ids)


def test_remove_while_its_requests_are_in_flight_loses_nothing(world: World) -> None:
    path = world.endpoint("busy")
    world.subscriber.answers(path, Answer(held=True))
    ids = world.emit("busy", 300)
    until(lambda: len(world.subscriber.waiting(path)) >= 4)
    steps = world.registry.remove("busy", drop=False)
    next(steps)
    time.sleep(EFFECTIVE_S)
    started = len(world.subscriber.hits(path))
    world.subscriber.release(path)
    for _ in steps:
        time.sleep(0.05)
    asked = [hit.id for hit in world.subscriber.hits(path)]
    assert len(asked) == started < len(ids)
    assert sorted(asked + [letter.event.id for letter in world.dead("busy") if letter.event]) == sorted(ids)


def someone() -> dict[str, str]:
    return {"email": "a@example.com", "listid": "t", "sendid": "s", "click_tracking_id": ""}


def first(flow: Flow, count: int) -> list[str]:
    """The ids of the first events of a flow, once they were emitted."""
    until(lambda: len(flow.ids) >= count)
    return flow.ids[:count]


def remove(world: World, name: str, *, drop: bool = False) -> None:
    deadline = time.monotonic() + PATIENCE_S
    for _swept, held in world.registry.remove(name, drop=drop):
        assert time.monotonic() < deadline
        if held:
            time.sleep(0.05)
