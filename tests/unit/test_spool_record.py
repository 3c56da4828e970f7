"""The record of the spool: what was written whole is read whole, whatever became of the rest; nothing is invented."""

import random
import struct
from zlib import crc32

import pytest

from kasplo_notify.spool.record import Reading, SpooledEvent, batches, pack, read


def event(number: int = 0, body: bytes = b'{"event_type":"scomp"}') -> SpooledEvent:
    return SpooledEvent(f"msg_{number}", "promo", "scomp", f"reader-{number}@example.com", body)


EVENTS = tuple(event(number) for number in range(3))
RECORDS = [pack(each) for each in EVENTS]
SEGMENT = b"".join(RECORDS)
STARTS = [0, len(RECORDS[0]), len(RECORDS[0]) + len(RECORDS[1])]


@pytest.mark.parametrize(
    "given",
    [
        event(),
        SpooledEvent("x", "", "engine_unsub", "a", b"{}"),
        SpooledEvent("!" * 64, "~" * 128, "bounce_bad_address", "käufer@example.com\n\0\xff", b'{"a":"\xc3\xbf KN1"}'),
        SpooledEvent("x", "c", "scomp", "e" * 100_000, b"x" * 262_144),
    ],
    ids=["usual", "small", "odd", "large"],
)
def test_what_is_written_is_read(given: SpooledEvent) -> None:
    assert read(pack(given)) == Reading((given,), broken=0, torn=0)
    assert read(pack(event()) + pack(given) + pack(event())).events == (event(), given, event())


def test_an_empty_segment_holds_nothing() -> None:
    assert read(b"") == Reading((), broken=0, torn=0)


def test_many_records_are_read_in_order() -> None:
    many = tuple(event(number) for number in range(20_000))
    assert read(b"".join(map(pack, many))) == Reading(many, broken=0, torn=0)


@pytest.mark.parametrize("length", range(len(SEGMENT)))
def test_a_segment_that_ends_anywhere_holds_what_was_whole_and_a_torn_rest(length: int) -> None:
    whole = sum(start + len(record) <= length for start, record in zip(STARTS, RECORDS, strict=True))
    rest = length - sum(map(len, RECORDS[:whole]))
    assert read(SEGMENT[:length]) == Reading(EVENTS[:whole], broken=0, torn=rest)


@pytest.mark.parametrize("mask", [0xFF, 0x01, 0x80])
@pytest.mark.parametrize("at", range(len(SEGMENT)))
def test_a_changed_byte_costs_its_own_record_and_is_told(at: int, mask: int) -> None:
    damaged = bytearray(SEGMENT)
    damaged[at] ^= mask
    hit = max(number for number, start in enumerate(STARTS) if start <= at)
    others = tuple(each for number, each in enumerate(EVENTS) if number != hit)
    assert read(bytes(damaged)) == Reading(others, broken=len(RECORDS[hit]), torn=0)


@pytest.mark.parametrize("junk", [b"x", b"\xff", b"\xffKN1", b"\0" * 50, b"KN1" * 9, RECORDS[0][:-1], RECORDS[0][:15]])
def test_junk_between_records_is_told_and_costs_none_of_them(junk: bytes) -> None:
    assert read(junk + SEGMENT) == Reading(EVENTS, broken=len(junk), torn=0)
    assert read(RECORDS[0] + junk + RECORDS[1]) == Reading(EVENTS[:2], broken=len(junk), torn=0)


@pytest.mark.parametrize("junk", [b"x", b"KN1", b"\xff\xff", b"x" * 500, b"\0" * 50 + b"x", b"\xffKN1" + b"x" * 12])
def test_junk_behind_the_last_record_is_damage_not_a_torn_tail(junk: bytes) -> None:
    assert read(SEGMENT + junk) == Reading(EVENTS, broken=len(junk), torn=0)


@pytest.mark.parametrize("zeros", [1, 15, 16, 4096])
def test_zeros_behind_the_last_record_are_a_torn_tail(zeros: int) -> None:
    assert read(SEGMENT + bytes(zeros)) == Reading(EVENTS, broken=0, torn=zeros)


def test_a_record_whose_middle_never_reached_the_disk_is_damage() -> None:
    """After a loss of power a length may be there without the bytes. Nobody can tell it from a fault of the disk."""
    hollow = RECORDS[2][:20] + bytes(len(RECORDS[2]) - 20)
    assert read(RECORDS[0] + hollow) == Reading(EVENTS[:1], broken=len(hollow), torn=0)


def test_a_length_that_reaches_beyond_the_end_does_not_swallow_what_follows() -> None:
    damaged = RECORDS[0][:4] + b"\x7f" + RECORDS[0][5:]
    assert read(damaged + RECORDS[1] + RECORDS[2]) == Reading(EVENTS[1:], broken=len(damaged), torn=0)


def test_a_whole_record_that_is_no_event_is_damage() -> None:

    for payload in (
        b"",
        b"\1\1\1\0\0\0\1abcd",
        b"\xff\xff\xff\0\0\0\1a",
        b"\1\0\0\0\0\0\0\xff{}",
        b"\0\0\0\xff\xff\xff\xff",
    ):
        proved = struct.pack("!4sII", b"\xffKN1", len(payload), crc32(payload))
        record = proved + crc32(proved).to_bytes(4) + payload
        assert read(record + SEGMENT) == Reading(EVENTS, broken=len(record), torn=0)


def test_whatever_the_bytes_are_nothing_is_raised_invented_or_unaccounted_for() -> None:
    rng = random.Random(7)
    for _ in range(3000):
        data = bytearray(b"".join(rng.choices([*RECORDS, b"\xffKN1", b"\0\0", rng.randbytes(7)], k=rng.randrange(6))))
        for _ in range(rng.randrange(4)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        del data[rng.randrange(len(data) + 1) :]
        found = read(bytes(data))
        assert set(found.events) <= set(EVENTS)
        assert sum(len(pack(each)) for each in found.events) + found.broken + found.torn == len(data)


def test_batches_hold_the_records_in_order_and_no_more_than_they_may() -> None:
    given = [event(number, b"x" * 100) for number in range(50)]
    size = len(pack(given[0]))
    made = batches(given, 4 * size + 10)
    assert b"".join(made) == b"".join(map(pack, given))
    assert all(len(batch) <= 4 * size + 10 for batch in made)
    assert len(made) in (13, 14)


def test_a_record_over_the_size_of_a_batch_is_a_batch_of_its_own() -> None:
    given = [event(1), event(2, b"x" * 5000), event(3)]
    assert [read(batch).events for batch in batches(given, 200)] == [(each,) for each in given]
    assert batches([], 200) == []
