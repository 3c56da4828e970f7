"""register, pause, resume, remove, replay, purge, repair, backlog: what operators do to an endpoint."""

import pytest

from kasplo_notify.stored import Progress
from tests.integration.shard import DAY, DELAY, HOUR, UNLIMITED, Item, Shard, failed, packed


def register(
    shard: Shard,
    *,
    version: str = "0",
    name: str = "crm",
    delay: int | str = "",
    queues: int = 2,
    kind: str = "changed",
) -> tuple[str, int]:
    keys = (shard.keys.endpoints, shard.keys.routes)
    status, current = shard.run(
        "register", version, name, f"record of {name}", "[]", delay, queues, DELAY, kind, keys=keys
    )
    return status.decode(), int(current)


def remove(shard: Shard, how: str = "keep", *, most: int = 500) -> tuple[str, int, int]:
    status, swept, held = shard.run("remove", "crm", how, most, UNLIMITED, DAY, keys=[shard.keys.endpoints])
    return status.decode(), swept, held


# --- register --------------------------------------------------------------------------------------------------------


def test_registering_writes_record_and_routes_and_counts_the_version_up(shard: Shard) -> None:
    assert register(shard, kind="new") == ("registered", 1)
    assert shard.client.hget(shard.keys.endpoints, "crm") == b"record of crm"
    assert shard.client.get(shard.keys.routes) == b"[]"
    assert shard.client.get(shard.keys("version")) == b"1"
    assert shard.health() == {"partitions": "2"}


def test_a_change_by_who_read_an_older_version_changes_nothing(shard: Shard) -> None:
    register(shard, kind="new")
    before = shard.dump()
    assert register(shard, version="0", delay=5, queues=9, kind="removing") == ("stale", 1)
    assert shard.dump() == before


def test_a_shorter_delay_counts_for_what_waits_already(shard: Shard) -> None:
    shard.push("a")
    (arrived,) = (int(ref.split(b"-")[0]) for ref, _ in shard.client.xrange(shard.keys("new:crm.0")))
    register(shard, delay=5000)
    assert shard.score() == arrived + 5001
    register(shard, version="1", delay=HOUR)
    assert shard.score() == arrived + HOUR + 1
    register(shard, version="2")
    assert shard.score() == arrived + DELAY + 1
    assert "delay" not in shard.health()


def test_a_change_leaves_owned_queues_to_their_owner(shard: Shard) -> None:
    shard.hold("drain1")
    before = shard.score()
    register(shard, delay=5000)
    assert (shard.score(), shard.owner()) == (before, "drain1")


def test_with_fewer_queues_the_others_are_still_looked_after(shard: Shard) -> None:
    register(shard, queues=4, kind="new")
    shard.put("crm.3", "a")
    shard.client.delete(shard.keys("schedule"))
    register(shard, version="1", queues=1)
    assert shard.health()["partitions"] == "4"
    assert shard.claim().ids == ["a"]


def test_a_change_keeps_pause_and_breaker(shard: Shard) -> None:
    shard.set_health(paused="operator", open=1, probe_at=17)
    register(shard)
    assert {"paused": "operator", "open": "1", "probe_at": "17"}.items() <= shard.health().items()


def test_a_new_endpoint_does_not_inherit_the_health_of_one_that_had_its_name(shard: Shard) -> None:
    shard.set_health(paused="unregistered", fails=9, open=1, probe_at=shard.now() + HOUR, delay=HOUR, partitions=6)
    shard.put("crm.5", "left over")
    shard.client.delete(shard.keys("schedule"))
    register(shard, queues=2, kind="new")
    assert shard.health() == {"partitions": "6"}
    assert shard.claim().ids == ["left over"]


# --- pause and resume ------------------------------------------------------------------------------------------------


def test_a_paused_endpoint_keeps_its_events_and_takes_new_ones(shard: Shard) -> None:
    shard.set_health(partitions=2)
    shard.put("crm.0", "a")
    shard.put_retry("crm.1", "b")
    assert shard.run("pause", "crm", "operator") == b"operator"
    shard.push("c")
    assert (shard.score("crm.0"), shard.score("crm.1")) == (None, None)
    assert (shard.new(), list(shard.retries("crm.1"))) == (["a", "c"], ["b"])
    assert shard.claim().queues == []


