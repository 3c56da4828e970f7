"""What holds over ten thousand hours of subscribers that are up, down, slow, throttling or gone; by seed, no clock."""

import random
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

import pytest

from kasplo_notify.verdict import FREE_ATTEMPTS, MAX_RETRY_AFTER_S, MIN_RETRY_AFTER_S, decide, parse_retry_after
from kasplo_notify.window import IDLE_S, START
from tests.unit.simulation import EPOCH, FAST, MAX_AGE, SLOW, TIMEOUT, Attempt, Simulation

SEEDS, HOURS_EACH = range(20), 500
# What sums of floats are off by.
TINY = 1e-6
# Seconds to wait where there is no schedule, or no more of it.
LAST_RESORT = 30.0


@pytest.fixture(scope="module", params=SEEDS, ids=lambda seed: f"seed{seed}")
def hours(request: pytest.FixtureRequest) -> Simulation:
    return Simulation(request.param, HOURS_EACH).run()


def lives(hours: Simulation) -> Iterator[list[Attempt]]:
    """The attempts of each event that was attempted."""
    by_event = defaultdict(list)
    for attempt in hours.attempts:
        by_event[attempt.event].append(attempt)
    return iter(by_event.values())


def scheduled(attempt: Attempt) -> float:
    """What the schedule has for the attempt after this one. A free attempt moves nothing; after the last, 30 s."""
    burnt = attempt.before.attempts - attempt.before.free + 1
    delays = attempt.policy.retry_delays
    return delays[burnt - 1] if burnt <= len(delays) else LAST_RESORT


def spread(attempt: Attempt) -> tuple[float, float]:
    """The least and the most that the jitter may make of that; what comes after the schedule has none."""
    burnt = attempt.before.attempts - attempt.before.free + 1
    jitter = attempt.policy.jitter if burnt <= len(attempt.policy.retry_delays) else 0.0
    return scheduled(attempt) * (1 - jitter) - TINY, scheduled(attempt) * (1 + jitter) + TINY


def test_every_mood_and_every_verdict_occurs(hours: Simulation) -> None:
    assert {attempt.verdict.action for attempt in hours.attempts} == {"delivered", "retry", "pause", "dead"}
    assert any(attempt.throttled for attempt in hours.attempts)
    assert any(attempt.ours for attempt in hours.attempts)
    assert any(opening.slow for opening in hours.openings)
    assert max(opening.fast for opening in hours.openings) >= FAST // 2


# --- attempts --------------------------------------------------------------------------------------------------------


def test_no_event_is_attempted_more_often_than_its_policy_allows(hours: Simulation) -> None:
    for life in lives(hours):
        always_free = sum(attempt.verdict.action == "pause" or attempt.ours for attempt in life)
        assert len(life) <= len(life[0].policy.retry_delays) + 1 + FREE_ATTEMPTS + always_free
        assert sum(attempt.verdict.free for attempt in life) <= FREE_ATTEMPTS + always_free


def test_every_event_has_one_end_and_nothing_comes_after_it(hours: Simulation) -> None:
    given_up = [number for number, _ in hours.too_old]
    ended = [attempt.event for attempt in hours.attempts if attempt.verdict.action in ("delivered", "dead")]
    assert len({*ended, *given_up}) == len(ended) + len(given_up)
    for life in lives(hours):
        assert all(attempt.verdict.action in ("retry", "pause") for attempt in life[:-1])


def test_an_event_dies_of_attempts_when_its_schedule_is_used_up_and_not_before(hours: Simulation) -> None:
    for attempt in hours.attempts:
        over = attempt.burnt > len(attempt.policy.retry_delays)
        if attempt.verdict.action == "dead":
            assert attempt.burnt == len(attempt.policy.retry_delays) + 1
        elif attempt.verdict.action == "retry":
            assert not over


def test_only_what_is_throttled_or_gone_or_our_own_fault_burns_nothing(hours: Simulation) -> None:
    for attempt in hours.attempts:
        if attempt.verdict.free:
            assert attempt.throttled or attempt.ours or attempt.verdict.action == "pause"
        if attempt.ours:
            assert (attempt.verdict.action, attempt.verdict.free, attempt.throttled) == ("retry", True, False)
        if attempt.throttled and attempt.before.free < FREE_ATTEMPTS:
            assert attempt.verdict.free


def test_the_breaker_counts_all_failures_but_those_of_a_subscriber_that_is_alive(hours: Simulation) -> None:
    for attempt in hours.attempts:
        failed = attempt.verdict.action in ("retry", "dead")
        assert attempt.verdict.strikes == (failed and not attempt.throttled and not attempt.ours)


# --- delays ----------------------------------------------------------------------------------------------------------


def test_a_delay_is_within_its_jitter_or_as_long_as_the_subscriber_asked_for(hours: Simulation) -> None:
    for attempt in hours.attempts:
        if attempt.verdict.action == "retry":
            least, most = spread(attempt)
            assert max(0.0, least) <= attempt.verdict.delay <= max(most, attempt.verdict.endpoint_wait or 0.0)


def test_an_endpoint_waits_as_it_asked_between_a_second_and_an_hour(hours: Simulation) -> None:
    for attempt in hours.attempts:
        wait = attempt.verdict.endpoint_wait
        if wait is None:
            continue
        asked = parse_retry_after(attempt.outcome.retry_after, EPOCH + attempt.ended)
        if asked is None:
            first, jitter = (*attempt.policy.retry_delays, LAST_RESORT)[0], attempt.policy.jitter
            jitter = jitter if attempt.policy.retry_delays else 0.0
            least, most = first * (1 - jitter), first * (1 + jitter)
        else:
            least = most = asked
        assert max(MIN_RETRY_AFTER_S, min(least, MAX_RETRY_AFTER_S)) - TINY <= wait
        assert wait <= max(MIN_RETRY_AFTER_S, min(most, MAX_RETRY_AFTER_S)) + TINY
        assert attempt.verdict.action == "dead" or wait <= attempt.verdict.delay


