"""How things stand: endpoints with their backlog and health, counters, workers. Reads Redis, changes nothing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kasplo_notify.endpoint import Endpoint
from kasplo_notify.errors import StorageBroken
from kasplo_notify.health import Backlog, Health
from kasplo_notify.registry import Registry, unknown_endpoint
from kasplo_notify.store import Store

_PAGE = 500
# More than the scripts write of a text, and of a number.
_SAID, _DIGITS = 2_000, 16
# What the scripts write as the reason of a pause, for people.
_PAUSED = {
    "operator": "by an operator",
    "gone": "gone (it answered 410)",
    "blocked": "blocked by the egress guard",
    "failing": "failing for too long",
    "broken": "its record is not readable",
    "unregistered": "its record is missing",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointStatus:
    """One endpoint.

    Attributes:
        name: Its name.
        endpoint: Its record; None when that is not readable, or the endpoint is removed.
        broken: Why not; empty otherwise.
        shattered: Why its keys are not readable, so that health and backlog are not known; empty otherwise.
        health: What the workers know of it.
        backlog: Its events.
        now_ms: When this was read, Unix milliseconds by Redis' clock.
    """

    name: str
    endpoint: Endpoint | None
    broken: str
    shattered: str = ""
    health: Health
    backlog: Backlog
    now_ms: int

    @property
    def state(self) -> str:
        """A stable word: broken, removed, removing, paused, breaker_open, waiting, failing or active."""
        health = self.health
        if self.fault:
            return "broken"
        if self.endpoint is None:
            return "removed"
        if health.paused == "removing" or self.endpoint.removing:
            return "removing"
        if health.paused:
            return "paused"
        if health.open:
            return "breaker_open"
        if health.not_before > self.now_ms:
            return "waiting"
        return "failing" if health.fails else "active"

    @property
    def pause_reason(self) -> str:
        """Why it is paused, for people."""
        return _PAUSED.get(self.health.paused, self.health.paused)

    @property
    def fault(self) -> str:
        """What is wrong with what is stored of it; empty when nothing is."""
        return self.broken or self.shattered


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Everything.

    Attributes:
        now_ms: When this was read, Unix milliseconds by Redis' clock.
        endpoints: In alphabetical order.
        counters: What the scripts count over all endpoints: emitted, unrouted, dropped.
        idle: Worker processes that wait.
        busy: Worker processes that deliver.
    """

    now_ms: int
    endpoints: tuple[EndpointStatus, ...]
    counters: Mapping[str, int]
    idle: int
    busy: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One request that was made; failures are all kept, successes are sampled.

    Attributes:
        at_ms: When its outcome was stored, Unix milliseconds.
        event_id: The event.
        number: 1, 2, ...
        status: The HTTP status; None when there was no answer.
        ms: Milliseconds that it took.
        result: delivered, retry, pause or dead.
        reason: A stable word.
        detail: The same for people.
        excerpt: The first bytes of the answer.
    """

    at_ms: int
    event_id: str
    number: int
    status: int | None
    ms: int
    result: str
    reason: str
    detail: str
    excerpt: bytes


def read_overview(registry: Registry, only: str | None = None, *, removed: bool = False) -> Overview:
    """How things stand, for all endpoints or for one.

    Args:
        registry: The registry.
        only: The name of one endpoint.
        removed: Removed endpoints as well, while there are dead letters of them.

    Raises:
        UnknownEndpoint: There is no endpoint `only`.
        StorageUnavailable: Redis does not answer.
    """
    store, keys = registry.store, registry.store.keys
    _, endpoints, broken = registry.read()
    reasons = {each.name: each.reason for each in broken}
    known = {*endpoints, *reasons}
    if removed:
        (holders,) = store.read(("HKEYS", keys("dead")))
        known.update(name.decode(errors="replace") for name in holders)
    names = sorted(known)
    if only is not None:
        if only not in names:
            raise unknown_endpoint(only, names)
        names = [only]
    now_ms = redis_ms(store)
    counters, idle, busy = store.read(
        ("HGETALL", keys("counters")),
        ("ZCOUNT", keys("idle"), now_ms, "+inf"),
        ("ZCOUNT", keys("busy"), now_ms, "+inf"),
    )
    return Overview(
        now_ms=now_ms,
        endpoints=_each_status(registry, names, endpoints=endpoints, broken=reasons, now_ms=now_ms),
        counters=numbers(counters),
        idle=idle,
        busy=busy,
    )


def read_statuses(
    registry: Registry,
    names: Sequence[str],
    *,
    endpoints: Mapping[str, Endpoint],
    broken: Mapping[str, str],
    now_ms: int,
) -> tuple[EndpointStatus, ...]:
    """How things stand with these endpoints.

    Args:
        registry: The registry.
        names: Whose.
        endpoints: The readable records, by name.
        broken: Why the others are not readable, by name.
        now_ms: Unix milliseconds by Redis' clock.

    Raises:
        StorageBroken: A key of one of them is not what it should be.
        StorageUnavailable: Redis does not answer.
    """
    health, backlog = registry.health(names), registry.backlog(names)
    return tuple(
        EndpointStatus(
            name=name,
            endpoint=endpoints.get(name),
            broken=broken.get(name, ""),
            health=health[name],
            backlog=backlog[name],
            now_ms=now_ms,
        )
        for name in names
    )


def _each_status(
    registry: Registry,
    names: Sequence[str],
    *,
    endpoints: Mapping[str, Endpoint],
    broken: Mapping[str, str],
    now_ms: int,
) -> tuple[EndpointStatus, ...]:
    """As `read_statuses`; where a key of one is broken that is told of it, and the others are read."""
    try:
        return read_statuses(registry, names, endpoints=endpoints, broken=broken, now_ms=now_ms)
    except StorageBroken as error:
        if len(names) != 1:
            apart = (
                _each_status(registry, [name], endpoints=endpoints, broken=broken, now_ms=now_ms) for name in names
            )
            return tuple(each for (each,) in apart)
        (name,) = names
        return (
            EndpointStatus(
                name=name,
                endpoint=endpoints.get(name),
                broken=broken.get(name, ""),
                shattered=str(error),
                health=Health(),
                backlog=Backlog(waiting=0, retrying=0, dead=0, late_ms=0),
                now_ms=now_ms,
            ),
        )


def numbers(stored: Mapping[bytes, bytes]) -> dict[str, int]:
    """The fields of a hash of counters; what is no number is left out."""
    return {
        name[:_SAID].decode(errors="replace"): int(value)
        for name, value in stored.items()
        if value.isdigit() and len(value) <= _DIGITS
    }


def read_attempts(store: Store, name: str) -> Iterator[Attempt]:
    """The attempts that are kept of an endpoint, the latest first, read in pages."""
    key, end = store.keys(f"attempts:{name}"), "+"
    while True:
        (page,) = store.read(("XREVRANGE", key, end, "-", "COUNT", _PAGE))
        for ref, values in page:
            yield _attempt(ref.decode(), values)
            end = f"({ref.decode()}"
        if len(page) < _PAGE:
            return


def dead_count(store: Store, names: Sequence[str]) -> int:
    """How many dead letters these endpoints have together."""
    return sum(store.read(*(("XLEN", store.keys(f"dead:{name}")) for name in names)))


def redis_ms(store: Store) -> int:
    """Unix milliseconds by Redis' clock, the only one that counts."""
    ((seconds, microseconds),) = store.read(("TIME",))
    return int(seconds) * 1000 + int(microseconds) // 1000


def _attempt(ref: str, values: Mapping[bytes, bytes]) -> Attempt:
    def text(name: bytes) -> str:
        return values.get(name, b"")[:_SAID].decode(errors="replace")

    def number(name: bytes) -> int | None:
        value = values.get(name, b"")
        return int(value) if value.isdigit() and len(value) <= _DIGITS else None

    return Attempt(
        at_ms=int(ref.partition("-")[0]),
        event_id=text(b"id"),
        number=number(b"attempt") or 0,
        status=number(b"status"),
        ms=number(b"ms") or 0,
        result=text(b"result"),
        reason=text(b"reason"),
        detail=text(b"detail"),
        excerpt=values.get(b"excerpt", b"")[:_SAID],
    )