def test_who_pauses_what_is_paused_is_told_the_earlier_reason(shard: Shard) -> None:
    shard.run("pause", "crm", "gone")
    before = shard.dump()
    assert shard.run("pause", "crm", "operator") == b"gone"
    assert shard.dump() == before


def test_a_pause_leaves_an_owned_queue_to_its_owner_who_is_told(shard: Shard) -> None:
    shard.hold("drain1")
    before = shard.score()
    shard.run("pause", "crm", "operator")
    assert (shard.score(), shard.owner()) == (before, "drain1")
    assert shard.renew("drain1", "crm.0")[0][1] == "operator"


def test_resuming_looks_at_every_queue_when_it_is_due(shard: Shard) -> None:
    shard.set_health(partitions=3)
    shard.put("crm.0", "a")
    shard.put_retry("crm.1", "b", due_in=HOUR)
    shard.run("pause", "crm", "operator")
    before = shard.now()
    assert shard.run("resume", "crm", DELAY) == 1
    assert before <= (shard.score("crm.0") or 0) <= shard.now()
    assert shard.score("crm.1") == shard.retries("crm.1")["b"][1]
    assert shard.score("crm.2") is None
    assert shard.claim().ids == ["a"]


def test_age_counts_from_when_an_endpoint_was_resumed(shard: Shard) -> None:
    shard.run("pause", "crm", "operator")
    before = shard.now()
    shard.run("resume", "crm", DELAY)
    shard.put("crm.0", "a")
    assert before <= shard.claim().queues[0].resumed <= shard.now()


def test_resuming_forgets_breaker_and_retry_after(shard: Shard) -> None:
    shard.put("crm.0", "a")
    later = shard.now() + HOUR
    shard.set_health(open=1, probe_at=later, probe_wait=60_000, fails=12, wins=1, not_before=later, failing_since=1)
    shard.claim()
    assert shard.run("resume", "crm", DELAY) == 1
    assert shard.health() == {}
    (claimed,) = shard.claim().queues
    assert (claimed.ids, claimed.probe) == (["a"], False)


def test_resuming_what_is_neither_paused_nor_waiting_says_so(shard: Shard) -> None:
    shard.put("crm.0", "a")
    assert shard.run("resume", "crm", DELAY) == 0
    assert "resumed_at" not in shard.health()


def test_what_is_being_removed_cannot_be_resumed(shard: Shard) -> None:
    shard.set_health(paused="removing")
    before = shard.dump()
    assert shard.run("resume", "crm", DELAY) == b"removing"
    assert shard.dump() == before


# --- remove ----------------------------------------------------------------------------------------------------------


def test_a_removed_endpoints_backlog_becomes_dead_letters(shard: Shard) -> None:
    register(shard, kind="new")
    shard.put("crm.0", "a")
    shard.put_retry("crm.1", "b", due_in=HOUR)
    register(shard, version="1", kind="removing")
    assert remove(shard) == ("removed", 2, 0)
    assert sorted(shard.dead()) == [("a", "endpoint_removed"), ("b", "endpoint_removed")]
    assert shard.names() == {"dead", "dead:crm", "stats:", "version", "routes"}
    assert shard.client.get(shard.keys("version")) == b"3"


def test_a_backlog_is_dropped_when_that_is_asked_for(shard: Shard) -> None:
    register(shard, kind="removing")
    shard.put("crm.0", "a")
    assert remove(shard, "drop") == ("removed", 1, 0)
    assert shard.names() == {"version", "routes"}


def test_a_large_backlog_is_removed_in_steps(shard: Shard) -> None:
    register(shard, kind="removing", queues=2)
    shard.put("crm.0", *(f"a{number}" for number in range(5)))
    shard.put("crm.1", *(f"b{number}" for number in range(5)))
    assert [remove(shard, most=4) for _ in range(3)] == [("removing", 4, 0), ("removing", 4, 0), ("removed", 2, 0)]
    assert len(shard.dead()) == 10


