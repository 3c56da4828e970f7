"""Hours of one endpoint's outages in seconds: the breaker, in the real scripts on a real server, by a simulated clock.

Drains claim, send, settle and release as the product's do, several at a time; now and then one dies. What the scripts
say and store is compared at every step with a breaker that is written here from what `docs/design.md` says of it.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha1
from heapq import heappop, heappush
from itertools import count
from typing import Any

from kasplo_notify import store
from kasplo_notify.outcome import Outcome
from kasplo_notify.store import Arg, Script
from kasplo_notify.stored import Progress, split_retry
from kasplo_notify.verdict import Policy, Verdict, decide
from tests.integration.shard import DELAY, HOUR, LEASE, Claimed, Item, Read, Shard

MINUTE = 60_000
# Before any clock of a server: the id of what is pushed is then from the future, and its arrival stored beside it.
EPOCH = 1_700_000_000_000
QUEUES = tuple(f"crm.{number}" for number in range(4))
# Requests that a drain has in flight for one queue, and how long the longest of them takes.
AT_ONCE, TIMEOUT = 4, 10_000
POLICY = Policy(retry_delays=(5.0, 20.0, 60.0, 300.0, 900.0, 3600.0), jitter=0.2)
MOODS = ("up", "up", "up", "down", "down", "flapping", "mending", "hanging", "throttling")
TO_OPEN, TO_CLOSE, FIRST_WAIT, LAST_WAIT = 10, 3, 5_000, 60_000

_CLOCK = """  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
"""


@cache
def at_its_key(name: str) -> Script:
    """A script whose clock is what comes as its second key; all else of it is as it is."""
    before, found, after = store.script(name).text.partition(_CLOCK)
    assert found, "the scripts tell the time otherwise"
    text = f"{before}  return tonumber(KEYS[2])\n{after}"
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


class TimedShard(Shard):
    """A shard that is at the moment `ms`; needs :func:`at_its_key` in place of `store.script`."""

    ms = EPOCH

    def run(self, script: str, *args: Arg, keys: Sequence[str] = ()) -> Any:
        return super().run(script, *args, keys=(str(self.ms), *keys))


@dataclass(slots=True)
class Breaker:
    """What the breaker has to be, after what was settled and claimed so far.

    Attributes:
        row: Strikes since the last success.
        open: Whether it is open; then `wins` of the successes that close it are there, the next probe is due at
            `probe_at`, and `wait` ms after a failed one.
        probe: The drain and the queue that may send the event that is out, until `probe_until`.
        not_before: What the endpoint asked for by Retry-After.
    """

    row: int = 0
    open: bool = False
    wins: int = 0
    wait: int = 0
    probe_at: int = 0
    probe: tuple[str, str] | None = None
    probe_until: int = 0
    not_before: int = 0

    def settled(self, now: int, verdict: Verdict, *, by: tuple[str, str]) -> None:
        probing, self.probe = self.probe == by, None if self.probe == by else self.probe
        if verdict.action == "delivered":
            self.row = 0
            self.wins, self.probe_at = self.wins + 1, now
            if self.open and self.wins == TO_CLOSE:
                self.open, self.probe = False, None
            return
        self.not_before = max(self.not_before, now + round(1000 * (verdict.endpoint_wait or 0)))
        if not verdict.strikes:
            return
        self.row += 1
        if not self.open and self.row == TO_OPEN:
            self.open, self.wins, self.wait, self.probe_at = True, 0, FIRST_WAIT, now + FIRST_WAIT
        elif self.open and probing:
            self.wins, self.wait = 0, min(2 * self.wait, LAST_WAIT)
            self.probe_at = now + self.wait

    @property
    def stored(self) -> dict[str, int]:
        """What the endpoint's health says of it."""
        kept = {"fails": self.row} if self.row else {}
        if not self.open:
            return kept
        return kept | {"open": 1, "wins": self.wins, "probe_at": self.probe_at, "probe_wait": self.wait}


@dataclass(slots=True)
class Hold:
    """A queue in the hands of a drain."""

    drain: str
    queue: str
    ends: int
    probe: bool
    waiting: deque[Read]
    in_flight: int = 0
    dead: bool = False


