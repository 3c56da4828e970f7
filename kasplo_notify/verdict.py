"""What becomes of an event after an attempt: a value, decided from values.

| answer | verdict |
|---|---|
| 2xx | delivered |
| 410 | pause the endpoint as gone; the event stays and burns no attempt |
| 429, or any answer with a valid Retry-After | retry; the endpoint waits as it asked; free three times per event |
| none, by a fault of the worker itself | retry; always free (one of the three), and not held against the endpoint |
| another status, no answer, no connection, blocked | retry with backoff; dead when that is used up |

Sources: RFC 9110, section 10.2.3 (Retry-After); RFC 6585, section 4 (429).
"""

import random
import re
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Literal

from kasplo_notify.backoff import retry_delay
from kasplo_notify.outcome import Outcome
from kasplo_notify.stored import Progress

MIN_RETRY_AFTER_S, MAX_RETRY_AFTER_S = 1.0, 3600.0
FREE_ATTEMPTS = 3
# What a throttled event waits whose schedule is used up, while it still has free attempts.
_LAST_RESORT_S = 30.0

_SECONDS = re.compile(r"[0-9]{1,18}")

Action = Literal["delivered", "retry", "pause", "dead"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """An endpoint's backoff.

    Attributes:
        retry_delays: Seconds between attempts; one attempt more than delays.
        jitter: Each delay is multiplied with U(1 - jitter, 1 + jitter).
    """

    retry_delays: tuple[float, ...]
    jitter: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to do.

    Attributes:
        action: delivered; retry after `delay`; pause the endpoint and keep the event; dead.
        reason: A stable word for counters and lists: `delivered`, `http_500`, `timeout`, `gone`, ...
        delay: Seconds until the next attempt of this event.
        free: This attempt burns none of the schedule.
        endpoint_wait: Seconds that the whole endpoint waits; None when it need not.
        strikes: Whether the failure counts for the breaker.
    """

    action: Action
    reason: str
    delay: float = 0.0
    free: bool = False
    endpoint_wait: float | None = None
    strikes: bool = False


_DELIVERED = Verdict(action="delivered", reason="delivered")


def decide(outcome: Outcome, progress: Progress, policy: Policy, now_s: float, rng: random.Random) -> Verdict:
    """The verdict on one attempt.

    Args:
        outcome: What came of it.
        progress: The event's attempts before this one.
        policy: The endpoint's backoff.
        now_s: Unix seconds; a Retry-After that is a date counts from it.
        rng: Where the jitter comes from.
    """
    status = outcome.status
    if status is not None and 200 <= status <= 299:
        return _DELIVERED
    if status == 410:
        return Verdict(action="pause", reason="gone", free=True)
    wait = _endpoint_wait(outcome, policy, now_s, rng)
    ours = outcome.error == "worker"
    free = ours or (wait is not None and progress.free < FREE_ATTEMPTS)
    strikes = wait is None and not ours
    # A free attempt waits as the schedule says for the attempt that it did not burn.
    burnt = max(1, progress.attempts - progress.free + 1)
    scheduled = retry_delay(policy.retry_delays, burnt, policy.jitter, rng)
    if scheduled is None and not free:
        return Verdict(action="dead", reason="attempts_used_up", endpoint_wait=wait, strikes=strikes)
    delay = max(_LAST_RESORT_S if scheduled is None else scheduled, wait or 0.0)
    return Verdict(action="retry", reason=_reason(outcome), delay=delay, free=free, endpoint_wait=wait, strikes=strikes)


def _endpoint_wait(outcome: Outcome, policy: Policy, now_s: float, rng: random.Random) -> float | None:
    """Seconds that the whole endpoint waits; None when it did not ask for it.

    What it asked for, not what the schedule says for this event: the oldest of its events may be hours from its next
    attempt, and the others would wait with it. A 429 that does not say is as one at the beginning of the schedule.
    """
    asked = None if outcome.status is None else parse_retry_after(outcome.retry_after, now_s)
    if asked is None and outcome.status == 429:
        first = retry_delay(policy.retry_delays, 1, policy.jitter, rng)
        asked = _LAST_RESORT_S if first is None else first
    return None if asked is None else min(max(asked, MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S)


def parse_retry_after(value: str | None, now_s: float) -> float | None:
    """Seconds from `now_s` (Unix seconds), at most 3600; a date that has passed is 0.

    None for what is neither whole seconds nor an HTTP date.
    """
    if value is None:
        return None
    text = value.strip(" \t")
    if _SECONDS.fullmatch(text):
        return min(float(text), MAX_RETRY_AFTER_S)
    # Anything longer than a date is not one; the parser is lenient and slow on junk.
    if not text[:3].isalpha() or len(text) > 40:
        return None
    try:
        moment = parsedate_to_datetime(text)
        # All dates of HTTP are in GMT; one form does not say so, and would be read in the worker's own zone.
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now_s
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def _reason(outcome: Outcome) -> str:
    return outcome.error or "other" if outcome.status is None else f"http_{outcome.status}"
