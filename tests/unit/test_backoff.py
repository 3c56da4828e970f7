"""Waits between attempts: the schedule times a factor, and an end."""

import random

import pytest

from kasplo_notify.backoff import retry_delay
from kasplo_notify.config import Config

SCHEDULE = Config().delivery.retry_delays


def test_without_jitter_the_schedule_is_exact() -> None:
    waits = [retry_delay(SCHEDULE, attempt, 0.0, random.Random(1)) for attempt in range(1, 13)]
    assert waits == list(SCHEDULE)


def test_there_is_one_attempt_more_than_delays() -> None:
    assert retry_delay(SCHEDULE, len(SCHEDULE), 0.5, random.Random(1)) is not None
    assert retry_delay(SCHEDULE, len(SCHEDULE) + 1, 0.5, random.Random(1)) is None
    assert retry_delay(SCHEDULE, len(SCHEDULE) + 50, 0.5, random.Random(1)) is None


def test_an_empty_schedule_means_a_single_attempt() -> None:
    assert retry_delay((), 1, 0.5, random.Random(1)) is None


@pytest.mark.parametrize("attempt", range(1, 13))
def test_every_delay_is_spread_over_its_whole_range(attempt: int) -> None:
    rng = random.Random(attempt)
    delay = SCHEDULE[attempt - 1]
    waits = [retry_delay(SCHEDULE, attempt, 0.5, rng) or 0.0 for _ in range(2000)]
    assert 0.5 * delay <= min(waits) < 0.55 * delay
    assert 1.45 * delay < max(waits) <= 1.5 * delay
    assert sum(waits) / len(waits) == pytest.approx(delay, rel=0.05)


@pytest.mark.parametrize("seed", range(200))
def test_a_wait_is_within_its_bounds_or_none(seed: int) -> None:
    rng = random.Random(seed)
    delays = [rng.uniform(0, 1e6) for _ in range(rng.randrange(20))]
    attempt, jitter = rng.randint(1, 30), rng.random()
    wait = retry_delay(delays, attempt, jitter, rng)
    if attempt > len(delays):
        assert wait is None
    else:
        assert wait is not None
        delay = delays[attempt - 1]
        assert delay * (1 - jitter) - 1e-6 <= wait <= delay * (1 + jitter) + 1e-6


def test_the_same_seed_gives_the_same_waits() -> None:
    one, two = random.Random(7), random.Random(7)
    assert [retry_delay(SCHEDULE, n, 0.5, one) for n in range(1, 13)] == [
        retry_delay(SCHEDULE, n, 0.5, two) for n in range(1, 13)
    ]
