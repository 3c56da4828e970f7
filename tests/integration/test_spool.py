"""emit with a spool: what Redis does not take is kept, and is in Redis once, in order, as soon as it is back."""

import asyncio
import errno
import gc
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from kasplo_notify import (
    AsyncNotifier,
    Config,
    ConfigError,
    InvalidEvent,
    Notifier,
    QueueFull,
    Receipt,
    StorageUnavailable,
    carrier,
    emission,
    patience,
)
from kasplo_notify.config import SpoolConfig
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.registry import Registry
from kasplo_notify.spool import keeper
from kasplo_notify.spool.record import read
from kasplo_notify.spool.segments import segments
from kasplo_notify.store import AsyncStore, Store
from kasplo_notify.stored import StoredEvent
from tests.integration.emitter import Emitter
from tests.integration.shard import HOUR, Shard, scomp
from tests.integration.wire import Wire

Make = Callable[[Config], Emitter]
on_the_server = pytest.mark.parametrize("wire", ["server"], indirect=True)
AWAY = 10**9
PATIENCE_S = 30.0


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Emit gives up soon, but not before a busy machine has answered; the flusher looks often."""
    monkeypatch.setattr(patience, "GIVE_UP", 0.03)
    monkeypatch.setattr(carrier, "TIMEOUT", 20.0)
    monkeypatch.setattr(keeper, "_LOOK_S", 0.02)
    monkeypatch.setattr(keeper, "_LONGEST_S", 0.1)


@pytest.fixture
def rare_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flusher does not look during the test."""
    monkeypatch.setattr(keeper, "_LOOK_S", 1000.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spooling(config: Config, folder: Path) -> Config:
    return Config(redis=config.redis, spool=SpoolConfig(path=folder))


@pytest.fixture
def emitter(emitters: Make, spooling: Config) -> Emitter:
    return emitters(spooling)


@pytest.fixture(autouse=True)
def _crm(registry: Registry) -> None:
    """An endpoint that takes everything, in one queue."""
    registry.add(Endpoint(name="crm", url="https://crm.example/hook", queues=1))


def scomps(number: int) -> list[dict[str, object]]:
    return [scomp(f"customer{n}@example.com") for n in range(number)]


def kept(folder: Path) -> list[str]:
    """The ids of the events in the spool, in order."""
    return [each.id for found in segments(folder) for each in read(found.path.read_bytes()).events]


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.005)


def back(wire: Wire, folder: Path) -> None:
    """Redis is back; wait until the spool is empty."""
    wire.refuse = wire.lose = 0
    until(lambda: not segments(folder), "the end of the spool")


# --- away, and back --------------------------------------------------------------------------------------------------


def test_what_redis_does_not_take_is_kept_and_pushed_when_it_is_back(
    emitter: Emitter, wire: Wire, shard: Shard, folder: Path
) -> None:
    wire.refuse = AWAY
    receipt = emitter.emit(scomp(), mail_class="Promo")
    assert receipt == Receipt(receipt.id, (), spooled=True)
    assert kept(folder) == [receipt.id]
    back(wire, folder)
    ((_, fields),) = shard.client.xrange(shard.keys("new:crm.0"))
    stored = StoredEvent.unpack(fields[b"e"])
    assert (stored.id, stored.mail_class) == (receipt.id, "Promo")
    assert orjson.loads(stored.body) == scomp()


def test_what_redis_takes_never_touches_the_spool(emitter: Emitter, folder: Path) -> None:
    receipt = emitter.emit(scomp())
    assert (receipt.endpoints, receipt.spooled) == (("crm",), False)
    assert not any(each.spooled for each in emitter.emit_many(scomps(3)))
    assert list(folder.iterdir()) == []


def test_everything_arrives_in_order_and_once(emitter: Emitter, wire: Wire, shard: Shard, folder: Path) -> None:
    wire.refuse = AWAY
    ids = [emitter.emit(scomp()).id, emitter.emit(scomp(event_id="mine")).id]
    ids += [receipt.id for receipt in emitter.emit_many(scomps(1200))]
    ids.append(emitter.emit(scomp()).id)
    back(wire, folder)
    assert shard.new() == ids
    assert shard.counters() == {"emitted": str(len(ids))}


