"""What becomes of an event: the table of answers, row by row."""

import random
import time
from dataclasses import replace
from email.utils import formatdate
from typing import get_args

import pytest

from kasplo_notify.config import Config
from kasplo_notify.outcome import Failure, Outcome
from kasplo_notify.stored import Progress
from kasplo_notify.verdict import Policy, Verdict, decide, parse_retry_after

NOW = 1_700_000_000.0
POLICY = Policy(retry_delays=Config().delivery.retry_delays, jitter=0.0)
FIRST = Progress(0, 0, 0)


def verdict(status: int | None, progress: Progress = FIRST, **more: object) -> Verdict:
    outcome = replace(Outcome(status=status, duration_ms=5), **more)  # type: ignore[arg-type]
    return decide(outcome, progress, POLICY, NOW, random.Random(1))


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206, 226, 299])
def test_2xx_is_delivered(status: int) -> None:
    assert verdict(status) == Verdict(action="delivered", reason="delivered")


def test_2xx_is_delivered_whatever_was_wrong_with_the_rest() -> None:
    assert verdict(200, detail="the body could not be read", retry_after="60").action == "delivered"


@pytest.mark.parametrize("status", [101, 300, 301, 302, 304, 307, 308, 400, 401, 403, 404, 500, 502, 503, 999])
def test_any_other_status_is_retried_with_backoff_and_strikes(status: int) -> None:
    assert verdict(status) == Verdict(action="retry", reason=f"http_{status}", delay=30.0, strikes=True)


@pytest.mark.parametrize("error", [each for each in get_args(Failure) if each not in ("", "worker")])
def test_no_answer_is_retried_with_backoff_and_strikes(error: str) -> None:
    assert verdict(None, error=error) == Verdict(action="retry", reason=error, delay=30.0, strikes=True)


def test_a_fault_of_the_worker_is_not_held_against_the_endpoint_or_the_event() -> None:
    for before in (Progress(0, 0, 0), Progress(40, 40, 0)):
        assert verdict(None, before, error="worker") == Verdict(action="retry", reason="worker", delay=30.0, free=True)
    assert verdict(None, Progress(12, 0, 0), error="worker").action == "retry"


def test_410_pauses_and_burns_nothing() -> None:
    assert verdict(410) == Verdict(action="pause", reason="gone", free=True)
    assert verdict(410, Progress(12, 0, 0), retry_after="5").action == "pause"


def test_429_makes_the_whole_endpoint_wait_and_burns_nothing() -> None:
    expected = Verdict(action="retry", reason="http_429", delay=30.0, free=True, endpoint_wait=30.0)
    assert verdict(429) == expected
    assert verdict(429, retry_after="garbage") == expected


@pytest.mark.parametrize("status", [302, 404, 429, 500, 503])
def test_retry_after_counts_on_any_answer(status: int) -> None:
    assert verdict(status, retry_after="90") == Verdict(
        action="retry", reason=f"http_{status}", delay=90.0, free=True, endpoint_wait=90.0
    )


def test_retry_after_never_shortens_the_schedule_of_its_event() -> None:
    assert verdict(503, retry_after="1").delay == 30.0


def test_the_endpoint_waits_as_it_asked_however_far_the_event_is_in_its_schedule() -> None:
    for attempts in (0, 5, 11):
        assert verdict(429, Progress(attempts, 0, 0), retry_after="4").endpoint_wait == 4.0
        assert verdict(429, Progress(attempts, 0, 0)).endpoint_wait == 30.0
    assert verdict(503, retry_after="0").endpoint_wait == 1.0


@pytest.mark.parametrize(("delays", "wait"), [((), 30.0), ((0.0,), 1.0), ((7200.0,), 3600.0)])
def test_a_429_that_does_not_say_waits_for_the_first_delay_within_the_same_bounds(
    delays: tuple[float, ...], wait: float
) -> None:
    policy = Policy(retry_delays=delays, jitter=0.0)
    outcome = Outcome(status=429, duration_ms=1)
    assert decide(outcome, Progress(0, 0, 0), policy, 0.0, random.Random(1)).endpoint_wait == wait


def test_the_endpoint_waits_an_hour_at_most_the_event_as_long_as_its_schedule_says() -> None:
    late = verdict(429, Progress(11, 0, 0), retry_after="86400")
    assert late.endpoint_wait == 3600.0
    assert late.delay == 28800.0


def test_503_without_retry_after_is_an_ordinary_failure() -> None:
    assert verdict(503, retry_after="soon") == Verdict(action="retry", reason="http_503", delay=30.0, strikes=True)


def test_the_fourth_throttled_attempt_burns() -> None:
    assert [verdict(429, Progress(n, n, 0)).free for n in range(3)] == [True, True, True]
    fourth = verdict(429, Progress(3, 3, 0))
    assert (fourth.free, fourth.delay, fourth.strikes) == (False, 30.0, False)
    assert verdict(429, Progress(4, 3, 0)).delay == 60.0


def test_free_attempts_do_not_move_the_schedule() -> None:
    assert verdict(500, Progress(3, 3, 0)).delay == 30.0
    assert verdict(500, Progress(4, 3, 0)).delay == 60.0


def test_after_the_last_delay_an_event_is_dead() -> None:
    assert verdict(500, Progress(11, 0, 0)).delay == 28800.0
    assert verdict(500, Progress(12, 0, 0)) == Verdict(action="dead", reason="attempts_used_up", strikes=True)
    assert verdict(None, Progress(15, 3, 0), error="timeout").action == "dead"


def test_a_free_attempt_saves_an_event_at_the_end_of_its_schedule() -> None:
    saved = verdict(429, Progress(12, 0, 0))
    assert (saved.action, saved.free, saved.delay) == ("retry", True, 30.0)
    dead = verdict(429, Progress(15, 3, 0))
    assert (dead.action, dead.strikes, dead.endpoint_wait) == ("dead", False, 30.0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("3600", 3600.0),
        ("3601", 3600.0),
        ("999999999999999999", 3600.0),
        (formatdate(NOW + 100, usegmt=True), 100.0),
        (formatdate(NOW - 100, usegmt=True), 0.0),
        (formatdate(NOW + 1e6, usegmt=True), 3600.0),
        ("Tuesday, 14-Nov-23 22:14:00 GMT", 40.0),
        ("-1", None),
        ("1.5", None),
        ("+5", None),
        ("5 s", None),
        ("٣", None),
        ("", None),
        ("soon", None),
        ("Mon, 99 Foo 9999 99:99:99 GMT", None),
        ("Mon, " + "9" * 5000, None),
        ("9" * 5000, None),
        ("\udcff\udcfe", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/Los_Angeles"])
@pytest.mark.parametrize("date", ["Tue Nov 14 22:14:00 2023", "Tue, 14 Nov 2023 22:14:00 -0000"])
def test_a_date_without_a_zone_is_in_gmt_wherever_the_worker_is(
    zone: str, date: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert parse_retry_after(date, NOW) == 40.0
    finally:
        monkeypatch.undo()
        time.tzset()
