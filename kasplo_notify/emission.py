"""The steps of an emit, without any I/O: validate, route, push.

They are written once, as a generator that yields what it needs from Redis (a :class:`Call`, or
:data:`LOAD_ROUTES`) and is sent the reply; ``notifier.py`` carries these to Redis and back, for threads and for
asyncio. The routes are cached: the push script takes the version of the registry that the producer routed by and
changes nothing when it is not the current one, so a cache can be old but never wrong.
"""

import os
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from kasplo_notify.config import Config
from kasplo_notify.errors import InvalidEvent, PushError, StorageUnavailable
from kasplo_notify.events import Event, check_event_id, check_mail_class, validate
from kasplo_notify.routing import Route, RouteTable
from kasplo_notify.stored import StoredEvent

if TYPE_CHECKING:
    from kasplo_notify.store import Call

# A chunk is pushed or not pushed as one. Redis runs nothing else meanwhile, so it is bounded.
CHUNK_EVENTS: Final = 500
CHUNK_BYTES: Final = 1_048_576
TOKEN_MS, OWN_ID_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
# The ids that are generated for one chunk share its token, so each tells whether its chunk was pushed.
_GENERATED = re.compile(r"(msg_[0-9a-f]{24})(?:-[0-9]{1,3})?")

LOAD_ROUTES: Final = "load routes"
Result = TypeVar("Result")
Steps = Generator["Call | str", Any, Result]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of an emitted event.

    Attributes:
        id: The event id, sent as ``webhook-id`` with every attempt to every endpoint.
        endpoints: Names of the endpoints that it will be delivered to; empty when nothing matched.
    """

    id: str
    endpoints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A validated event with its routing metadata; `own_id` is what the caller gave."""

    event: Event
    mail_class: str
    own_id: str


def _prepare(fields: Mapping[str, object]) -> Prepared:
    if not isinstance(fields, Mapping):
        raise InvalidEvent(f"an event is a mapping of its fields, not a {type(fields).__name__}")
    own = dict(fields)
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
        return _prepare({**event, **{name: value for name, value in fields.items() if value is not None}})
    return _prepare({**fields, "event_type": event})


def prepare_many(events: Iterable[Mapping[str, object]]) -> list[Prepared]:
    """Validate the events of an `emit_many`, all or nothing; an error says which one.

    Raises:
        InvalidEvent: With the position of the first bad event, counted from 0.
    """
    prepared = []
    for position, fields in enumerate(events):
        try:
            prepared.append(_prepare(fields))
        except InvalidEvent as error:
            message = f"event {position}: {error}"
            raise InvalidEvent(message, event_type=error.event_type, field=error.field) from error
    return prepared


class Emission:
    """The steps of one emit or emit_many, without any I/O."""

    def __init__(self, config: Config, routes: "RouteTable | None") -> None:
        self._config = config
        self.routes = routes

    def steps(self, prepared: Sequence[Prepared]) -> "Steps[list[Receipt]]":
        ids: list[str] = []
        chunks = []
        for chunk in _chunks(prepared):
            token = f"msg_{os.urandom(12).hex()}"
            alone = len(prepared) == 1
            own = [item.own_id or (token if alone else f"{token}-{n}") for n, item in enumerate(chunk)]
            chunks.append((token, chunk, own))
            ids += own
        receipts: list[Receipt] = []
        for token, chunk, own in chunks:
            try:
                receipts += yield from self._push(token, chunk, own)
            except PushError as error:
                error.event_ids, error.pushed = tuple(ids), len(receipts)
                raise
        return receipts

    def _push(self, token: str, chunk: Sequence[Prepared], ids: Sequence[str]) -> "Steps[list[Receipt]]":
        while True:
            if self.routes is None:
                self.routes = _read_routes((yield LOAD_ROUTES))
            table = self.routes
            ways = [table.match(item.mail_class, item.event.event_type) for item in chunk]
            status, _ = yield self._call(table, token, chunk, ids, ways)
            if status != b"stale":
                return [
                    Receipt(event_id, tuple(route.endpoint for route in way))
                    for event_id, way in zip(ids, ways, strict=True)
                ]
            self.routes = None

    def _call(
        self,
        table: RouteTable,
        token: str,
        chunk: Sequence[Prepared],
        ids: Sequence[str],
        ways: Sequence[tuple[Route, ...]],
    ) -> "Call":
        from kasplo_notify.store import Call

        positions: dict[str, str] = {}
        queues: list[str | int] = []
        events: list[str | bytes] = []
        for item, event_id, way in zip(chunk, ids, ways, strict=True):
            places = []
            for route in way:
                queue = route.queue_for(item.event.email)
                place = positions.get(queue)
                if place is None:
                    place = positions[queue] = str(len(positions) + 1)
                    queues += self._describe(queue, route)
                places.append(place)
            generated = _GENERATED.fullmatch(item.own_id) if item.own_id else None
            stem = generated[1] if generated else ""
            packed = StoredEvent(event_id, item.mail_class, item.event.body).pack()
            events += (item.own_id, stem, packed, " ".join(places))
        dead = self._config.dead
        args: list[Any] = [table.version, token, TOKEN_MS, OWN_ID_MS, dead.max_bytes, int(dead.keep_days * DAY_MS)]
        return Call("push", [*args, len(positions), *queues, *events])

    def _describe(self, queue: str, route: Route) -> tuple[str, int, int]:
        delivery = self._config.delivery
        delay = delivery.delay if route.delay is None else route.delay
        return queue, int(delay * 1000), max(1, delivery.max_backlog // route.queues)


def _chunks(prepared: Sequence[Prepared]) -> Iterable[Sequence[Prepared]]:
    start = size = 0
    for position, item in enumerate(prepared):
        size += len(item.event.body)
        if position > start and (position - start == CHUNK_EVENTS or size > CHUNK_BYTES):
            yield prepared[start:position]
            start, size = position, len(item.event.body)
    if prepared:
        yield prepared[start:]


def _read_routes(reply: Sequence[bytes | None]) -> RouteTable:
    try:
        return RouteTable.load(*reply)
    except (ValueError, TypeError) as error:
        message = "the routes in Redis are not readable: change any endpoint (e.g. `kasplo-notify endpoint update`)"
        raise StorageUnavailable(f"{message} to write them anew") from error
