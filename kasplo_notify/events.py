"""Validate one event against the catalogue and serialise it, once: the bytes made here are the bytes sent."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final, cast

import orjson

from kasplo_notify.catalogue import EVENT_TYPES, EventType, Field
from kasplo_notify.errors import InvalidEvent, nearest, quoted, shown
from kasplo_notify.field_checks import CHECKS, MAX_BODY_BYTES, WrongValueError

__all__ = ["EVENT_TYPES", "Event", "EventType", "Field", "check_event_id", "check_mail_class", "validate"]

_BESIDE: Final = ("mail_class", "event_id")
_EVENT_ID = re.compile(r"[!-\-/-~]{1,64}")  # printable ASCII without space and dot


@dataclass(frozen=True, slots=True)
class Event:
    """A validated event. `body` is its JSON as sent; `email` decides its queue."""

    event_type: str
    body: bytes
    email: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """What validation needs of a type: the name, the check and whether required of each further field."""

    name: str
    rows: tuple[tuple[str, Callable[[object], object], bool], ...]
    names: frozenset[str]


def _table(event_type: EventType) -> _Table:
    fields = event_type.fields[1:]
    return _Table(
        name=event_type.name,
        rows=tuple((field.name, CHECKS[field.kind], field.required) for field in fields),
        names=frozenset(field.name for field in fields),
    )


_TABLES: Final = {name: _table(event_type) for name, event_type in EVENT_TYPES.items()}


def validate(event_type: str, fields: Mapping[str, object]) -> Event:
    """Check `fields` against the catalogue and serialise them in wire order.

    `fields` may repeat the event type; mail class and event id are not fields.

    Raises:
        InvalidEvent: Unknown type, missing or unknown field, wrong value, over 256 KiB of JSON. No arguments
            whatever lead to another exception.
    """
    try:
        return _validate(event_type, fields)
    except InvalidEvent:
        raise
    except Exception as error:
        # Keys, values and mappings may be of any class, and run anything when they are looked at.
        message = f"the event cannot be read ({type(error).__name__[:60]}): give a dict of plain values"
        raise InvalidEvent(message) from error


def _validate(event_type: str, fields: Mapping[str, object]) -> Event:
    table = _TABLES.get(event_type) if isinstance(event_type, str) else None
    if table is None:
        raise _unknown_type(event_type)
    wire = _wire(table, fields if type(fields) is dict else _as_dict(table, fields))
    try:
        body = orjson.dumps(wire)
    except TypeError:
        raise _unwritable(table, wire) from None
    if len(body) > MAX_BODY_BYTES:
        raise _too_large(table, wire, len(body))
    return Event(table.name, body, cast("str", wire["email"]))


def _wire(table: _Table, fields: dict[str, object]) -> dict[str, object]:
    """The fields as they are sent, in order."""
    wire: dict[str, object] = {"event_type": table.name}
    name = ""
    try:
        for name, check, required in table.rows:
            if name in fields:
                wire[name] = check(fields[name])
            elif required:
                raise _missing(table, fields)
    except WrongValueError as wrong:
        raise InvalidEvent(f"{table.name}: {name} {wrong}", event_type=table.name, field=name) from None
    if len(fields) >= len(wire):
        _refuse_unknown(table, fields)
    return wire


def check_mail_class(value: object) -> str:
    """The mail class of an event: 1-128 printable ASCII characters, or "" for None.

    Raises:
        InvalidEvent: Anything else.
    """
    if value is None:
        return ""
    if type(value) is str and value.isascii() and value.isprintable() and 0 < len(value) <= 128:
        return value
    message = f"mail_class must be 1 to 128 printable ASCII characters, not {shown(value)}"
    raise InvalidEvent(message, field="mail_class")


def check_event_id(value: object) -> str:
    """A caller's own event id, sent as `webhook-id`: 1-64 printable ASCII characters without space and dot.

    Standard Webhooks separates what it signs with dots, so none may be in the id.

    Raises:
        InvalidEvent: Anything else.
    """
    if type(value) is str and _EVENT_ID.fullmatch(value):
        return value
    message = f"event_id must be 1 to 64 printable ASCII characters, no space or dot among them, not {shown(value)}"
    raise InvalidEvent(message, field="event_id")


def _unknown_type(given: object) -> InvalidEvent:
    if given is None:
        message = f"event_type is missing; it is one of {', '.join(EVENT_TYPES)}"
        return InvalidEvent(message, field="event_type")
    if not isinstance(given, str):
        message = f"event_type must be one of {', '.join(EVENT_TYPES)}, not {shown(given)}"
        return InvalidEvent(message, field="event_type")
    meant = nearest(given, EVENT_TYPES)
    hint = f"did you mean {meant}?" if meant else f"the types are {', '.join(EVENT_TYPES)}"
    return InvalidEvent(f"{quoted(given)} is not an event type; {hint}", event_type=given[:60], field="event_type")


def _as_dict(table: _Table, fields: object) -> dict[str, object]:
    if isinstance(fields, Mapping):
        return dict(fields)
    message = f"{table.name}: the fields must be a mapping of names to values, not {shown(fields)}"
    raise InvalidEvent(message, event_type=table.name)


def _missing(table: _Table, fields: Mapping[str, object]) -> InvalidEvent:
    missing = [name for name, _, required in table.rows if required and name not in fields]
    message = f"{table.name}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
    for name in islice(fields, 50):
        known = not isinstance(name, str) or name == "event_type" or name in table.names
        if not known and (meant := nearest(name, missing)):
            message += f"; is {quoted(name)} meant to be {meant}?"
            break
    return InvalidEvent(message, event_type=table.name, field=missing[0])


def _refuse_unknown(table: _Table, fields: Mapping[str, object]) -> None:
    for name in fields:
        if name in table.names:
            continue
        if name != "event_type":
            raise _unknown_field(table, name)
        if fields[name] != table.name:
            message = f"{table.name}: event_type is {shown(fields[name])} among the fields; give one or the other"
            raise InvalidEvent(message, event_type=table.name, field="event_type")


def _unknown_field(table: _Table, name: object) -> InvalidEvent:
    if not isinstance(name, str):
        return InvalidEvent(f"{table.name}: {shown(name)} is no name of a field", event_type=table.name)
    owners = [other.name for other in _TABLES.values() if name in other.names]
    if name in _BESIDE:
        hint = "it is given beside the event's fields, not among them"
    elif owners:
        hint = f"it belongs to {', '.join(owners)} only"
    elif meant := nearest(name, [*table.names, *_BESIDE]):
        hint = f"did you mean {meant}?"
    else:
        hint = f"the fields are {', '.join(row[0] for row in table.rows)}"
    message = f"{table.name}: {quoted(name)} is not a field; {hint}"
    return InvalidEvent(message, event_type=table.name, field=name[:60])


def _unwritable(table: _Table, wire: Mapping[str, object]) -> InvalidEvent:
    """Which field orjson refuses: one with half of a surrogate pair, or an exotic subclass of a JSON type."""
    for name, value in wire.items():
        try:
            orjson.dumps(value)
        except TypeError as error:
            message = f"{table.name}: {name} cannot be written as JSON: {str(error)[:60]}"
            return InvalidEvent(message, event_type=table.name, field=name)
    return InvalidEvent(f"{table.name}: the event cannot be written as JSON", event_type=table.name)


def _too_large(table: _Table, wire: Mapping[str, object], size: int) -> InvalidEvent:
    largest = max(wire, key=lambda name: len(orjson.dumps(wire[name])))
    message = f"{table.name}: the event is {size} bytes as JSON, and at most {MAX_BODY_BYTES} are taken"
    return InvalidEvent(f"{message}; its largest field is {largest}", event_type=table.name)
