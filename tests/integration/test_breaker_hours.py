"""The breaker through simulated hours: claim and settle on a real server, a subscriber that goes down and comes back.

What was stored is made older instead of waiting. `make test` runs eight hours, the same each time. More, and others:

    BREAKER_HOURS=200 BREAKER_SEED=7 make test ARGS="-k breaker_through"
"""

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.integration.shard import HOUR, Item, Shard, failed

pytestmark = pytest.mark.parametrize("wire", ["server"], indirect=True)

SECOND, MINUTE = 1000, 60_000
HOURS = int(os.environ.get("BREAKER_HOURS", "8"))
QUEUES = ("crm.0", "crm.1", "crm.2")
_MOMENTS = ("probe_at", "probe_until", "not_before", "failing_since")
# What a step may take on a busy machine.
_SLACK = 3 * SECOND


@dataclass
class Breaker:
    """What it has to be: as the design says it, without a look at the scripts."""

    fails: int = 0
    open: bool = False
    wins: int = 0
    wait: int = 0

    def answered(self, *, well: bool, probing: bool) -> None:
        """`probing`: it was open when the attempt began; others may have been in flight when it opened."""
        if well:
            self.fails = 0
            self.wins += self.open
            if self.wins == 3:
                self.open, self.wins = False, 0
            return
        self.fails += 1
        if self.open and probing:
            self.wins, self.wait = 0, min(2 * self.wait, MINUTE)
        elif self.fails >= 10 and not self.open:
            self.open, self.wait = True, 5 * SECOND


@dataclass
class Simulation:
    """A subscriber, its queues, and drains that come when something is due."""

    shard: Shard
    rng: random.Random
    now: int = 0
    well: bool = True
    breaker: Breaker = field(default_factory=Breaker)
    probes: list[tuple[int, bool]] = field(default_factory=list)
    drains: Iterator[str] = field(default_factory=lambda: (f"drain{number}" for number in range(10**9)))

    def let_pass(self, ms: int) -> None:
        """Make everything that is stored older."""
        self.now += ms
        keys, health = self.shard.keys, self.shard.health()
        with self.shard.client.pipeline(transaction=True) as pipe:
            for name in set(_MOMENTS) & health.keys():
                pipe.hincrby(keys("health:crm"), name, -ms)
            for queue in QUEUES:
                pipe.zadd(keys("schedule"), {queue: -ms}, xx=True, incr=True)
            pipe.execute()

    def attempt(self) -> None:
        """Everything that is due is claimed and answered, as the subscriber is."""
        for queue in QUEUES:
            if not self.shard.client.xlen(self.shard.keys(f"new:{queue}")):
                self.shard.put(queue, *(f"{queue[-1]}-{self.now}-{number}" for number in range(4)))
        token, probing = next(self.drains), self.breaker.open
        claimed = self.shard.claim(token, per_queue=4).queues
        if probing:
            assert len(claimed) <= 1
            assert all(each.probe and len(each.events) == 1 for each in claimed)
            # And nobody else gets one while it is out.
            assert not claimed or not self.shard.claim(next(self.drains)).queues
        else:
            assert not any(each.probe for each in claimed)
        for each in claimed:
            for event in each.events:
                self._settle(token, each.queue, event.ref, probing=probing)
            self.shard.release(token, each.queue)

    def _settle(self, token: str, queue: str, ref: bytes, *, probing: bool) -> None:
        if probing:
            self.probes.append((self.now, self.well))
        item = Item(ref=ref, queue=queue) if self.well else failed(ref, queue=queue, action="dead")
        self.shard.settle(token, item)
        self.breaker.answered(well=self.well, probing=probing)
        health = self.shard.health()
        assert ("open" in health) == self.breaker.open
        assert int(health.get("wins", 0)) == self.breaker.wins
        if self.breaker.open and not self.well:
            assert abs(int(health["probe_at"]) - self.shard.now() - self.breaker.wait) < _SLACK

    def until_next(self) -> int:
        """Milliseconds until the schedule has something."""
        first = self.shard.client.zrange(self.shard.keys("schedule"), 0, 0, withscores=True)
        return max(0, int(first[0][1]) - self.shard.now()) if first else 0


def test_the_breaker_through_simulated_hours(shard: Shard) -> None:
    seed = int(os.environ.get("BREAKER_SEED", "1"))
    simulation = Simulation(shard, random.Random(seed))
    downs: list[tuple[int, int]] = []
    try:
        while simulation.now < HOURS * HOUR:
            end = simulation.now + int(simulation.rng.expovariate(1 / (20 * MINUTE))) + SECOND
            began = simulation.now
            while simulation.now < end:
                simulation.attempt()
                wait = (
                    simulation.until_next() if simulation.breaker.open else simulation.rng.randint(SECOND, 2 * MINUTE)
                )
                if wait > 2 * _SLACK:
                    # A little before its time nothing is attempted.
                    simulation.let_pass(wait - _SLACK)
                    assert not simulation.breaker.open or not shard.claim(next(simulation.drains)).queues
                    wait = _SLACK
                simulation.let_pass(wait + 1)
            if not simulation.well:
                downs.append((began, simulation.now))
            simulation.well = not simulation.well
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, after {simulation.now / HOUR:.1f} hours: {error}") from error
    assert len(downs) > HOURS / 2
    for began, ended in downs:
        probes = sum(began <= at < ended for at, _ in simulation.probes)
        # Five of them while the wait doubles, then one a minute.
        assert probes <= 5 + (ended - began) / MINUTE
