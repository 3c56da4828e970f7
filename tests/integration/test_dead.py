"""Dead letters: listed, chosen, replayed and purged in steps; never silently lost."""

import pytest

from kasplo_notify.dead import DeadLetter, DeadLetters, Selection
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.errors import UnknownEndpoint
from kasplo_notify.registry import Registry
from kasplo_notify.stored import Progress, StoredEvent
from tests.integration.shard import HOUR, Shard, packed

EVERYTHING = Selection()


def add(registry: Registry, name: str, queues: int = 1) -> None:
    registry.add(Endpoint(name=name, url=f"https://{name}.example/hook", queues=queues))


def put_dead(
    shard: Shard,
    endpoint: str,
    *event_ids: str,
    age: int = HOUR,
    event_type: str = "scomp",
    queue: int = 0,
) -> list[str]:
    """Store dead letters that died `age` ms ago. Returns their refs."""
    died = shard.now() - age
    refs = []
    for number, event_id in enumerate(event_ids):
        event = StoredEvent(event_id, "promo", b'{"event_type":"%s"}' % event_type.encode()).pack()
        fields: dict[str, str | bytes] = {
            "q": f"{endpoint}.{queue}",
            "r": "attempts_used_up",
            "d": "the subscriber answered 500",
            "p": Progress(13, 0, 1).pack(),
            "e": event,
        }
        ref = shard.client.xadd(shard.keys(f"dead:{endpoint}"), dict(fields), id=f"{died}-{number}")
        shard.client.hincrby(shard.keys("dead"), endpoint, len(event))
        refs.append(ref.decode())
    return refs


def ids(letters: DeadLetters, selection: Selection = EVERYTHING) -> list[str]:
    return [letter.event.id for letter in letters.select(selection) if letter.event]


def test_a_dead_letter_tells_its_whole_story(letters: DeadLetters, shard: Shard) -> None:
    (ref,) = put_dead(shard, "crm", "a", event_type="engine_click")
    event = StoredEvent("a", "promo", b'{"event_type":"engine_click"}')
    (letter,) = letters.select(EVERYTHING)
    assert letter == DeadLetter(
        ref=ref,
        endpoint="crm",
        event=event,
        packed=event.pack(),
        reason="attempts_used_up",
        detail="the subscriber answered 500",
        attempts=13,
    )
    assert (letter.died_ms, letter.event_type) == (int(ref.split("-")[0]), "engine_click")


def test_dead_letters_are_listed_by_endpoint_and_age(letters: DeadLetters, shard: Shard) -> None:
    put_dead(shard, "crm", "b", age=2000)
    put_dead(shard, "ads", "c", age=1000)
    put_dead(shard, "crm", "d", age=500)
    assert ids(letters) == ["c", "b", "d"]
    assert letters.endpoints() == {"ads": len(packed_like("c")), "crm": 2 * len(packed_like("b"))}


def packed_like(event_id: str) -> bytes:
    return StoredEvent(event_id, "promo", b'{"event_type":"scomp"}').pack()


def test_more_than_a_page_is_listed_in_full(letters: DeadLetters, shard: Shard) -> None:
    names = [f"e{number:04}" for number in range(450)]
    put_dead(shard, "crm", *names)
    assert ids(letters) == names
    assert letters.count(EVERYTHING) == 450


def test_a_selection_is_by_endpoint_time_type_and_id(letters: DeadLetters, shard: Shard) -> None:
    put_dead(shard, "ads", "x", age=3 * HOUR)
    put_dead(shard, "crm", "old", age=3 * HOUR)
    put_dead(shard, "crm", "click", age=2 * HOUR, event_type="engine_click")
    (ref,) = put_dead(shard, "crm", "new", age=HOUR)
    died = int(ref.split("-")[0])
    assert ids(letters, Selection(endpoint="crm")) == ["old", "click", "new"]
    assert ids(letters, Selection(endpoint="crm", since_ms=died)) == ["new"]
    assert ids(letters, Selection(endpoint="crm", until_ms=died - 1)) == ["old", "click"]
    assert ids(letters, Selection(since_ms=died - 2 * HOUR + 1, until_ms=died)) == ["click", "new"]
    assert ids(letters, Selection(event_type="engine_click")) == ["click"]
    assert ids(letters, Selection(event_id="x")) == ["x"]
    assert ids(letters, Selection(event_id="x", event_type="engine_click")) == []


def test_an_endpoint_that_never_was_is_unknown(letters: DeadLetters, registry: Registry, shard: Shard) -> None:
    add(registry, "quiet")
    put_dead(shard, "removed", "a")
    assert ids(letters, Selection(endpoint="quiet")) == []
    assert ids(letters, Selection(endpoint="removed")) == ["a"]
    with pytest.raises(UnknownEndpoint, match="did you mean 'removed'"):
        ids(letters, Selection(endpoint="remuved"))


