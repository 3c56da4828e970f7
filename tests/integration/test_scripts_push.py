"""push: the events of one emit, in every queue or in none; and the time at which each queue is looked at."""

import pytest
import redis

from kasplo_notify.errors import QueueFull
from kasplo_notify.stored import StoredEvent
from tests.integration.shard import DAY, DELAY, HOUR, Item, Shard, packed

on_the_server = pytest.mark.parametrize("wire", ["server"], indirect=True)


def test_an_event_is_in_every_queue_that_it_was_routed_to(shard: Shard) -> None:
    assert shard.push("a", "b", queues=["crm.0", "stats.3"]) == ("pushed", 2)
    assert shard.new("crm.0") == shard.new("stats.3") == ["a", "b"]
    assert shard.counters() == {"emitted": "2"}


def test_what_is_stored_is_byte_for_byte_what_was_pushed(shard: Shard) -> None:
    shard.push("a", size=1000)
    ((_, fields),) = shard.client.xrange(shard.keys("new:crm.0"))
    assert fields == {b"e": packed("a", 1000)}
    assert StoredEvent.unpack(fields[b"e"]).id == "a"


def test_a_queue_is_looked_at_one_ms_after_its_delay(shard: Shard) -> None:
    before = shard.now()
    shard.push("a")
    assert before + DELAY < (shard.score() or 0) <= shard.now() + DELAY + 1


def test_a_push_by_an_old_version_of_the_registry_changes_nothing(shard: Shard) -> None:
    shard.client.set(shard.keys("version"), 8)
    before = shard.dump()
    assert shard.push("a", version="7", token="t", own=True) == ("stale", 8)
    assert shard.dump() == before
    assert shard.push("a", version="8") == ("pushed", 1)


def test_a_push_that_was_applied_is_not_applied_again(shard: Shard) -> None:
    shard.push("a", "b", token="t")
    before = shard.dump()
    assert shard.push("a", "b", token="t") == ("repeated", 0)
    assert shard.dump() == before


def test_a_callers_own_id_is_pushed_once_within_an_hour(shard: Shard) -> None:
    shard.push("a", own=True, token="t1")
    assert shard.push("a", "b", own=True, token="t2") == ("pushed", 1)
    assert shard.new() == ["a", "b"]
    assert HOUR - 60_000 < shard.client.pttl(shard.keys("pushed:a")) <= HOUR


def test_an_id_twice_in_one_push_is_one_event(shard: Shard) -> None:
    assert shard.push("a", "a", own=True) == ("pushed", 1)
    assert shard.new() == ["a"]


def test_the_ids_that_a_chunk_made_are_known_for_a_minute(shard: Shard) -> None:
    chunk = ["msg_aa-0", "msg_aa-1"]
    shard.push(*chunk, token="msg_aa.")
    assert shard.push(*chunk, own=True, token="other") == ("pushed", 0)
    assert shard.push("msg_bb-0", own=True, token="another") == ("pushed", 1)
    assert shard.new() == [*chunk, "msg_bb-0"]
    assert 0 < shard.client.pttl(shard.keys("pushed:msg_aa.")) <= 60_000


@pytest.mark.parametrize("derived", ["msg_aa", "msg_aa-2", "msg_aa-00", "msg_aa-0-1", "msg_aa-1x", "msg_aa-"])
def test_an_id_that_only_looks_like_one_of_a_chunk_is_another_event(shard: Shard, derived: str) -> None:
    shard.push("msg_aa-0", "msg_aa-1", token="msg_aa.")
    assert shard.push(derived, own=True, token="other") == ("pushed", 1)


def test_a_push_that_arrives_after_its_events_were_completed_one_by_one_changes_nothing(shard: Shard) -> None:
    """It was held up in the network for longer than its producer waited."""
    assert shard.push("msg_aa-0", own=True, token="u") == ("pushed", 1)
    assert shard.push("msg_aa-0", "msg_aa-1", token="msg_aa.") == ("repeated", 0)
    assert shard.new() == ["msg_aa-0"]
    # And those that are not completed yet are not taken for pushed.
    assert shard.push("msg_aa-0", "msg_aa-1", own=True, token="v") == ("pushed", 1)
    assert shard.new() == ["msg_aa-0", "msg_aa-1"]
    assert HOUR - 60_000 < shard.client.pttl(shard.keys("pushed:msg_aa.")) <= HOUR


def test_an_id_behind_those_of_a_chunk_does_not_make_it_forgotten(shard: Shard) -> None:
    shard.push("msg_aa-0", "msg_aa-1", token="msg_aa.")
    assert shard.push("msg_aa-2", own=True, token="u") == ("pushed", 1)
    assert shard.push("msg_aa-0", "msg_aa-1", own=True, token="v") == ("pushed", 0)


def test_a_single_push_that_arrives_after_its_event_was_completed_changes_nothing(shard: Shard) -> None:
    assert shard.push("msg_aa", own=True, token="u") == ("pushed", 1)
    assert shard.push("msg_aa", token="msg_aa") == ("repeated", 0)
    assert shard.new() == ["msg_aa"]


def test_an_event_that_nobody_wants_is_counted(shard: Shard) -> None:
    assert shard.push("a", "b", queues=[]) == ("pushed", 2)
    assert shard.counters() == {"emitted": "2", "unrouted": "2"}
    assert shard.names() == {"counters"}


def test_a_script_that_the_server_forgot_is_given_to_it_again(shard: Shard) -> None:
    shard.push("a")
    shard.client.script_flush()
    assert shard.push("b") == ("pushed", 1)
    assert shard.new() == ["a", "b"]


# --- the time of a queue ---------------------------------------------------------------------------------------------