def test_a_removal_whose_command_died_is_found_by_drains(shard: Shard) -> None:
    register(shard, kind="removing", queues=1)
    shard.put("crm.0", "a", "b", "c")
    remove(shard, most=1)
    assert (shard.score() or 0) <= shard.now()
    assert shard.claim().removing == ["crm.0"]
    assert remove(shard) == ("removed", 2, 0)


def test_a_queue_that_a_drain_holds_is_left_until_it_is_released(shard: Shard) -> None:
    register(shard, kind="new")
    (ref, _) = shard.hold("drain1", queue="crm.0", events=2)
    shard.put("crm.1", "b")
    register(shard, version="1", kind="removing")
    assert remove(shard) == ("removing", 1, 1)
    assert (shard.new("crm.0"), shard.owner("crm.0")) == (["e0", "e1"], "drain1")
    assert shard.client.hexists(shard.keys.endpoints, "crm")
    shard.settle("drain1", Item(ref=ref))
    shard.release("drain1", "crm.0")
    assert remove(shard) == ("removed", 1, 0)
    assert [event_id for event_id, _ in shard.dead()] == ["b", "e1"]


def test_a_queue_whose_drain_died_is_swept_after_its_lease(shard: Shard) -> None:
    register(shard, kind="removing")
    shard.hold("drain1", queue="crm.0")
    assert remove(shard)[0] == "removing"
    shard.end_lease("crm.0")
    assert remove(shard) == ("removed", 1, 0)
    assert shard.owner() is None


def test_what_is_not_being_removed_is_not_swept(shard: Shard) -> None:
    register(shard, kind="new")
    shard.put("crm.0", "a")
    before = shard.dump()
    assert remove(shard) == ("not removing", 0, 0)
    assert shard.dump() == before


def test_a_finished_removal_may_be_asked_for_again(shard: Shard) -> None:
    register(shard, kind="removing")
    remove(shard)
    before = shard.dump()
    assert remove(shard) == ("not removing", 0, 0)
    assert shard.dump() == before


# --- replay and purge ------------------------------------------------------------------------------------------------


def bury(shard: Shard, *event_ids: str, queue: str = "crm.0") -> list[bytes]:
    """Have events given up. Returns the refs of their dead letters."""
    for event_id in event_ids:
        (ref,) = shard.put(queue, event_id)
        shard.client.hset(shard.keys("owner"), queue, "undertaker")
        item = Item(ref=ref, queue=queue, action="dead", reason="too_old", attempt="", progress=Progress(13, 0, 1))
        shard.settle("undertaker", item)
        shard.release("undertaker", queue)
    return [ref for ref, _ in shard.client.xrange(shard.keys("dead:crm"))]


def test_a_replayed_dead_letter_is_due_at_once_with_its_attempts_forgotten(shard: Shard) -> None:
    (ref,) = bury(shard, "a")
    before = shard.now()
    assert shard.run("replay", "crm", 1, ref) == 1
    ((event_id, (progress, due)),) = shard.retries().items()
    assert (event_id, progress) == ("a", b"0,0,%d" % due)
    assert before <= due <= shard.now()
    assert shard.claim().ids == ["a"]
    assert {"dead", "dead:crm"} & shard.names() == set()


def test_replaying_twice_is_replaying_once(shard: Shard) -> None:
    refs = bury(shard, "a", "b")
    assert shard.run("replay", "crm", 1, refs[0]) == 1
    before = shard.dump()
    assert shard.run("replay", "crm", 1, refs[0]) == 0
    assert shard.dump() == before
    assert shard.dead_bytes() == len(packed("b"))


def test_a_dead_letter_of_a_queue_that_is_no_more_is_replayed_in_another(shard: Shard) -> None:
    (ref,) = bury(shard, "a", queue="crm.5")
    shard.run("replay", "crm", 2, ref)
    assert list(shard.retries("crm.1")) == ["a"]