def test_a_dead_letter_that_nobody_can_read_is_listed_with_its_bytes(letters: DeadLetters, shard: Shard) -> None:
    for fields in ({"e": b"\xff\x00", "r": b"\xff", "p": "x"}, {"r": "broken_record"}, {"e": b"1\na\n\nnot json"}):
        shard.client.xadd(shard.keys("dead:crm"), dict(fields))
    shard.client.hset(shard.keys("dead"), "crm", 1)
    first, second, third = letters.select(EVERYTHING)
    assert (first.event, first.packed, first.reason, first.attempts) == (None, b"\xff\x00", "\ufffd", 0)
    assert (second.event, second.packed, second.reason, second.detail) == (None, b"", "broken_record", "")
    assert (third.event_type, third.event and third.event.id) == ("", "a")


# --- replay ----------------------------------------------------------------------------------------------------------


def test_replayed_dead_letters_are_due_at_once_under_the_same_ids(
    letters: DeadLetters, registry: Registry, shard: Shard
) -> None:
    add(registry, "crm", queues=2)
    put_dead(shard, "crm", "a", queue=0)
    put_dead(shard, "crm", "b", queue=1, age=1000)
    assert list(letters.replay(EVERYTHING)) == [2]
    assert (list(shard.retries("crm.0")), list(shard.retries("crm.1"))) == (["a"], ["b"])
    assert sorted(shard.claim().ids) == ["a", "b"]
    assert (letters.count(EVERYTHING), letters.endpoints()) == (0, {})


def test_a_replay_goes_in_steps_and_says_how_far_it_is(letters: DeadLetters, registry: Registry, shard: Shard) -> None:
    add(registry, "ads")
    add(registry, "crm")
    put_dead(shard, "ads", *(f"a{number}" for number in range(150)))
    put_dead(shard, "crm", *(f"c{number}" for number in range(250)))
    assert list(letters.replay(EVERYTHING)) == [100, 150, 250, 350, 400]
    assert (len(shard.retries("ads.0")), len(shard.retries("crm.0"))) == (150, 250)


def test_only_the_selection_is_replayed(letters: DeadLetters, registry: Registry, shard: Shard) -> None:
    add(registry, "crm")
    put_dead(shard, "crm", "a", age=2000)
    put_dead(shard, "crm", "b", age=1000, event_type="engine_click")
    assert list(letters.replay(Selection(event_type="engine_click"))) == [1]
    assert (list(shard.retries()), ids(letters)) == (["b"], ["a"])


def test_what_dies_again_while_a_replay_runs_is_not_replayed_for_ever(
    letters: DeadLetters, registry: Registry, shard: Shard
) -> None:
    add(registry, "crm")
    put_dead(shard, "crm", *(f"a{number}" for number in range(250)))
    replay = letters.replay(EVERYTHING)
    assert next(replay) == 100
    put_dead(shard, "crm", "again", age=-HOUR)
    assert list(replay) == [200, 250]
    assert ids(letters) == ["again"]


@pytest.mark.parametrize("state", ["removed", "being removed"])
def test_dead_letters_of_an_endpoint_that_is_no_more_cannot_be_replayed_and_are_kept(
    letters: DeadLetters, registry: Registry, shard: Shard, state: str
) -> None:
    put_dead(shard, "crm", "a")
    if state == "being removed":
        add(registry, "crm")
        shard.hold("drain1")
        next(registry.remove("crm", drop=False))
    with pytest.raises(UnknownEndpoint, match="`kasplo-notify endpoint add crm URL` first"):
        list(letters.replay(EVERYTHING))
    assert ids(letters) == ["a"]


def test_dead_letters_of_a_removed_endpoint_are_replayed_when_it_was_added_again(
    letters: DeadLetters, registry: Registry, shard: Shard
) -> None:
    add(registry, "crm", queues=4)
    for number in range(4):
        shard.put(f"crm.{number}", f"e{number}")
    list(registry.remove("crm", drop=False))
    add(registry, "crm", queues=2)
    assert list(letters.replay(EVERYTHING)) == [4]
    assert sorted(shard.claim().ids) == ["e0", "e1", "e2", "e3"]


# --- purge -----------------------------------------------------------------------------------------------------------


def test_purged_dead_letters_are_gone_in_steps(letters: DeadLetters, shard: Shard) -> None:
    put_dead(shard, "crm", *(f"a{number}" for number in range(250)))
    assert list(letters.purge(EVERYTHING)) == [100, 200, 250]
    assert shard.names() == set()


def test_only_the_selection_is_purged(letters: DeadLetters, shard: Shard) -> None:
    put_dead(shard, "ads", "a")
    put_dead(shard, "crm", "b", "c")
    assert list(letters.purge(Selection(endpoint="crm", event_id="b"))) == [1]
    assert ids(letters) == ["a", "c"]
    assert letters.endpoints()["crm"] == len(packed_like("c"))


def test_nothing_to_do_is_no_step(letters: DeadLetters) -> None:
    assert list(letters.purge(EVERYTHING)) == []
    assert list(letters.replay(EVERYTHING)) == []


def test_bytes_are_counted_as_they_are_stored(letters: DeadLetters, shard: Shard) -> None:
    shard.push("a", "b", cap=1)
    assert letters.endpoints() == {"crm": len(packed("a"))}
