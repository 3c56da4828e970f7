"""claim: who gets which queue, and what of it; one owner at a time, nothing before its time."""

import pytest

from tests.integration.shard import DELAY, HOUR, LEASE, Claim, Item, Shard, packed, read_claim


def test_an_event_is_due_strictly_later_than_its_delay(shard: Shard) -> None:
    """One event for each millisecond around the limit: those that are given out are exactly the due ones."""
    around = shard.now() - DELAY
    ids = [f"{around + offset}-0" for offset in range(-100, 400)]
    for ref in ids:
        shard.client.xadd(shard.keys("new:crm.0"), {"e": packed(ref.removesuffix("-0"))}, id=ref)
    shard.client.zadd(shard.keys("schedule"), {"crm.0": 1})
    claim = shard.claim(per_queue=1000)
    assert claim.ids == [ref.removesuffix("-0") for ref in ids if claim.now > int(ref[:-2]) + DELAY]
    assert 100 <= len(claim.ids) < 500


def test_nothing_is_claimed_before_it_is_due(shard: Shard) -> None:
    shard.push("a")
    claim = shard.claim()
    assert claim.queues == []
    assert claim.first == shard.score()
    assert shard.owner() is None


def test_the_claimer_owns_the_queue_for_the_length_of_its_lease(shard: Shard) -> None:
    (ref,) = shard.put("crm.0", "a")
    claim = shard.claim("drain1")
    (claimed,) = claim.queues
    assert (claimed.queue, claimed.ids, claimed.deaths, claimed.probe) == ("crm.0", ["a"], 0, False)
    assert (claimed.events[0].ref, claimed.events[0].time) == (ref, int(ref.split(b"-")[0]))
    assert claimed.events[0].packed == packed("a")
    assert (shard.owner(), shard.score()) == ("drain1", claim.now + LEASE)


def test_a_queue_has_one_owner(shard: Shard) -> None:
    shard.put("crm.0", "a")
    shard.claim("drain1")
    assert shard.claim("drain2").queues == []
    assert shard.owner() == "drain1"


def test_claiming_takes_nothing_out(shard: Shard) -> None:
    shard.put("crm.0", "a")
    shard.put_retry("crm.0", "b")
    assert sorted(shard.claim().ids) == ["a", "b"]
    assert shard.new() == ["a"]
    assert list(shard.retries()) == ["b"]


def test_new_events_and_retries_are_claimed_together_each_up_to_the_limit(shard: Shard) -> None:
    shard.put("crm.0", *(f"n{number}" for number in range(5)))
    for number in range(5):
        shard.put_retry("crm.0", f"r{number}", due_in=-5000 + number)
    (claimed,) = shard.claim(per_queue=3).queues
    assert claimed.ids == ["n0", "n1", "n2", "r0", "r1", "r2"]
    assert claimed.asked == 3


def test_a_retry_is_not_claimed_before_its_time(shard: Shard) -> None:
    shard.put("crm.0", "a")
    shard.put_retry("crm.0", "later", due_in=HOUR)
    assert shard.claim().ids == ["a"]


def test_an_endpoints_own_delay_counts_instead_of_the_default(shard: Shard) -> None:
    shard.set_health("slow", delay=HOUR)
    shard.put("slow.0", "a")
    shard.client.zadd(shard.keys("schedule"), {"slow.0": 1})
    shard.put("crm.0", "b")
    assert shard.claim().ids == ["b"]


def test_no_more_queues_and_events_are_claimed_than_asked_for(shard: Shard) -> None:
    for number in range(5):
        shard.put(f"crm.{number}", f"a{number}", f"b{number}", age=DELAY + 5000 - number)
    assert shard.claim("drain1", most=2).names == ["crm.0", "crm.1"]
    claim = shard.claim("drain2", events=3)
    assert claim.ids == ["a2", "b2", "a3"]
    assert shard.claim("drain3").names == ["crm.4"]


def test_the_queue_that_is_due_for_longest_is_claimed_first(shard: Shard) -> None:
    for number, age in enumerate([1000, 3000, 2000]):
        shard.put(f"crm.{number}", f"e{number}", age=DELAY + age)
    assert shard.claim().ids == ["e1", "e2", "e0"]


def test_a_queue_without_events_is_claimed_and_given_back_for_good(shard: Shard) -> None:
    shard.client.zadd(shard.keys("schedule"), {"crm.0": 1})
    assert shard.claim().names == ["crm.0"]
    shard.release("drain1", "crm.0")
    assert shard.names() == set()


# --- dead owners -----------------------------------------------------------------------------------------------------


