"""settle: each event takes its way once, whatever runs twice and whoever comes late."""

import pytest

from kasplo_notify.stored import Progress
from tests.integration.shard import DAY, DELAY, HOUR, Item, Shard, failed, packed


def test_a_delivered_event_is_gone(shard: Shard) -> None:
    first, second = shard.hold(events=2)
    assert shard.settle("drain1", Item(ref=first)).applied == 1
    assert shard.new() == ["e1"]
    assert shard.settle("drain1", Item(ref=second)).applied == 1
    assert shard.new() == []


def test_a_delivered_retry_is_gone(shard: Shard) -> None:
    shard.hold(events=0)
    member = shard.put_retry("crm.0", "a")
    assert shard.settle("drain1", Item(kind="r", ref=member, attempt=2)).applied == 1
    assert shard.retries() == {}


def test_a_failed_event_waits_for_its_next_attempt(shard: Shard) -> None:
    (ref,) = shard.hold()
    before = shard.now()
    shard.settle("drain1", failed(ref, delay=60_000, progress=Progress(1, 0, 4711)))
    ((event_id, (progress, due)),) = shard.retries().items()
    assert (event_id, progress) == ("e0", b"1,0,4711")
    assert before + 60_000 <= due <= shard.now() + 60_000
    assert shard.new() == []


def test_a_failed_retry_takes_its_new_progress_along_byte_for_byte(shard: Shard) -> None:
    shard.hold(events=0)
    member = shard.put_retry("crm.0", "a", attempts=1, size=500)
    shard.settle("drain1", failed(member, kind="r", delay=HOUR, progress=Progress(2, 1, 4711)))
    assert shard.client.zrange(shard.keys("retry:crm.0"), 0, -1) == [b"2,1,4711\n" + packed("a", 500)]


def test_a_settled_batch_may_be_settled_again_and_changes_nothing(shard: Shard) -> None:
    """Its reply was lost: the drain sends it again."""
    refs = shard.hold(events=4)
    again = [shard.put_retry("crm.0", f"r{number}") for number in range(3)]
    batch = [
        Item(kind="r", ref=again[0]),
        failed(again[1], kind="r", progress=Progress(2, 0, 1)),
        failed(again[2], kind="r", action="dead", reason="attempts_used_up"),
        Item(ref=refs[0]),
        failed(refs[1]),
        Item(ref=refs[2], action="dead", reason="too_old", attempt=""),
        failed(refs[3], action="pause", reason="gone", status=410),
    ]
    assert shard.settle("drain1", *batch).applied == 7
    before = shard.dump()
    assert shard.settle("drain1", *batch).applied == 0
    assert shard.dump() == before


def test_half_of_a_batch_may_be_settled_already(shard: Shard) -> None:
    refs = shard.hold(events=2)
    shard.settle("drain1", Item(ref=refs[0]))
    assert shard.settle("drain1", Item(ref=refs[0]), Item(ref=refs[1])).applied == 1
    assert shard.stats()["delivered"] == 2


# --- fencing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["retry", "dead", "pause"])
@pytest.mark.parametrize("owner", ["drain2", None])
def test_from_a_drain_that_lost_the_queue_a_failure_changes_nothing(
    shard: Shard, action: str, owner: str | None
) -> None:
    (ref,) = shard.hold("drain2")
    member = shard.put_retry("crm.0", "again")
    if owner is None:
        shard.release("drain2", "crm.0")
    before = shard.dump()
    items = [failed(ref, action=action), failed(member, kind="r", action=action)]
    assert shard.settle("drain1", *items).applied == 0
    assert shard.dump() == before


def test_from_a_drain_that_lost_the_queue_a_delivery_still_counts(shard: Shard) -> None:
    (ref,) = shard.hold("drain2")
    member = shard.put_retry("crm.0", "again")
    assert shard.settle("drain1", Item(ref=ref), Item(ref=member, kind="r")).applied == 2
    assert (shard.new(), shard.retries()) == ([], {})
    assert shard.owner() == "drain2"


def test_a_late_delivery_takes_nothing_from_what_the_new_owner_did_with_the_event(shard: Shard) -> None:
    (ref,) = shard.hold("drain2")
    shard.settle("drain2", failed(ref))
    before = shard.dump()
    assert shard.settle("drain1", Item(ref=ref)).applied == 0
    assert shard.dump() == before


# --- dead letters ----------------------------------------------------------------------------------------------------


def test_a_dead_letter_says_why_and_after_how_many_attempts(shard: Shard) -> None:
    (ref,) = shard.hold()
    reason = {"reason": "attempts_used_up", "detail": "the subscriber answered 500", "progress": Progress(13, 0, 1)}
    shard.settle("drain1", failed(ref, action="dead", attempt=13, **reason))
    ((_, letter),) = shard.client.xrange(shard.keys("dead:crm"))
    assert letter == {
        b"q": b"crm.0",
        b"r": b"attempts_used_up",
        b"d": b"the subscriber answered 500",
        b"p": b"13,0,1",
        b"e": packed("e0"),
    }
    assert (shard.new(), shard.retries()) == ([], {})
    assert shard.dead_bytes() == len(packed("e0"))
    assert shard.stats() == {"dead": 1, "failed": 1, "5xx": 1, "ms10": 1}


