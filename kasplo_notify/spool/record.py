r"""How an event is written into a segment: a record that proves itself, so that whatever is not one is recognised.

    0xff "KN1"                     4 bytes; 0xff is in no UTF-8 text, so no event can hold what looks like a record
    payload's length               4 bytes, big-endian, as all numbers here
    CRC-32 of the payload          4 bytes
    CRC-32 of the 12 bytes above   4 bytes: a length that can be trusted tells a torn record from a damaged one
    payload                        lengths of id, mail class, event type (1 byte each) and recipient (4 bytes),
                                   then these four texts, then the body: the bytes that will be sent

A torn tail is what a writer left that died while it wrote: the beginning of a record, or zeros where a file system
had made room and no more. It was never acknowledged. Anything else that is no record is damage.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from zlib import crc32

_MAGIC: Final = b"\xffKN1"
_HEAD: Final = struct.Struct("!4sIII")
_PROVED: Final = 12
_LENGTHS: Final = struct.Struct("!BBBI")


@dataclass(frozen=True, slots=True)
class SpooledEvent:
    """An event as it waits in the spool: validated, not yet routed.

    Attributes:
        id: The event id.
        mail_class: The mail class; empty when there was none.
        event_type: One of the seven.
        email: The recipient, which decides the queue.
        body: The JSON bytes, exactly as they are delivered.
    """

    id: str
    mail_class: str
    event_type: str
    email: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Reading:
    """What a segment holds.

    Attributes:
        events: The whole records, in order.
        broken: Bytes that are damaged.
        torn: Bytes of a tail that was never acknowledged.
    """

    events: tuple[SpooledEvent, ...]
    broken: int
    torn: int


def pack(event: SpooledEvent) -> bytes:
    """One record."""
    texts = [text.encode() for text in (event.id, event.mail_class, event.event_type, event.email)]
    payload = b"".join((_LENGTHS.pack(*map(len, texts)), *texts, event.body))
    proved = struct.pack("!4sII", _MAGIC, len(payload), crc32(payload))
    return b"".join((proved, crc32(proved).to_bytes(4), payload))


def read(data: bytes) -> Reading:
    """Everything of a segment that can be read, whatever happened to it."""
    events: list[SpooledEvent] = []
    broken = at = 0
    while at < len(data):
        found = _record(data, at)
        if found is not None:
            event, at = found
            events.append(event)
            continue
        following = _next_record(data, at + 1)
        if following is None:
            torn = len(data) - at if _is_torn(data, at) else 0
            return Reading(tuple(events), broken + len(data) - at - torn, torn)
        broken, at = broken + following - at, following
    return Reading(tuple(events), broken, 0)


def batches(events: Iterable[SpooledEvent], most: int) -> list[bytes]:
    """The records of these events, joined to batches of at most `most` bytes, or one record."""
    made: list[list[bytes]] = []
    size = most
    for record in map(pack, events):
        size += len(record)
        if size > most:
            made.append([])
            size = len(record)
        made[-1].append(record)
    return [b"".join(batch) for batch in made]


def _head(data: bytes, at: int) -> tuple[int, int] | None:
    """Length and CRC of the payload, by the head of a record that begins here."""
    if len(data) - at < _HEAD.size:
        return None
    magic, length, crc, proof = _HEAD.unpack_from(data, at)
    if magic != _MAGIC or proof != crc32(data[at : at + _PROVED]):
        return None
    return length, crc


def _record(data: bytes, at: int) -> tuple[SpooledEvent, int] | None:
    """The event of the whole record that begins here, and where the record ends."""
    head = _head(data, at)
    if head is None:
        return None
    length, crc = head
    begin = at + _HEAD.size
    payload = data[begin : begin + length]
    if len(payload) < length or crc32(payload) != crc:
        return None
    event = _unpack(payload)
    return None if event is None else (event, begin + length)


def _unpack(payload: bytes) -> SpooledEvent | None:
    try:
        at, texts = _LENGTHS.size, list[str]()
        for length in _LENGTHS.unpack_from(payload):
            texts.append(payload[at : at + length].decode())
            at += length
    except (struct.error, UnicodeDecodeError):
        return None
    event_id, mail_class, event_type, email = texts
    return SpooledEvent(event_id, mail_class, event_type, email, payload[at:]) if at < len(payload) else None


def _next_record(data: bytes, at: int) -> int | None:
    """Where the next whole record begins, from here on."""
    while (at := data.find(_MAGIC, at)) >= 0:
        if _record(data, at) is not None:
            return at
        at += 1
    return None


def _is_torn(data: bytes, at: int) -> bool:
    """Whether what begins here, with no record behind it, was never written to its end."""
    rest = len(data) - at
    if data.count(0, at) == rest:
        return True
    if rest < _HEAD.size:
        return _MAGIC.startswith(data[at : at + len(_MAGIC)])
    head = _head(data, at)
    return head is not None and rest < _HEAD.size + head[0]
