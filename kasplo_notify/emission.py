"""The steps of an emit, without any I/O: validate, route, push.

They are written once, as a generator that yields what it needs from Redis (a :class:`Call`, or
:data:`LOAD_ROUTES`) and is sent the reply; ``carrier.py`` carries these to Redis and back, for threads and for
asyncio. The routes are cached: the push script takes the version of the registry that the producer routed by and
changes nothing when it is not the current one, so a cache can be old but never wrong.
"""

import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from kasplo_notify.config import Config
from kasplo_notify.endpoint import milliseconds
from kasplo_notify.errors import InvalidEvent, PushError, StorageUnavailable
from kasplo_notify.events import Event, check_event_id, check_mail_class, validate
from kasplo_notify.routing import Route, RouteTable
from kasplo_notify.stored import StoredEvent

if TYPE_CHECKING:
    from kasplo_notify.store import Call

# A chunk is pushed or not pushed as one. Redis runs nothing else meanwhile, so it is bounded: 500 events for 300
# endpoints each took it half a second. The bytes are those of all copies.
CHUNK_EVENTS: Final = 500
CHUNK_COPIES: Final = 2_000
CHUNK_BYTES: Final = 1_048_576
TOKEN_MS, OWN_ID_MS, DAY_MS = 60_000, 3_600_000, 86_400_000

# Arguments of `emit` that are no fields: None is for one that is not given.
_BESIDE: Final = ("mail_class", "event_id")

LOAD_ROUTES: Final = "load routes"
Result = TypeVar("Result")
Steps = Generator["Call | str", Any, Result]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of an emitted event.

    Attributes:
        id: The event id, sent as ``webhook-id`` with every attempt to every endpoint.
        endpoints: Names of the endpoints that it will be delivered to; empty when nothing matched.
        repeated: An event of this id was emitted before, so this call changed nothing for it.
        spooled: It is in the local spool, and goes to Redis from there: where to is known only then.
    """

    id: str
    endpoints: tuple[str, ...]
    repeated: bool = False
    spooled: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """A validated event with its routing metadata; `own_id` is what the caller gave."""

    event: Event
    mail_class: str
    own_id: str


def _prepare(own: dict[str, object]) -> Prepared:
    """Validate one event; the dict is this function's to change."""
    event_type: Any = own.pop("event_type", None)
    mail_class = check_mail_class(own.pop("mail_class", None))
    given_id = own.pop("event_id", None)
    own_id = "" if given_id is None else check_event_id(given_id)
    return Prepared(validate(event_type, own), mail_class, own_id)


def prepare_one(event: str | Mapping[str, object], fields: Mapping[str, object]) -> Prepared:
    """Validate the arguments of `emit`: an event type with its fields, or a mapping with all of them.

    Raises:
        InvalidEvent: As :func:`kasplo_notify.events.validate`.
    """
    if isinstance(event, Mapping):
        given = {name: value for name, value in fields.items() if value is not None or name not in _BESIDE}
        return _prepare({**event, **given})
    return _prepare({**fields, "event_type": event})


def prepare_many(events: Iterable[Mapping[str, object]]) -> list[Prepared]:
    """Validate the events of an `emit_many`, all or nothing; an error says which one.

    Raises:
        InvalidEvent: With the position of the first bad event, counted from 0.
    """
    if isinstance(events, Mapping | str | bytes) or not isinstance(events, Iterable):
        raise InvalidEvent("emit_many takes a list of events; a single one is for emit")
    prepared = []
    for position, fields in enumerate(events):
        try:
            if not isinstance(fields, Mapping):
                raise InvalidEvent(f"an event is a mapping of its fields, not a {type(fields).__name__}")  # noqa: TRY301
            prepared.append(_prepare(dict(fields)))
        except InvalidEvent as error:
            message = f"event {position}: {error}"
            raise InvalidEvent(message, event_type=error.event_type, field=error.field) from error
    return prepared