def test_dead_letters_are_bounded_in_bytes_and_what_falls_out_is_counted(shard: Shard) -> None:
    refs = shard.hold(events=5)
    given_up = [Item(ref=ref, action="dead", reason="too_old", attempt="") for ref in refs]
    size = len(packed("e0"))
    shard.settle("drain1", *given_up, dead_bytes=2 * size + size // 2)
    assert [event_id for event_id, _ in shard.dead()] == ["e3", "e4"]
    assert shard.dead_bytes() == 2 * size
    assert shard.stats()["dropped"] == 3
    assert shard.counters() == {"dropped": "3"}


def test_dead_letters_are_bounded_in_age(shard: Shard) -> None:
    (ref,) = shard.hold()
    old = shard.now() - DAY - 1000
    shard.client.xadd(shard.keys("dead:crm"), {"q": "crm.0", "r": "too_old", "e": packed("old")}, id=f"{old}-0")
    shard.client.hset(shard.keys("dead"), "crm", len(packed("old")))
    shard.settle("drain1", Item(ref=ref, action="dead", reason="too_old", attempt=""), dead_keep=DAY)
    assert [event_id for event_id, _ in shard.dead()] == ["e0"]
    assert (shard.dead_bytes(), shard.stats()["dropped"]) == (len(packed("e0")), 1)


def test_no_dead_letters_are_kept_when_none_are_wanted(shard: Shard) -> None:
    (ref,) = shard.hold()
    shard.settle("drain1", Item(ref=ref, action="dead", reason="too_old", attempt=""), dead_bytes=0)
    assert (shard.dead(), shard.dead_bytes(), shard.stats()) == ([], None, {"dead": 1, "dropped": 1})


# --- what is counted and logged --------------------------------------------------------------------------------------


def test_attempts_are_counted_by_result_status_and_duration_for_minutes_and_hours(shard: Shard) -> None:
    refs = shard.hold(events=5)
    shard.settle(
        "drain1",
        Item(ref=refs[0], ms=5),
        Item(ref=refs[1], status=204, ms=26),
        failed(refs[2], ms=250),
        failed(refs[3], status="", reason="timeout", ms=10_000),
        failed(refs[4], status=301, ms=60_000),
    )
    expected = {"delivered": 2, "failed": 3, "2xx": 2, "5xx": 1, "3xx": 1, "none": 1}
    durations = {"ms5": 1, "ms50": 1, "ms250": 1, "ms10000": 1, "msinf": 1}
    assert shard.stats(span="h") == shard.stats(span="m") == {**expected, **durations}


def test_counters_of_minutes_live_for_hours_and_those_of_hours_for_days(shard: Shard) -> None:
    (ref,) = shard.hold()
    shard.settle("drain1", Item(ref=ref))
    for span, seconds in (("m", 7200), ("h", 691_200)):
        (key,) = shard.client.keys(shard.keys(f"stats:crm:{span}*"))
        assert seconds - 60 < shard.client.ttl(key) <= seconds


def test_every_failure_is_logged_and_of_the_successes_of_a_batch_one(shard: Shard) -> None:
    refs = shard.hold(events=6)
    shard.settle(
        "drain1",
        *(Item(ref=ref, event_id=f"e{number}") for number, ref in enumerate(refs[:4])),
        failed(refs[4], event_id="e4", excerpt=b"\xff<oops>", ms=12),
        failed(refs[5], event_id="e5", status="", reason="timeout", detail="no answer within 10 s", attempt=3),
    )
    found = shard.client.xrange(shard.keys("attempts:crm"))
    assert [fields[b"id"] for _, fields in found] == [b"e0", b"e4", b"e5"]
    assert found[1][1] == {
        b"id": b"e4",
        b"attempt": b"1",
        b"status": b"500",
        b"ms": b"12",
        b"result": b"retry",
        b"reason": b"http_500",
        b"detail": b"the subscriber answered 500",
        b"excerpt": b"\xff<oops>",
    }


def test_the_log_of_attempts_is_bounded(shard: Shard) -> None:
    refs = shard.hold(events=400)
    for start in range(0, 400, 100):
        shard.settle("drain1", *(failed(ref) for ref in refs[start : start + 100]), attempts=100)
    # Redis trims whole nodes of a stream, 100 entries each.
    assert 100 <= len(shard.attempts()) <= 200


def test_an_event_that_was_never_attempted_is_neither_logged_nor_held_against_its_endpoint(shard: Shard) -> None:
    (ref,) = shard.hold()
    shard.settle("drain1", Item(ref=ref, action="dead", reason="broken_record", attempt="", strike=True))
    assert (shard.attempts(), shard.health(), shard.stats()) == ([], {}, {"dead": 1})


# --- whole lives -----------------------------------------------------------------------------------------------------


def test_when_all_is_delivered_no_queue_is_left(shard: Shard) -> None:
    shard.push("a", "b", queues=["crm.0", "crm.1"])
    for queue in ("crm.0", "crm.1"):
        shard.let_pass(queue, DELAY + 1)
    claim = shard.claim()
    for claimed in claim.queues:
        shard.settle("drain1", *(Item(queue=claimed.queue, ref=event.ref) for event in claimed.events))
    assert shard.release("drain1", *claim.names) == (2, 0, 0)
    assert shard.names() == {"counters", "stats:", "attempts:crm"}


def test_an_event_that_fails_twice_and_is_then_delivered_is_in_one_place_at_any_time(shard: Shard) -> None:
    shard.push("a")
    shard.let_pass("crm.0", DELAY + 1)
    for attempt in (1, 2):
        (event,) = shard.claim().queues[0].events
        shard.settle("drain1", failed(event.ref, kind=event.kind, delay=0, progress=Progress(attempt, 0, 1)))
        assert (shard.new(), list(shard.retries())) == ([], ["a"])
        shard.release("drain1", "crm.0")
    (event,) = shard.claim().queues[0].events
    assert event.ref.startswith(b"2,0,1\n")
    shard.settle("drain1", Item(ref=event.ref, kind="r", attempt=3))
    shard.release("drain1", "crm.0")
    assert shard.names() == {"counters", "stats:", "attempts:crm"}
