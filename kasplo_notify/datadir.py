"""The private folder of one installation: who runs here, and where its socket is.

    run.lock       flock of the process that runs things here (`up`, or a `worker` that started the server);
                   its text is a note: pid, since when, where the socket is
    server.lock    flock of the embedded server itself, which inherits it; its text is the server's pid
    server.sock    the server's socket, unless the path is too long for one
    server.log     what the server says
    appendonlydir  its data

Locks are flocks: the kernel lets go of them when the last holder dies, however it dies. The files stay and
are never in the way.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from kasplo_notify.errors import AlreadyRunning, ConfigError

# sun_path holds 104 bytes on macOS and 108 on Linux, the closing NUL included.
_LONGEST_SOCKET_PATH = 103
# What a first start writes (lock, log, AOF manifest) is far less; what does not take this is a full disk.
_PROBE_BYTES = 65536
_REMEDY = "free it, or choose another folder with KASPLO_REDIS__DATA_DIR (redis.data_dir)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What the holder of run.lock wrote into it."""

    pid: int
    since: float  # Unix seconds
    socket: str  # the path of the embedded server's socket; empty with a configured URL


def socket_path(data_dir: Path) -> Path:
    """Where the embedded server of this folder listens.

    In the folder; or, when that path is too long for a socket, in a folder of its own under the temp dir,
    whose name follows from the data folder and its owner.
    """
    path = _absolute(data_dir) / "server.sock"
    if _fits(path):
        return path
    import hashlib  # noqa: PLC0415 - 7 ms for the two, and most folders have short names
    import tempfile  # noqa: PLC0415 - as above

    digest = hashlib.sha256(os.fsencode(_absolute(data_dir))).hexdigest()[:16]
    short = Path(f"kasplo-{_owner(data_dir)}-{digest}", "server.sock")
    in_temp = Path(tempfile.gettempdir()) / short
    return in_temp if _fits(in_temp) else Path("/tmp") / short  # noqa: S108 - TMPDIR itself is too long


def prepare(data_dir: Path) -> Path:
    """Make the folder (0700) if it is missing, and prove that it can be written.

    Returns:
        The folder's absolute path.

    Raises:
        ConfigError: it is not a folder, everybody may write to it, it is not writable, or the disk is full.
    """
    folder = _absolute(data_dir)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        ours = (folder / "run.lock").exists() or not any(folder.iterdir())
        if ours and found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) != 0o700:
            folder.chmod(0o700)
        elif not ours and found.st_mode & stat.S_IWOTH:
            # What is sticky (/tmp) is shared on purpose, and must stay so.
            remedy = "" if found.st_mode & stat.S_ISVTX else f", or run: chmod o-w {folder}"
            raise ConfigError(
                f"The data folder {folder} can be written by every user of this machine; choose one of its "
                f"own with KASPLO_REDIS__DATA_DIR (redis.data_dir){remedy}"
            )
        _probe(folder)
    except OSError as error:
        raise ConfigError(f"The data folder {folder} cannot be used ({reason(error)}); {_REMEDY}.") from error
    return folder


def prepare_socket(data_dir: Path) -> Path:
    """Make way for the server's socket: its folder is there and private, a stale socket is gone.

    Raises:
        ConfigError: something that is not a socket is in its place, or its folder belongs to someone else.
    """
    path = socket_path(data_dir)
    try:
        if path.parent != _absolute(data_dir):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            check_socket_folder(path, data_dir)
            path.parent.chmod(0o700)
        if path.is_symlink() or path.exists():
            if not stat.S_ISSOCK(path.lstat().st_mode):
                # The server would delete whatever is there before it binds.
                raise ConfigError(f"{path} is in the way: it is not a socket; move it elsewhere and start again.")
            path.unlink()
    except OSError as error:
        raise ConfigError(f"The socket {path} cannot be made ({reason(error)}); {_REMEDY}.") from error
    return path


def check_socket_folder(path: Path, data_dir: Path) -> None:
    """A socket outside the data folder is trusted only in a folder of the same owner: the temp dir is shared.

    Raises:
        ConfigError: the folder is a link, or belongs to someone else.
        OSError: it is not there.
    """
    if path.parent == _absolute(data_dir):
        return
    found = path.parent.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != _owner(data_dir):
        raise ConfigError(
            f"{path.parent} belongs to someone else and is not used for the embedded server's socket; "
            "remove it, or choose a shorter folder with KASPLO_REDIS__DATA_DIR (redis.data_dir)."
        )


def remove_socket(data_dir: Path) -> None:
    """After the server has ended: no socket, and no folder of its own under the temp dir, is left."""
    path = socket_path(data_dir)
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        if path.parent != _absolute(data_dir):
            path.parent.rmdir()


def read_note(data_dir: Path) -> Note | None:
    """What the last holder of run.lock wrote; says nothing about whether it still lives."""
    try:
        values = json.loads((_absolute(data_dir) / "run.lock").read_bytes())
        return Note(pid=int(values["pid"]), since=float(values["since"]), socket=str(values["socket"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


class RunLock:
    """Held by the one process that runs an installation; a context manager.

    `up` holds it also when its Redis is a configured URL, so that a second `up` says so instead of
    doubling the workers.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._fd = -1

    def acquire(self, *, embedded: bool) -> None:
        """Take the lock and write the note.

        Raises:
            AlreadyRunning: another process holds it; the message has its pid and since when.
            ConfigError: the folder cannot be used.
        """
        folder = prepare(self._data_dir)
        fd = open_lock(folder / "run.lock")
        if fd is None:
            raise AlreadyRunning(self._who_runs())
        path = str(socket_path(folder)) if embedded else ""
        write_lock(fd, json.dumps({"pid": os.getpid(), "since": time.time(), "socket": path}))
        self._fd = fd

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        if self._fd < 0:
            self.acquire(embedded=False)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _who_runs(self) -> str:
        note = read_note(self._data_dir)
        who = "kasplo-notify is already running here"
        if note is not None:
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(note.since))
            who += f" (pid {note.pid}, since {since})"
        folder = _absolute(self._data_dir)
        return f"{who}, with the data folder {folder}; stop it first, or use another redis.data_dir."


def open_lock(path: Path) -> int | None:
    """Open the file and take its flock without waiting: the descriptor, or None when someone holds it.

    Raises:
        ConfigError: the file cannot be opened or locked.
    """
    fd = -1
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        raise ConfigError(f"The lock {path} cannot be taken ({reason(error)}); {_REMEDY}.") from error
    return fd


def write_lock(fd: int, text: str) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, text.encode(), 0)


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH


def connect(path: Path) -> socket.socket:
    """A connection to the server's socket, within a second; raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(1.0)
    try:
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    return connection


def _probe(folder: Path) -> None:
    """OSError when the folder cannot take a small file: a server on a full disk could not even log why."""
    import tempfile  # noqa: PLC0415 - as above

    with tempfile.TemporaryFile(dir=folder, prefix=".probe-", buffering=0) as file:
        written = file.write(b"\0" * _PROBE_BYTES)
        if written is not None and written < _PROBE_BYTES:
            file.write(b"\0" * (_PROBE_BYTES - written))  # after a short write, this one says why
        os.fsync(file.fileno())


def _owner(data_dir: Path) -> int:
    try:
        return _absolute(data_dir).stat().st_uid
    except OSError:
        return os.getuid()


def _absolute(data_dir: Path) -> Path:
    return Path(os.path.realpath(data_dir))


def reason(error: OSError) -> str:
    """What the system said, as it reads in brackets: "permission denied"."""
    return (error.strerror or str(error)).lower()
