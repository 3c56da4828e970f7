"""The worker class on a real server: told to stop anywhere, restarted, wrongly configured."""

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from rq import Callback, Queue, Retry
from rq.serializers import JSONSerializer
from rq.webhook import Webhook

from kasplo_notify.config import Config, RedisConfig
from kasplo_notify.dispatcher import LOOK_S, Dispatcher
from kasplo_notify.drain import MAX_RUN_S, TICK_S, Drain
from kasplo_notify.equipment import Tally
from kasplo_notify.store import Store, connect
from workers import NotifyWorker, starting
from workers.drain_job import TIMEOUT_S


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def worker(client: redis.Redis, redis_url: str) -> Iterator[NotifyWorker]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield NotifyWorker([], connection=client, config=Config(redis=RedisConfig(url=redis_url)))
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("moment", ["_ask_for_drain", "_serve", "_deliver_without_rq", "_close"])
def test_a_signal_that_comes_anywhere_ends_a_burst_without_an_error(
    worker: NotifyWorker, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = getattr(worker, moment)
    came: list[str] = []

    def with_signal(*args: Any, **options: Any) -> Any:
        if not came:
            came.append(moment)
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args, **options)

    monkeypatch.setattr(worker, "_due", lambda: True)
    monkeypatch.setattr(worker, moment, with_signal)
    if moment == "_deliver_without_rq":
        monkeypatch.setattr(worker, "_serve", lambda *_, **__: False)
    worker.work(burst=True)
    assert came == [moment]
    assert NotifyWorker.running is None


def test_a_drain_that_begins_after_the_request_to_stop_begins_nothing(
    worker: NotifyWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[bool] = []
    ran: list[Drain] = []

    async def run(drain: Drain) -> Tally:
        ran.append(drain)
        stopped.append(drain._stopping)
        return Tally()

    monkeypatch.setattr(Drain, "run", run)
    monkeypatch.setattr(worker, "_due", lambda: True)
    deliver = worker.deliver

    def told_just_before() -> Tally:
        os.kill(os.getpid(), signal.SIGTERM)
        return deliver()

    monkeypatch.setattr(worker, "deliver", told_just_before)
    worker.work(burst=True)
    assert (len(ran), stopped) == (1, [True])


@pytest.mark.parametrize("ends_well", [True, False])
def test_a_signal_during_a_drain_ends_the_worker_however_the_drain_ends(
    worker: NotifyWorker, monkeypatch: pytest.MonkeyPatch, *, ends_well: bool
) -> None:
    ran: list[Drain] = []

    async def run(drain: Drain) -> Tally:
        ran.append(drain)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0)
        if not ends_well:
            raise RuntimeError("a fault of ours")
        return Tally()

    monkeypatch.setattr(Drain, "run", run)
    monkeypatch.setattr(worker, "_due", lambda: True)
    worker.work(burst=True)
    assert len(ran) == 1


def test_the_connection_of_a_dispatcher_that_ended_is_closed(redis_url: str) -> None:
    store = Store(connect(redis_url, connections=1), "kasplo:")
    dispatcher = Dispatcher(store, Config(), name="w", enqueue=lambda _: None, queued=lambda: 0)
    dispatcher.start()
    dispatcher.stop()
    assert [each for each in _connections(store) if each.is_connected] == []


def _connections(store: Store) -> list[Any]:
    return list(store.client.connection_pool._connections)  # type: ignore[attr-defined]


def test_a_drain_hears_of_changes_twice_a_second_and_ends_long_before_its_job_would_be_ended() -> None:
    assert TICK_S <= 0.5
    assert 2 * MAX_RUN_S < TIMEOUT_S
    assert LOOK_S <= 1.0


@pytest.mark.parametrize(
    ("soft", "hard", "then"),
    [
        (1024, resource.RLIM_INFINITY, 3840),
        (1024, 1_048_576, 3840),
        (1024, 2048, 2048),
        (4096, 1_048_576, 4096),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, resource.RLIM_INFINITY),
    ],
)
def test_a_worker_may_open_twice_the_files_that_it_counts_on(
    soft: int, hard: int, then: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = (soft, hard)

    def limit(_: int, wanted: tuple[int, int]) -> None:
        nonlocal limits
        limits = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", limit)
    starting.raise_file_limit.__wrapped__(Config())
    assert limits == (then, hard)


def test_memory_is_frozen_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen: list[bool] = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))
    monkeypatch.setattr(gc, "set_threshold", lambda *_: None)
    starting.collect_less.cache_clear()
    starting.collect_less()
    starting.collect_less()
    assert frozen == [True]


def test_dangerous_settings_of_redis_are_warned_of(client: redis.Redis, caplog: pytest.LogCaptureFixture) -> None:
    assert starting.check_redis(client, "kasplo:")
    assert caplog.messages == []
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert starting.check_redis(client, "kasplo:")
    finally:
        client.config_set("maxmemory-policy", "noeviction")
    (message,) = caplog.messages
    assert message.startswith("redis_settings: maxmemory-policy is allkeys-lru: ")


