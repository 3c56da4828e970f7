"""The verdict: two ledgers and the final scan, compared as sets. No I/O; `test_checker.py` shows that it can fail."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from tests.torture.ledger import Emitted, Received
from tests.torture.scan import Kept, Scan

# An event at an endpoint: the id of the one, the name of the other.
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What is promised in a scenario.

    Attributes:
        delay: Seconds from emit to the first attempt.
        attempts: How many attempts the schedule has: the highest number that one may have.
        free: How many more an event may have at the endpoints that throttle.
        throttle: These endpoints.
        duplicates: How many requests too many there may be, beside one for each that was in flight, or answered and
            not settled, when its worker was killed: those the arena adds, as they were counted.
        may_repeat: Which requests may be made once more; none, but where the server itself forgets what came of them.
        may_lose: Which acknowledged events may be lost; none, but where the server itself forgets.
        may_bury: Which dead letters there may be; none, but where a subscriber never takes an event. One whose attempts
            were used up had all of them, wherever it is.
        drained: Everything was delivered or given up, so nothing else may be left.
    """

    delay: float
    attempts: int
    free: int = 0
    throttle: Collection[str] = ()
    duplicates: int = 0
    may_repeat: Callable[[Received], bool] = lambda _: False
    may_lose: Callable[[Emitted], bool] = lambda _: False
    may_bury: Callable[[Kept], bool] = lambda _: False
    drained: bool = True

    def most(self, endpoint: str) -> int:
        """The highest number that an attempt may have there."""
        return self.attempts + (self.free if endpoint in self.throttle else 0)

    def explains(self, dead: Kept) -> bool:
        """Whether there may be this dead letter."""
        used_up = dead.reason != "attempts_used_up" or dead.burnt == self.attempts
        return used_up and self.may_bury(dead)


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What came of a scenario.

    Attributes:
        emitted, unknown: Events; of these, such that `emit` did not acknowledge.
        pairs: Deliveries that were promised.
        requests: Requests that arrived.
        duplicates, allowed: Requests too many, and how many of them are explained.
        forgiven: Deliveries lost where that was announced.
        dead: Dead letters.
        lateness: Seconds that first requests were behind the delay, in order.
        lost: Promised, and neither taken by the subscriber nor kept in Redis.
        phantom: Arrived or kept, but never emitted for this endpoint.
        corrupt: Arrived or kept with other bytes than were emitted.
        early: First requests before the delay was over.
        attempts: Attempted more often than the policy says.
        twice: In Redis at more than one place.
        buried: Dead letters that nobody announced, or that were given up before their attempts were used up.
        leaks: Keys and events left behind, in words.
    """

    emitted: int
    unknown: int
    pairs: int
    requests: int
    duplicates: int
    allowed: int
    forgiven: int
    dead: int
    lateness: tuple[float, ...] = field(repr=False)
    lost: frozenset[Pair]
    phantom: frozenset[Pair]
    corrupt: frozenset[Pair]
    early: frozenset[Pair]
    attempts: frozenset[Pair]
    twice: frozenset[Pair]
    buried: frozenset[Pair]
    leaks: tuple[str, ...]

    @property
    def complaints(self) -> dict[str, str]:
        """What is wrong: its name -> how many, with examples. Empty when the promise was kept."""
        found = {}
        for name in ("lost", "phantom", "corrupt", "early", "attempts", "twice", "buried", "leaks"):
            if wrong := getattr(self, name):
                found[name] = f"{len(wrong)}, such as {sorted(wrong)[:3]}"
        if self.duplicates > self.allowed:
            found["duplicates"] = f"{self.duplicates}, of which {self.allowed} are explained"
        return found

    @property
    def duplicates_ppm(self) -> float:
        return 1e6 * self.duplicates / max(1, self.pairs)

    def late(self, share: float) -> float:
        """Seconds that this share of the first requests were at most behind the delay."""
        last = len(self.lateness) - 1
        return self.lateness[min(last, int(share * len(self.lateness)))] if self.lateness else 0.0


def check(emitted: Iterable[Emitted], received: Iterable[Received], left: Scan, promise: Promise) -> Findings:
    """Compare what was emitted with what arrived and what is left."""
    events = {each.id: each for each in emitted}
    possible = {(each.id, name): each for each in events.values() for name in each.endpoints}
    promised = {pair for pair, each in possible.items() if each.stored}
    requests = _by_pair(received)
    taken = {pair for pair, made in requests.items() if any(each.taken for each in made)}
    places = Counter((each.id, each.endpoint) for each in left.kept)
    bodies = {(each.id, each.endpoint): each.body for each in left.kept}
    missing = promised - taken - places.keys()
    forgiven = {pair for pair in missing if promise.may_lose(possible[pair])}
    first = {pair: made[0].at for pair, made in requests.items() if pair in possible}
    too_many = [(made[:at], made[at]) for made in requests.values() for at in _too_many(made)]
    repeated = sum(any(map(promise.may_repeat, _answered(before, again))) for before, again in too_many)
    return Findings(
        emitted=len(events),
        unknown=sum(not each.stored for each in events.values()),
        pairs=len(promised),
        requests=sum(map(len, requests.values())),
        duplicates=len(too_many),
        allowed=promise.duplicates + repeated,
        forgiven=len(forgiven),
        dead=sum(each.place == "dead" for each in left.kept),
        lateness=tuple(sorted(at - possible[pair].ended - promise.delay for pair, at in first.items())),
        lost=frozenset(missing - forgiven),
        phantom=frozenset({*requests, *places} - possible.keys()),
        corrupt=frozenset(
            pair
            for pair, each in possible.items()
            if bodies.get(pair, each.body) != each.body or any(it.body != each.body for it in requests.get(pair, ()))
        ),
        early=frozenset(pair for pair, at in first.items() if at < possible[pair].began + promise.delay),
        attempts=frozenset(p for p, made in requests.items() if max(it.attempt for it in made) > promise.most(p[1])),
        twice=frozenset(pair for pair, count in places.items() if count > 1),
        buried=frozenset((it.id, it.endpoint) for it in left.kept if it.place == "dead" and not promise.explains(it)),
        leaks=_leaks(left) if promise.drained else (),
    )


def _by_pair(received: Iterable[Received]) -> dict[Pair, list[Received]]:
    found: defaultdict[Pair, list[Received]] = defaultdict(list)
    for each in received:
        found[each.id, each.endpoint].append(each)
    return dict(found)


def _too_many(made: list[Received]) -> list[int]:
    """Positions of requests for what had been taken already, and of attempts that were made twice."""
    return [at for at, each in enumerate(made) if any(_answered(made[:at], each))]


def _answered(before: list[Received], again: Received) -> list[Received]:
    """The requests after which this one should not have been made."""
    return [each for each in before if each.taken or each.attempt == again.attempt]


def _leaks(left: Scan) -> tuple[str, ...]:
    waiting = Counter(f"{each.place} of {each.endpoint}" for each in left.kept if each.place != "dead")
    return (*left.leaks, *(f"{count} events in {where}" for where, count in waiting.items()))