def test_the_queue_of_an_owner_that_fell_silent_is_taken_over(shard: Shard) -> None:
    shard.hold("drain1")
    shard.end_lease("crm.0")
    (claimed,) = shard.claim("drain2").queues
    assert (claimed.ids, claimed.deaths, shard.owner()) == (["e0"], 1, "drain2")


def test_deaths_are_counted_whatever_was_settled_before_them(shard: Shard) -> None:
    """An event that kills its worker has neighbours, and those are delivered."""
    shard.hold("drain1", events=4)
    for deaths in (1, 2, 3):
        shard.end_lease("crm.0")
        (claimed,) = shard.claim(f"drain{deaths + 1}").queues
        assert claimed.deaths == deaths
        shard.settle(f"drain{deaths + 1}", Item(ref=claimed.events[0].ref))


def test_a_drain_that_gave_its_queue_back_did_not_die(shard: Shard) -> None:
    shard.hold("drain1")
    shard.end_lease("crm.0")
    shard.claim("drain2")
    shard.release("drain2", "crm.0")
    assert shard.claim("drain3").queues[0].deaths == 0
    shard.end_lease("crm.0")
    assert shard.claim("drain4").queues[0].deaths == 1


def test_deaths_count_until_the_queue_was_served(shard: Shard) -> None:
    shard.hold("drain1")
    shard.end_lease("crm.0")
    shard.claim("drain2")
    shard.release("drain2", unserved=["crm.0"])
    assert shard.claim("drain3").queues[0].deaths == 1
    shard.release("drain3", "crm.0")
    assert shard.claim("drain4").queues[0].deaths == 0


def test_deaths_count_while_the_endpoint_is_held_off(shard: Shard) -> None:
    """It answers with Retry-After: when a dead drain's queue is found it may not be served yet."""
    shard.hold("drain1")
    shard.run("alone", "drain1", "crm.0", "e0")
    shard.set_health(not_before=shard.now() + 60_000)
    shard.end_lease("crm.0")
    assert shard.claim("drain2").queues == []
    shard.client.hdel(shard.keys("health:crm"), "not_before")
    shard.client.zadd(shard.keys("schedule"), {"crm.0": 0})
    (claimed,) = shard.claim("drain3").queues
    assert (claimed.deaths, claimed.alone) == (1, "1 1 e0")


def test_a_drain_whose_drains_before_it_died_gets_one_event_of_each_kind(shard: Shard) -> None:
    shard.hold("drain1", events=4)
    shard.end_lease("crm.0")
    assert shard.claim("drain2", per_queue=4).queues[0].ids == ["e0"]


def test_what_is_in_flight_for_longer_had_not_just_gone_out(shard: Shard) -> None:
    """A slow subscriber's answer is awaited, and the worker dies of something else."""
    shard.hold("drain1")
    for deaths in (1, 2):
        # It went out five seconds ago, and a second ago its drain said that it was alive.
        shard.client.hset(shard.keys("alone"), "crm.0", f"{shard.now() - 5000} e0")
        shard.end_lease("crm.0")
        assert shard.claim(f"drain{deaths + 1}", lease=1000).queues[0].alone == f"0 {deaths} e0"
    # Quick ones count one after another.
    shard.run("alone", "drain3", "crm.0", "e0")
    shard.end_lease("crm.0")
    assert shard.claim("drain4").queues[0].alone == "1 3 e0"


def test_an_event_that_was_answered_alone_is_suspected_no_more(shard: Shard) -> None:
    (ref,) = shard.hold("drain1")
    shard.run("alone", "drain1", "crm.0", "e0")
    shard.end_lease("crm.0")
    shard.claim("drain2")
    shard.run("alone", "drain2", "crm.0", "e0")
    shard.settle("drain2", Item(ref=ref, event_id="e0", action="retry", delay=1000))
    assert not {"suspect", "alone"} & shard.names()


def test_the_event_that_is_alone_in_flight_at_deaths_is_told_with_their_number(shard: Shard) -> None:
    shard.hold("drain1")
    for deaths in (1, 2, 3):
        assert shard.run("alone", f"drain{deaths}", "crm.0", "e0")[2] == 1
        shard.end_lease("crm.0")
        assert shard.claim(f"drain{deaths + 1}").queues[0].alone == f"{deaths} {deaths} e0"


def test_what_is_delivered_one_at_a_time_before_it_does_not_hide_the_event_of_the_deaths(shard: Shard) -> None:
    shard.hold("drain1", events=3)
    for deaths in (1, 2, 3):
        drain = f"drain{deaths}"
        shard.run("alone", drain, "crm.0", f"neighbour-{deaths}")
        shard.run("alone", drain, "crm.0", "e2")
        shard.end_lease("crm.0")
        assert shard.claim(f"drain{deaths + 1}").queues[0].alone == f"{deaths} {deaths} e2"


