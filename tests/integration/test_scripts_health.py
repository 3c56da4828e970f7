"""settle, on an endpoint's health: the breaker and its probes, Retry-After, and the pauses."""

import pytest

from tests.integration.shard import DAY, DELAY, HOUR, Item, Shard, failed


def strike(shard: Shard, *, times: int, drain: str = "drain1", queue: str = "crm.0") -> None:
    """Let so many attempts fail."""
    refs = shard.hold(drain, queue=queue, events=times)
    shard.settle(drain, *(failed(ref, queue=queue) for ref in refs))


def probe(shard: Shard, *, delivered: bool) -> int:
    """Have the next probe come due and be answered. Returns the ms until the one after it."""
    shard.set_health(probe_at=shard.now() - 1)
    shard.put("crm.5", "probe")
    shard.client.zadd(shard.keys("schedule"), {"crm.5": 1})
    (claimed,) = shard.claim("prober").queues
    assert claimed.probe
    (event,) = claimed.events
    item = Item(ref=event.ref, queue="crm.5") if delivered else failed(event.ref, queue="crm.5", delay=HOUR)
    before = shard.now()
    shard.settle("prober", item)
    shard.release("prober", "crm.5")
    shard.client.delete(shard.keys("retry:crm.5"))
    shard.client.zrem(shard.keys("schedule"), "crm.5")
    return int(shard.health().get("probe_at", before)) - before


def test_nine_failures_in_a_row_do_not_open_the_breaker_and_the_tenth_does(shard: Shard) -> None:
    strike(shard, times=9)
    assert shard.health()["fails"] == "9"
    assert "open" not in shard.health()
    (ref,) = shard.hold()
    before = shard.now()
    settled = shard.settle("drain1", failed(ref))
    assert shard.health()["open"] == "1"
    assert before + 5000 <= int(shard.health()["probe_at"]) <= shard.now() + 5000
    assert settled.alone == {"crm": ("", int(shard.health()["probe_at"]))}


def test_a_success_between_failures_starts_the_count_again(shard: Shard) -> None:
    strike(shard, times=9)
    (ref,) = shard.hold()
    shard.settle("drain1", Item(ref=ref))
    strike(shard, times=9)
    assert "open" not in shard.health()


def test_a_failure_that_is_not_held_against_the_endpoint_does_not_count(shard: Shard) -> None:
    refs = shard.hold(events=20)
    shard.settle("drain1", *(failed(ref, strike=False, status=429) for ref in refs))
    assert "open" not in shard.health()


def test_failures_of_all_queues_of_an_endpoint_count_together_and_of_others_not(shard: Shard) -> None:
    strike(shard, times=5, queue="crm.0")
    strike(shard, times=5, queue="other.0")
    assert "open" not in shard.health()
    strike(shard, times=5, queue="crm.1")
    assert shard.health()["open"] == "1"
    assert "open" not in shard.health("other")


def test_while_the_breaker_is_open_a_released_queue_waits_for_the_probe(shard: Shard) -> None:
    strike(shard, times=10)
    shard.put_retry("crm.0", "due")
    shard.release("drain1", "crm.0")
    assert shard.score() == int(shard.health()["probe_at"])


def test_failures_still_in_flight_when_it_opened_do_not_put_off_the_probe(shard: Shard) -> None:
    strike(shard, times=10)
    probe_at = shard.health()["probe_at"]
    refs = shard.hold(events=5)
    shard.settle("drain1", *(failed(ref) for ref in refs))
    assert shard.health()["probe_at"] == probe_at


def test_failed_probes_wait_twice_as_long_each_time_up_to_a_minute(shard: Shard) -> None:
    strike(shard, times=10)
    waits = [probe(shard, delivered=False) for _ in range(6)]
    for wait, expected in zip(waits, [10_000, 20_000, 40_000, 60_000, 60_000, 60_000], strict=True):
        assert expected <= wait < expected + 2000


def test_three_successful_probes_close_the_breaker(shard: Shard) -> None:
    strike(shard, times=10)
    for wins in ("1", "2"):
        assert probe(shard, delivered=True) < 1000
        assert shard.health()["wins"] == wins
    probe(shard, delivered=True)
    assert shard.health() == {}