@pytest.mark.usefixtures("rare_looks")
def test_while_redis_is_known_to_be_away_nothing_is_tried(emitter: Emitter, wire: Wire, folder: Path) -> None:
    wire.refuse = AWAY
    emitter.emit(scomp())
    wire.sent.clear()
    receipts = [emitter.emit(scomp()), *emitter.emit_many(scomps(3))]
    assert wire.sent == []
    assert all(receipt.spooled for receipt in receipts)
    assert kept(folder)[1:] == [receipt.id for receipt in receipts]


def test_when_the_flusher_has_reached_redis_events_go_there_again(emitter: Emitter, wire: Wire, folder: Path) -> None:
    wire.refuse = AWAY
    assert emitter.emit(scomp()).spooled
    wire.refuse = 0
    until(lambda: not emitter.emit(scomp()).spooled, "an emit to Redis")


def test_redis_is_reached_again_also_when_somebody_else_has_pushed_what_was_kept(
    spooling: Config, wire: Wire, folder: Path
) -> None:
    with Notifier(config=spooling) as notifier:
        wire.refuse = AWAY
        notifier.emit(scomp())
        spool = notifier._keeper
        assert spool is not None
        assert spool.away
        for each in segments(folder):
            each.path.unlink()
        wire.refuse = 0
        until(lambda: not spool.away, "the reaching of Redis")
        assert notifier.emit(scomp()).endpoints == ("crm",)


def test_each_event_is_routed_by_the_registry_as_it_is_when_it_is_pushed(
    emitter: Emitter, wire: Wire, shard: Shard, folder: Path, registry: Registry
) -> None:
    emitter.emit(scomp(), event_id="before")
    wire.refuse = AWAY
    emitter.emit(scomp(), event_id="kept")
    list(registry.remove("crm", drop=True))
    registry.add(Endpoint(name="late", url="https://late.example/hook", queues=1))
    back(wire, folder)
    assert shard.new("late.0") == ["kept"]


def test_what_is_not_valid_is_refused_as_ever(emitter: Emitter, wire: Wire, folder: Path) -> None:
    wire.refuse = AWAY
    for _ in range(2):
        with pytest.raises(InvalidEvent):
            emitter.emit_many([scomp(), scomp(listid=1.5)])
        assert kept(folder) == []
    emitter.emit(scomp())
    with pytest.raises(InvalidEvent):
        emitter.emit(scomp(listid=1.5))
    assert emitter.emit_many([]) == []
    assert len(kept(folder)) == 1


@pytest.mark.usefixtures("rare_looks")
def test_of_a_call_that_was_pushed_in_part_only_the_rest_is_kept(
    emitter: Emitter, wire: Wire, shard: Shard, folder: Path
) -> None:
    emitter.emit(scomp(), event_id="first")
    wire.good, wire.refuse = 1, AWAY
    receipts = emitter.emit_many(scomps(700))
    ids = [receipt.id for receipt in receipts]
    assert [receipt.spooled for receipt in receipts] == [False] * 500 + [True] * 200
    assert [receipt.endpoints for receipt in receipts] == [("crm",)] * 500 + [()] * 200
    assert shard.new()[1:] == ids[:500]
    assert kept(folder) == ids[500:]


# --- what was perhaps pushed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 700])
def test_a_call_whose_reply_was_lost_is_in_redis_once(
    emitter: Emitter, wire: Wire, shard: Shard, folder: Path, count: int
) -> None:
    emitter.emit(scomp(), event_id="first")
    wire.lose = AWAY
    receipts = emitter.emit_many(scomps(count))
    assert all(receipt.spooled for receipt in receipts)
    back(wire, folder)
    assert shard.new()[1:] == [receipt.id for receipt in receipts]


def test_a_push_from_the_spool_whose_reply_is_lost_is_in_redis_once(
    emitter: Emitter, wire: Wire, shard: Shard, folder: Path
) -> None:
    wire.refuse = AWAY
    ids = [receipt.id for receipt in emitter.emit_many(scomps(700))]
    wire.lose, wire.refuse = 7, 0
    until(lambda: not wire.lose, "the loss of replies")
    back(wire, folder)
    assert shard.new() == ids


