"""What killed demos left is removed, and nothing else is."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from kasplo_notify import datadir, demo_remains

NAME = "kasplo-demo-0123abcd"


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def leave(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Leave the folder of a demo behind, in a temp folder of this test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def make(*, name: str = NAME, url: str = redis_url, socket: str = "") -> Path:
        folder = Path(tempfile.mkdtemp(prefix=demo_remains._folders()))
        (folder / "run.lock").write_text(f'{{"pid": 1, "since": 0, "socket": "{socket}"}}')
        redis_section = f'[redis]\nurl = "{url}"\nprefix = "{name}:"\n'
        (folder / demo_remains.CONFIG).write_text(f'{redis_section}[worker]\nqueue = "{name}"\n')
        return folder

    return make


def test_its_keys_its_queue_and_its_jobs_are_removed_and_those_of_others_are_not(
    leave: Callable[..., Path], client: redis.Redis
) -> None:
    folder = leave()
    for name in (NAME, "kasplo"):
        client.set(f"{name}:endpoints", "x")
        client.sadd("rq:queues", f"rq:queue:{name}")
        # One that was not begun, one in the hands of a worker that was killed, one that has ended.
        client.rpush(f"rq:queue:{name}", f"{name[-4:]}-1")
        client.zadd(f"rq:wip:{name}", {f"{name[-4:]}-2:execution": 1})
        client.zadd(f"rq:finished:{name}", {f"{name[-4:]}-3": 1})
        for number in (1, 2, 3):
            client.hset(f"rq:job:{name[-4:]}-{number}", "status", "queued")
        client.set(f"rq:results:{name[-4:]}-3", "x")
    demo_remains.sweep()
    assert not folder.exists()
    assert client.smembers("rq:queues") == {"rq:queue:kasplo"}
    jobs = {f"rq:job:splo-{number}" for number in (1, 2, 3)} | {"rq:results:splo-3"}
    queues = {"rq:queue:kasplo", "rq:wip:kasplo", "rq:finished:kasplo", "rq:queues"}
    assert set(client.keys("*")) == {"kasplo:endpoints", *jobs, *queues}


def test_a_folder_that_names_no_demo_costs_nobody_a_key(leave: Callable[..., Path], client: redis.Redis) -> None:
    client.set("kasplo:endpoints", "x")
    folder = leave(name="kasplo")
    demo_remains.sweep()
    assert not folder.exists()
    assert client.keys("*") == ["kasplo:endpoints"]


def test_while_its_redis_is_away_the_folder_stays(leave: Callable[..., Path]) -> None:
    away = leave(url="unix:///nowhere/redis.sock")
    here = leave()
    demo_remains.sweep()
    assert (away.exists(), here.exists()) == (True, False)


def test_while_its_workers_live_it_stays(leave: Callable[..., Path], client: redis.Redis) -> None:
    folder = leave()
    now_ms = int(client.time()[0]) * 1000
    client.zadd(f"{NAME}:{{0}}:busy", {"worker": now_ms + 60_000})
    demo_remains.sweep()
    assert folder.exists()
    client.zadd(f"{NAME}:{{0}}:busy", {"worker": now_ms - 1})
    demo_remains.sweep()
    assert not folder.exists()
    assert client.keys("*") == []


def test_what_had_a_server_of_its_own_needs_no_redis(leave: Callable[..., Path]) -> None:
    folder = leave(url="unix:///nowhere/redis.sock", socket="/nowhere/redis.sock")
    demo_remains.sweep()
    assert not folder.exists()


def test_what_is_held_is_left_alone(leave: Callable[..., Path]) -> None:
    folder = leave()
    lock = datadir.open_lock(folder / "run.lock")
    assert lock is not None
    demo_remains.sweep()
    assert folder.exists()
    os.close(lock)


def test_a_sweep_that_takes_too_long_goes_on_the_next_time(
    leave: Callable[..., Path], client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = leave()
    client.set(f"{NAME}:endpoints", "x")
    monkeypatch.setattr(demo_remains, "_SWEEP_S", 0.0)
    demo_remains.sweep()
    assert folder.exists()
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(folder.parent))
    demo_remains.sweep()
    assert not folder.exists()
    assert client.keys("*") == []