def test_a_login_that_may_not_look_at_the_settings_is_no_fault(
    client: redis.Redis, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    client.execute_command("ACL SETUSER narrow on >pw ~* +@all -info -config")  # type: ignore[no-untyped-call]
    try:
        with redis.Redis.from_url(redis_url, username="narrow", password="pw") as narrow:
            assert starting.check_redis(narrow, "kasplo:")
    finally:
        client.execute_command("ACL DELUSER narrow")  # type: ignore[no-untyped-call]
    assert caplog.messages == []


def test_of_rqs_errors_only_the_repetitions_are_hidden(caplog: pytest.LogCaptureFixture) -> None:
    rq_log = logging.getLogger("rq.worker")
    starting.hide_repetitions()
    try:
        rq_log.error("Worker %s: could not connect to Redis instance: %s retrying in %d seconds...", "w", "x", 1)
        rq_log.error("Worker %s: found an unhandled exception, quitting...", "w")
    finally:
        for each in list(rq_log.filters):
            rq_log.removeFilter(each)
    assert caplog.messages == ["Worker w: found an unhandled exception, quitting..."]


def test_a_wrong_configuration_under_rq_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KASPLO_DELIVERY__DELAY", "soon")
    with pytest.raises(SystemExit) as ended:
        NotifyWorker([])
    assert ended.value.code == 3
    assert capsys.readouterr().err.startswith("Error: delivery.delay ")


@pytest.fixture
def drains(worker: NotifyWorker, monkeypatch: pytest.MonkeyPatch) -> list[Tally]:
    """What the drains did that the worker ran. It begins with RQ, whatever is due."""
    ran: list[Tally] = []
    deliver = worker.deliver

    def delivered() -> Tally:
        ran.append(deliver())
        return ran[-1]

    monkeypatch.setattr(worker, "deliver", delivered)
    monkeypatch.setattr(worker, "_ask_for_drain", lambda: True)
    return ran


class Planted:
    """What unpickles to a new folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_whatever_a_job_says_a_worker_of_ours_runs_a_drain_loads_no_pickle_and_calls_nobody(
    client: redis.Redis,
    worker: NotifyWorker,
    drains: list[Tally],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folders = [tmp_path / name for name in ("pickled", "unpickled", "named", "on-success", "on-failure")]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        Queue("kasplo", connection=client).enqueue("os.mkdir", str(folders[0]))
        Queue("kasplo", connection=client).enqueue("os.listdir", Planted(folders[1]))
        queue = Queue("kasplo", connection=client, serializer=JSONSerializer)
        queue.enqueue("os.mkdir", str(folders[2]))
        queue.enqueue(
            "workers.drain",
            on_success=Callback("shutil.rmtree"),
            webhooks=[Webhook(url, status) for status in ("finished", "failed")],
        )
        queue.enqueue("os.nothing", on_failure=Callback("shutil.rmtree"), retry=Retry(max=3))
        monkeypatch.setattr("shutil.rmtree", lambda *_, **__: folders[3].mkdir())
        worker.work(burst=True, max_jobs=5)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert [folder for folder in folders if folder.exists()] == []
    assert len(drains) == 5
    assert (len(queue), queue.failed_job_registry.count, queue.finished_job_registry.count) == (0, 0, 5)


@pytest.mark.parametrize(
    "job",
    [
        {"data": b"junk", "timeout": b"soon", "created_at": b"never", "description": b"\xff"},
        {
            "data": b"[]",
            "status": b"nonsense",
            "webhooks": b"{",
            "meta": b"{",
            "dependency_ids": b"7",
            "origin": b"\xff",
        },
        {"nothing": b"of a job"},
        {b"\xff": b"\xff"},
        {"data": b"x" * 10_000_000},
    ],
    ids=["wrong types", "wrong shapes", "another hash", "no text", "huge"],
)
def test_a_job_that_somebody_tampered_with_is_a_drain_all_the_same(
    client: redis.Redis, worker: NotifyWorker, drains: list[Tally], job: Any
) -> None:
    client.hset("rq:job:tampered", mapping=job)
    client.rpush("rq:queue:kasplo", "tampered")
    worker.work(burst=True, max_jobs=1)
    assert len(drains) == 1


def test_what_is_no_job_at_all_is_passed_over(
    client: redis.Redis, worker: NotifyWorker, drains: list[Tally], caplog: pytest.LogCaptureFixture
) -> None:
    client.set("rq:job:string", "junk")
    client.rpush("rq:queue:kasplo", "string", "missing", "../x", "")
    Queue("kasplo", connection=client, serializer=JSONSerializer).enqueue("workers.drain")
    worker.work(burst=True, max_jobs=1)
    assert client.llen("rq:queue:kasplo") == 0
    assert len(drains) == 1
    assert "rq_ended" not in caplog.text
