"""`kasplo-notify up` and its demo as real processes: what they show, and that nothing stays behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kasplo_notify import datadir
from kasplo_notify.catalogue import EVENT_TYPES
from kasplo_notify.config import Config
from kasplo_notify.embedded import EmbeddedServer, attached_url
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.errors import StorageUnavailable
from kasplo_notify.notifier import Notifier
from kasplo_notify.receiver import Delivery, ReceiverThread
from kasplo_notify.registry import Registry
from tests.acceptance.world import PATIENCE_S, ROOT, lives, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WORKERS = r"workers +2.*\(pid ([\d, ]+)\)"
COMMAND = [sys.executable, "-m", "kasplo_notify"]


class Up:
    """One `up` process; its folders are those of the test."""

    def __init__(self, home: Path, *arguments: str, **environ: str) -> None:
        (home / "tmp").mkdir(parents=True, exist_ok=True)
        self.data_dir = home / "data"
        self.output = home / f"output-{time.monotonic_ns()}"
        others = {name: value for name, value in os.environ.items() if not name.startswith("KASPLO_")}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*COMMAND, *(arguments or ["up"])],
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={
                    **others,
                    "PYTHONPATH": str(ROOT),
                    "TMPDIR": str(home / "tmp"),
                    "KASPLO_REDIS__DATA_DIR": str(self.data_dir),
                    "KASPLO_EGRESS__ALLOW": '["127.0.0.0/8"]',
                    **environ,
                },
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    def wait_for(self, pattern: str, seconds: float = PATIENCE_S) -> re.Match[str]:
        until(lambda: bool(re.search(pattern, self.text)) or self.process.poll() is not None, seconds)
        found = re.search(pattern, self.text)
        assert found, self.text
        return found

    def workers(self) -> list[int]:
        return [int(pid) for pid in self.wait_for(WORKERS)[1].split(",")]

    def servers(self) -> list[int]:
        return [int(lock.read_text()) for lock in self.data_dir.parent.glob("**/server.lock") if lock.read_text()]

    def kill(self) -> list[int]:
        """Kill it; returns the processes that must end because of it."""
        self.process.kill()
        self.process.wait()
        return [*self.servers(), *(self.workers() if re.search(WORKERS, self.text) else [])]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    made: list[Up] = []

    def start(*arguments: str, **environ: str) -> Up:
        made.append(Up(tmp_path, *arguments, **environ))
        return made[-1]

    yield start
    pids = [pid for one in made for pid in one.kill()]
    until(lambda: not any(map(lives, pids)))
    # Where the path of a folder is too long for a socket, what was killed leaves that elsewhere.
    for folder in (tmp_path / "data", *(tmp_path / "tmp").glob("kasplo-demo-*")):
        datadir.remove_socket(folder)


def config_of(one: Up, **overrides: object) -> Config:
    return Config.load(environ={}, overrides={"redis.data_dir": str(one.data_dir), **overrides})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_runs_until_a_signal_then_leaves_nothing(up: Callable[..., Up], number: signal.Signals) -> None:
    # Under nohup this process ignores SIGHUP, and so would its children.
    before = signal.signal(number, signal.SIG_DFL) if number == signal.SIGHUP else None
    one = up()
    if before is not None:
        signal.signal(number, before)
    pids = [*one.workers(), *one.servers()]
    assert len(pids) == 3
    assert attached_url(config_of(one)) in one.text
    one.process.send_signal(number)
    assert one.process.wait(PATIENCE_S) == 0, one.text
    assert not any(map(lives, pids))
    assert not (one.data_dir / "server.sock").exists()
    assert "Stopped." in one.text
    assert "Traceback" not in one.text


def test_kill_9_leaves_nothing_and_the_next_start_has_everything(up: Callable[..., Up]) -> None:
    one = up()
    pids = [*one.workers(), *one.servers()]
    with contextlib.closing(Registry.open(config_of(one))) as registry:
        registry.add(Endpoint(name="crm", url="http://127.0.0.1:9/"))
    one.process.kill()
    one.process.wait()
    until(lambda: not any(map(lives, pids)))
    again = up()
    again.workers()
    assert "endpoints" in again.text
    with contextlib.closing(Registry.open(config_of(again))) as registry:
        assert list(registry.endpoints()) == ["crm"]


def test_a_second_one_is_refused_and_names_the_first(up: Callable[..., Up]) -> None:
    one = up()
    one.workers()
    second = up()
    assert second.process.wait(PATIENCE_S) == 1
    assert re.search(rf"already running here \(pid {one.process.pid}, since \d{{4}}-", second.text)
    assert len(second.text.splitlines()) == 1
    assert one.process.poll() is None


def test_with_a_configured_url_a_second_one_is_refused_too(up: Callable[..., Up], tmp_path: Path) -> None:
    server = Config.load(environ={}, overrides={"redis.data_dir": str(tmp_path / "own server")})
    with EmbeddedServer(server) as running:
        one = up(KASPLO_REDIS__URL=running.url)
        one.workers()
        second = up(KASPLO_REDIS__URL=running.url)
        assert second.process.wait(PATIENCE_S) == 1
        assert f"pid {one.process.pid}, since" in second.text
        with pytest.raises(StorageUnavailable):
            attached_url(config_of(one))
        one.process.terminate()
        assert one.process.wait(PATIENCE_S) == 0


def test_its_workers_deliver_and_a_signal_lets_them_finish(up: Callable[..., Up]) -> None:
    deliveries: list[Delivery] = []
    one = up(KASPLO_DELIVERY__DELAY="0.2")
    one.workers()
    with ReceiverThread(deliveries.append) as thread:
        config = config_of(one, **{"delivery.delay": 0.2})
        with contextlib.closing(Registry.open(config)) as registry:
            registry.add(Endpoint(name="crm", url=thread.receiver.url))
        with Notifier(config=config) as notifier:
            notifier.emit(EVENT_TYPES["scomp"].example)
        until(lambda: len(deliveries) == 1)
        one.process.terminate()
        assert one.process.wait(PATIENCE_S) == 0
        assert len(deliveries) == 1


def test_a_killed_worker_is_replaced(up: Callable[..., Up]) -> None:
    one = up()
    os.kill(one.workers()[0], signal.SIGKILL)
    one.wait_for("worker 1 ended with SIGKILL; next start in 1 s")
    one.process.terminate()
    assert one.process.wait(PATIENCE_S) == 0


def test_a_burst_of_workers_runs_the_embedded_server_itself_or_joins_the_one_that_runs(
    up: Callable[..., Up],
) -> None:
    def burst() -> tuple[int, str]:
        one = up("worker", "--burst")
        return one.process.wait(30), one.text

    code, text = burst()
    assert (code, "Traceback" in text) == (0, False), text
    running = up()
    running.workers()
    assert burst()[0] == 0
    assert running.process.poll() is None


def test_the_demo_shows_every_event_arrive_and_a_requeue(up: Callable[..., Up], tmp_path: Path) -> None:
    one = up("up", "--demo", KASPLO_DELIVERY__DELAY="3")
    assert one.process.wait(90) == 0, one.text
    text = one.text
    for event_type in EVENT_TYPES:
        method = "GET " if event_type in {"bounce_all", "bounce_bad_address", "delivery_attempt"} else "POST"
        arrival = rf"{method} /v1/webhook  {event_type} +signature verified +\d+\.\d s after emit  (200|503)"
        assert re.search(arrival, text), text
    assert text.count("503 refused on purpose: requeued") == 2
    assert re.search(r"engine_click +promo +POST +3 +", text)
    assert "All 7 events arrived" in text
    assert "delays that are shortened for this demo" in text
    assert re.search(
        rf"^Next: (kasplo-notify|{re.escape(str(Path(sys.executable).parent))}/kasplo-notify) up ", text, re.MULTILINE
    )
    assert "\033" not in text
    assert not any(map(lives, one.workers()))
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not one.data_dir.exists()


def test_the_demo_leaves_nothing_when_it_is_stopped(up: Callable[..., Up], tmp_path: Path) -> None:
    one = up("up", "--demo")
    one.wait_for("emit")
    pids = [*one.workers(), *one.servers()]
    assert len(pids) == 3
    one.process.terminate()
    assert one.process.wait(PATIENCE_S) == 130
    assert "Interrupted; nothing is left running." in one.text
    assert "Traceback" not in one.text
    assert not any(map(lives, pids))
    assert list((tmp_path / "tmp").iterdir()) == []


def stop(one: Up) -> None:
    """End a demo as Ctrl+C does."""
    one.process.terminate()
    assert one.process.wait(PATIENCE_S) == 130, one.text


def test_what_a_killed_demo_leaves_is_removed_by_the_next(up: Callable[..., Up], tmp_path: Path) -> None:
    # Too deep for a socket, which is elsewhere then.
    temp = tmp_path / "tmp" / ("deep" * 25)
    temp.mkdir(parents=True)
    one = up("up", "--demo", TMPDIR=str(temp))
    one.wait_for("emit")
    pids = one.kill()
    until(lambda: not any(map(lives, pids)))
    (left,) = temp.iterdir()
    socket = datadir.socket_path(left)
    assert socket.parent != left
    assert socket.parent.exists()
    again = up("up", "--demo", TMPDIR=str(temp))
    again.wait_for("emit")
    assert not left.exists()
    assert not socket.parent.exists()
    stop(again)
    assert list(temp.iterdir()) == []


def test_what_a_killed_demo_leaves_on_a_configured_server_is_removed_by_the_next_that_finds_it(
    up: Callable[..., Up], tmp_path: Path
) -> None:
    server = EmbeddedServer(Config.load(environ={}, overrides={"redis.data_dir": str(tmp_path / "own server")}))
    with server as running:
        one = up("up", "--demo", KASPLO_REDIS__URL=running.url)
        # The last of its events; when its output begins it has no keys yet.
        one.wait_for("delivery_attempt")
        workers = one.workers()
        one.kill()
        until(lambda: not any(map(lives, workers)))
        (left,) = (tmp_path / "tmp").iterdir()
        running.stop()
        away = up("up", "--demo", KASPLO_REDIS__URL="unix:///nowhere/redis.sock")
        assert away.process.wait(30) == 4
        assert left.exists(), "its keys are still there"
        running.start()
        with contextlib.closing(Registry.open(config_of(one, **{"redis.url": running.url}))) as registry:
            assert _keys_of_demos(registry) != []
            up("up", "--demo", KASPLO_REDIS__URL="unix:///nowhere/redis.sock").process.wait(30)
            assert _keys_of_demos(registry) == []
        assert not left.exists()


def _keys_of_demos(registry: Registry) -> list[bytes]:
    [(_, keys)] = registry.store.read(("SCAN", 0, "MATCH", "*kasplo-demo*", "COUNT", 10_000))
    return list(keys)


def test_the_demo_uses_a_configured_server_and_cleans_up_its_keys(up: Callable[..., Up], tmp_path: Path) -> None:
    server = Config.load(environ={}, overrides={"redis.data_dir": str(tmp_path / "own server")})
    with EmbeddedServer(server) as running:
        one = up("up", "--demo", KASPLO_REDIS__URL=running.url, KASPLO_DELIVERY__DELAY="1")
        assert one.process.wait(60) == 0, one.text
        with contextlib.closing(Registry.open(config_of(one, **{"redis.url": running.url}))) as registry:
            assert _keys_of_demos(registry) == []


def test_the_demo_with_a_configured_server_that_is_away_says_so(up: Callable[..., Up], tmp_path: Path) -> None:
    one = up("up", "--demo", KASPLO_REDIS__URL="unix:///nowhere/redis.sock")
    assert one.process.wait(30) == 4
    assert "Redis" in one.text
    assert "Traceback" not in one.text
    assert list((tmp_path / "tmp").iterdir()) == []
