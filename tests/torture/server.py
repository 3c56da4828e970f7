"""A real server of the suite's own, which may be killed, lose its tail, and be started again on what is left."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from kasplo_notify.embedded import find_server

_START_S = 60.0
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> Callable[[], object] | None:
    """For `preexec_fn`: whatever ends the run, nothing of it is left. On Linux; elsewhere the run has to end well."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _slow_sync(folder: Path, seconds: float) -> dict[str, str]:
    """Compile what makes syncs slow; the environment that loads it."""
    library = folder / "slow_sync.so"
    source = Path(__file__).with_name("slow_sync.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "SLOW_SYNC_MS": str(round(1000 * seconds))}


class Server:
    """The server process over one folder; a context manager.

    Args:
        folder: For its data and its socket.
        fsync: `everysec` or `always`.
        rewrite: Whether it may rewrite its append-only file, which begins another one.
        sync_s: Seconds that each sync of it takes longer than it would; needs a C compiler, and Linux.
    """

    def __init__(self, folder: Path, fsync: str = "everysec", *, rewrite: bool = True, sync_s: float = 0.0) -> None:
        self._folder = folder
        self._fsync = fsync
        self._rewrite = rewrite
        self._environ = {**os.environ, **(_slow_sync(folder, sync_s) if sync_s else {})}
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = folder / "redis.sock"
        self.client = redis.Redis(unix_socket_path=str(self.socket), socket_timeout=60)

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Start it on the data that are there, and wait for its first answer."""
        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "dir": str(self._folder),
            "save": "",
            "appendonly": "yes",
            "appendfsync": self._fsync,
            "auto-aof-rewrite-percentage": "100" if self._rewrite else "0",
            "maxmemory-policy": "noeviction",
            # A scenario makes a snapshot fail by pointing it to a folder that is not there.
            "enable-protected-configs": "local",
        }
        command = [str(find_server()), *(word for name, value in settings.items() for word in (f"--{name}", value))]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent(),  # noqa: PLW1509 - one call, loaded before the fork
            )
        deadline = time.monotonic() + _START_S
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "server.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill -9."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def log_size(self) -> int:
        """Bytes of the append-only file that is being written."""
        return self._log().stat().st_size

    def cut_log(self, size: int) -> None:
        """Leave this many bytes of it, as after a power cut; only while the server is dead."""
        os.truncate(self._log(), size)

    def _log(self) -> Path:
        # The increment with the highest number is the one that is written.
        files = (self._folder / "appendonlydir").glob("*.incr.aof")
        return max(files, key=lambda path: int(path.name.split(".")[-3]))

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        self.kill()
