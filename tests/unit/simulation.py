"""Hours of deliveries in seconds: the product's decisions, driven by a queue of moments instead of a clock.

Six subscribers, each in one mood for some hours, share the slots of one worker. What is driven here is what decides in
Python: verdicts, backoff, Retry-After, windows and slots. The breaker decides in Lua, on a server; it has hours of its
own in tests/integration/outages.py.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from functools import partial
from heapq import heappop, heappush
from itertools import count

from kasplo_notify.config import Config
from kasplo_notify.outcome import Failure, Outcome
from kasplo_notify.stored import Progress
from kasplo_notify.verdict import Policy, Verdict, decide
from kasplo_notify.window import SLOW_AFTER_S, START, Slots, Ticket, Window

HOUR = 3600.0
# The simulation begins at this Unix time.
EPOCH = 1_700_000_000.0
FAST, SLOW = 16, 8
TIMEOUT = 10.0
MAX_AGE = Config().delivery.max_age
MOODS = ("up", "up", "down", "flapping", "throttling", "slow", "hanging", "gone")
JUNK = ("", "soon", "-1", "12.5", "1e9", "0x10", "\u0663", "Tue, 99 Foo 2023", "9" * 19, "x" * 500)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt and its verdict; moments are seconds since the simulation began.

    Attributes:
        event: Its number.
        subscriber: To whom.
        started, ended: When it was in flight.
        waited: Seconds for which its event was due and waited for a slot, a window or a gate.
        before: The progress of its event before it.
        outcome, verdict: What came of it.
        policy: The subscriber's backoff.
        size, resized: The subscriber's window before and after it; `cap` is its limit.
    """

    event: int
    subscriber: str
    started: float
    ended: float
    waited: float
    before: Progress
    outcome: Outcome
    verdict: Verdict
    policy: Policy
    size: float
    resized: float
    cap: int

    @property
    def delivered(self) -> bool:
        return self.verdict.action == "delivered"

    @property
    def throttled(self) -> bool:
        """Whether the answer made the whole endpoint wait."""
        return self.verdict.endpoint_wait is not None

    @property
    def ours(self) -> bool:
        """Whether the fault was the worker's own."""
        return self.outcome.error == "worker"

    @property
    def burnt(self) -> int:
        """Attempts of the schedule that are used up, with this one."""
        return self.before.attempts - self.before.free + (not self.verdict.free)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """The requests in flight when one more was opened, counted apart from the slots themselves.

    Attributes:
        subscriber, at: Whose, and when.
        fast, slow: Of all.
        own, own_slow: Its subscriber's.
        subscribers: How many have any.
        since_last: Seconds since its subscriber's last one.
        since_answer: Seconds since one of its requests ended within a second, of those since it last had none.
        silent: Seconds since one of its requests ended.
        before, size: Its window before and after it was taken up again, if it was.
    """

    subscriber: str
    at: float
    fast: int
    slow: int
    own: int
    own_slow: int
    subscribers: int
    since_last: float
    since_answer: float
    silent: float
    before: float
    size: float


@dataclass(slots=True, kw_only=True)
class Event:
    number: int
    progress: Progress
    due: float
    first_due: float


@dataclass(slots=True, kw_only=True)
class Subscriber:
    name: str
    policy: Policy
    cap: int
    window: Window = field(default_factory=Window)
    mood: str = "up"
    gate: float = 0.0
    paused: bool = False
    resumed: float = 0.0
    in_flight: int = 0
    last_opened: float = float("-inf")
    last_answered: float = float("-inf")
    last_ended: float = float("-inf")
    wakes_at: float = 0.0
    waiting: deque[Event] = field(default_factory=deque)


