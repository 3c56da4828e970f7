"""The verdict: two ledgers and the final scan, compared as sets. No I/O; `test_checker.py` shows that it can fail."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
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
        attempts: The highest number that an attempt may have.
        duplicates: How many requests too many there may be, beside one for each that was in flight, or answered and
            not settled, when its worker was killed: those the arena adds, as they were counted.
        may_lose: Which acknowledged events may be lost; none, but where the server itself forgets.
        may_bury: Which dead letters there may be; none, but where a subscriber never takes an event.
        drained: Everything was delivered or given up, so nothing else may be left.
    """

    delay: float
    attempts: int = 16
    duplicates: int = 0
    may_lose: Callable[[Emitted], bool] = lambda _: False
    may_bury: Callable[[Kept], bool] = lambda _: False
    drained: bool = True


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
        buried: Dead letters that nobody announced.
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
    return Findings(
        emitted=len(events),
        unknown=sum(not each.stored for each in events.values()),
        pairs=len(promised),
        requests=sum(map(len, requests.values())),
        duplicates=sum(map(_too_many, requests.values())),
        allowed=promise.duplicates,
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
        attempts=frozenset(p for p, made in requests.items() if any(it.attempt > promise.attempts for it in made)),
        twice=frozenset(pair for pair, count in places.items() if count > 1),
        buried=frozenset((it.id, it.endpoint) for it in left.kept if it.place == "dead" and not promise.may_bury(it)),
        leaks=_leaks(left) if promise.drained else (),
    )


def _by_pair(received: Iterable[Received]) -> dict[Pair, list[Received]]:
    found: defaultdict[Pair, list[Received]] = defaultdict(list)
    for each in received:
        found[each.id, each.endpoint].append(each)
    return dict(found)


def _too_many(made: list[Received]) -> int:
    """Requests for what had been taken already, and attempts that were made twice."""
    attempts: set[int] = set()
    taken, count = False, 0
    for each in made:
        count += taken or each.attempt in attempts
        attempts.add(each.attempt)
        taken = taken or each.taken
    return count


def _leaks(left: Scan) -> tuple[str, ...]:
    waiting = Counter(f"{each.place} of {each.endpoint}" for each in left.kept if each.place != "dead")
    return (*left.leaks, *(f"{count} events in {where}" for where, count in waiting.items()))
