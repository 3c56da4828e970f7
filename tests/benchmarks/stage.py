"""What the benchmarks run on: a private Redis server, a receiver, worker processes. All of it ends with the run."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from kasplo_notify.catalogue import EVENT_TYPES
from kasplo_notify.config import Config
from kasplo_notify.embedded import EmbeddedServer
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.registry import Registry
from kasplo_notify.signature import generate_secret

from .figure import BenchmarkError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MAIL_CLASS = "promo"
CONCURRENCY, QUEUES = 128, 4

_CONFIG = '[egress]\nallow = ["127.0.0.0/8"]\n'
_WORKER = (
    "from kasplo_notify.config import Config; from kasplo_notify.stopping import watch_parent; "
    "from workers import run_worker; watch_parent(); run_worker(Config.load())"
)


def event(number: int) -> dict[str, object]:
    """An `engine_click` of about 380 bytes, as `emit_many` takes it."""
    example = EVENT_TYPES["engine_click"].example
    own = {"email": f"customer{number}@example.com", "click_tracking_id": str(1_000_000 + number)}
    return {**example, **own, "mail_class": MAIL_CLASS}


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Look ten times a second.

    Raises:
        BenchmarkError: It did not come true in `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.1)


class Receiver:
    """The sink's process."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        assert process.stdout is not None
        self.url = f"http://127.0.0.1:{int(process.stdout.readline())}/hook"

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[Self]:
        command = [sys.executable, str(HERE / "sink.py")]
        with _ended(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)) as process:
            yield cls(process)

    def ask(self, command: str) -> Any:
        """`reset`, `report` or `arrivals`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@dataclass(frozen=True, slots=True)
class Stage:
    """The open stage.

    Attributes:
        config: Points to the server; everything else is a default, but that 127.0.0.1 may be delivered to.
        registry: The endpoints, and a connection.
        receiver: Where they are.
        folder: For temporary files.
    """

    config: Config
    registry: Registry
    receiver: Receiver
    folder: Path

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[Self]:
        with tempfile.TemporaryDirectory(prefix="kasplo-bench-") as name:
            folder = Path(name)
            (folder / "config.toml").write_text(_CONFIG)
            own = Config.load(folder / "config.toml", {}, {"redis.data_dir": str(folder / "redis")})
            with EmbeddedServer(own) as server, Receiver.open() as receiver:
                config = Config.load(folder / "config.toml", {}, {"redis.url": server.url})
                registry = Registry.open(config)
                try:
                    yield cls(config, registry, receiver, folder)
                finally:
                    registry.close()

    def clear(self) -> None:
        """Forget endpoints, events and arrivals."""
        self.registry.store.client.flushall()
        self.receiver.ask("reset")

    def add_endpoint(self, delay: float) -> str:
        """Register the only endpoint: signed POST, 128 requests in flight at most."""
        endpoint = Endpoint(
            name="bench",
            url=self.receiver.url,
            secret=generate_secret(),
            delay=delay,
            max_in_flight=CONCURRENCY,
            queues=QUEUES,
        )
        self.registry.add(endpoint)
        return endpoint.name

    def waiting(self, name: str) -> int:
        """Events of an endpoint that are not delivered and settled."""
        client, keys = self.registry.store.client, self.registry.store.keys
        if dead := int(client.xlen(keys(f"dead:{name}"))):
            raise BenchmarkError(f"{dead} events became dead letters")
        queues = [f"{name}.{number}" for number in range(QUEUES)]
        left = [client.xlen(keys(f"new:{queue}")) + client.zcard(keys(f"retry:{queue}")) for queue in queues]
        return int(sum(left))

    @contextmanager
    def worker(self) -> Iterator[int]:
        """A worker process, ready; its pid."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("KASPLO_")}
        environ |= {
            "KASPLO_CONFIG": str(self.folder / "config.toml"),
            "KASPLO_REDIS__URL": self.config.redis.url,
            "PYTHONPATH": str(ROOT),
        }
        idle = self.registry.store.keys("idle")
        with (
            (self.folder / "worker.log").open("ab") as log,
            _ended(
                subprocess.Popen(
                    [sys.executable, "-c", _WORKER],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=environ,
                    cwd=self.folder,
                )
            ) as process,
        ):

            def ready() -> bool:
                if process.poll() is not None:
                    words = (self.folder / "worker.log").read_text(errors="replace")[-500:]
                    raise BenchmarkError(f"the worker ended: {words}")
                return bool(self.registry.store.client.zcard(idle))

            wait_until(ready, 20, "the worker started")
            yield process.pid

    def info(self, section: str) -> dict[str, Any]:
        """A section of the server's INFO."""
        found: dict[str, Any] = self.registry.store.client.info(section)
        return found

    def server_cpu(self) -> float:
        """Seconds of CPU that the server has used."""
        used = self.info("cpu")
        return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])

    def server_name(self) -> str:
        server = self.info("server")
        return f"{server.get('server_name', 'redis')} {server.get('valkey_version', server['redis_version'])}"


def cpu_of(pid: int) -> float | None:
    """Seconds of CPU that a process has used; None where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _ended(process: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
    """Close its stdin, which asks it to end, and see that it does."""
    try:
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(20)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            if process.stdout is not None:
                process.stdout.close()
