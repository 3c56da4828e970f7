"""What holds of the breaker over a hundred simulated hours of outages, in the scripts themselves; see `outages.py`.

A failure names the seed and the hour.
"""

from collections.abc import Iterator
from hashlib import sha1

import pytest
import redis

from kasplo_notify import store
from kasplo_notify.store import Script
from tests.integration.outages import AT_ONCE, FIRST_WAIT, LAST_WAIT, QUEUES, TO_OPEN, Outages, TimedShard, at_its_key
from tests.integration.shard import HOUR

SEEDS, HOURS_EACH = range(10), 10
NUMBERS = "FAILURES_TO_OPEN, WINS_TO_CLOSE, FIRST_PROBE, LAST_PROBE = {}, {}, {}, {}"
RESCHEDULE = "  reschedule_unowned(endpoint, default_delay)\nend\n\nlocal function failing"
# What is there in settle, or in all scripts, and what would be wrong.
FAULTS = {
    "opens at nine": (NUMBERS.format(10, 3, 5000, 60000), NUMBERS.format(9, 3, 5000, 60000)),
    "opens at eleven": (NUMBERS.format(10, 3, 5000, 60000), NUMBERS.format(11, 3, 5000, 60000)),
    "closes after two": (NUMBERS.format(10, 3, 5000, 60000), NUMBERS.format(10, 2, 5000, 60000)),
    "probes too soon": (NUMBERS.format(10, 3, 5000, 60000), NUMBERS.format(10, 3, 4000, 60000)),
    "waits for ever": (NUMBERS.format(10, 3, 5000, 60000), NUMBERS.format(10, 3, 5000, 600000)),
    "a success resets nothing": ("'failing_since', 'blocked_since', 'fails'}", "'failing_since', 'blocked_since'}"),
    "two probes at a time": ("(probed and health.probe_until or health.probe_at)", "health.probe_at"),
    "holds queues back": (RESCHEDULE, RESCHEDULE.partition("\n")[2]),
}


@pytest.fixture
def timed(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[TimedShard]:
    """A shard of the real server, whose clock is the simulation's."""
    for path in store._SCRIPTS.glob("*.lua"):
        if path.stem not in store._PARTS:
            at_its_key(path.stem)
    monkeypatch.setattr(store, "script", at_its_key)
    with redis.Redis.from_url(redis_url) as client:
        yield TimedShard(client, redis_url)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_breaker_is_at_every_step_what_the_design_says(timed: TimedShard, seed: int) -> None:
    outages = Outages(timed, seed, HOURS_EACH).run()
    assert outages.opened == outages.closed > 0, f"seed {seed}"
    assert {FIRST_WAIT, 2 * FIRST_WAIT} <= set(outages.waits), f"seed {seed}"
    assert max(outages.waits) <= LAST_WAIT, f"seed {seed}"
    assert not outages.left, f"seed {seed}: not everything came to an end when it was well"


def test_an_hour_in_which_it_is_down_costs_about_sixty_requests(timed: TimedShard) -> None:
    outages = Outages(timed, 1, 1, always="down", deaths=0.0).run()
    # Beside the probes those that opened it, and what was in flight with them.
    assert 60 <= sum(at < HOUR for at in outages.requests) <= 60 + TO_OPEN + AT_ONCE * len(QUEUES)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_breaker_that_is_wrong_is_found(timed: TimedShard, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    right, wrong = FAULTS[fault]
    assert at_its_key("settle").text.count(right) == 1

    def broken(name: str) -> Script:
        text = at_its_key(name).text.replace(right, wrong)
        return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())

    monkeypatch.setattr(store, "script", broken)
    with pytest.raises(AssertionError, match=r"^seed 1, "):
        Outages(timed, 1, HOURS_EACH).run()
