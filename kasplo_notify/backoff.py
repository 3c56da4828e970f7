"""How long an event waits after a failed attempt: tenacity's wait strategies as pure functions.

A schedule lists the waits between attempts in seconds; each is multiplied with a random factor, so that the
events of an outage do not come back all at once.
"""

import random
from collections.abc import Sequence
from functools import lru_cache

from tenacity import RetryCallState, Retrying
from tenacity.stop import stop_after_attempt
from tenacity.wait import wait_base, wait_chain, wait_fixed


class wait_spread(wait_base):  # noqa: N801 - tenacity names its strategies so
    """Another strategy's wait times U(1 - jitter, 1 + jitter).

    tenacity's own jitter adds seconds; a schedule from half a minute to eight hours needs a factor.
    """

    def __init__(self, wait: wait_base, jitter: float, rng: random.Random) -> None:
        self._wait, self._jitter, self._rng = wait, jitter, rng

    def __call__(self, retry_state: RetryCallState) -> float:
        return self._wait(retry_state) * self._rng.uniform(1 - self._jitter, 1 + self._jitter)


def retry_delay(delays: Sequence[float], attempt: int, jitter: float, rng: random.Random) -> float | None:
    """Seconds from failed attempt number `attempt` (1, 2, ...) to the next; None when no more is to come.

    `delays` are the waits between attempts in seconds, so there is one attempt more than delays. `jitter` is
    between 0 and 1.
    """
    schedule = tuple(delays)
    state = _state(attempt)
    if stop_after_attempt(len(schedule) + 1)(state):
        return None
    return wait_spread(_steps(schedule), jitter, rng)(state)


@lru_cache(maxsize=256)
def _steps(schedule: tuple[float, ...]) -> wait_base:
    return wait_chain(*(wait_fixed(delay) for delay in schedule))


def _state(attempt: int) -> RetryCallState:
    state = RetryCallState(_RETRYING, fn=None, args=(), kwargs={})
    state.attempt_number = attempt
    return state


_RETRYING = Retrying()
