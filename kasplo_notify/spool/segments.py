"""The folder of the spool and its segments: who may use which, as the flocks say. No Redis, no format."""

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from kasplo_notify.datadir import reason
from kasplo_notify.errors import ConfigError
from kasplo_notify.forking import disown_after_fork, starting

ASIDE: Final = ".broken"
_NAME: Final = re.compile(r"(?P<created>\d{20})-(?P<producer>(?P<pid>\d{1,10})-[0-9a-f]{8})\.spool(?P<aside>\.broken)?")
# A name of ours may stand for something else: a pipe would be waited for, a link would lead elsewhere.
_FLAGS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A file of the spool, as its name tells.

    Attributes:
        path: Where it is.
        created: Unix seconds.
        pid: The process that wrote it.
        producer: The writer; it writes its segments one after another.
        size: Bytes, when the folder was read.
        aside: It was kept because something in it is unreadable; it is not pushed.
    """

    path: Path
    created: float
    pid: int
    producer: str
    size: int
    aside: bool

    @property
    def name(self) -> str:
        return self.path.name


def segment_name(created_ns: int, producer: str) -> str:
    """The name of a segment; `producer` is a pid and a token."""
    return f"{created_ns:020d}-{producer}.spool"


def prepare(path: Path) -> Path:
    """Make the folder (0700) if it is missing.

    Returns:
        Its absolute path: a process may change its working directory.

    Raises:
        ConfigError: It is not a folder, cannot be written to, or can be by every user of the machine.
    """
    folder = Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute keeps `..`
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_mode & stat.S_IWOTH:
            raise ConfigError(
                f"The spool folder {folder} (spool.path) can be written by every user of this machine; choose one of "
                f"its own, or run: chmod 700 {folder}"
            )
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(None, "it cannot be written to")
    except OSError as error:
        raise ConfigError(
            f"The spool folder {folder} cannot be used ({reason(error)}); free it, or choose another one with "
            "KASPLO_SPOOL__PATH (spool.path)."
        ) from error
    return folder


def segments(folder: Path) -> list[Segment]:
    """What is in the folder, the oldest first. What bears no name of ours is somebody else's and left alone.

    Raises:
        OSError: The folder is there and cannot be read.
    """
    try:
        return sorted(_scan(folder), key=lambda each: each.name)
    except FileNotFoundError:
        return []


def _scan(folder: Path) -> Iterator[Segment]:
    with os.scandir(folder) as entries:
        for entry in entries:
            named = _NAME.fullmatch(entry.name)
            if named is None:
                continue
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISREG(found.st_mode):
                yield Segment(
                    path=Path(entry.path),
                    created=int(named["created"]) / 1e9,
                    pid=int(named["pid"]),
                    producer=named["producer"],
                    size=found.st_size,
                    aside=named["aside"] is not None,
                )


class _Held:
    """The descriptors of this process that keep segments locked.

    A forked child closes them: an inherited descriptor would keep the lock when its parent is dead. It must not
    unlock them: the lock is the parent's as well. They are opened and closed while no fork can happen.
    """

    def __init__(self) -> None:
        self._fds: set[int] = set()
        disown_after_fork(self)

    def open(self, path: Path, flags: int) -> int:
        """Open a file and take its lock.

        Raises:
            BlockingIOError: Somebody else has it.
            OSError: It cannot be opened, or another one has its name.
        """
        with starting():
            fd = os.open(path, flags | _FLAGS, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _check_name(path, fd)
            except BaseException:
                os.close(fd)
                raise
            self._fds.add(fd)
        return fd

    def close(self, fd: int) -> None:
        with starting():
            if fd in self._fds:
                self._fds.remove(fd)
                os.close(fd)

    def disown(self) -> None:
        for fd in self._fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._fds.clear()


def _check_name(path: Path, fd: int) -> None:
    """Its holder may have unlinked or renamed it after we opened it and before we had the lock."""
    if not os.path.samestat(os.fstat(fd), path.lstat()):
        raise FileNotFoundError(path)


held = _Held()


class Taken:
    """A segment whose lock is held; a context manager that lets go of it."""

    def __init__(self, segment: Segment, fd: int) -> None:
        self.segment = segment
        self._fd = fd

    @classmethod
    def take(cls, segment: Segment) -> Self:
        """Take a segment.

        Raises:
            BlockingIOError: A living process has it.
            FileNotFoundError: It is gone.
            OSError: It cannot be opened.
        """
        return cls(segment, held.open(segment.path, os.O_RDONLY))

    def read(self) -> bytes:
        """All of it.

        Raises:
            OSError: It cannot be read.
        """
        parts = []
        at = 0
        while part := os.pread(self._fd, 1 << 20, at):
            parts.append(part)
            at += len(part)
        return b"".join(parts)

    def remove(self) -> None:
        self.segment.path.unlink()

    def keep_aside(self) -> Path:
        """Give it a name under which nobody pushes it."""
        return self.segment.path.rename(self.segment.path.with_name(self.segment.name + ASIDE))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        held.close(self._fd)


def is_in_use(segment: Segment) -> bool:
    """Whether somebody writes or pushes it. Asked with a shared lock, for a moment: a flusher that comes just then
    tries again a second later.
    """
    try:
        fd = os.open(segment.path, os.O_RDONLY | _FLAGS)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def sync_folder(folder: Path) -> None:
    """Make the names in it survive a loss of power.

    Raises:
        OSError: It cannot be done.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