def test_an_event_that_is_settled_was_not_alone_in_flight_at_a_later_death(shard: Shard) -> None:
    (ref, _) = shard.hold("drain1", events=2)
    shard.run("alone", "drain1", "crm.0", "e0")
    shard.settle("drain1", Item(ref=ref, event_id="e0"))
    shard.end_lease("crm.0")
    assert shard.claim("drain2").queues[0].alone == ""


def test_another_event_alone_in_flight_starts_with_no_deaths(shard: Shard) -> None:
    shard.hold("drain1", events=2)
    shard.run("alone", "drain1", "crm.0", "e0")
    shard.end_lease("crm.0")
    shard.claim("drain2")
    shard.run("alone", "drain2", "crm.0", "e1")
    shard.end_lease("crm.0")
    assert shard.claim("drain3").queues[0].alone == "1 1 e1"


def test_a_drain_that_lost_its_queue_cannot_announce_an_event(shard: Shard) -> None:
    shard.hold("drain2")
    before = shard.dump()
    assert shard.run("alone", "drain1", "crm.0", "e0")[2] == 0
    assert shard.dump() == before


def test_an_owner_whose_renewal_is_late_goes_on_where_it_was(shard: Shard) -> None:
    shard.hold("drain1")
    shard.end_lease("crm.0")
    claim = shard.claim("drain1")
    assert claim.queues == []
    assert claim.own == ["crm.0"], "the drain cannot know it when the reply that gave it the queue was lost"
    assert (shard.owner(), shard.score()) == ("drain1", claim.now + LEASE)
    assert "deaths" not in shard.names()


def test_after_a_lost_reply_a_drain_is_told_at_once_what_it_was_given(shard: Shard) -> None:
    shard.hold("drain1", queue="crm.0")
    shard.hold("drain2", queue="crm.1")
    assert shard.claim("drain1").own == []
    assert shard.claim("drain1", lost=True).own == ["crm.0"]


@pytest.mark.parametrize("name", ["", "crm", "crm.", ".0", "crm.x", "CRM.0", b"\xff.0", "crm.0 "])
def test_what_is_no_name_of_a_queue_is_taken_off_the_schedule(shard: Shard, name: str | bytes) -> None:
    shard.put("crm.0", "a")
    shard.client.zadd(shard.keys("schedule"), {name: 0})
    claim = shard.claim()
    assert claim.names == ["crm.0"]
    assert len(claim.broken) == 1
    assert shard.client.zrange(shard.keys("schedule"), 0, -1) == [b"crm.0"]


# --- what must be left alone -----------------------------------------------------------------------------------------


def test_nothing_is_claimed_before_the_gate_and_the_queue_is_looked_at_then(shard: Shard) -> None:
    gate = shard.now() + HOUR
    shard.put("crm.0", "a")
    shard.set_health(not_before=gate)
    claim = shard.claim()
    assert (claim.queues, claim.first) == ([], gate)
    assert (shard.score(), shard.owner()) == (gate, None)


@pytest.mark.parametrize("reason", ["operator", "gone", "blocked", "failing"])
def test_a_paused_endpoint_is_not_claimed_and_not_looked_at_again(shard: Shard, reason: str) -> None:
    shard.put("crm.0", "a")
    shard.set_health(paused=reason)
    assert shard.claim().queues == []
    assert shard.score() is None
    assert shard.new() == ["a"]


def test_the_dead_owner_of_a_paused_queue_is_forgotten(shard: Shard) -> None:
    shard.hold("drain1")
    shard.set_health(paused="operator")
    shard.end_lease("crm.0")
    assert shard.claim("drain2").queues == []
    assert (shard.owner(), shard.score()) == (None, None)


def test_the_queues_of_an_endpoint_that_is_being_removed_are_told_and_not_claimed(shard: Shard) -> None:
    shard.put("crm.0", "a")
    shard.put("crm.1", "b")
    shard.set_health(paused="removing", partitions=2)
    claim = shard.claim()
    assert (sorted(claim.removing), claim.queues) == (["crm.0", "crm.1"], [])
    assert shard.score() == claim.now + 1000
    assert shard.new() == ["a"]


def test_when_an_endpoint_was_resumed_is_told(shard: Shard) -> None:
    shard.put("crm.0", "a")
    shard.set_health(resumed_at=1_800_000_000_000)
    assert shard.claim().queues[0].resumed == 1_800_000_000_000


# --- probes ----------------------------------------------------------------------------------------------------------


