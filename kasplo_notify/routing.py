"""Which endpoints get an event: a pure function of the registry's routes, the mail class and the event type.

EVENTS.md, decision 13: an endpoint names its mail classes, or ``*`` (every class), or ``default``, which gets the
pairs of class and type that no other endpoint matches by class and type (``*`` endpoints aside). Matching ignores
case. An event without a mail class matches only ``*`` and ``default``.
"""

import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from kasplo_notify.endpoint import MAX_DELAY_S, MAX_QUEUES, Endpoint, check_mail_class, check_name

ANY, DEFAULT = "*", "default"
# What an event may carry as its mail class without naming one.
_SPECIAL = (ANY, DEFAULT, "")
# Pairs of mail class and type that a producer remembers the way of. Mail classes come from outside.
_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Route:
    """What a producer needs to know of an endpoint.

    Attributes:
        endpoint: Its name.
        mail_classes: Mail classes in lower case, ``*`` or ``default``.
        event_types: Event types; empty for all.
        queues: The number of queues that its backlog is spread over.
        delay: Seconds from emit to the first attempt; None for the configured delay.
    """

    endpoint: str
    mail_classes: tuple[str, ...]
    event_types: tuple[str, ...]
    queues: int
    delay: float | None

    @classmethod
    def of(cls, endpoint: Endpoint) -> "Route":
        classes = tuple(name.lower() for name in endpoint.mail_classes)
        return cls(endpoint.name, classes, endpoint.event_types, endpoint.queues, endpoint.delay)

    def takes_type(self, event_type: str) -> bool:
        return not self.event_types or event_type in self.event_types

    def queue_for(self, email: str) -> str:
        """The queue of a recipient: always the same one, whatever the case of the address."""
        return f"{self.endpoint}.{zlib.crc32(email.lower().encode()) % self.queues}"


@dataclass(frozen=True, slots=True)
class Match:
    """One line of a dry run: an endpoint, whether it gets the event, and why."""

    route: Route
    matched: bool
    reason: str


class RouteTable:
    """All routes of one version of the registry. Immutable, so threads may share it.

    Attributes:
        version: The registry's version, as the push script compares it.
    """

    def __init__(self, version: str, routes: Iterable[Route]) -> None:
        self.version = version
        self._routes = tuple(routes)
        self._by_class: dict[str, list[Route]] = {}
        for route in self._routes:
            for mail_class in route.mail_classes:
                self._by_class.setdefault(mail_class, []).append(route)
        self.match = lru_cache(maxsize=_REMEMBERED)(self._match)

    @classmethod
    def load(cls, version: bytes | None, stored: bytes | None) -> "RouteTable":
        """Read what :func:`dump_routes` wrote.

        Raises:
            ValueError: The stored routes are not readable.
        """
        routes = [_read(row) for row in (orjson.loads(stored) if stored else [])]
        return cls((version or b"0").decode(), routes)

    @property
    def endpoints(self) -> set[str]:
        """The names of all endpoints that get anything."""
        return {route.endpoint for route in self._routes}

    def of_endpoints(self, names: Collection[str]) -> list[Route]:
        """The routes of these endpoints."""
        return [route for route in self._routes if route.endpoint in names]

    def _match(self, mail_class: str, event_type: str) -> tuple[Route, ...]:
        """The routes that :meth:`explain` matches, without a look at every endpoint: a new mail class is common."""
        mail_class = mail_class.lower()
        named = [] if mail_class in _SPECIAL else self._taking(mail_class, event_type)
        others = self._taking(ANY, event_type) + ([] if named else self._taking(DEFAULT, event_type))
        found = {route.endpoint: route for route in (*named, *others)}
        return tuple(found[endpoint] for endpoint in sorted(found))

    def _taking(self, mail_class: str, event_type: str) -> list[Route]:
        return [route for route in self._by_class.get(mail_class, ()) if route.takes_type(event_type)]

    def explain(self, mail_class: str, event_type: str) -> list[Match]:
        """Every endpoint with the reason why it gets, or does not get, events of this class and type.

        Args:
            mail_class: The mail class in any case; empty for none.
            event_type: One of the seven types.
        """
        mail_class = mail_class.lower()
        named = set() if mail_class in _SPECIAL else {route.endpoint for route in self._taking(mail_class, event_type)}
        matches = []
        for route in self._routes:
            if not route.takes_type(event_type):
                matches.append(Match(route, matched=False, reason=f"does not take {event_type}"))
            elif route.endpoint in named:
                matches.append(Match(route, matched=True, reason=f"names the mail class {mail_class}"))
            elif ANY in route.mail_classes:
                matches.append(Match(route, matched=True, reason="takes every mail class"))
            elif DEFAULT not in route.mail_classes:
                matches.append(Match(route, matched=False, reason=f"takes only {', '.join(route.mail_classes)}"))
            elif named:
                matches.append(
                    Match(
                        route,
                        matched=False,
                        reason=f"is a default, and the mail class is named by {', '.join(sorted(named))}",
                    )
                )
            else:
                matches.append(
                    Match(route, matched=True, reason="is a default, and no other endpoint names this mail class")
                )
        return matches


def _read(row: Any) -> Route:
    """One of the stored routes; ValueError or TypeError for what :func:`dump_routes` would not have written."""
    name, classes, types, queues, delay = row
    if not (type(classes) is type(types) is list and all(type(each) is str for each in types)):
        raise ValueError("a route's mail classes and event types are lists")
    if type(queues) is not int or not 1 <= queues <= MAX_QUEUES:
        raise ValueError(f"a route has 1 to {MAX_QUEUES} queues")
    if delay is not None and not (type(delay) in (int, float) and 0 <= delay <= MAX_DELAY_S):
        raise ValueError(f"a route's delay is 0 to {MAX_DELAY_S} seconds")
    return Route(check_name(name), tuple(map(check_mail_class, classes)), tuple(types), queues, delay)


def dump_routes(endpoints: Iterable[Endpoint], others: Iterable[Route] = ()) -> bytes:
    """What producers need of the registry, as JSON. An endpoint that is being removed gets nothing more.

    Args:
        endpoints: The endpoints.
        others: Routes of endpoints whose records are not readable, to be kept as they are.
    """
    routes = [*(Route.of(endpoint) for endpoint in endpoints if not endpoint.removing), *others]
    return orjson.dumps([[r.endpoint, r.mail_classes, r.event_types, r.queues, r.delay] for r in routes])