@dataclass(slots=True)
class Simulation:
    """Runs `hours` with what `seed` makes of them.

    Attributes:
        attempts: In the order in which they ended.
        openings: In order.
        too_old: Events that were given up for their age, with that age.
        slots: The slots of the worker.
        emitted: How many events there were.
        subscribers: As they are at the end.
    """

    seed: int
    hours: int
    attempts: list[Attempt] = field(default_factory=list)
    openings: list[Opening] = field(default_factory=list)
    too_old: list[tuple[int, float]] = field(default_factory=list)
    slots: Slots = field(default_factory=lambda: Slots(fast_limit=FAST, slow_limit=SLOW))
    emitted: int = 0
    subscribers: list[Subscriber] = field(init=False)
    _rng: random.Random = field(init=False)
    _agenda: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=count)
    _tickets: list[Ticket] = field(default_factory=list)
    _now: float = 0.0

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self.subscribers = [self._subscriber(f"s{number}") for number in range(6)]

    def run(self) -> "Simulation":
        for hour in range(self.hours):
            self._at(hour * HOUR, self._begin_hour)
        while self._agenda:
            self._now, _, act = heappop(self._agenda)
            self.slots.age(self._now)
            act()
            for subscriber in self.subscribers:
                self._start(subscriber)
        return self

    def _at(self, moment: float, act: Callable[[], None]) -> None:
        heappush(self._agenda, (moment, next(self._order), act))

    def _subscriber(self, name: str) -> Subscriber:
        rng = self._rng
        own = tuple(rng.uniform(0, 2 * HOUR) for _ in range(rng.randrange(8)))
        delays = rng.choice([Config().delivery.retry_delays, own])
        policy = Policy(retry_delays=delays, jitter=rng.choice([0.0, 0.5, 1.0, rng.random()]))
        return Subscriber(name=name, policy=policy, cap=rng.randint(int(START), 32))

    def _begin_hour(self) -> None:
        """Moods change, who is paused may be resumed, and events come in, mostly a few and at times many."""
        rng = self._rng
        for subscriber in self.subscribers:
            if rng.random() < 0.2:
                subscriber.mood = rng.choice(MOODS)
            if subscriber.paused and rng.random() < 0.3:
                subscriber.paused, subscriber.resumed = False, self._now
            for _ in range(rng.choice([0, 0, 0, 1, 2, 30]) if rng.random() < 0.5 else 0):
                self._at(self._now + rng.choice([0.0, rng.random() * HOUR]), partial(self._emit, subscriber))

    def _emit(self, subscriber: Subscriber) -> None:
        due = self._now + 30.0
        event = Event(number=self.emitted, progress=Progress(0, 0, int(due * 1000)), due=due, first_due=due)
        self.emitted += 1
        self._at(due, lambda: subscriber.waiting.append(event))

    def _start(self, subscriber: Subscriber) -> None:
        """Send what is due, as far as gate, window and slots allow; as the product's sender does."""
        if not subscriber.waiting or subscriber.paused:
            return
        if self._now < subscriber.gate:
            self._wake(subscriber, subscriber.gate)
            return
        self._give_up(subscriber)
        while subscriber.waiting and subscriber.in_flight < max(1, min(int(subscriber.window.size), subscriber.cap)):
            if not self.slots.may_open(subscriber.name, self._now):
                # One that is slow may open one a second; for the others an answer makes room.
                self._wake(subscriber, self._now + 1.0)
                return
            self._open(subscriber, subscriber.waiting.popleft())

    def _give_up(self, subscriber: Subscriber) -> None:
        """Age counts from when an event was first due, or the endpoint was resumed."""
        ages = [(event, self._now - max(event.first_due, subscriber.resumed)) for event in subscriber.waiting]
        self.too_old += [(event.number, age) for event, age in ages if age > MAX_AGE]
        subscriber.waiting = deque(event for event, age in ages if age <= MAX_AGE)

    def _wake(self, subscriber: Subscriber, moment: float) -> None:
        if not self._now < subscriber.wakes_at <= moment:
            subscriber.wakes_at = moment
            self._at(moment, lambda: None)

    def _open(self, subscriber: Subscriber, event: Event) -> None:
        before = subscriber.window.size
        if not subscriber.in_flight:
            # Its queue was given back, and is claimed again.
            subscriber.window.resume(self._now)
        self.openings.append(self._opening(subscriber, before))
        ticket = self.slots.opened(subscriber.name, self._now)
        self._tickets.append(ticket)
        subscriber.in_flight += 1
        subscriber.last_opened = self._now
        outcome, seconds = self._answer(subscriber.mood)
        self._at(self._now + min(1.0, seconds), lambda: None)
        self._at(self._now + seconds, lambda: self._end(subscriber, event, ticket, outcome))

    def _opening(self, subscriber: Subscriber, before: float) -> Opening:
        own = [ticket.slow for ticket in self._tickets if ticket.endpoint == subscriber.name]
        slow = sum(ticket.slow for ticket in self._tickets)
        return Opening(
            subscriber=subscriber.name,
            at=self._now,
            fast=len(self._tickets) - slow,
            slow=slow,
            own=len(own) - sum(own),
            own_slow=sum(own),
            subscribers=len({ticket.endpoint for ticket in self._tickets}),
            since_last=self._now - subscriber.last_opened,
            since_answer=self._now - subscriber.last_answered,
            silent=self._now - subscriber.last_ended,
            before=before,
            size=subscriber.window.size,
        )

    def _end(self, subscriber: Subscriber, event: Event, ticket: Ticket, outcome: Outcome) -> None:
        now, size, before = self._now, subscriber.window.size, event.progress
        self.slots.closed(ticket, now)
        self._tickets.remove(ticket)
        subscriber.in_flight -= 1
        subscriber.last_ended = now
        if not ticket.slow and now - ticket.started < SLOW_AFTER_S:
            subscriber.last_answered = now
        if not subscriber.in_flight:
            subscriber.last_answered = float("-inf")
        verdict = decide(outcome, before, subscriber.policy, EPOCH + now, self._rng)
        if verdict.action == "delivered":
            subscriber.window.succeeded(subscriber.cap, now)
        else:
            subscriber.window.failed(now, ticket.started)
        self.attempts.append(
            Attempt(
                event=event.number,
                subscriber=subscriber.name,
                started=ticket.started,
                ended=now,
                waited=ticket.started - event.due,
                before=before,
                outcome=outcome,
                verdict=verdict,
                policy=subscriber.policy,
                size=size,
                resized=subscriber.window.size,
                cap=subscriber.cap,
            )
        )
        self._heed(subscriber, event, verdict)

    def _heed(self, subscriber: Subscriber, event: Event, verdict: Verdict) -> None:
        """What the settle script makes of a verdict."""
        subscriber.gate = max(subscriber.gate, self._now + (verdict.endpoint_wait or 0.0))
        subscriber.paused = subscriber.paused or verdict.action == "pause"
        if verdict.action in ("delivered", "dead"):
            return
        before = event.progress
        event.progress = replace(before, attempts=before.attempts + 1, free=before.free + verdict.free)
        event.due = self._now + verdict.delay
        self._at(event.due, lambda: subscriber.waiting.append(event))

    # --- what subscribers answer -----------------------------------------------------------------------------------

    def _answer(self, mood: str) -> tuple[Outcome, float]:
        """An outcome, and after how many seconds it comes."""
        rng = self._rng
        quick = rng.uniform(0.001, 0.9)
        if mood == "flapping":
            mood = rng.choice(["up", "down"])
        if mood == "up":
            return Outcome(status=rng.choice([200, 204]), duration_ms=5), quick
        if mood == "slow":
            return Outcome(status=200, duration_ms=5), rng.uniform(1.0, TIMEOUT)
        if mood == "hanging":
            return Outcome(status=None, error="timeout", duration_ms=10_000), TIMEOUT
        if mood == "throttling":
            status = rng.choice([429, 429, 503, 302])
            return Outcome(status=status, duration_ms=5, retry_after=self._retry_after()), quick
        if mood == "gone":
            return Outcome(status=410, duration_ms=5), quick
        if rng.random() < 0.5:
            failures: list[Failure] = ["refused", "reset", "blocked", "worker"]
            return Outcome(status=None, error=rng.choice(failures), duration_ms=1), quick
        return Outcome(status=rng.choice([404, 500, 502, 999]), duration_ms=5), quick

    def _retry_after(self) -> str | None:
        """Seconds, dates of the future and the past, junk, or nothing."""
        rng = self._rng
        moment = EPOCH + self._now + rng.choice([-1e9, -60.0, 0.0, 45.0, 7200.0, 1e9])
        return rng.choice([None, "0", "7", "600", "1000000000", formatdate(moment, usegmt=True), rng.choice(JUNK)])
