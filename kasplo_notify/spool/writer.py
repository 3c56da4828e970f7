"""Appends events to a segment of this writer's own: one write and one fsync a call, bounded over all writers."""

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kasplo_notify.datadir import reason
from kasplo_notify.spool.record import SpooledEvent, batches
from kasplo_notify.spool.segments import Segment, Taken, held, segment_name, segments, sync_folder

# A segment is pushed, read and held in memory as a whole.
SEGMENT_BYTES: Final = 1_048_576
# The folder is counted again after this long, or after this part of what was free: others write to it, too.
_COUNT_EVERY_S: Final = 1.0
_PART: Final = 16
_TRIES: Final = 5


class CannotSpoolError(Exception):
    """The events are not in the spool: it is full, or cannot be written. The message is half a sentence."""


@dataclass(slots=True, kw_only=True)
class _Current:
    """The segment that is written to.

    Attributes:
        fd: Holds its lock.
        size: Bytes that are acknowledged.
    """

    path: Path
    created: float
    fd: int
    size: int = 0


class Writer:
    """One writer, for any number of threads. Its segment appears with its first event.

    Args:
        folder: As `segments.prepare` returned it.
        max_bytes: What all segments of the folder may have together.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self.disown()

    def disown(self) -> None:
        """Begin anew in a forked child: the segment is its parent's."""
        self._lock = threading.Lock()
        self._current: _Current | None = None
        self._pid = os.getpid()
        self._token = os.urandom(4).hex()
        self._last_ns = 0
        # Bytes that may be written before the folder is counted again, and when it was.
        self._room = 0
        self._counted_at = -_COUNT_EVERY_S

    def append(self, events: Sequence[SpooledEvent]) -> None:
        """Write events, and return when they would survive a loss of power.

        More than a MiB of them are written a MiB at a time, so that every segment fits into memory. When a later
        part fails, the earlier ones are in the spool: under the same ids, so that a repeated call doubles nothing.

        Raises:
            CannotSpoolError: Not all of them are written.
        """
        parts = batches(events, SEGMENT_BYTES)
        with self._lock:
            self._check_room(sum(map(len, parts)))
            for part in parts:
                self._write(part)

    def set_apart(self, events: Sequence[SpooledEvent]) -> set[str]:
        """Write events that are in the spool already to segments of their own, whatever the bound; their names.

        Raises:
            CannotSpoolError: Not all of them are written.
        """
        names = set()
        with self._lock:
            for part in batches(events, SEGMENT_BYTES):
                self._end()
                self._write(part)
                names.add(self._current.path.name if self._current else "")
            self._end()
        return names

    def hand_over(self, segment: Segment) -> Taken | None:
        """The segment with its lock, when it is the one that is written to; the next event begins another."""
        with self._lock:
            current = self._current
            if current is None or current.path != segment.path:
                return None
            self._current = None
            return Taken(segment, current.fd)

    def close(self) -> None:
        """Let go of the segment; the next event begins another."""
        with self._lock:
            self._end()

    def _check_room(self, size: int) -> None:
        now = time.monotonic()
        if size > self._room or now - self._counted_at >= _COUNT_EVERY_S:
            free = self._max_bytes - self._used()
            if size > free:
                raise CannotSpoolError(
                    f"the spool in {self._folder} is full too: spool.max_bytes allows {self._max_bytes:,} bytes"
                )
            self._room, self._counted_at = max(size, free // _PART), now
        self._room -= size

    def _used(self) -> int:
        try:
            return sum(each.size for each in segments(self._folder))
        except OSError as error:
            raise self._unwritable(error) from error

    def _write(self, data: bytes) -> None:
        current = self._current
        if current is not None and (current.size + len(data) > SEGMENT_BYTES or not os.fstat(current.fd).st_nlink):
            # Full; or somebody has deleted the file, and what is written there would be gone.
            self._end()
        try:
            current = self._current or self._begin()
            rest = memoryview(data)
            while rest:
                # Once, usually. After a short write, the next one says why.
                rest = rest[os.write(current.fd, rest) :]
            os.fsync(current.fd)
            current.size += len(data)
        except OSError as error:
            self._abandon()
            raise self._unwritable(error) from error
        except BaseException:
            self._abandon()
            raise

    def _begin(self) -> _Current:
        for _ in range(_TRIES):
            try:
                return self._made()
            except BlockingIOError:
                # Between its making and its locking somebody looked at it. It stays behind, empty, and is swept away.
                continue
            except FileNotFoundError:
                # As above, and it is swept away already; or somebody has deleted the folder.
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._made()

    def _made(self) -> _Current:
        created = self._last_ns = max(time.time_ns(), self._last_ns + 1)
        path = self._folder / segment_name(created, f"{self._pid}-{self._token}")
        fd = held.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND)
        self._current = _Current(path=path, created=created / 1e9, fd=fd)
        sync_folder(self._folder)
        return self._current

    def _end(self) -> None:
        current, self._current = self._current, None
        if current is not None:
            held.close(current.fd)

    def _abandon(self) -> None:
        """Take back what was half-written, as far as that can be done, and write there no more.

        After an error of fsync nobody can say what is on the disk; what was acknowledged before is.
        """
        current = self._current
        if current is not None:
            with contextlib.suppress(OSError):
                if current.size:
                    os.ftruncate(current.fd, current.size)
                else:
                    current.path.unlink()
        self._end()

    def _unwritable(self, error: OSError) -> CannotSpoolError:
        return CannotSpoolError(f"the spool in {self._folder} cannot be written ({reason(error)})")