def test_on_a_line_that_comes_and_goes_nothing_is_lost_or_doubled(
    emitter: Emitter, wire: Wire, shard: Shard, folder: Path
) -> None:
    ids = []
    for number in range(80):
        # Refused and lost at once, for shorter and for longer than an emit is patient.
        wire.refuse = [0, 1, 0, AWAY, 2][number % 5]
        wire.lose = [1, 0, 0, AWAY][number % 4] if not wire.refuse else 0
        ids += [receipt.id for receipt in emitter.emit_many(scomps(1 + number % 3))]
    back(wire, folder)
    assert Counter(shard.new()) == Counter(ids)
    assert len(set(ids)) == len(ids)


def test_what_was_perhaps_pushed_is_known_for_an_hour_where_there_is_a_spool(
    emitters: Make, emitter: Emitter, config: Config, shard: Shard
) -> None:
    with_a_spool, without = emitter.emit(scomp()).id, emitters(config).emit(scomp()).id
    assert HOUR - 60_000 < shard.client.pttl(shard.keys(f"pushed:{with_a_spool}")) <= HOUR
    assert 0 < shard.client.pttl(shard.keys(f"pushed:{without}")) <= 60_000


def noting(calls: list[Any], run: Callable[..., Any]) -> Callable[..., Any]:
    def noted(store: object, call: object) -> Any:
        calls.append(call)
        return run(store, call)

    return noted