def test_a_failed_probe_starts_the_count_of_successes_again(shard: Shard) -> None:
    strike(shard, times=10)
    probe(shard, delivered=True)
    probe(shard, delivered=True)
    probe(shard, delivered=False)
    probe(shard, delivered=True)
    probe(shard, delivered=True)
    assert shard.health()["open"] == "1"


def test_an_open_breaker_closes_in_full_and_opens_again_after_ten_new_failures(shard: Shard) -> None:
    strike(shard, times=10)
    for _ in range(3):
        probe(shard, delivered=True)
    strike(shard, times=9)
    assert "open" not in shard.health()
    strike(shard, times=1, queue="crm.7")
    assert 10_000 <= probe(shard, delivered=False) < 12_000


def test_when_the_breaker_closes_all_queues_are_looked_at_when_they_are_due(shard: Shard) -> None:
    strike(shard, times=10)
    shard.set_health(partitions=6)
    probe(shard, delivered=True)
    probe(shard, delivered=True)
    for number in (1, 2):
        shard.put(f"crm.{number}", "waiting")
        shard.client.zadd(shard.keys("schedule"), {f"crm.{number}": shard.now() + HOUR})
    shard.put_retry("crm.3", "later", due_in=HOUR)
    probe(shard, delivered=True)
    assert (shard.score("crm.1") or 0) <= shard.now()
    assert (shard.score("crm.2") or 0) <= shard.now()
    assert (shard.score("crm.3") or 0) > shard.now() + HOUR / 2


@pytest.mark.parametrize("delivered", [True, False])
def test_after_a_probe_the_other_queues_wait_for_the_next_one_and_no_longer(shard: Shard, *, delivered: bool) -> None:
    """They were put off until the end of the probe's lease, which is far later."""
    strike(shard, times=10)
    shard.set_health(partitions=6)
    shard.release("drain1", "crm.0")
    shard.put("crm.1", "waiting")
    shard.client.zadd(shard.keys("schedule"), {"crm.1": shard.now() + DAY})
    probe(shard, delivered=delivered)
    assert (shard.score("crm.1") or 0) <= max(int(shard.health()["probe_at"]), shard.now())


def test_of_two_answers_in_flight_only_the_probe_decides_when_the_next_is_sent(shard: Shard) -> None:
    strike(shard, times=10)
    (late,) = shard.hold("drain1", queue="crm.1")
    shard.set_health(probe_at=shard.now() - 1, probe="drain2 crm.0", probe_until=shard.now() + HOUR)
    shard.settle("drain1", failed(late, queue="crm.1"))
    assert shard.health()["probe"] == "drain2 crm.0"
    assert shard.health()["probe_wait"] == "5000"


def test_a_success_that_was_in_flight_when_it_opened_brings_the_probe_forward_for_all_queues(shard: Shard) -> None:
    shard.set_health(partitions=3)
    (late,) = shard.hold("drain2", queue="crm.2")
    strike(shard, times=10)
    shard.put("crm.1", "waiting")
    assert shard.claim("drain3").queues == []
    assert shard.score("crm.1") == int(shard.health()["probe_at"])
    shard.settle("drain2", Item(ref=late, queue="crm.2"))
    assert shard.claim("drain3").ids == ["waiting"]


def test_a_probe_that_is_still_out_when_the_breaker_closes_counts_like_any_attempt(shard: Shard) -> None:
    (late,) = shard.hold("drain2", queue="crm.2")
    shard.set_health(open=1, wins=2, probe_at=shard.now() - 1, probe_wait=5000, fails=10)
    shard.put("crm.0", "probe")
    ((probing,),) = (claimed.events for claimed in shard.claim("drain1").queues)
    shard.settle("drain2", Item(ref=late, queue="crm.2"))
    assert shard.health() == {}
    shard.settle("drain1", failed(probing.ref))
    assert shard.health().keys() == {"fails", "failing_since"}


# --- Retry-After -----------------------------------------------------------------------------------------------------


