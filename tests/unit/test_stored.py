"""What is stored is read back byte for byte, and what is not ours is refused."""

import pytest

from kasplo_notify.stored import BrokenRecord, Progress, StoredEvent, split_retry


@pytest.mark.parametrize(
    "event",
    [
        StoredEvent("msg_0123456789abcdef01234567", "promo", b'{"event_type":"scomp"}'),
        StoredEvent("mine", "", b"{}"),
        StoredEvent("~" * 64, "a mail class, with spaces", '{"click_url":"ünïcode \U0001f600"}'.encode()),
        StoredEvent("e", "promo", b"a body may hold\nnewlines\n\nas it comes last\n"),
        StoredEvent("e", "promo", b""),
        StoredEvent("e", "promo", bytes(range(256))),
    ],
)
def test_an_event_is_read_back_as_it_was_stored(event: StoredEvent) -> None:
    assert StoredEvent.unpack(event.pack()) == event


def test_the_format_on_disk_is_this_and_stays_this() -> None:
    assert StoredEvent("mine", "promo", b'{"a":1}').pack() == b'1\nmine\npromo\n{"a":1}'
    assert Progress(3, 1, 1_800_000_000_000).pack() == b"3,1,1800000000000"


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"1",
        b"1\nmine\npromo",
        b"2\nmine\npromo\n{}",
        b"01\nmine\npromo\n{}",
        b"\nmine\npromo\n{}",
        b"1\n\npromo\n{}",
        b"1\n\xff\npromo\n{}",
        b"1\nmine\n\xc3\xa9\n{}",
        b"\x00" * 1000,
    ],
)
def test_what_is_not_a_stored_event_is_refused(packed: bytes) -> None:
    with pytest.raises(BrokenRecord):
        StoredEvent.unpack(packed)


def test_a_retry_carries_its_progress_and_the_event() -> None:
    event = StoredEvent("mine", "promo", b"{}\n").pack()
    progress = Progress(2, 1, 1_800_000_000_000)
    assert split_retry(progress.pack() + b"\n" + event) == (progress, event)


@pytest.mark.parametrize(
    "member",
    [b"", b"1,2\n", b"1,2,3,4\n", b"a,b,c\n", b"-1,0,0\n", b"0,0,-1\n", b"1.5,0,0\n", b"1,0,0x1\n", b",,\n", b"\xff\n"],
)
def test_a_retry_without_a_readable_progress_is_refused(member: bytes) -> None:
    with pytest.raises(BrokenRecord):
        split_retry(member + b"1\nmine\n\n{}")