def open_breaker(shard: Shard, queues: int = 3) -> None:
    shard.set_health(open=1, probe_at=shard.now() - 1, probe_wait=5000, fails=10, partitions=queues)
    for number in range(queues):
        shard.put(f"crm.{number}", f"a{number}", f"b{number}", age=DELAY + 5000 - number)


def test_while_the_breaker_is_open_one_queue_may_send_one_event(shard: Shard) -> None:
    open_breaker(shard)
    shard.put("other.0", "x", "y")
    claim = shard.claim()
    assert claim.names == ["crm.0", "other.0"]
    assert [claimed.probe for claimed in claim.queues] == [True, False]
    assert claim.ids == ["a0", "x", "y"]
    assert shard.score("crm.1") == shard.score("crm.2") == claim.now + LEASE
    assert shard.health()["probe"] == "drain1 crm.0"
    assert shard.claim("drain2").queues == []


def test_the_probe_of_a_drain_that_died_is_given_to_another_after_its_lease(shard: Shard) -> None:
    open_breaker(shard)
    shard.claim("drain1")
    shard.end_lease("crm.0", "crm.1", "crm.2")
    shard.set_health(probe_until=shard.now() - 1)
    claim = shard.claim("drain2")
    assert [claimed.probe for claimed in claim.queues] == [True]
    assert shard.health()["probe"].startswith("drain2 ")


def test_a_probe_that_was_not_sent_is_free_for_another_queue(shard: Shard) -> None:
    open_breaker(shard)
    shard.claim("drain1")
    shard.release("drain1", "crm.0")
    assert "probe" not in shard.health()
    (claimed,) = shard.claim("drain2").queues
    assert claimed.probe


def test_a_probe_that_was_not_sent_does_not_keep_the_other_queues_waiting(shard: Shard) -> None:
    open_breaker(shard)
    shard.claim("drain1")
    shard.client.delete(shard.keys("new:crm.0"))
    shard.release("drain1", "crm.0")
    assert shard.claim("drain2").ids == ["a1"]


# --- sharing ---------------------------------------------------------------------------------------------------------


def claim_just_due(shard: Shard, queues: int, *, busy: int, held: int = 0) -> Claim:
    """Claim queues that come due in the moment of the claim, while so many workers run drains."""
    for number in range(busy):
        shard.client.zadd(shard.keys("busy"), {f"worker{number}": shard.now() + HOUR})
    names = [f"crm.{number}" for number in range(queues)]
    for name in names:
        shard.put(name, f"e-{name}")
    script = (
        "local t = redis.call('TIME') for _, name in ipairs(ARGV) do "
        "redis.call('ZADD', KEYS[1], string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000)), name) end"
    )
    shard.claim("nobody", most=0)  # the server knows the script from here on
    shard.client.zadd(shard.keys("schedule"), dict.fromkeys(names, shard.now() + HOUR))
    with shard.client.pipeline(transaction=True) as pipeline:
        pipeline.eval(script, 1, shard.keys("schedule"), *names)
        shard.store.client, client = pipeline, shard.store.client
        shard.run("claim", "drain1", LEASE, DELAY, 100, 16, 1000, held)
        shard.store.client = client
        return read_claim(pipeline.execute()[-1])


@pytest.mark.parametrize(
    ("queues", "busy", "held", "share"),
    [(4, 2, 0, 2), (5, 2, 0, 3), (4, 1, 0, 4), (4, 0, 0, 4), (4, 2, 2, 1), (2, 2, 4, 0)],
)
def test_busy_workers_take_equal_shares_of_what_comes_due(
    shard: Shard, queues: int, busy: int, held: int, share: int
) -> None:
    assert len(claim_just_due(shard, queues, busy=busy, held=held).queues) == share


def test_what_nobody_has_taken_for_a_moment_anybody_may_take(shard: Shard) -> None:
    shard.client.zadd(shard.keys("busy"), {f"worker{number}": shard.now() + HOUR for number in range(4)})
    for number in range(4):
        shard.put(f"crm.{number}", "e")
    assert len(shard.claim().queues) == 4


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_a_reply_is_bounded_in_bytes_however_much_is_asked_for(shard: Shard) -> None:
    for number in range(4):
        shard.put(f"crm.{number}", *(f"e{n}" for n in range(10)), size=200_000)
    claim = shard.claim()
    size = sum(len(event.packed) for claimed in claim.queues for event in claimed.events)
    assert 1_048_576 <= size <= 1_048_576 + 16 * 200_100
    # What the reply had no room for is not taken: its queues are free for others.
    assert len(claim.queues) < 4
    assert shard.claim("drain2").queues != []
