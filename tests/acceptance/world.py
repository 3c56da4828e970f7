"""A whole installation in a temporary folder: a Redis server, workers as processes, a subscriber, a producer."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import redis

from kasplo_notify import Notifier
from kasplo_notify.config import Config
from kasplo_notify.dead import DeadLetter, DeadLetters, Selection
from kasplo_notify.embedded import EmbeddedServer
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.registry import Registry
from tests.acceptance.subscriber import Subscriber

ROOT = Path(__file__).resolve().parents[2]
# For what is only late on a busy machine. What must not be early is asserted exactly.
PATIENCE_S = 60.0
WORKER = """
import logging, sys
from kasplo_notify.config import Config
from workers import run_worker
logging.basicConfig(level="INFO", format="%(asctime)s %(name)s %(message)s")
sys.exit(run_worker(Config.load(), burst="burst" in sys.argv))
"""


def until(condition: Callable[[], object], seconds: float = PATIENCE_S, *, what: str = "it") -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.02)


def lives(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    if Path("/proc/self").exists():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Process:
    """A child process with its output in a file."""

    def __init__(self, command: Sequence[str], log: Path, environ: dict[str, str]) -> None:
        self._log = log
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                command, cwd=log.parent, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def terminate(self) -> None:
        self._popen.terminate()

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait()

    def wait(self, seconds: float = PATIENCE_S) -> int:
        """The exit code; a process that does not end shows where it is, is killed, and fails the test."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self._popen.send_signal(signal.SIGABRT)
            self._popen.wait(PATIENCE_S)
            raise AssertionError(f"the process did not end within {seconds:g} s:\n{self.output}") from None


class World:
    """An installation. A context manager; nothing of it is left at the end.

    Args:
        folder: For everything that it writes.
        settings: Configuration, as `delivery__delay=1`: what users give as KASPLO_DELIVERY__DELAY.
    """

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        settings = {"egress__allow": ["127.0.0.0/8"], "delivery__delay": 1} | settings
        (folder / "config.toml").touch()
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("KASPLO_")}
        self.environ |= {"PYTHONPATH": str(ROOT), "KASPLO_CONFIG": str(folder / "config.toml")}
        self.environ["PYTHONFAULTHANDLER"] = "1"
        self.environ |= {f"KASPLO_{name.upper()}": _text(value) for name, value in settings.items()}
        embedded = {"redis.url": "embedded", "redis.data_dir": folder / "data"}
        self.server = EmbeddedServer(Config.load(environ=self.environ, overrides=embedded))
        self.environ["KASPLO_REDIS__URL"] = self.server.url
        self.config = Config.load(environ=self.environ)
        self.subscriber = Subscriber()
        self.registry = Registry.open(self.config)
        self.notifier = Notifier(config=self.config)
        self.redis = self.registry.store.client
        self.processes: list[Process] = []

    # --- who works in it -----------------------------------------------------------------------------------------

    def start(self, command: Sequence[str]) -> Process:
        """Start a child process with this installation's environment."""
        log = self.folder / f"process-{len(self.processes)}.log"
        self.processes.append(Process(command, log, self.environ))
        return self.processes[-1]

    def worker(self, *arguments: str) -> Process:
        """A worker process of its own; `burst` lets it end when nothing is due."""
        return self.start([sys.executable, "-c", WORKER, *arguments])

    def workers(self, count: int) -> list[Process]:
        """Worker processes that are up: RQ knows them, and their dispatchers too."""
        started = [self.worker() for _ in range(count)]
        until(lambda: self._known() >= count, what="the start of the workers")
        return started

    def _known(self) -> int:
        keys = self.registry.store.keys
        idle, busy = self.registry.store.read(("ZCARD", keys("idle")), ("ZCARD", keys("busy")))
        return cast("int", idle + busy)

    # --- what happens in it --------------------------------------------------------------------------------------

    def endpoint(self, name: str, path: str = "", **fields: Any) -> str:
        """Register an endpoint for the mail class of its own name; returns its path at the subscriber."""
        path = path or f"/{name}"
        fields = {"mail_classes": (name,), "url": self.subscriber.url(path)} | fields
        self.registry.add(Endpoint(name=name, **fields))
        return path

    def emit(self, mail_class: str, count: int = 1) -> list[str]:
        """Emit events to different recipients at once; returns their ids."""
        receipts = self.notifier.emit_many([{"mail_class": mail_class, **scomp(number)} for number in range(count)])
        return [receipt.id for receipt in receipts]

    def now(self) -> float:
        """Unix seconds by Redis' clock."""
        seconds, microseconds = self.redis.time()
        return seconds + microseconds / 1e6

    def backlog(self, name: str) -> int:
        """Events that wait, never attempted or requeued."""
        backlog = self.registry.backlog([name])[name]
        return backlog.waiting + backlog.retrying

    def dead(self, name: str) -> list[DeadLetter]:
        return list(DeadLetters(self.registry.store, self.registry).select(Selection(endpoint=name)))

    def wait_for(self, path: str, ids: Iterable[str], seconds: float = PATIENCE_S) -> None:
        """Wait until each of these events was answered with 200 on a path."""
        wanted = set(ids)
        until(
            lambda: wanted <= set(self.subscriber.taken(path)),
            seconds,
            what=f"the arrival of {len(wanted)} events at {path}",
        )

    # --- its life ------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.server.start()
        self.subscriber.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.subscriber.__exit__()
        for process in self.processes:
            process.terminate()
        try:
            codes = {process.pid: process.wait() for process in self.processes}
        finally:
            for process in self.processes:
                process.kill()
            self.notifier.close()
            self.registry.close()
            self.server.stop()
            for process in self.processes:
                print(f"--- process {process.pid}\n{process.output}")  # noqa: T201 - pytest shows it of a failure
        if kind is None:
            unexpected = {pid: code for pid, code in codes.items() if code not in (0, -9)}
            assert not unexpected, f"exit codes by process: {unexpected}"


class Flow:
    """A producer in a thread: an event every 20 ms until it is told to stop. A context manager."""

    def __init__(self, world: World, mail_class: str, every: float = 0.02) -> None:
        self._world, self._mail_class, self._every = world, mail_class, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flow", daemon=True)
        self._error: BaseException | None = None
        self.ids: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S)
        assert self._error is None, f"the producer ended: {self._error!r}"

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._every):
                receipt = self._world.notifier.emit(scomp(len(self.ids)), mail_class=self._mail_class)
                self.ids.append(receipt.id)
        except BaseException as error:  # noqa: BLE001 - it is raised where the flow ends
            self._error = error


def scomp(number: int) -> dict[str, object]:
    """A small event to a recipient of its own."""
    return {
        "event_type": "scomp",
        "email": f"reader-{number}@example.com",
        "listid": "t99",
        "sendid": "t9920110705",
        "click_tracking_id": str(number),
    }


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


__all__ = ["PATIENCE_S", "ROOT", "Flow", "Process", "World", "lives", "redis", "scomp", "until"]
