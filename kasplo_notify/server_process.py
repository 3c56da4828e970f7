"""The server process behind `embedded.EmbeddedServer`: how it starts and ends, and that there is only one.

It dies with the process that started it: by SIGTERM from the kernel on Linux (PDEATHSIG), by a watcher
elsewhere. It speaks no Redis protocol beyond an inline PING.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from kasplo_notify import datadir
from kasplo_notify.errors import StorageUnavailable
from kasplo_notify.server_program import last_words, open_log, options

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

logger = logging.getLogger("kasplo_notify.embedded")

_PR_SET_PDEATHSIG = 1
_FIRST_ANSWER_S = 10.0  # measured: 0.05 s; an overloaded machine may need more
_LOADING_S = 900.0  # replaying a long append-only file; the server says that it is loading
_STOP_S = 10.0


class ServerProcess:
    """One run of the server program over a data folder. Start it from the main thread."""

    def __init__(self, program: Path, data_dir: Path) -> None:
        self._program = program
        self._data_dir = data_dir
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs, and before; negative: the signal that ended it."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """End a stale server of this folder, start this one, wait for its first answer.

        Raises:
            ConfigError: something is in the way in the folder.
            StorageUnavailable: the server ended, did not answer, or a stale one cannot be ended.
            OSError: the program cannot be run, or its log not be written.
        """
        folder = datadir.prepare(self._data_dir)
        server_lock = _take_server_lock(folder)
        try:
            socket = datadir.prepare_socket(folder)
            log_from = self._spawn(folder, socket, server_lock)
        finally:
            os.close(server_lock)  # from here on the server alone holds it
        self._wait_until_ready(socket, folder / "server.log", log_from)

    def stop(self) -> None:
        """End it by SIGTERM, which to the server is SHUTDOWN; kill it after 10 s."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                logger.warning("the embedded server did not stop within %d s and is killed", _STOP_S)
                _kill_group(process.pid)
                process.wait()
            datadir.remove_socket(self._data_dir)
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.kill()
            watcher.communicate()

    def _spawn(self, folder: Path, socket: Path, server_lock: int) -> int:
        """Start the process; returns where in server.log its words begin."""
        # Relative to the folder: no quoting of its name.
        path = socket.name if socket.parent == folder else str(socket)
        with open_log(folder / "server.log") as output:
            log_from = output.tell()
            self._process = subprocess.Popen(  # noqa: S603 - found by find_server, with our own arguments
                [str(self._program), *options(path)],
                cwd=folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl+C in the terminal is for us; we stop the server last
                pass_fds=(server_lock,),
                umask=0o077,
                preexec_fn=_die_with_parent(),  # noqa: PLW1509 - one call, loaded before the fork
            )
        datadir.write_lock(server_lock, str(self._process.pid))
        if sys.platform != "linux":
            self._watcher = _watch(self._process.pid)
        return log_from

    def _wait_until_ready(self, socket: Path, log: Path, log_from: int) -> None:
        started = time.monotonic()
        limit, pause = _FIRST_ANSWER_S, 0.005
        while time.monotonic() - started < limit:
            answer = _ping(socket)
            if answer.startswith(b"+PONG"):
                return
            if answer.startswith(b"-LOADING"):
                limit = _LOADING_S
            if self._process is not None and (code := self._process.poll()) is not None:
                raise StorageUnavailable(
                    f"The embedded server ended with exit code {code}: {last_words(log, log_from)} "
                    f"({self._program}; its log is {log})"
                )
            time.sleep(pause)
            pause = min(pause * 1.5, 0.2)
        raise StorageUnavailable(f"The embedded server did not answer within {limit:.0f} s; its log is {log}.")


def _environment() -> dict[str, str]:
    # A broken locale ends Redis 7.2 and newer; the secrets in our environment are none of its business.
    return {"LC_ALL": "C"} | {name: os.environ[name] for name in ("PATH", "TZ") if name in os.environ}


def _die_with_parent() -> Callable[[], None] | None:
    """What the child does between fork and exec: ask for SIGTERM from the kernel when the parent is gone."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)

    return in_child


def _watch(pid: int) -> subprocess.Popen[bytes]:
    """A shell that waits for its stdin to close, as it does when this process dies, then ends the server."""
    return subprocess.Popen(  # noqa: S603 - a fixed line
        ["/bin/sh", "-c", 'read _; kill -TERM "$1"', "sh", str(pid)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def _take_server_lock(folder: Path) -> int:
    """The flock that a server of this folder holds; a stale server that still has it is ended.

    Two servers on one append-only file would destroy it, so nothing starts before the last one is gone.
    """
    path = folder / "server.lock"
    for end_it in (_terminate, _kill_group):
        deadline = time.monotonic() + _STOP_S
        if (fd := datadir.open_lock(path)) is not None:
            return fd
        pid = path.read_text()
        if pid.isdecimal():
            logger.info("ending the server (pid %s) that a killed process left in %s", pid, folder)
            end_it(int(pid))
        while time.monotonic() < deadline:
            if (fd := datadir.open_lock(path)) is not None:
                return fd
            time.sleep(0.02)
    raise StorageUnavailable(
        f"A server of an earlier run (pid {path.read_text()}) still runs in {folder}; end it first."
    )


def _terminate(pid: int) -> None:
    # It may end meanwhile; a child of it that rewrites the file can hold the lock a little longer.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def _kill_group(pid: int) -> None:
    """The server leads its own session, so its group is the server and the children that rewrite its file.

    The number cannot belong to anyone else while a member of the group holds the lock.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _ping(path: Path) -> bytes:
    """The first bytes of the answer to PING, empty while nobody answers."""
    try:
        with datadir.connect(path) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(512)
    except OSError:
        return b""