def test_a_new_event_does_not_wait_behind_a_retry_in_eight_hours(shard: Shard) -> None:
    shard.put_retry("crm.0", "old", due_in=8 * HOUR)
    shard.push("a")
    assert (shard.score() or 0) <= shard.now() + DELAY + 1


def test_a_push_never_puts_off_what_is_due_earlier(shard: Shard) -> None:
    shard.put("crm.0", "old")
    before = shard.score()
    shard.push("a")
    assert shard.score() == before


def test_a_push_never_touches_the_lease_of_an_owner(shard: Shard) -> None:
    shard.hold("drain1")
    shard.client.zadd(shard.keys("schedule"), {"crm.0": shard.now() + DAY})
    before = shard.score()
    shard.push("a")
    assert (shard.score(), shard.owner()) == (before, "drain1")


@pytest.mark.parametrize("reason", ["operator", "gone", "removing"])
def test_a_push_schedules_nothing_for_a_paused_endpoint(shard: Shard, reason: str) -> None:
    shard.set_health(paused=reason)
    shard.push("a")
    assert shard.score() is None
    assert shard.new() == ["a"]


def test_a_push_does_not_look_before_an_endpoint_that_asked_for_peace(shard: Shard) -> None:
    gate = shard.now() + HOUR
    shard.set_health(not_before=gate)
    shard.push("a")
    assert shard.score() == gate


@pytest.mark.parametrize("probing", [False, True])
def test_a_push_does_not_look_before_the_next_probe(shard: Shard, *, probing: bool) -> None:
    gate = shard.now() + HOUR
    if probing:
        shard.set_health(open=1, probe_at=1, probe="drain1 crm.1", probe_until=gate)
    else:
        shard.set_health(open=1, probe_at=gate)
    shard.push("a")
    assert shard.score() == gate


# --- caps ------------------------------------------------------------------------------------------------------------


def test_beyond_max_backlog_the_oldest_become_dead_letters(shard: Shard) -> None:
    shard.push("a", "b", "c", cap=3)
    shard.push("d", "e", cap=3)
    assert shard.new() == ["c", "d", "e"]
    assert shard.dead() == [("a", "backlog_full"), ("b", "backlog_full")]
    assert shard.dead_bytes() == len(packed("a")) + len(packed("b"))
    assert shard.stats()["dead"] == 2


def test_beyond_max_backlog_retries_go_first_as_they_are_older(shard: Shard) -> None:
    shard.put_retry("crm.0", "old", due_in=HOUR, attempts=2)
    shard.push("a", "b", "c", cap=2)
    assert shard.dead() == [("old", "backlog_full"), ("a", "backlog_full")]
    assert not shard.retries()
    ((_, letter), _) = shard.client.xrange(shard.keys("dead:crm"))
    assert letter[b"p"].startswith(b"2,0,")


def test_a_backlog_that_is_far_too_long_is_cut_in_bounded_steps(shard: Shard) -> None:
    shard.push(*(f"e{number}" for number in range(100)))
    shard.push("last", cap=10)
    assert len(shard.dead()) == 2 * 1 + 8
    assert len(shard.new()) == 91


def test_of_an_owned_queue_only_what_its_owner_cannot_hold_becomes_dead_letters(shard: Shard) -> None:
    owned = shard.hold("drain1", events=3)
    shard.push("a", cap=1)
    assert len(shard.new()) == 4
    assert not shard.dead()
    for first in range(0, 600, 100):
        shard.push(*(f"b{number}" for number in range(first, first + 100)), cap=1, token=f"t{first}")
    assert len(shard.new()) == 512
    assert len(shard.dead()) == 604 - 512
    entries = {ref for ref, _ in shard.client.xrange(shard.keys("new:crm.0"), count=3)}
    assert entries == set(owned), "what the owner has in flight is where it was"


def test_dead_letters_of_a_full_backlog_are_bounded_in_bytes_and_what_falls_out_is_counted(shard: Shard) -> None:
    size = len(packed("a"))
    shard.push("a", "b", "c", "d", "e", cap=1, dead_bytes=2 * size)
    assert shard.new() == ["e"]
    assert [event_id for event_id, _ in shard.dead()] == ["c", "d"]
    assert shard.dead_bytes() == 2 * size
    assert shard.stats()["dropped"] == 2
    assert shard.counters()["dropped"] == "2"


# --- a full server ---------------------------------------------------------------------------------------------------


@on_the_server
def test_a_full_server_refuses_a_push_and_stores_nothing_of_it(shard: Shard) -> None:
    shard.push("a", token="t")
    before = shard.dump()
    shard.client.config_set("maxmemory", 1)
    with pytest.raises(QueueFull, match=r"maxmemory.*try again"):
        shard.push("b", "c", queues=["crm.0", "stats.0"], token="u", own=True)
    assert shard.dump() == before


@on_the_server
def test_on_a_full_server_queued_events_are_claimed_settled_and_released(shard: Shard) -> None:
    shard.push("a", "b", "c")
    shard.let_pass("crm.0", DELAY + 1)
    shard.client.config_set("maxmemory", 1)
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        shard.client.set("anything", "else")
    (claimed,) = shard.claim().queues
    assert claimed.ids == ["a", "b", "c"]
    a, b, c = (event.ref for event in claimed.events)
    retried = Item(ref=b, action="retry", delay=HOUR, status=500)
    given_up = Item(ref=c, action="dead", reason="too_old", attempt="")
    assert shard.settle("drain1", Item(ref=a), retried, given_up).applied == 3
    assert shard.renew("drain1", "crm.0")[0][0]
    assert shard.release("drain1", "crm.0")[0] == 1
    assert list(shard.retries()) == ["b"]
    assert shard.dead() == [("c", "too_old")]
    assert shard.new() == []