@pytest.mark.usefixtures("rare_looks")
def test_what_is_left_is_pushed_by_the_next_notifier_and_a_late_push_of_it_changes_nothing(
    emitters: Make, spooling: Config, wire: Wire, shard: Shard, folder: Path, *, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chunk's own push was held up in the network for longer than its producer waited."""
    late: list[Any] = []
    first = emitters(spooling)
    first.emit(scomp(), event_id="first")
    wire.refuse = AWAY
    with pytest.MonkeyPatch.context() as patched:
        for kind in (Store, AsyncStore):
            patched.setattr(kind, "run", noting(late, kind.run))
        ids = [receipt.id for receipt in first.emit_many(scomps(3))]
    first.close()
    wire.refuse = 0
    monkeypatch.setattr(keeper, "_LOOK_S", 0.02)
    second = emitters(spooling)
    second.emit(scomp(), event_id="second")
    until(lambda: not segments(folder), "the end of the spool")
    assert shard.store.run(late[0])[0] == b"repeated"
    assert Counter(shard.new()) == Counter(["first", "second", *ids])


# --- full ------------------------------------------------------------------------------------------------------------


@on_the_server
def test_while_redis_is_full_events_are_kept(emitter: Emitter, shard: Shard, folder: Path) -> None:
    emitter.emit(scomp(), event_id="first")
    shard.client.config_set("maxmemory", 1)
    ids = [receipt.id for receipt in emitter.emit_many(scomps(3))]
    ids.append(emitter.emit(scomp()).id)
    assert len(shard.new()) == 1
    assert kept(folder) == ids
    shard.client.config_set("maxmemory", 0)
    until(lambda: not segments(folder), "the end of the spool")
    assert shard.new()[1:] == ids


# --- when the spool does not take it either --------------------------------------------------------------------------


def test_a_full_spool_is_told_with_the_error_of_redis_and_the_call_can_be_completed(
    emitters: Make, config: Config, wire: Wire, shard: Shard, folder: Path
) -> None:
    emitter = emitters(Config(redis=config.redis, spool=SpoolConfig(path=folder, max_bytes=500)))
    wire.refuse = AWAY
    kept_id = emitter.emit(scomp()).id
    for _ in range(2):
        with pytest.raises(StorageUnavailable, match=r"not available.*; and the spool in .* is full too") as caught:
            emitter.emit_many(scomps(10))
    assert "spool.max_bytes allows 500 bytes" in str(caught.value)
    assert (len(set(caught.value.event_ids)), caught.value.pushed) == (10, 0)
    back(wire, folder)
    again = [{**event, "event_id": each} for event, each in zip(scomps(10), caught.value.event_ids, strict=True)]
    emitter.emit_many(again)
    assert shard.new() == [kept_id, *caught.value.event_ids]


@pytest.mark.usefixtures("rare_looks")
def test_when_the_spool_takes_no_more_redis_is_tried_each_time(
    emitters: Make, config: Config, wire: Wire, shard: Shard, folder: Path
) -> None:
    emitter = emitters(Config(redis=config.redis, spool=SpoolConfig(path=folder, max_bytes=300)))
    wire.refuse = AWAY
    while True:
        try:
            emitter.emit(scomp())
        except StorageUnavailable:
            break
    wire.refuse = 0
    receipt = emitter.emit(scomp())
    assert receipt == Receipt(receipt.id, ("crm",))
    assert shard.new() == [receipt.id]


@pytest.mark.usefixtures("rare_looks")
def test_a_call_that_is_half_in_the_spool_when_redis_takes_it_is_in_redis_once(
    emitters: Make, spooling: Config, wire: Wire, shard: Shard, folder: Path, *, monkeypatch: pytest.MonkeyPatch
) -> None:
    emitter = emitters(spooling)
    wire.refuse = AWAY
    first = emitter.emit(scomp()).id
    wire.refuse = 0
    bounce = {**scomp(), "event_type": "bounce_all", "event_time": 1, "bounce_type": "h", "bounce_code": 550}
    syncs = iter([os.fsync, os.fsync])

    def once(fd: int) -> None:
        next(syncs, failing)(fd)

    with monkeypatch.context() as patched:
        # The first MiB gets a segment, the second one's cannot be made.
        patched.setattr(os, "fsync", once)
        receipts = emitter.emit_many([{**bounce, "bounce_text": "x" * 200_000} for _ in range(8)])
    ids = [receipt.id for receipt in receipts]
    assert {receipt.endpoints for receipt in receipts} == {("crm",)}
    assert kept(folder) == [first, *ids[:5]]
    emitter.close()
    monkeypatch.setattr(keeper, "_LOOK_S", 0.02)
    emitters(spooling).emit(scomp(), event_id="last")
    until(lambda: not segments(folder), "the end of the spool")
    assert Counter(shard.new()) == Counter([first, *ids, "last"])


def failing(_: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@on_the_server
def test_a_full_redis_and_a_full_spool_are_queue_full(
    emitters: Make, config: Config, shard: Shard, folder: Path
) -> None:
    emitter = emitters(Config(redis=config.redis, spool=SpoolConfig(path=folder, max_bytes=1)))
    emitter.emit(scomp())
    shard.client.config_set("maxmemory", 1)
    with pytest.raises(QueueFull, match=r"maxmemory.*; and the spool in .* is full too") as caught:
        emitter.emit(scomp(event_id="mine"))
    assert (caught.value.event_ids, caught.value.pushed) == (("mine",), 0)


@pytest.mark.usefixtures("rare_looks")
def test_what_the_disk_does_not_take_is_not_acknowledged(
    emitter: Emitter, wire: Wire, shard: Shard, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emitter.emit(scomp(), event_id="first")
    wire.good, wire.refuse = 1, AWAY

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing)
        with pytest.raises(StorageUnavailable, match=r"; and the spool in .* cannot be written \(input") as caught:
            emitter.emit_many(scomps(700))
    assert (len(caught.value.event_ids), caught.value.pushed) == (700, 500)
    assert kept(folder) == []
    wire.refuse = 0
    again = [{**event, "event_id": each} for event, each in zip(scomps(700), caught.value.event_ids, strict=True)]
    emitter.emit_many(again)
    assert tuple(shard.new()[1:]) == caught.value.event_ids


@pytest.mark.usefixtures("rare_looks")
def test_nothing_is_acknowledged_before_it_is_on_the_disk(
    emitter: Emitter, wire: Wire, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill -9 cannot show this, a loss of power could."""
    wire.refuse = AWAY
    synced: list[str] = []
    fsync = os.fsync

    def recorded(fd: int) -> None:
        fsync(fd)
        # Of the folder's own sync, nothing is in the spool yet.
        synced.extend(kept(folder)[len(synced) :])

    monkeypatch.setattr(os, "fsync", recorded)
    for number in range(3):
        receipt = emitter.emit(scomp(), event_id=f"e{number}")
        assert receipt.spooled
        assert synced[-1] == receipt.id
    receipts = emitter.emit_many(scomps(5))
    assert synced[-5:] == [each.id for each in receipts]


@pytest.mark.parametrize("kind", [Notifier, AsyncNotifier])
def test_a_folder_that_cannot_be_used_is_told_when_the_notifier_is_made(
    config: Config, tmp_path: Path, kind: type[Notifier | AsyncNotifier]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"The spool folder .*/file \(spool.path\)|cannot be used"):
        kind(config=Config(redis=config.redis, spool=SpoolConfig(path=tmp_path / "file")))


# --- threads, forks, ends --------------------------------------------------------------------------------------------


def flushers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "kasplo-spool"]


def test_without_a_spool_there_is_no_thread(emitters: Make, config: Config, wire: Wire) -> None:
    emitter = emitters(config)
    emitter.emit(scomp())
    wire.refuse = AWAY
    with pytest.raises(StorageUnavailable):
        emitter.emit(scomp())
    assert flushers() == []


def test_the_thread_begins_with_the_first_emit_and_ends_with_close(
    emitters: Make, spooling: Config, folder: Path, wire: Wire
) -> None:
    emitter = emitters(spooling)
    assert flushers() == []
    emitter.emit(scomp())
    (thread,) = flushers()
    assert thread.daemon
    wire.refuse = AWAY
    emitter.emit(scomp(event_id="kept"))
    emitter.close()
    assert flushers() == []
    assert kept(folder) == ["kept"]


@pytest.mark.parametrize("kind", [Notifier, AsyncNotifier])
def test_the_thread_of_a_notifier_that_nobody_closed_ends_with_it(
    spooling: Config, wire: Wire, kind: type[Notifier | AsyncNotifier]
) -> None:
    def use() -> None:
        notifier = kind(config=spooling)
        keeper_of = notifier._keeper
        assert keeper_of is not None
        keeper_of.start()
        assert len(flushers()) == 1

    use()
    gc.collect()
    assert flushers() == []


def test_a_closed_notifier_spools_and_pushes_again(
    emitters: Make, spooling: Config, wire: Wire, shard: Shard, folder: Path
) -> None:
    notifier = Notifier(config=spooling)
    wire.refuse = AWAY
    first = notifier.emit(scomp()).id
    notifier.close()
    second = notifier.emit(scomp()).id
    back(wire, folder)
    notifier.close()
    notifier.close()
    assert shard.new() == [first, second]


def test_what_others_left_is_pushed_by_whoever_emits_next(
    emitters: Make, spooling: Config, wire: Wire, shard: Shard, folder: Path
) -> None:
    first, second = emitters(spooling), emitters(spooling)
    second.emit(scomp(), event_id="before")
    wire.refuse = AWAY
    ids = [first.emit(scomp()).id, first.emit(scomp()).id]
    first.close()
    assert kept(folder) == ids
    back(wire, folder)
    assert shard.new() == ["before", *ids]


def test_many_threads_spool_at_once_and_nothing_is_lost_or_doubled(
    spooling: Config, wire: Wire, shard: Shard, folder: Path
) -> None:
    ids: list[str] = []
    with Notifier(config=spooling) as notifier:
        wire.refuse = AWAY

        def emit() -> None:
            for _ in range(20):
                ids.append(notifier.emit(scomp()).id)
                ids.extend(receipt.id for receipt in notifier.emit_many(scomps(3)))

        threads = [threading.Thread(target=emit) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        wire.refuse = 0
        for thread in threads:
            thread.join()
        back(wire, folder)
    assert len(ids) == 8 * 20 * 4
    assert Counter(shard.new()) == Counter(ids)


async def test_many_tasks_spool_at_once_and_the_loop_does_not_wait_for_the_disk(
    spooling: Config, wire: Wire, shard: Shard, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_loop = threading.get_ident()
    synced_by: set[int] = set()
    fsync = os.fsync

    def recorded(fd: int) -> None:
        synced_by.add(threading.get_ident())
        fsync(fd)

    monkeypatch.setattr(os, "fsync", recorded)
    async with AsyncNotifier(config=spooling) as notifier:
        wire.refuse = AWAY
        receipts = await asyncio.gather(*(notifier.emit(event) for event in scomps(50)))
        assert all(receipt.spooled for receipt in receipts)
        wire.refuse = 0
        await asyncio.to_thread(back, wire, folder)
    assert in_the_loop not in synced_by
    assert Counter(shard.new()) == Counter(receipt.id for receipt in receipts)


@pytest.fixture
def dead_url(wire: Wire) -> Iterator[Callable[[], None]]:
    """Stops the real server from answering, and lets it answer again at the end."""
    client = redis.Redis.from_url(wire.url)

    def pause() -> None:
        client.config_set("maxmemory", 1)

    yield pause
    client.config_set("maxmemory", 0)
    client.close()


@on_the_server
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_spools_for_itself_and_both_arrive(
    spooling: Config, wire: Wire, shard: Shard, folder: Path, dead_url: Callable[[], None]
) -> None:
    with Notifier(config=spooling) as notifier:
        notifier.emit(scomp(), event_id="before")
        dead_url()
        assert notifier.emit(scomp(), event_id="parent-1").spooled
        child = os.fork()
        if not child:
            status = 1
            try:
                spooled = [notifier.emit(scomp(), event_id=f"child-{number}").spooled for number in range(3)]
                status = 0 if all(spooled) and len(flushers()) == 1 else 2
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert notifier.emit(scomp(), event_id="parent-2").spooled
        assert {found.pid for found in segments(folder)} == {os.getpid(), child}
        shard.client.config_set("maxmemory", 0)
        until(lambda: not segments(folder), "the end of the spool")
    expected = ["before", "parent-1", "parent-2", "child-0", "child-1", "child-2"]
    assert Counter(shard.new()) == Counter(expected)


@pytest.mark.usefixtures("rare_looks")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_that_is_forked_while_another_thread_waits_for_the_disk_spools_as_well(
    spooling: Config, wire: Wire, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, go_on = threading.Event(), threading.Event()
    fsync, parent = os.fsync, os.getpid()

    def slow(fd: int) -> None:
        if os.getpid() == parent:
            waiting.set()
            go_on.wait(PATIENCE_S)
        fsync(fd)

    wire.refuse = AWAY
    with Notifier(config=spooling) as notifier:
        notifier.emit(scomp(), event_id="first")
        monkeypatch.setattr(os, "fsync", slow)
        thread = threading.Thread(target=notifier.emit, args=(scomp(event_id="parent"),))
        thread.start()
        assert waiting.wait(PATIENCE_S)
        child = os.fork()
        if not child:
            status = 1
            try:
                status = 0 if notifier.emit(scomp(), event_id="child").spooled else 2
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        go_on.set()
        thread.join()
        assert sorted(kept(folder)) == ["child", "first", "parent"]


def test_a_folder_that_cannot_be_read_any_more_is_told_once_and_read_again(
    spooling: Config, wire: Wire, shard: Shard, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wire.refuse = AWAY
    with Notifier(config=spooling) as notifier:
        kept_id = notifier.emit(scomp()).id
        elsewhere = folder.rename(folder.with_name("elsewhere"))
        folder.touch()
        wire.refuse = 0
        until(lambda: "spool_unreadable" in caplog.text, "the telling")
        time.sleep(0.3)
        assert caplog.text.count("spool_unreadable") == 1
        folder.unlink()
        elsewhere.rename(folder)
        back(wire, folder)
    assert shard.new() == [kept_id]


@on_the_server
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_two_processes_that_push_the_same_folder_double_nothing(
    spooling: Config, shard: Shard, folder: Path, dead_url: Callable[[], None]
) -> None:
    """Ids that are forgotten at once: what two flushers pushed at the same time would be there twice."""
    ids = []
    dead_url()
    for number in range(12):
        with Notifier(config=spooling) as notifier:
            ids += [each.id for each in notifier.emit_many([scomp(event_id=f"{number}-{n}") for n in range(40)])]
    assert len(segments(folder)) == 12
    shard.client.config_set("maxmemory", 0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(emission, "OWN_ID_MS", 1)
        children = []
        for _ in range(3):
            pid = os.fork()
            if not pid:
                status = 1
                try:
                    with Notifier(config=spooling) as notifier:
                        assert notifier._keeper is not None
                        notifier._keeper.start()
                        until(lambda: not segments(folder), "the end of the spool")
                    status = 0
                finally:
                    os._exit(status)
            children.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
    assert Counter(shard.new()) == Counter(ids)