def test_replaying_for_a_paused_endpoint_waits_for_the_resume(shard: Shard) -> None:
    (ref,) = bury(shard, "a")
    shard.run("pause", "crm", "operator")
    assert shard.run("replay", "crm", 1, ref) == 1
    assert shard.claim().queues == []
    shard.run("resume", "crm", DELAY)
    assert shard.claim().ids == ["a"]


def test_purged_dead_letters_are_gone_and_their_bytes_too(shard: Shard) -> None:
    refs = bury(shard, "a", "b", "c")
    assert shard.run("purge", "crm", refs[0], refs[2], "1-1") == 2
    assert (shard.dead(), shard.dead_bytes()) == ([("b", "too_old")], len(packed("b")))
    assert shard.run("purge", "crm", *refs) == 1
    assert {"dead", "dead:crm"} & shard.names() == set()


# --- repair ----------------------------------------------------------------------------------------------------------


def test_a_queue_that_was_forgotten_is_put_back_and_reported(shard: Shard) -> None:
    shard.set_health(partitions=2)
    shard.push("a")
    shard.put_retry("crm.1", "b", due_in=HOUR)
    again = shard.score("crm.1")
    shard.client.delete(shard.keys("schedule"))
    assert sorted(shard.repair("crm", "nobody")) == ["crm.0", "crm.1"]
    assert shard.now() < (shard.score("crm.0") or 0) <= shard.now() + DELAY + 1
    assert shard.score("crm.1") == again


def test_repairing_what_is_right_changes_nothing(shard: Shard) -> None:
    shard.set_health(partitions=3)
    shard.put("crm.0", "a")
    shard.hold("drain1", queue="crm.1")
    before = shard.dump()
    assert shard.repair("crm") == []
    assert shard.dump() == before


def test_a_paused_endpoint_is_not_repaired(shard: Shard) -> None:
    shard.put("crm.0", "a")
    shard.run("pause", "crm", "operator")
    assert shard.repair("crm") == []
    assert shard.score() is None


def test_a_queue_that_would_be_looked_at_too_late_is_brought_forward(shard: Shard) -> None:
    """After the clock stepped back by an hour, every time on the schedule is an hour ahead."""
    (ref,) = shard.put("crm.0", "a", age=1000)
    shard.client.zadd(shard.keys("schedule"), {"crm.0": shard.now() + HOUR})
    assert shard.repair("crm") == []
    assert shard.score() == int(ref.split(b"-")[0]) + DELAY + 1


def test_repairing_lets_old_dead_letters_fall_out(shard: Shard) -> None:
    old = shard.now() - DAY - 1000
    shard.client.xadd(shard.keys("dead:crm"), {"q": "crm.0", "r": "too_old", "e": packed("old")}, id=f"{old}-0")
    shard.client.hset(shard.keys("dead"), "crm", len(packed("old")))
    shard.repair("crm")
    assert {"dead", "dead:crm"} & shard.names() == set()
    assert shard.stats() == {"dropped": 1}


# --- backlog ---------------------------------------------------------------------------------------------------------


def backlog(shard: Shard, *endpoints: str) -> list[tuple[int, int, int, int]]:
    _, *rows = shard.run("backlog", DELAY, *endpoints)
    return [(waiting, retrying, dead, int(late)) for waiting, retrying, dead, late in rows]


def test_the_backlog_counts_all_queues_and_says_how_late_the_oldest_event_is(shard: Shard) -> None:
    bury(shard, "dead")
    shard.set_health(partitions=2)
    shard.put("crm.0", "a", "b", age=DELAY + 5000)
    shard.put_retry("crm.1", "c", due_in=-90_000)
    shard.push("d", queues=["quiet.0"])
    before = shard.dump()
    crm, quiet, nobody = backlog(shard, "crm", "quiet", "nobody")
    assert crm[:3] == (2, 1, 1)
    assert 90_000 <= crm[3] < 100_000
    assert (quiet, nobody) == ((1, 0, 0, 0), (0, 0, 0, 0))
    assert shard.dump() == before


def test_how_late_the_oldest_event_is_does_not_depend_on_the_schedule(shard: Shard) -> None:
    """A served queue goes to the back of the line; a paused one is not in it."""
    shard.put("crm.0", "a", age=DELAY + 60_000)
    shard.run("pause", "crm", "operator")
    ((_, _, _, late),) = backlog(shard, "crm")
    assert late >= 59_000


