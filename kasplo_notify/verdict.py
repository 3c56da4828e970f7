"""What becomes of an event after an attempt: a value, decided from values.

| answer | verdict |
|---|---|
| 2xx | delivered |
| 410 | pause the endpoint as gone; the event stays and burns no attempt |
| 429, or any answer with a valid Retry-After | retry; the endpoint waits; free three times per event |
| another status, no answer, no connection, blocked | retry with backoff; dead when that is used up |

Sources: RFC 9110, section 10.2.3 (Retry-After); RFC 6585, section 4 (429).
"""

import random
import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal

from kasplo_notify.backoff import retry_delay
from kasplo_notify.outcome import Outcome
from kasplo_notify.stored import Progress

MAX_RETRY_AFTER_S = 3600.0
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
    asked = None if status is None else parse_retry_after(outcome.retry_after, now_s)
    throttled = asked is not None or status == 429
    reason = _reason(outcome)
    free = throttled and progress.free < FREE_ATTEMPTS
    # A free attempt waits as the schedule says for the attempt that it did not burn.
    burnt = progress.attempts - progress.free + 1
    scheduled = retry_delay(policy.retry_delays, burnt, policy.jitter, rng)
    delay = _LAST_RESORT_S if scheduled is None else scheduled
    wait = min(max(delay, asked or 0.0), MAX_RETRY_AFTER_S) if throttled else None
    if scheduled is None and not free:
        return Verdict(action="dead", reason="attempts_used_up", endpoint_wait=wait, strikes=not throttled)
    delay = max(delay, wait or 0.0)
    return Verdict(action="retry", reason=reason, delay=delay, free=free, endpoint_wait=wait, strikes=not throttled)


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
        moment = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(moment - now_s, 0.0), MAX_RETRY_AFTER_S)


def _reason(outcome: Outcome) -> str:
    return outcome.error or "other" if outcome.status is None else f"http_{outcome.status}"
