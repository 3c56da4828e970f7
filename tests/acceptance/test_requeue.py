"""Whatever is not answered with 2xx is requeued until it is, or until it is a dead letter; nothing is lost."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from kasplo_notify.dead import DeadLetters, Selection
from tests.acceptance.subscriber import Answer, Subscriber, closed_port
from tests.acceptance.world import World, until

OK = Answer()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    # A timeout beyond the tests' patience: where one of them sees a request end sooner, it is the endpoint's own.
    with World(tmp_path_factory.mktemp("requeue"), delivery__delay=0.3, delivery__timeout=25) as world:
        world.workers(1)
        yield world


def test_an_event_answered_500_twice_is_sent_until_it_is_taken(world: World) -> None:
    path = world.endpoint("flaky", retry_delays=(0.4,) * 5)
    world.subscriber.answers(path, Answer(status=500), Answer(status=503), OK)
    ids = world.emit("flaky")
    world.wait_for(path, ids)
    hits = world.subscriber.hits(path)
    assert [(hit.status, hit.attempt) for hit in hits] == [(500, 1), (503, 2), (200, 3)]
    assert {hit.id for hit in hits} == set(ids)
    assert len({hit.body for hit in hits}) == 1
    # Each delay is multiplied with at least 0.5.
    assert all(later.at - earlier.at >= 0.2 for earlier, later in pairwise(hits))
    until(lambda: world.backlog("flaky") == 0)


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_holds_the_whole_endpoint(world: World, status: int) -> None:
    path = world.endpoint(f"throttled{status}", retry_delays=(0.1,) * 5)
    world.subscriber.answers(path, Answer(status=status, headers=(("Retry-After", "2"),)), OK)
    ids = world.emit(f"throttled{status}")
    until(lambda: world.subscriber.hits(path))
    ids += world.emit(f"throttled{status}", 20)
    world.wait_for(path, ids)
    first, *others = world.subscriber.hits(path)
    assert first.status == status
    assert sorted(hit.id for hit in others) == sorted(ids)
    assert min(hit.at for hit in others) >= first.at + 2.0


def test_410_pauses_the_endpoint_and_resume_sends_everything(world: World) -> None:
    path = world.endpoint("gone")
    world.subscriber.answers(path, Answer(status=410))
    ids = world.emit("gone")
    until(lambda: world.registry.health(["gone"])["gone"].paused == "gone")
    ids += world.emit("gone", 10)
    # An event of another endpoint shows that the delay of these has passed as well.
    bystander = world.endpoint("bystander")
    world.wait_for(bystander, world.emit("bystander"))
    assert len(world.subscriber.hits(path)) == 1
    assert world.backlog("gone") == len(ids)
    world.subscriber.answers(path, OK)
    world.registry.resume("gone")
    world.wait_for(path, ids)
    assert sorted(world.subscriber.taken(path)) == sorted(ids)


def test_a_redirect_is_not_followed_and_counts_as_a_failure(world: World) -> None:
    path = world.endpoint("moved", retry_delays=(0.2,) * 5)
    location = (("Location", world.subscriber.url("/elsewhere")),)
    world.subscriber.answers(path, Answer(status=302, headers=location), Answer(status=307, headers=location), OK)
    world.wait_for(path, world.emit("moved"))
    assert [hit.status for hit in world.subscriber.hits(path)] == [302, 307, 200]
    assert world.subscriber.hits("/elsewhere") == []


def test_events_wait_for_a_server_that_is_down(world: World) -> None:
    listener = closed_port()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/down"
    world.endpoint("down", url=address, retry_delays=(0.4,) * 50)
    ids = world.emit("down")
    failed = world.registry.store.keys("attempts:down")
    until(lambda: len(world.registry.store.read(("XRANGE", failed, "-", "+"))[0]) >= 2, what="a second attempt")
    with Subscriber(listener) as subscriber:
        until(lambda: subscriber.taken("/down") == ids)
        assert subscriber.hits("/down")[0].attempt >= 3


def test_an_answer_that_takes_too_long_is_not_waited_for(world: World) -> None:
    path = world.endpoint("slow", timeout=0.5, retry_delays=(0.1,) * 5)
    world.subscriber.answers(path, Answer(held=True), OK)
    world.wait_for(path, world.emit("slow"))
    first, second = world.subscriber.hits(path)
    assert first.gone
    assert (first.attempt, second.attempt) == (1, 2)
    assert second.at - first.at >= 0.5


def test_after_the_last_attempt_an_event_is_a_dead_letter_that_can_be_replayed(world: World) -> None:
    path = world.endpoint("broken", retry_delays=(0.2, 0.2))
    world.subscriber.answers(path, Answer(status=500))
    ids = world.emit("broken", 2)
    until(lambda: len(world.dead("broken")) == 2)
    hits = world.subscriber.hits(path)
    assert sorted((hit.id, hit.attempt) for hit in hits) == sorted((i, n) for i in ids for n in (1, 2, 3))
    for letter in world.dead("broken"):
        assert (letter.reason, letter.attempts) == ("attempts_used_up", 3)
        assert letter.event is not None
        assert letter.event.id in ids
        assert letter.event_type == "scomp"
    assert world.backlog("broken") == 0

    world.subscriber.answers(path, OK)
    letters = DeadLetters(world.registry.store, world.registry)
    assert list(letters.replay(Selection(endpoint="broken", event_id=ids[0]))) == [1]
    world.wait_for(path, ids[:1])
    assert [letter.event.id for letter in world.dead("broken") if letter.event] == ids[1:]
    assert list(letters.replay(Selection(endpoint="broken"))) == [1]
    world.wait_for(path, ids)
    assert {hit.body for hit in world.subscriber.hits(path)} == {hit.body for hit in hits}
    assert world.dead("broken") == []


def test_an_event_that_is_too_old_is_a_dead_letter_however_many_attempts_are_left(
    make_world: Callable[..., World],
) -> None:
    world = make_world(delivery__delay=0.3, delivery__max_age=1.5)
    path = world.endpoint("never", retry_delays=(0.3,) * 100)
    world.subscriber.answers(path, Answer(status=500))
    world.workers(1)
    emitted_at = world.now()
    world.emit("never")
    until(lambda: world.dead("never"))
    (letter,) = world.dead("never")
    assert letter.reason == "too_old"
    assert letter.died_ms / 1000 - emitted_at >= 0.3 + 1.5
    assert letter.attempts == len(world.subscriber.hits(path)) < 100
