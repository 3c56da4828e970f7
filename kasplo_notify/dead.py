"""Dead letters: events given up on. Kept, listed, counted, replayed, purged; never silently dropped."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import orjson

from kasplo_notify.errors import UnknownEndpoint
from kasplo_notify.registry import Registry, unknown_endpoint
from kasplo_notify.store import Call, Store
from kasplo_notify.stored import BrokenRecord, Progress, StoredEvent

_PAGE = 200
_STEP = 100
# More than the scripts write of a reason, and more digits than they write of a size.
_SAID, _DIGITS = 2_000, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An event given up on.

    Attributes:
        ref: Its id within the endpoint's dead letters; starts with the Unix milliseconds of its death.
        endpoint: The endpoint it was for.
        event: The stored event; None when it is not readable.
        packed: The stored bytes.
        reason: A stable word: attempts_used_up, too_old, backlog_full, endpoint_removed, unbuildable, poison.
        detail: The last failure in words.
        attempts: Requests that were made.
    """

    ref: str
    endpoint: str
    event: StoredEvent | None
    packed: bytes
    reason: str
    detail: str
    attempts: int

    @property
    def died_ms(self) -> int:
        return int(self.ref.split("-")[0])

    @property
    def event_type(self) -> str:
        """The event's type; empty when the stored event is not readable."""
        try:
            return str(orjson.loads(self.event.body)["event_type"]) if self.event else ""
        except (ValueError, KeyError, TypeError):
            return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which dead letters a command means.

    Attributes:
        endpoint: Only this endpoint's; None for all.
        since_ms, until_ms: Only those that died in this span (Unix ms, inclusive); None for open ends.
        event_type: Only this type.
        event_id: Only this event.
    """

    endpoint: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    event_type: str | None = None
    event_id: str | None = None

    def wants(self, letter: DeadLetter) -> bool:
        if self.event_id is not None and (letter.event is None or letter.event.id != self.event_id):
            return False
        return self.event_type is None or letter.event_type == self.event_type


class DeadLetters:
    """Reads and moves dead letters. Every method raises StorageUnavailable when Redis does not answer."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry

    def endpoints(self) -> dict[str, int]:
        """The endpoints that have dead letters, and how many bytes; removed endpoints too."""
        (stored,) = self._store.read(("HGETALL", self._store.keys("dead")))
        return {
            name.decode(errors="replace"): int(size) if size.isdigit() and len(size) <= _DIGITS else 0
            for name, size in sorted(stored.items())
        }

    def holders(self, selection: Selection) -> list[str]:
        """The endpoints whose dead letters are meant. No other method takes a name to Redis that is not one of them.

        Raises:
            UnknownEndpoint: The selection names an endpoint that never was, and that has no dead letters.
        """
        holders, name = self.endpoints(), selection.endpoint
        if name is None:
            return list(holders)
        if name not in holders and name not in (registered := self._registry.names()):
            raise unknown_endpoint(name, [*holders, *registered])
        return [name]

    def select(self, selection: Selection) -> Iterator[DeadLetter]:
        """The dead letters of a selection, oldest first within each endpoint, read in pages.

        Raises:
            UnknownEndpoint: As `holders`.
        """
        for endpoint in self.holders(selection):
            for letter in self._letters(endpoint, selection):
                if selection.wants(letter):
                    yield letter

    def count(self, selection: Selection) -> int:
        return sum(1 for _ in self.select(selection))

    def replay(self, selection: Selection, *, step: int = _STEP) -> Iterator[int]:
        """Send dead letters again, with the same event ids and their attempts forgotten.

        What dies meanwhile is not replayed again: only letters that died before the call are.

        Args:
            selection: Which.
            step: How many at once; who sends at a pace takes few.

        Yields:
            After each step, how many were replayed in all.

        Raises:
            UnknownEndpoint: A dead letter's endpoint is not registered any more; register it first.
        """
        replayed = 0
        for endpoint, refs in self._steps(selection, step):
            endpoints = self._registry.endpoints()
            if endpoint not in endpoints or endpoints[endpoint].removing:
                raise UnknownEndpoint(
                    f"endpoint {endpoint!r} is not registered, so its dead letters have nowhere to go: "
                    f"`kasplo-notify endpoint add {endpoint} URL` first"
                )
            replayed += self._store.run(Call("replay", [endpoint, endpoints[endpoint].queues, *refs]))
            yield replayed

    def purge(self, selection: Selection) -> Iterator[int]:
        """Delete dead letters for good. Yields, after each step, how many were deleted in all."""
        purged = 0
        for endpoint, refs in self._steps(selection, _STEP):
            purged += self._store.run(Call("purge", [endpoint, *refs]))
            yield purged

    def _steps(self, selection: Selection, step: int) -> Iterator[tuple[str, list[str]]]:
        (time,) = self._store.read(("TIME",))
        began = time[0] * 1000 + time[1] // 1000
        until = began if selection.until_ms is None else min(began, selection.until_ms)
        endpoint, refs = "", list[str]()
        for letter in self.select(replace(selection, until_ms=until)):
            if refs and (letter.endpoint != endpoint or len(refs) == step):
                yield endpoint, refs
                refs = []
            endpoint = letter.endpoint
            refs.append(letter.ref)
        if refs:
            yield endpoint, refs

    def _letters(self, endpoint: str, selection: Selection) -> Iterator[DeadLetter]:
        start = "-" if selection.since_ms is None else str(selection.since_ms)
        end = "+" if selection.until_ms is None else str(selection.until_ms)
        while True:
            key = self._store.keys(f"dead:{endpoint}")
            (page,) = self._store.read(("XRANGE", key, start, end, "COUNT", _PAGE))
            for ref, fields in page:
                yield _letter(endpoint, ref.decode(), fields)
                start = f"({ref.decode()}"
            if len(page) < _PAGE:
                return


def _letter(endpoint: str, ref: str, fields: dict[bytes, bytes]) -> DeadLetter:
    packed = fields.get(b"e", b"")
    event: StoredEvent | None
    try:
        event = StoredEvent.unpack(packed)
    except BrokenRecord:
        event = None
    try:
        attempts = Progress.unpack(fields.get(b"p", b"")).attempts
    except BrokenRecord:
        attempts = 0
    return DeadLetter(
        ref=ref,
        endpoint=endpoint,
        event=event,
        packed=packed,
        reason=fields.get(b"r", b"")[:_SAID].decode(errors="replace"),
        detail=fields.get(b"d", b"")[:_SAID].decode(errors="replace"),
        attempts=attempts,
    )