class Emission:
    """The steps of one emit or emit_many, without any I/O.

    Attributes:
        routes: The routes that were last read; None when they have to be read.
        receipts: Of the events that are known to be stored, from the first on.
    """

    def __init__(self, config: Config, routes: "RouteTable | None", prepared: Sequence[Prepared]) -> None:
        self._config = config
        self._prepared = prepared
        # The id that the push script looks each event up by, if any, and the ids of the events in chunks so far.
        self._own = [item.own_id for item in prepared]
        self._ids: list[str] = []
        self.routes = routes
        self.receipts: list[Receipt] = []

    def steps(self) -> "Steps[list[Receipt]]":
        try:
            while len(self.receipts) < len(self._prepared):
                yield from self._push()
        except PushError as error:
            rest = (own or generated_id() for own in self._own[len(self._ids) :])
            error.event_ids, error.pushed = (*self._ids, *rest), len(self.receipts)
            raise
        return self.receipts

    def _push(self) -> "Steps[None]":
        """Push the next chunk."""
        start, stem = len(self.receipts), generated_id()
        table = self.routes or (yield from self._load())
        ways = _bounded(table, self._prepared[start : start + CHUNK_EVENTS])
        end = start + len(ways)
        alone = len(self._prepared) == 1
        ids = [own or (stem if alone else f"{stem}-{n}") for n, own in enumerate(self._own[start:end])]
        self._ids[start:] = ids
        # The ids that are generated for one chunk share its token, so each tells whether its chunk was pushed. No
        # id has a dot in it: what callers derive from a receipt's id is never the token of a chunk.
        token = stem if alone else f"{stem}."
        while True:
            status, _, *there = yield self._call(table, token, range(start, end), ways)
            if status != b"stale":
                break
            table = yield from self._load()
            ways = _bounded(table, self._prepared[start:end])
            if start + len(ways) < end:
                # By these routes it is too much for one chunk. An earlier try may have been applied and its reply
                # lost, so the events keep their ids: by those the script knows what it has.
                self._own[start:end] = ids
                return
        known = frozenset(there)
        # Most events of a chunk go the same way.
        last: tuple[Route, ...] | None = None
        endpoints: tuple[str, ...] = ()
        for position, (event_id, way) in enumerate(zip(ids, ways, strict=True), start=1):
            repeated = position in known and bool(self._prepared[start + position - 1].own_id)
            if way is not last:
                last, endpoints = way, tuple([route.endpoint for route in way])
            self.receipts.append(Receipt(event_id, endpoints, repeated))

    def _load(self) -> "Steps[RouteTable]":
        self.routes = None
        self.routes = _read_routes((yield LOAD_ROUTES))
        return self.routes

    def _call(
        self,
        table: RouteTable,
        token: str,
        chunk: range,
        ways: Sequence[tuple[Route, ...]],
    ) -> "Call":
        from kasplo_notify.store import Call

        positions: dict[str, str] = {}
        queues: list[str | int] = []
        events: list[str | bytes] = []
        here = slice(chunk.start, chunk.stop)
        for item, own, event_id, way in zip(self._prepared[here], self._own[here], self._ids[here], ways, strict=True):
            places = []
            for route in way:
                queue = route.queue_for(item.event.email)
                place = positions.get(queue)
                if place is None:
                    place = positions[queue] = str(len(positions) + 1)
                    queues += self._describe(queue, route)
                places.append(place)
            packed = StoredEvent(event_id, item.mail_class, item.event.body).pack()
            events += (own, packed, " ".join(places))
        dead = self._config.dead
        # What was perhaps pushed, and is in the spool as well, may be pushed from there much later.
        life = TOKEN_MS if self._config.spool.path is None else OWN_ID_MS
        args: list[Any] = [table.version, token, life, OWN_ID_MS, dead.max_bytes, int(dead.keep_days * DAY_MS)]
        return Call("push", [*args, len(positions), *queues, *events])

    def _describe(self, queue: str, route: Route) -> tuple[str, int, int]:
        delivery = self._config.delivery
        delay = delivery.delay if route.delay is None else route.delay
        return queue, milliseconds(delay), max(1, delivery.max_backlog // route.queues)


def generated_id() -> str:
    """An id for an event, and a token for a call."""
    return f"msg_{os.urandom(12).hex()}"


def _bounded(table: RouteTable, items: Sequence[Prepared]) -> list[tuple[Route, ...]]:
    """The routes of the first events, as many as make a chunk: one at least."""
    ways: list[tuple[Route, ...]] = []
    copies = size = 0
    for item in items:
        way = table.match(item.mail_class, item.event.event_type)
        copies += len(way)
        size += len(item.event.body) * max(1, len(way))
        if ways and (copies > CHUNK_COPIES or size > CHUNK_BYTES):
            break
        ways.append(way)
    return ways


def _read_routes(reply: Sequence[bytes | None]) -> RouteTable:
    try:
        return RouteTable.load(*reply)
    except (ValueError, TypeError) as error:
        message = "the routes in Redis are not readable: change any endpoint (e.g. `kasplo-notify endpoint update`)"
        raise StorageUnavailable(f"{message} to write them anew") from error
