"""The reading of the workers and the endpoints."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from kasplo_notify.doctor.attempt import Attempt, Unread
from kasplo_notify.doctor.fleet import Fleet
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.errors import StorageBroken
from kasplo_notify.registry import Registry
from kasplo_notify.routing import RouteTable
from kasplo_notify.status import EndpointStatus, numbers, read_statuses, redis_ms
from kasplo_notify.store import Store

# Queues on the schedule that are looked at for names which nobody registered.
_MOST_QUEUES: Final = 10_000
_QUEUE: Final = re.compile(r"([a-z0-9_-]{1,64})\.[0-9]{1,2}")
# RQ's own key (rq.suspension.WORKERS_SUSPENDED).
_SUSPENDED: Final = "rq:suspended"


def read_fleet(registry: Registry, attempt: Attempt) -> Fleet:
    """The workers and the endpoints.

    Raises:
        StorageUnavailable: Redis cannot be reached, or is not ready.
    """
    store, keys = registry.store, registry.store.keys
    now = attempt.read("the clock (TIME)", partial(redis_ms, store)) or 0
    idle, busy = attempt.read("the workers", partial(_workers, store, now), needed=True) or (None, None)
    suspended = attempt.read(_SUSPENDED, lambda: bool(store.read(("EXISTS", _SUSPENDED))[0]), needed=True)
    counters = attempt.read("the counters", partial(_numbers, store, keys("counters")))
    deaths = attempt.read("the deaths of drains", partial(_numbers, store, keys("deaths")))
    attempt.read("what drains note of queues", partial(_notes, store), needed=True)
    read = attempt.read("the registry", registry.read, needed=True)
    fleet = Fleet(idle=idle, busy=busy, suspended=suspended, deaths=deaths or {}, counters=counters or {})
    if read is None:
        return fleet
    _, endpoints, broken = read
    census = _Census(registry, attempt, endpoints, {each.name: each.reason for each in broken}, now)
    statuses, unreadable = census.statuses(census.names)
    return replace(fleet, endpoints=statuses, unreadable=unreadable, unregistered=census.unregistered())


class _Census:
    """How things stand with each endpoint, once the registry was read."""

    def __init__(
        self,
        registry: Registry,
        attempt: Attempt,
        endpoints: Mapping[str, Endpoint],
        broken: Mapping[str, str],
        now_ms: int,
    ) -> None:
        self._registry, self._store, self._keys = registry, registry.store, registry.store.keys
        self._attempt, self._now_ms = attempt, now_ms
        self._endpoints, self._broken = endpoints, broken
        holders = attempt.read("the dead letters", lambda: _words(self._store.read(("HKEYS", self._keys("dead")))[0]))
        self.names = sorted({*endpoints, *broken, *(holders or ())})

    def statuses(self, names: Sequence[str]) -> tuple[list[EndpointStatus], dict[str, str]]:
        """How things stand with these, and what is wrong with the keys of others among them.

        All are read at once; when a key of one is broken, one by one, to find it.
        """
        together = Attempt().read("all", partial(self._read, names))
        if together is not None:
            return together, {}
        apart = Attempt()
        found = [apart.read(name, partial(self._read, [name])) for name in names]
        if not any(found) and len({each.why for each in apart.unread}) == 1 < len(names):
            # Not the keys of one endpoint: the login may not read any.
            self._attempt.unread.append(Unread(what="the backlogs", why=apart.unread[0].why, needed=True))
            return [], {}
        return [each for some in found for each in some or ()], {each.what: each.why for each in apart.unread}

    def unregistered(self) -> dict[str, int]:
        """Names that are not registered and have events. Producers route to them, or the schedule has them."""
        schedule = ("ZRANGE", self._keys("schedule"), 0, _MOST_QUEUES)
        queues = self._attempt.read("the schedule", lambda: _words(self._store.read(schedule)[0]), needed=True)
        routed = self._attempt.read("the routes", self._routed, needed=True)
        scheduled = {match[1] for match in map(_QUEUE.fullmatch, queues or ()) if match}
        statuses, _ = self.statuses(sorted((scheduled | (routed or set())).difference(self.names)))
        held = {each.name: each.backlog.waiting + each.backlog.retrying for each in statuses}
        return {name: events for name, events in held.items() if events}

    def _read(self, names: Sequence[str]) -> list[EndpointStatus]:
        return list(
            read_statuses(self._registry, names, endpoints=self._endpoints, broken=self._broken, now_ms=self._now_ms)
        )

    def _routed(self) -> set[str]:
        (stored,) = self._store.read(("GET", self._keys.routes))
        try:
            return RouteTable.load(None, stored).endpoints
        except (ValueError, TypeError) as error:
            raise StorageBroken(
                "they are not readable; any `kasplo-notify endpoint update` writes them anew"
            ) from error


def _workers(store: Store, now: int) -> tuple[int, int]:
    keys = store.keys
    idle, busy = store.read(("ZCOUNT", keys("idle"), now, "+inf"), ("ZCOUNT", keys("busy"), now, "+inf"))
    return int(idle), int(busy)


def _notes(store: Store) -> list[int]:
    return [int(each) for each in store.read(*(("HLEN", store.keys(name)) for name in ("owner", "alone", "suspect")))]


def _numbers(store: Store, key: str) -> dict[str, int]:
    (values,) = store.read(("HGETALL", key))
    return numbers(values)


def _words(values: Iterable[bytes]) -> set[str]:
    return {value.decode(errors="replace") for value in values}