def test_no_attempt_begins_before_its_delay_is_over(hours: Simulation) -> None:
    for life in lives(hours):
        for earlier, later in pairwise(life):
            assert later.started >= earlier.ended + earlier.verdict.delay - TINY


# --- age -------------------------------------------------------------------------------------------------------------


def test_an_event_that_was_never_held_up_dies_at_the_end_of_its_schedule(hours: Simulation) -> None:
    for life in lives(hours):
        last, jitter = life[-1], life[-1].policy.jitter
        if last.verdict.action != "dead" or any(attempt.verdict.free or attempt.throttled for attempt in life):
            continue
        waiting = sum(attempt.waited + attempt.ended - attempt.started for attempt in life)
        age = last.ended - last.before.first_due_ms / 1000 - waiting
        total = sum(last.policy.retry_delays)
        # The first due time is stored in whole milliseconds.
        assert (1 - jitter) * total - 0.01 <= age <= (1 + jitter) * total + 0.01


def test_an_event_is_given_up_for_its_age_at_the_first_look_after_the_limit(hours: Simulation) -> None:
    longest = max(attempt.verdict.delay for attempt in hours.attempts)
    for _, age in hours.too_old:
        assert MAX_AGE < age <= MAX_AGE + longest + MAX_RETRY_AFTER_S + TIMEOUT


# --- windows ---------------------------------------------------------------------------------------------------------


def test_a_window_is_between_one_request_and_its_cap(hours: Simulation) -> None:
    assert all(1 <= attempt.resized <= attempt.cap for attempt in hours.attempts)


def test_a_window_halves_once_for_all_that_failed_together_and_never_by_more(hours: Simulation) -> None:
    shrunk: dict[str, float] = {}
    for attempt in hours.attempts:
        if attempt.delivered:
            assert attempt.size <= attempt.resized <= attempt.size + 1
        elif attempt.resized < attempt.size:
            assert attempt.resized == max(1.0, attempt.size / 2)
            assert attempt.started >= shrunk.get(attempt.subscriber, 0.0)
            shrunk[attempt.subscriber] = attempt.ended
        else:
            assert attempt.size == 1 or attempt.started < shrunk[attempt.subscriber]


def test_a_window_begins_small_after_a_silence_and_only_then(hours: Simulation) -> None:
    silent = [opening for opening in hours.openings if opening.silent >= IDLE_S and not opening.own + opening.own_slow]
    assert any(opening.before > START for opening in silent)
    assert all(opening.size == min(opening.before, START) for opening in silent)
    others = [opening for opening in hours.openings if opening.silent < IDLE_S or opening.own + opening.own_slow]
    assert all(opening.size == opening.before for opening in others)


def test_a_window_that_was_small_reaches_its_cap_again(hours: Simulation) -> None:
    small = {attempt.subscriber for attempt in hours.attempts if attempt.resized == 1}
    full = {attempt.subscriber for attempt in hours.attempts if attempt.resized == attempt.cap}
    assert small
    assert full
    for subscriber in hours.subscribers:
        for _ in range(subscriber.cap**2):
            subscriber.window.succeeded(subscriber.cap, 0.0)
        assert subscriber.window.size == subscriber.cap


# --- slots -----------------------------------------------------------------------------------------------------------


def test_slots_are_never_more_than_there_are(hours: Simulation) -> None:
    for opening in hours.openings:
        assert opening.fast < FAST
        assert opening.slow <= SLOW


def test_once_half_is_taken_nobody_gets_more_than_an_equal_share(hours: Simulation) -> None:
    for opening in hours.openings:
        if opening.fast >= FAST // 2 and opening.own + opening.own_slow:
            assert opening.own < max(1, FAST // opening.subscribers)


def test_a_subscriber_that_hangs_opens_at_most_one_more_a_second(hours: Simulation) -> None:
    for opening in hours.openings:
        if opening.own_slow and opening.since_answer >= 1.0:
            assert opening.since_last >= 1.0 - TINY


def test_who_has_a_part_of_a_slow_allowance_that_is_used_up_opens_nothing(hours: Simulation) -> None:
    assert all(opening.slow < SLOW for opening in hours.openings if opening.own_slow)


def test_when_all_is_answered_nothing_is_in_flight(hours: Simulation) -> None:
    assert (hours.slots.fast, hours.slots.slow, hours.slots.free) == (0, 0, FAST)
    assert hours.slots._usage == {}
    assert all(attempt.ended - attempt.started <= TIMEOUT + TINY for attempt in hours.attempts)


# --- the same again --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_gives_the_same_hours_each_time(seed: int) -> None:
    first, second = Simulation(seed, 20).run(), Simulation(seed, 20).run()
    assert (first.attempts, first.openings, first.too_old) == (second.attempts, second.openings, second.too_old)
    assert first.attempts


def test_a_verdict_needs_no_more_randomness_than_it_is_given(hours: Simulation) -> None:
    for attempt in hours.attempts[::50]:
        now = EPOCH + attempt.ended
        one, two = random.Random(1), random.Random(1)
        given = (attempt.outcome, attempt.before, attempt.policy, now)
        assert decide(*given, one) == decide(*given, two)
