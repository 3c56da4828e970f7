"""The spool's writer: what it acknowledged is on the disk, within its bounds, and nobody else touches its segment."""

import errno
import fcntl
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from kasplo_notify.errors import ConfigError
from kasplo_notify.spool import writer as writer_module
from kasplo_notify.spool.record import SpooledEvent, pack, read
from kasplo_notify.spool.segments import Segment, Taken, is_in_use, prepare, segments
from kasplo_notify.spool.writer import CannotSpoolError, Writer

UNBOUNDED = 2**40


def event(number: int = 0, size: int = 20) -> SpooledEvent:
    return SpooledEvent(f"msg_{number}", "promo", "scomp", f"reader-{number}@example.com", b"x" * size)


def events(count: int, size: int = 20) -> list[SpooledEvent]:
    return [event(number, size) for number in range(count)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return prepare(tmp_path / "spool")


@pytest.fixture
def writers(folder: Path) -> Iterator[Callable[..., Writer]]:
    made: list[Writer] = []

    def make(max_bytes: int = UNBOUNDED) -> Writer:
        made.append(Writer(folder, max_bytes))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def writer(writers: Callable[..., Writer]) -> Writer:
    return writers()


def held(folder: Path) -> list[list[str]]:
    """The ids of each segment, the oldest first."""
    return [[each.id for each in read(found.path.read_bytes()).events] for found in segments(folder)]


def used(folder: Path) -> int:
    return sum(each.size for each in segments(folder))


# --- appending -------------------------------------------------------------------------------------------------------


def test_the_calls_of_a_writer_follow_each_other_in_one_segment(folder: Path, writer: Writer) -> None:
    writer.append([event(1)])
    writer.append([event(2), event(3)])
    assert held(folder) == [["msg_1", "msg_2", "msg_3"]]
    (found,) = segments(folder)
    assert found.pid == os.getpid()
    assert abs(time.time() - found.created) < 60
    assert found.path.stat().st_mode & 0o777 == 0o600


def test_a_writer_that_wrote_nothing_leaves_nothing(folder: Path, writer: Writer) -> None:
    writer.append([])
    writer.close()
    assert segments(folder) == []


@pytest.fixture
def system(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the system, in order."""
    asked: list[str] = []
    write, fsync = os.write, os.fsync

    def kind(fd: int) -> str:
        return "folder" if os.path.samestat(os.fstat(fd), folder.stat()) else "file"

    def recorded_write(fd: int, data: bytes) -> int:
        asked.append(f"write {kind(fd)}")
        return write(fd, data)

    def recorded_fsync(fd: int) -> None:
        fsync(fd)
        asked.append(f"sync {kind(fd)}")

    monkeypatch.setattr(os, "write", recorded_write)
    monkeypatch.setattr(os, "fsync", recorded_fsync)
    return asked


def test_a_call_returns_after_one_write_and_its_sync_and_a_new_name_is_synced_too(
    writer: Writer, system: list[str]
) -> None:
    writer.append(events(500))
    assert system == ["sync folder", "write file", "sync file"]
    system.clear()
    writer.append(events(500))
    assert system == ["write file", "sync file"]


def test_a_segment_that_is_full_is_followed_by_the_next(
    folder: Path, writer: Writer, system: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "SEGMENT_BYTES", 3 * len(pack(event())))
    for number in range(8):
        writer.append([event(number)])
    assert [len(ids) for ids in held(folder)] == [3, 3, 2]
    assert [each for ids in held(folder) for each in ids] == [f"msg_{number}" for number in range(8)]
    assert system.count("sync folder") == 3
    first, second, third = segments(folder)
    assert (is_in_use(first), is_in_use(second), is_in_use(third)) == (False, False, True)


def test_a_call_of_many_events_is_spread_over_segments_that_fit_into_memory(folder: Path, writer: Writer) -> None:
    writer.append([event(0)])
    writer.append(events(200, 20_000))
    found = segments(folder)
    assert len(found) == 4
    assert max(each.size for each in found) <= writer_module.SEGMENT_BYTES
    assert [each for ids in held(folder) for each in ids] == ["msg_0", *(f"msg_{number}" for number in range(200))]


def test_names_sort_by_age_when_the_clock_stands_or_goes_back(
    folder: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([5000, 5000, 4000])
    monkeypatch.setattr(time, "time_ns", lambda: next(times))
    for number in range(3):
        writer.append([event(number)])
        writer.close()
    assert held(folder) == [["msg_0"], ["msg_1"], ["msg_2"]]


def test_what_somebody_deletes_under_a_writer_is_not_written_to(folder: Path, writer: Writer) -> None:
    writer.append([event(1)])
    segments(folder)[0].path.unlink()
    writer.append([event(2)])
    assert held(folder) == [["msg_2"]]
    segments(folder)[0].path.unlink()
    folder.rmdir()
    writer.append([event(3)])
    assert held(folder) == [["msg_3"]]


# --- what fails ------------------------------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, name: str, number: int, partly: int = 0) -> None:
    """Have one function of the system fail once with this error, after a part is written."""
    real = getattr(os, name)
    short = [partly] if partly else []

    def fail(fd: int, *rest: bytes) -> int:
        if short:
            return int(real(fd, rest[0][: short.pop()]))
        monkeypatch.setattr(os, name, real)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, name, fail)


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize(
    ("name", "number", "partly"),
    [("fsync", errno.EIO, 0), ("fsync", errno.ENOSPC, 0), ("write", errno.ENOSPC, 0), ("write", errno.ENOSPC, 30)],
    ids=["sync-eio", "sync-enospc", "write-enospc", "short-write"],
)
def test_what_fails_is_not_acknowledged_and_what_comes_after_it_is_safe(
    folder: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch, *, name: str, number: int, partly: int, before: int
) -> None:
    for earlier in range(before):
        writer.append([event(earlier)])
    failing(monkeypatch, name, number, partly)
    with pytest.raises(CannotSpoolError, match=rf"cannot be written \({os.strerror(number).lower()}\)"):
        writer.append([event(100), event(101)])
    writer.append([event(7)])
    earlier_ids = [f"msg_{each}" for each in range(before)]
    # The segment that failed is not written to again.
    assert held(folder) == [*([earlier_ids] if before else []), ["msg_7"]]
    assert all(read(each.path.read_bytes()).broken == 0 for each in segments(folder))


def test_a_half_written_call_that_cannot_be_taken_back_is_no_part_of_what_follows(
    folder: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "no")

    writer.append([event(1)])
    with monkeypatch.context() as patched:
        failing(patched, "write", errno.ENOSPC, 30)
        patched.setattr(os, "ftruncate", refuse)
        with pytest.raises(CannotSpoolError):
            writer.append([event(100)])
    writer.append([event(2)])
    first, second = (read(each.path.read_bytes()) for each in segments(folder))
    assert ([each.id for each in first.events], first.broken, first.torn) == (["msg_1"], 0, 30)
    assert [each.id for each in second.events] == ["msg_2"]


def test_a_file_system_that_takes_no_more_is_told_and_used_again_when_it_does(folder: Path, writer: Writer) -> None:
    """A limit of the kernel's, in place of a full disk."""
    writer.append([event(1)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = used(folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, (before + 100, hard))
    try:
        with pytest.raises(CannotSpoolError, match="file too large"):
            writer.append([event(2, 500)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert used(folder) == before
    writer.append([event(3, 500)])
    assert held(folder) == [["msg_1"], ["msg_3"]]


def test_a_name_that_cannot_be_made_is_told(folder: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, "fsync", errno.EIO)  # of the folder
    with pytest.raises(CannotSpoolError, match="input/output error"):
        writer.append([event(1)])
    assert segments(folder) == []
    folder.rmdir()
    folder.touch()
    with pytest.raises(CannotSpoolError, match="not a directory"):
        writer.append([event(1)])


def test_ctrl_c_during_a_write_leaves_nothing_half_done(
    folder: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.append([event(1)])

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            writer.append([event(2)])
    writer.append([event(3)])
    assert held(folder) == [["msg_1"], ["msg_3"]]


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_no_more_than_max_bytes_are_taken_and_the_message_says_so(folder: Path, writers: Callable[..., Writer]) -> None:
    size = len(pack(event()))
    writer = writers(10 * size)
    for _ in range(10):
        writer.append([event()])
    with pytest.raises(CannotSpoolError, match=rf"is full too: spool\.max_bytes allows {10 * size:,} bytes"):
        writer.append([event()])
    assert used(folder) == 10 * size


def test_a_call_that_does_not_fit_is_refused_as_a_whole(folder: Path, writers: Callable[..., Writer]) -> None:
    writer = writers(9 * len(pack(event())))
    with pytest.raises(CannotSpoolError):
        writer.append(events(10))
    assert segments(folder) == []
    writer.append(events(9))


def test_there_is_room_again_as_soon_as_some_is_pushed(folder: Path, writers: Callable[..., Writer]) -> None:
    writer = writers(len(pack(event())))
    writer.append([event(1)])
    with pytest.raises(CannotSpoolError):
        writer.append([event(2)])
    segments(folder)[0].path.unlink()
    writer.append([event(3)])
    assert held(folder) == [["msg_3"]]


def test_the_bound_is_that_of_all_writers_together(folder: Path, writers: Callable[..., Writer]) -> None:
    bound = 200 * len(pack(event()))
    several = [writers(bound) for _ in range(5)]
    refused = 0
    for number in range(500):
        try:
            several[number % 5].append([event(number)])
        except CannotSpoolError:
            refused += 1
    assert refused >= 300
    assert used(folder) <= bound
    assert used(folder) > bound * 0.9


def test_what_is_kept_aside_counts_and_what_is_not_ours_does_not(folder: Path, writers: Callable[..., Writer]) -> None:
    size = len(pack(event()))
    (folder / "notes.txt").write_bytes(b"x" * 100 * size)
    writer = writers(2 * size)
    writer.append([event(1)])
    writer.close()
    with Taken.take(segments(folder)[0]) as taken:
        taken.keep_aside()
    writer.append([event(2)])
    with pytest.raises(CannotSpoolError):
        writer.append([event(3)])


# --- who may touch what ----------------------------------------------------------------------------------------------


def test_nobody_takes_the_segment_of_a_living_writer(folder: Path, writer: Writer) -> None:
    writer.append([event(1)])
    (found,) = segments(folder)
    assert is_in_use(found)
    with pytest.raises(BlockingIOError):
        Taken.take(found)
    writer.close()
    assert not is_in_use(found)
    with Taken.take(found) as taken:
        assert read(taken.read()).events == (event(1),)
        with pytest.raises(BlockingIOError):
            Taken.take(found)
        assert is_in_use(found)


def test_its_own_process_takes_it_over_with_the_lock_and_the_next_event_begins_another(
    folder: Path, writer: Writer, writers: Callable[..., Writer]
) -> None:
    writer.append([event(1)])
    (found,) = segments(folder)
    assert writers().hand_over(found) is None
    taken = writer.hand_over(found)
    assert taken is not None
    with taken, pytest.raises(BlockingIOError):
        Taken.take(found)
    assert writer.hand_over(found) is None
    writer.append([event(2)])
    assert held(folder) == [["msg_1"], ["msg_2"]]


@pytest.mark.parametrize("how", ["unlink", "aside"])
def test_a_segment_that_was_pushed_just_before_it_is_locked_is_gone(
    folder: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch, *, how: str
) -> None:
    writer.append([event(1)])
    writer.close()
    (found,) = segments(folder)
    flock = fcntl.flock

    def late(fd: int, operation: int) -> None:
        monkeypatch.undo()
        with Taken.take(found) as taken:
            if how == "unlink":
                taken.remove()
            else:
                taken.keep_aside()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(FileNotFoundError):
        Taken.take(found)


def test_a_new_segment_that_a_flusher_swept_away_before_it_was_locked_is_not_written_to(
    folder: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a flusher it looked like the empty segment of somebody dead."""
    flock = fcntl.flock

    def late(fd: int, operation: int) -> None:
        monkeypatch.undo()
        with Taken.take(segments(folder)[0]) as taken:
            taken.remove()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    writer.append([event(1)])
    assert held(folder) == [["msg_1"]]


def test_a_new_segment_that_somebody_looks_at_before_it_is_locked_is_not_written_to(
    folder: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking: list[int] = []
    flock = fcntl.flock

    def late(fd: int, operation: int) -> None:
        monkeypatch.undo()
        looking.append(os.open(segments(folder)[0].path, os.O_RDONLY))
        flock(looking[0], fcntl.LOCK_SH)
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    writer.append([event(1)])
    os.close(looking[0])
    assert held(folder) == [[], ["msg_1"]]


def in_a_child(work: Callable[[], bool]) -> int:
    """Fork; the child's exit code: 0 when its work returned True."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            status = 0 if work() else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_child_writes_to_a_segment_of_its_own(folder: Path, writer: Writer) -> None:
    writer.append([event(1)])

    def child() -> bool:
        writer.disown()
        writer.append([event(2)])
        return True

    assert in_a_child(child) == 0
    writer.append([event(3)])
    assert held(folder) == [["msg_1", "msg_3"], ["msg_2"]]
    assert len({each.pid for each in segments(folder)}) == 2


def test_a_child_that_lives_on_does_not_keep_the_lock_of_its_parent(folder: Path, writer: Writer) -> None:
    writer.append([event(1)])
    pid = os.fork()
    if not pid:
        signal.pause()
        os._exit(0)
    try:
        (found,) = segments(folder)
        assert is_in_use(found)
        writer.close()
        deadline = time.monotonic() + 20
        while is_in_use(found) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not is_in_use(found)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_child_that_ends_does_not_unlock_its_parents_segment(folder: Path, writer: Writer) -> None:
    writer.append([event(1)])
    assert in_a_child(lambda: True) == 0
    assert is_in_use(segments(folder)[0])


# --- the folder ------------------------------------------------------------------------------------------------------


def test_the_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    made = prepare(tmp_path / "a" / "b")
    assert made.stat().st_mode & 0o777 == 0o700


def test_the_folder_stays_the_same_when_the_process_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert prepare(Path("here/../spool")) == tmp_path / "spool"


def test_a_folder_that_cannot_be_used_is_a_fault_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/spool"), tmp_path / ("x" * 300)):
        with pytest.raises(ConfigError, match=r"cannot be used \(.+\); .*KASPLO_SPOOL__PATH"):
            prepare(path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match="cannot be written to"):
        prepare(tmp_path)


def test_a_folder_that_everybody_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigError, match="every user of this machine"):
        prepare(tmp_path)


def test_what_bears_no_name_of_ours_is_left_alone(folder: Path, writer: Writer) -> None:
    writer.append([event(1)])
    (ours,) = segments(folder)
    for name in ("README", "x.spool", ours.name + ".tmp", "x" + ours.name, ours.name.upper(), ".spool"):
        (folder / name).touch()
    other = ours.name.replace("spool", "")[:-10] + "{}.spool"
    (folder / other.format("aaaaaaaa1")).mkdir()
    os.mkfifo(folder / other.format("aaaaaaaa2"))
    (folder / other.format("aaaaaaaa3")).symlink_to(ours.path)
    assert segments(folder) == [ours]
    assert segments(folder / "nowhere") == []


def names(found: Sequence[Segment]) -> list[str]:
    return [each.name for each in found]


def test_many_segments_are_listed_the_oldest_first(folder: Path) -> None:
    expected = [f"{number:020d}-{number % 7 + 1}-0123abcd.spool" for number in range(3000)]
    for name in reversed(expected):
        (folder / name).touch()
    assert names(segments(folder)) == expected