@dataclass(slots=True)
class Outages:
    """Runs `hours`, with what `seed` makes of them.

    Args:
        shard: An empty one.
        seed, hours: As said.
        always: The endpoint's mood for all the time; by default moods change.
        deaths: How likely it is that a drain dies with what it claims.

    Attributes:
        requests: When each was made, in ms since the beginning.
        waits: How long each failed probe made the next one wait.
        opened, closed: How often the breaker did.
        left: Events that are neither delivered nor given up.
    """

    shard: TimedShard
    seed: int
    hours: float
    always: str = ""
    deaths: float = 0.01
    requests: list[int] = field(default_factory=list)
    waits: list[int] = field(default_factory=list)
    opened: int = 0
    closed: int = 0
    left: dict[str, tuple[str, int]] = field(default_factory=dict)
    _breaker: Breaker = field(default_factory=Breaker)
    _rng: random.Random = field(init=False)
    _agenda: list[tuple[int, int, Callable[[], None]]] = field(default_factory=list)
    _number: Iterator[int] = field(default_factory=count)
    _look_at: int = 1 << 60
    _mood: str = "up"

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._mood = self.always or self._mood

    @property
    def now(self) -> int:
        return self.shard.ms

    def run(self) -> "Outages":
        """The hours, and then a time in which it is well and all of its events come to an end."""
        end = EPOCH + round(self.hours * HOUR)
        self.shard.ms = EPOCH
        self.shard.set_health(partitions=len(QUEUES))
        self._at(EPOCH, self._emit)
        self._at(EPOCH, self._change)
        over = False
        while self._agenda and (not over or self.left):
            moment, _, act = heappop(self._agenda)
            if moment >= end and not over:
                over, self._mood = True, "up"
            if over and act in (self._emit, self._change):
                continue
            self.shard.ms = moment
            act()
        return self

    def _at(self, moment: int, act: Callable[[], None]) -> None:
        heappush(self._agenda, (moment, next(self._number), act))

    def _change(self) -> None:
        """Moods last between seconds and hours."""
        if not self.always:
            self._mood = self._rng.choice(MOODS)
        self._at(self.now + round(MINUTE * self._rng.choice([0.1, 1, 5, 30, 90]) * self._rng.random()), self._change)

    def _emit(self) -> None:
        """Mostly one event, at times many for one queue."""
        for _ in range(self._rng.choice([1, 1, 1, 1, 1, 20])):
            event_id, queue = f"e{next(self._number)}", self._rng.choice(QUEUES)
            self.shard.push(event_id, queues=(queue,))
            self.left[event_id] = queue, self.now + DELAY + 1
        self._plan(self.now + DELAY + 1)
        self._at(self.now + round(self._rng.expovariate(1 / (5 * MINUTE))), self._emit)

    # --- drains ------------------------------------------------------------------------------------------------------

    def _plan(self, moment: int) -> None:
        if moment < self._look_at:
            self._look_at = moment
            self._at(moment, self._look)

    def _look(self) -> None:
        """A drain claims what is due, or some of it."""
        if self.now != self._look_at:
            return
        self._look_at = 1 << 60
        drain = f"drain{next(self._number)}"
        claim = self.shard.claim(drain, most=self._rng.choice([1, 2, 100]), per_queue=self._rng.choice([1, 16]))
        assert not claim.broken, self._where(claim.broken)
        for claimed in claim.queues:
            self._hold(drain, claimed)
        if claim.first is not None:
            self._plan(max(self.now + 1, claim.first))

    def _hold(self, drain: str, claimed: Claimed) -> None:
        breaker = self._breaker
        assert self.now >= breaker.not_before, self._where("claimed before the time that it asked for")
        assert claimed.probe == breaker.open, self._where("a probe is what is claimed while it is open")
        hold = Hold(drain, claimed.queue, self.now + LEASE, claimed.probe, deque(claimed.events))
        if claimed.probe:
            assert claimed.asked == 1, self._where("a probe is one event")
            # One of each kind was read, and one may be sent.
            hold.waiting = deque(self._rng.sample(claimed.events, min(1, len(claimed.events))))
            assert self.now >= breaker.probe_at, self._where("a probe before its time")
            assert not breaker.probe or self.now >= breaker.probe_until, self._where("two probes at a time")
            breaker.probe, breaker.probe_until = (drain, claimed.queue), hold.ends
        if self._rng.random() < self.deaths:
            hold.dead = True
        self._go_on(hold)

    def _go_on(self, hold: Hold) -> None:
        """Send what may be sent; give the queue back when nothing is in flight."""
        while hold.waiting and hold.in_flight < AT_ONCE and self.now + TIMEOUT < hold.ends:
            self._send(hold, hold.waiting.popleft())
        if not hold.in_flight and not hold.dead:
            if self._breaker.probe == (hold.drain, hold.queue):
                self._breaker.probe = None
            self.shard.release(hold.drain, hold.queue)
            self._plan(self.now + 1)

    def _send(self, hold: Hold, read: Read) -> None:
        # Who had the queue before it opened hears of it with its next settle.
        assert hold.probe or not self._breaker.open, self._where("sent while it is left alone")
        self.requests.append(self.now - EPOCH)
        hold.in_flight += 1
        outcome, ms = self._answer()
        self._at(self.now + ms, lambda: self._settle(hold, read, outcome))

    def _settle(self, hold: Hold, read: Read, outcome: Outcome) -> None:
        if hold.dead:
            return
        before = Progress(0, 0, read.time + DELAY) if read.kind == "n" else split_retry(read.ref)[0]
        verdict = decide(outcome, before, POLICY, self.now / 1000, self._rng)
        item = Item(
            ref=read.ref,
            queue=hold.queue,
            kind=read.kind,
            action=verdict.action,
            progress=replace(before, attempts=before.attempts + 1, free=before.free + verdict.free),
            delay=round(1000 * verdict.delay),
            strike=verdict.strikes,
            wait=round(1000 * (verdict.endpoint_wait or 0)),
            attempt=before.attempts + 1,
            event_id=read.id,
        )
        settled = self.shard.settle(hold.drain, item)
        assert settled.applied == 1, self._where("its event was not there")
        self._note(hold, read, verdict, item.delay)
        hold.in_flight -= 1
        if settled.alone:
            hold.waiting.clear()
        self._go_on(hold)
        # Whatever an answer moved.
        self._plan(self.now + 1)

    # --- what has to be ----------------------------------------------------------------------------------------------

    def _note(self, hold: Hold, read: Read, verdict: Verdict, delay: int) -> None:
        breaker, was_open, waited = self._breaker, self._breaker.open, self._breaker.probe_at
        breaker.settled(self.now, verdict, by=(hold.drain, hold.queue))
        if verdict.action == "retry":
            self.left[read.id] = hold.queue, self.now + delay
        else:
            del self.left[read.id]
        health = self.shard.health()
        names = ("fails", "open", "wins", "probe_at", "probe_wait")
        stored = {name: int(health[name]) for name in names if name in health}
        assert stored == breaker.stored, self._where(f"{stored} is stored, and not {breaker.stored}")
        if breaker.open and breaker.probe_at > max(waited, self.now):
            self.waits.append(breaker.probe_at - self.now)
        self.opened += breaker.open and not was_open
        if was_open and not breaker.open:
            self.closed += 1
            self._nothing_is_held_back()

    def _nothing_is_held_back(self) -> None:
        """Each queue that nobody has is looked at when its first event is due."""
        for queue in QUEUES:
            due = [moment for where, moment in self.left.values() if where == queue]
            expected = max(self.now, self._breaker.not_before, min(due)) if due else None
            if self.shard.owner(queue) is None:
                assert self.shard.score(queue) == expected, self._where(f"{queue} is due at {expected}")

    def _where(self, what: object) -> str:
        return f"seed {self.seed}, {(self.now - EPOCH) / HOUR:.4f} h: {what}; {self._breaker}"

    # --- what it answers ---------------------------------------------------------------------------------------------

    def _answer(self) -> tuple[Outcome, int]:
        """An outcome, and after how many ms it comes."""
        rng, mood = self._rng, self._mood
        quick = rng.randint(1, 900)
        if mood in ("flapping", "mending"):
            mood = "up" if rng.random() < {"flapping": 0.1, "mending": 0.8}[mood] else "down"
        if mood == "up":
            return Outcome(status=200, duration_ms=quick), quick
        if mood == "hanging":
            return Outcome(status=None, error="timeout", duration_ms=TIMEOUT), TIMEOUT
        if mood == "throttling" and rng.random() < 0.5:
            return Outcome(status=429, duration_ms=quick, retry_after=rng.choice(["1", "30", None])), quick
        return Outcome(status=503, duration_ms=quick), quick