# --- the clock stepped back ------------------------------------------------------------------------------------------


@pytest.fixture
def ahead(shard: Shard) -> Shard:
    """An event whose id is an hour ahead, as a failover to a server with another clock leaves it."""
    future = shard.now() + HOUR
    shard.client.xadd(shard.keys("new:crm.0"), {"e": packed("future")}, id=f"{future}-0")
    shard.client.zadd(shard.keys("schedule"), {"crm.0": future + DELAY + 1})
    return shard


def test_an_event_from_the_future_is_due_a_delay_after_it_was_first_seen(ahead: Shard) -> None:
    before = ahead.now()
    ahead.repair("crm")
    seen = int(ahead._hash("ahead")["crm.0"])
    assert before <= seen <= ahead.now()
    assert ahead.score() == seen + DELAY + 1
    assert ahead.claim().queues == []
    ahead.client.hset(ahead.keys("ahead"), "crm.0", seen - DELAY - 1)
    ahead.repair("crm")
    (claimed,) = ahead.claim().queues
    assert claimed.ids == ["future"]
    assert claimed.events[0].time == seen - DELAY - 1


def test_an_event_from_the_future_is_delivered_once_and_forgotten(ahead: Shard) -> None:
    ahead.client.hset(ahead.keys("ahead"), "crm.0", ahead.now() - DELAY - 1)
    ahead.repair("crm")
    (event,) = ahead.claim().queues[0].events
    ahead.settle("drain1", Item(ref=event.ref))
    ahead.release("drain1", "crm.0")
    assert ahead.names() == {"stats:", "attempts:crm"}


def test_an_event_from_the_future_that_failed_is_an_ordinary_retry(ahead: Shard) -> None:
    ahead.client.hset(ahead.keys("ahead"), "crm.0", ahead.now() - DELAY - 1)
    ahead.repair("crm")
    (event,) = ahead.claim().queues[0].events
    ahead.settle("drain1", failed(event.ref, delay=60_000))
    ahead.release("drain1", "crm.0")
    assert ahead.score() == ahead.retries()["future"][1]
    assert ahead.new() == []


def test_an_event_pushed_behind_one_from_the_future_has_its_own_arrival_and_is_not_early(ahead: Shard) -> None:
    before = ahead.now()
    ahead.push("next")
    assert ahead.new() == ["future", "next"]
    fields = ahead.client.xrange(ahead.keys("new:crm.0"))[1][1]
    assert before <= int(fields[b"t"]) <= ahead.now()
    assert before + DELAY < (ahead.score() or 0) <= ahead.now() + DELAY + 1
    ahead.client.zadd(ahead.keys("schedule"), {"crm.0": 1})
    ahead.client.hset(ahead.keys("ahead"), "crm.0", before - DELAY - 1)
    assert ahead.claim().ids == ["future"]


def test_an_event_pushed_behind_one_from_the_future_is_due_by_its_own_arrival(ahead: Shard) -> None:
    arrived = ahead.now() - DELAY - 1
    ahead.client.xadd(ahead.keys("new:crm.0"), {"e": packed("next"), "t": arrived})
    ahead.client.hset(ahead.keys("ahead"), "crm.0", arrived)
    ahead.client.zadd(ahead.keys("schedule"), {"crm.0": 1})
    (claimed,) = ahead.claim().queues
    assert claimed.ids == ["future", "next"]
    assert claimed.events[1].time == arrived


def test_an_id_a_moment_ahead_is_no_step_of_the_clock(shard: Shard) -> None:
    shard.client.xadd(shard.keys("new:crm.0"), {"e": packed("a")}, id=f"{shard.now() + 500}-0")
    shard.client.zadd(shard.keys("schedule"), {"crm.0": shard.now() + HOUR})
    shard.push("b")
    assert "ahead" not in shard.names()
    assert all(b"t" not in fields for _, fields in shard.client.xrange(shard.keys("new:crm.0")))
