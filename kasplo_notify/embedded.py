"""The embedded server: a private Valkey or Redis process in the data folder, reached through a unix socket.

It belongs to the process that started it and dies with it. Acknowledged writes survive a kill of both: the
append-only file is written before a client has its answer, but on a disk so slow that a sync is still running; then
the last two seconds may be lost (appendfsync everysec; docs/guarantees.md).

Every command that finds `redis.url = "embedded"`, and every `import kasplo_notify`, comes through here: what
only the owner of a server needs is imported when a server is started.
"""

from __future__ import annotations

import logging
import threading
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Self

from kasplo_notify import datadir
from kasplo_notify.datadir import socket_path
from kasplo_notify.errors import ConfigError, StorageUnavailable

if TYPE_CHECKING:
    from kasplo_notify.config import Config
    from kasplo_notify.server_process import ServerProcess

__all__ = ["EmbeddedServer", "attached_url", "find_server", "socket_path", "url_of"]

logger = logging.getLogger("kasplo_notify.embedded")


def url_of(config: Config) -> str:
    """The URL of this installation's Redis: the configured one, or that of the running embedded server.

    Raises:
        StorageUnavailable: the URL is `embedded` and no server runs.
    """
    return attached_url(config) if config.redis.url == "embedded" else config.redis.url


def attached_url(config: Config) -> str:
    """The `unix://` URL of the embedded server that runs in the data folder.

    Raises:
        StorageUnavailable: none runs (the message names `kasplo-notify up`), or it belongs to another user.
    """
    data_dir = config.redis.data_dir
    note = datadir.read_note(data_dir)
    path = Path(note.socket) if note is not None and note.socket else socket_path(data_dir)
    try:
        datadir.check_socket_folder(path, data_dir)
        datadir.connect(path).close()
    except PermissionError:
        raise StorageUnavailable(
            f"The embedded server in {data_dir} belongs to another user; run this as that user, or set "
            "KASPLO_REDIS__URL (redis.url) to a server of your own."
        ) from None
    except (OSError, ConfigError):
        raise StorageUnavailable(
            f"No embedded server runs in {data_dir}; start one with `kasplo-notify up`, "
            "or set KASPLO_REDIS__URL (redis.url) to a server of your own."
        ) from None
    return _url(path)


def find_server() -> Path:
    """The program that an embedded server would be; see `server_program.find_server`.

    Raises:
        ConfigError: there is none; the message names the three remedies.
    """
    from kasplo_notify import server_program  # noqa: PLC0415 - see the head of this module

    return server_program.find_server()


class EmbeddedServer:
    """One server process over `redis.data_dir`; a context manager.

    Start it from the main thread: on Linux the kernel ends it when the thread that started it ends.
    """

    def __init__(self, config: Config) -> None:
        self._data_dir = config.redis.data_dir
        self._lock = datadir.RunLock(self._data_dir)
        self._process: ServerProcess | None = None

    @property
    def url(self) -> str:
        """`unix://` and the path of the socket."""
        return _url(socket_path(self._data_dir))

    @property
    def pid(self) -> int | None:
        """Of the server, while it runs."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers. What a killed predecessor left is ended first.

        Raises:
            AlreadyRunning: another process runs this installation.
            ConfigError: no server program, or a data folder that cannot be used.
            StorageUnavailable: the server ended or did not answer; the message has its last words.
            RuntimeError: not in the main thread.
        """
        from kasplo_notify.server_process import ServerProcess  # noqa: PLC0415 - as above

        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("The embedded server is started from the main thread only.")
        program = find_server()
        self._lock.acquire(embedded=True)
        try:
            self._process = ServerProcess(program, self._data_dir)
            self._process.start()
        except OSError as error:
            self.stop()
            what = f"{datadir.reason(error)}: {error.filename or program}"
            raise ConfigError(f"The embedded server cannot be started in {self._data_dir} ({what}).") from error
        except BaseException:
            self.stop()
            raise
        logger.info("started %s (pid %s) in %s", program, self.pid, self._data_dir)

    @property
    def log(self) -> Path:
        """What the server says."""
        return self._data_dir / "server.log"

    @property
    def alive(self) -> bool:
        """Whether the server process runs."""
        return self._process is not None and self._process.exit_code is None

    def restart(self) -> None:
        """After the server has ended by itself, killed for its memory perhaps: start it again.

        Raises:
            As start.
        """
        self.stop()
        self.start()

    def stop(self) -> None:
        """Shut the server down, its data flushed and synced, and let go of the folder."""
        process, self._process = self._process, None
        if process is not None:
            process.stop()
        self._lock.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _url(path: Path) -> str:
    return "unix://" + urllib.parse.quote(str(path))