def test_an_answer_that_asks_for_peace_holds_the_whole_endpoint(shard: Shard) -> None:
    (ref,) = shard.hold()
    shard.put("crm.1", "b")
    before = shard.now()
    settled = shard.settle("drain1", failed(ref, status=429, strike=False, wait=HOUR))
    gate = int(shard.health()["not_before"])
    assert before + HOUR <= gate <= shard.now() + HOUR
    assert settled.alone == {"crm": ("", gate)}
    assert shard.claim("drain2").queues == []
    assert shard.score("crm.1") == gate


def test_a_shorter_request_for_peace_does_not_undo_a_longer_one(shard: Shard) -> None:
    first, second = shard.hold(events=2)
    shard.settle("drain1", failed(first, wait=HOUR))
    gate = shard.health()["not_before"]
    shard.settle("drain1", failed(second, wait=1000))
    assert shard.health()["not_before"] == gate


def test_an_endpoint_that_is_well_is_not_reported(shard: Shard) -> None:
    (ref,) = shard.hold()
    assert shard.settle("drain1", Item(ref=ref)).alone == {}


# --- pauses ----------------------------------------------------------------------------------------------------------


def test_an_endpoint_that_says_it_is_gone_is_paused_and_its_backlog_kept(shard: Shard) -> None:
    shard.set_health(partitions=2)
    first, _ = shard.hold(events=2)
    shard.put("crm.1", "b")
    settled = shard.settle("drain1", failed(first, action="pause", reason="gone", status=410, delay=0, strike=False))
    assert settled.alone == {"crm": ("gone", 0)}
    assert (shard.health()["paused"], shard.health()["paused_at"].isdigit()) == ("gone", True)
    assert shard.score("crm.1") is None
    shard.release("drain1", "crm.0")
    assert shard.score("crm.0") is None
    assert (shard.new("crm.0"), list(shard.retries("crm.0")), shard.new("crm.1")) == (["e1"], ["e0"], ["b"])


def test_an_earlier_pause_keeps_its_reason(shard: Shard) -> None:
    (ref,) = shard.hold()
    shard.set_health(paused="operator", paused_at=1)
    shard.settle("drain1", failed(ref, action="pause", reason="gone"))
    assert (shard.health()["paused"], shard.health()["paused_at"]) == ("operator", "1")


def test_an_endpoint_with_nothing_but_failures_for_days_is_paused(shard: Shard) -> None:
    first, second, third = shard.hold(events=3)
    shard.set_health(failing_since=shard.now() - DAY + 60_000)
    shard.settle("drain1", failed(first), pause_after=DAY)
    assert "paused" not in shard.health()
    shard.set_health(failing_since=shard.now() - DAY, fails=8)
    shard.settle("drain1", failed(second), pause_after=DAY)
    assert "paused" not in shard.health(), "two failures with days of silence between them are not days of failures"
    shard.set_health(fails=9)
    assert shard.settle("drain1", failed(third), pause_after=DAY).alone["crm"][0] == "failing"
    assert shard.health()["paused"] == "failing"


def test_one_success_ends_the_days_of_nothing_but_failures(shard: Shard) -> None:
    first, second = shard.hold(events=2)
    shard.set_health(failing_since=shard.now() - 2 * DAY)
    shard.settle("drain1", Item(ref=first), failed(second), pause_after=DAY)
    assert "paused" not in shard.health()


def test_an_endpoint_whose_address_is_refused_for_an_hour_is_paused(shard: Shard) -> None:
    first, second = shard.hold(events=2)
    blocked = {"status": "", "reason": "blocked"}
    shard.settle("drain1", failed(first, **blocked))
    assert "paused" not in shard.health()
    shard.set_health(blocked_since=shard.now() - HOUR)
    shard.settle("drain1", failed(second, **blocked))
    assert shard.health()["paused"] == "blocked"


def test_another_failure_ends_the_hour_of_nothing_but_refused_addresses(shard: Shard) -> None:
    first, second = shard.hold(events=2)
    shard.set_health(blocked_since=shard.now() - 2 * HOUR)
    shard.settle("drain1", failed(first, reason="timeout"), failed(second, status="", reason="blocked"))
    assert "paused" not in shard.health()


def test_what_was_paused_while_it_was_due_is_not_looked_at(shard: Shard) -> None:
    shard.put("crm.0", "a", age=DELAY + 1000)
    shard.run("pause", "crm", "operator")
    assert (shard.score(), shard.claim().queues) == (None, [])
