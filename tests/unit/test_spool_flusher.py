"""The flusher: the oldest first, in order, and whatever goes wrong with one segment or event stops no other."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from kasplo_notify.emission import CHUNK_EVENTS, Prepared
from kasplo_notify.errors import QueueFull, StorageBroken, StorageUnavailable
from kasplo_notify.spool import flusher as module
from kasplo_notify.spool.flusher import Flusher, Round
from kasplo_notify.spool.record import SpooledEvent, pack, read
from kasplo_notify.spool.segments import Segment, Taken, prepare, segments
from kasplo_notify.spool.writer import CannotSpoolError, Writer

BODY = b'{"event_type":"scomp"}'


def event(event_id: str) -> SpooledEvent:
    return SpooledEvent(event_id, "promo", "scomp", "a@example.com", BODY)


class Redis:
    """Takes events, but those that it refuses.

    Attributes:
        has: Ids, in the order in which they came.
        refuses: Ids whose push is answered with a fault.
        room: Events that it still takes before it is full.
        away: It does not answer.
        calls: Sizes of the pushes.
    """

    def __init__(self) -> None:
        self.has: list[str] = []
        self.refuses: set[str] = set()
        self.room = 10**9
        self.away = False
        self.calls: list[int] = []

    def push(self, prepared: Sequence[Prepared]) -> None:
        self.calls.append(len(prepared))
        if self.away:
            raise StorageUnavailable("away")
        ids = [item.own_id for item in prepared]
        if self.refuses & set(ids):
            raise StorageBroken("a record in Redis is not as it should be")
        taken = ids[: self.room]
        self.room -= len(taken)
        self.has += [each for each in taken if each not in self.has]
        if len(taken) < len(ids):
            raise QueueFull("full", pushed=len(taken))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return prepare(tmp_path / "spool")


@pytest.fixture
def writers(folder: Path) -> Iterator[Callable[[], Writer]]:
    made: list[Writer] = []

    def make() -> Writer:
        made.append(Writer(folder, 2**40))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def own(writers: Callable[[], Writer]) -> Writer:
    return writers()


@pytest.fixture
def redis() -> Redis:
    return Redis()


@pytest.fixture
def flusher(folder: Path, redis: Redis, own: Writer) -> Flusher:
    return Flusher(folder, redis.push, own)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which the flusher tries later."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def left_by_somebody(writers: Callable[[], Writer], *ids: str) -> None:
    """A segment of a writer that has ended."""
    writer = writers()
    writer.append([event(each) for each in ids])
    writer.close()


def test_nothing_is_pushed_of_an_empty_folder_or_of_none(folder: Path, flusher: Flusher, redis: Redis) -> None:
    assert flusher.round() == Round(pushed=0, left=0)
    folder.rmdir()
    assert flusher.round() == Round(pushed=0, left=0)
    assert redis.calls == []


def test_segments_are_pushed_the_oldest_first_the_own_one_too_and_then_gone(
    folder: Path, flusher: Flusher, redis: Redis, own: Writer, writers: Callable[[], Writer]
) -> None:
    left_by_somebody(writers, "a", "b")
    own.append([event("c")])
    left_by_somebody(writers, "d")
    own.append([event("e")])
    assert flusher.round() == Round(pushed=5, left=0)
    assert redis.has == ["a", "b", "c", "e", "d"]
    assert list(folder.iterdir()) == []


def test_what_is_pushed_is_what_was_kept(folder: Path, own: Writer) -> None:
    pushed: list[Prepared] = []
    kept = SpooledEvent("mine", "Promo", "engine_unsub", "käufer@example.com", b'{"x":1}')
    own.append([kept])
    Flusher(folder, pushed.extend, own).round()
    (item,) = pushed
    back = SpooledEvent(item.own_id, item.mail_class, item.event.event_type, item.event.email, item.event.body)
    assert back == kept


def test_a_long_segment_is_pushed_in_chunks(flusher: Flusher, redis: Redis, own: Writer) -> None:
    ids = [f"e{number}" for number in range(2 * CHUNK_EVENTS + 1)]
    own.append([event(each) for each in ids])
    assert flusher.round().pushed == len(ids)
    assert redis.calls == [CHUNK_EVENTS, CHUNK_EVENTS, 1]
    assert redis.has == ids


def test_what_a_living_writer_holds_is_left_to_it_and_its_later_segments_wait(
    flusher: Flusher, redis: Redis, writers: Callable[[], Writer], folder: Path
) -> None:
    other = writers()
    other.append([event("a")])
    other.close()
    first = segments(folder)[0]
    other.append([event("b")])
    other.close()
    left_by_somebody(writers, "c")
    with Taken.take(first):
        assert flusher.round() == Round(pushed=1, left=2)
    assert redis.has == ["c"]
    assert flusher.round() == Round(pushed=2, left=0)
    assert redis.has == ["c", "a", "b"]


def test_while_redis_is_away_everything_stays(
    folder: Path, flusher: Flusher, redis: Redis, own: Writer, writers: Callable[[], Writer]
) -> None:
    left_by_somebody(writers, "a")
    own.append([event("b")])
    redis.away = True
    done = flusher.round()
    assert (done.pushed, done.left) == (0, 2)
    assert isinstance(done.error, StorageUnavailable)
    assert redis.calls == [1]
    redis.away = False
    assert flusher.round() == Round(pushed=2, left=0)
    assert redis.has == ["a", "b"]


def test_a_redis_that_stays_away_does_not_make_a_segment_of_each_event(
    folder: Path, flusher: Flusher, redis: Redis, own: Writer
) -> None:
    redis.away = True
    for number in range(20):
        own.append([event(f"e{number}")])
        flusher.round()
    assert len(segments(folder)) == 2
    redis.away = False
    flusher.round()
    assert redis.has == [f"e{number}" for number in range(20)]


def test_a_full_redis_gets_the_rest_later_and_nothing_twice(
    folder: Path, flusher: Flusher, redis: Redis, own: Writer
) -> None:
    ids = [f"e{number}" for number in range(CHUNK_EVENTS + 100)]
    own.append([event(each) for each in ids])
    redis.room = CHUNK_EVENTS + 30
    done = flusher.round()
    assert (done.pushed, done.left, type(done.error)) == (CHUNK_EVENTS + 30, 1, QueueFull)
    redis.room = 10**9
    redis.calls.clear()
    assert flusher.round() == Round(pushed=70, left=0)
    assert redis.calls == [70]
    assert redis.has == ids


def test_it_stops_between_two_chunks_and_leaves_the_rest(folder: Path, redis: Redis, own: Writer) -> None:
    own.append([event(f"e{number}") for number in range(3 * CHUNK_EVENTS)])
    stopping = Flusher(folder, redis.push, own, stopped=lambda: len(redis.calls) == 2)
    assert stopping.round() == Round(pushed=2 * CHUNK_EVENTS, left=1)
    assert Flusher(folder, redis.push, own).round() == Round(pushed=3 * CHUNK_EVENTS, left=0)


def test_whoever_takes_over_from_a_dead_flusher_begins_with_the_first_event(
    folder: Path, redis: Redis, own: Writer
) -> None:
    own.append([event("a"), event("b")])

    class Killed(BaseException):
        pass

    def push(prepared: Sequence[Prepared]) -> None:
        redis.push(prepared)
        raise Killed

    with pytest.raises(Killed):
        Flusher(folder, push, own).round()
    assert Flusher(folder, redis.push, own).round() == Round(pushed=2, left=0)
    assert redis.calls == [2, 2]


def test_the_number_of_events_is_told_while_it_goes_on(folder: Path, redis: Redis, own: Writer) -> None:
    own.append([event(f"e{number}") for number in range(CHUNK_EVENTS + 1)])
    told: list[int] = []
    Flusher(folder, redis.push, own, told=told.append).round()
    assert told == [CHUNK_EVENTS, CHUNK_EVENTS + 1]


# --- what redis refuses ----------------------------------------------------------------------------------------------


def test_one_event_that_redis_refuses_is_kept_and_told_and_stops_no_other(
    folder: Path, flusher: Flusher, redis: Redis, own: Writer, *, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    own.append([event(each) for each in "abcde"])
    redis.refuses = {"c"}
    assert flusher.round() == Round(pushed=4, left=1)
    assert redis.has == ["a", "b", "d", "e"]
    (apart,) = segments(folder)
    assert read(apart.path.read_bytes()).events == (event("c"),)
    assert "spool_refused: Redis refuses 1 events (c ...)" in caplog.text
    # It is not asked about it again and again, and others do not wait for it.
    redis.calls.clear()
    own.append([event("f")])
    assert flusher.round() == Round(pushed=1, left=1)
    assert redis.calls == [1]
    clock.now += module._LATER_S + 1
    assert flusher.round() == Round(pushed=0, left=1)
    redis.refuses = set()
    clock.now += module._LATER_S + 1
    assert flusher.round() == Round(pushed=1, left=0)
    assert redis.has == ["a", "b", "d", "e", "f", "c"]


def test_a_redis_that_refuses_everything_is_asked_rarely_and_gets_everything_when_it_is_mended(
    folder: Path, flusher: Flusher, redis: Redis, own: Writer, *, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    ids = [f"e{number}" for number in range(CHUNK_EVENTS + 10)]
    own.append([event(each) for each in ids])
    redis.refuses = set(ids)
    assert flusher.round() == Round(pushed=0, left=1)
    assert len(redis.calls) == 1 + CHUNK_EVENTS
    assert "spool_refused: Redis took no event of" in caplog.text
    assert flusher.round() == Round(pushed=0, left=1)
    assert len(redis.calls) == 1 + CHUNK_EVENTS
    redis.refuses = set()
    clock.now += module._LATER_S + 1
    assert flusher.round() == Round(pushed=len(ids), left=0)
    assert redis.has == ids


def test_what_is_refused_is_not_forgotten_when_redis_goes_away_in_between(
    folder: Path, flusher: Flusher, redis: Redis, own: Writer, clock: Clock
) -> None:
    ids = [f"e{number}" for number in range(CHUNK_EVENTS + 10)]
    own.append([event(each) for each in ids])
    redis.refuses = {"e3"}
    redis.room = CHUNK_EVENTS - 1
    assert flusher.round().left == 1
    redis.room = 10**9
    assert flusher.round() == Round(pushed=10, left=1)
    redis.refuses = set()
    clock.now += module._LATER_S + 1
    assert flusher.round() == Round(pushed=1, left=0)
    assert sorted(redis.has) == sorted(ids)


def test_when_the_refused_cannot_be_set_apart_the_segment_stays(
    folder: Path, flusher: Flusher, redis: Redis, own: Writer, *, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.append([event("a"), event("b")])
    redis.refuses = {"a"}
    with monkeypatch.context() as patched:
        patched.setattr(Writer, "set_apart", refuse_to_write)
        assert flusher.round() == Round(pushed=1, left=1)
    assert read(segments(folder)[0].path.read_bytes()).events == (event("a"), event("b"))
    clock.now += module._LATER_S + 1
    assert flusher.round() == Round(pushed=0, left=1)
    assert read(segments(folder)[0].path.read_bytes()).events == (event("a"),)


def refuse_to_write(*_: object) -> None:
    raise CannotSpoolError("the disk is full")


# --- what cannot be read ---------------------------------------------------------------------------------------------


def only(folder: Path) -> Segment:
    (found,) = segments(folder)
    return found


def test_a_torn_tail_is_no_event_and_goes_with_its_segment(
    folder: Path, flusher: Flusher, redis: Redis, writers: Callable[[], Writer], caplog: pytest.LogCaptureFixture
) -> None:
    left_by_somebody(writers, "a", "b")
    with only(folder).path.open("ab") as file:
        file.write(pack(event("c"))[:-3])
    assert flusher.round() == Round(pushed=2, left=0)
    assert (redis.has, list(folder.iterdir()), caplog.text) == (["a", "b"], [], "")


def test_a_segment_with_damage_is_pushed_but_for_that_and_kept_aside_and_told(
    folder: Path, flusher: Flusher, redis: Redis, writers: Callable[[], Writer], caplog: pytest.LogCaptureFixture
) -> None:
    left_by_somebody(writers, "a", "b", "c")
    left_by_somebody(writers, "d")
    path = segments(folder)[0].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert flusher.round() == Round(pushed=3, left=0)
    assert redis.has == ["a", "c", "d"]
    aside = only(folder)
    assert aside.aside
    assert aside.path.read_bytes() == data
    assert [(each.levelno, each.message.partition(":")[0]) for each in caplog.records] == [
        (logging.ERROR, "spool_broken")
    ]
    assert str(aside.path) in caplog.text
    assert flusher.round() == Round(pushed=0, left=0)


def test_an_empty_segment_of_somebody_dead_is_removed(
    folder: Path, flusher: Flusher, redis: Redis, writers: Callable[[], Writer]
) -> None:
    left_by_somebody(writers, "a")
    only(folder).path.write_bytes(b"")
    assert flusher.round() == Round(pushed=0, left=0)
    assert (list(folder.iterdir()), redis.calls) == ([], [])


def test_a_segment_that_cannot_be_read_is_told_and_tried_later_and_stops_no_other(
    folder: Path,
    flusher: Flusher,
    redis: Redis,
    writers: Callable[[], Writer],
    *,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left_by_somebody(writers, "a")
    bad = only(folder)
    left_by_somebody(writers, "b")
    real = Taken.read

    def fail(taken: Taken) -> bytes:
        if taken.segment == bad:
            raise OSError(5, "Input/output error")
        return real(taken)

    with monkeypatch.context() as patched:
        patched.setattr(Taken, "read", fail)
        assert flusher.round() == Round(pushed=1, left=1)
        assert flusher.round() == Round(pushed=0, left=1)
    assert [each.message.partition(":")[0] for each in caplog.records] == ["spool_unreadable"]
    clock.now += module._LATER_S + 1
    assert flusher.round() == Round(pushed=1, left=0)
    assert redis.has == ["b", "a"]


def test_what_is_not_ours_in_the_folder_is_left_alone(folder: Path, flusher: Flusher, redis: Redis) -> None:
    (folder / "README").write_text("mine")
    (folder / f"{1:020d}-1-0123abcd.spool.tmp").write_bytes(pack(event("a")))
    assert flusher.round() == Round(pushed=0, left=0)
    assert len(list(folder.iterdir())) == 2
    assert redis.calls == []
