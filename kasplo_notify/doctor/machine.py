"""Whether this machine gives a worker, and the embedded server, what they need."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from kasplo_notify.config import Config
from kasplo_notify.doctor.finding import Finding, ok, warning
from kasplo_notify.quantities import storage

# Connections to Redis and the name servers, logs, libraries.
_OTHER_FILES: Final = 128
_LEAST_DISK: Final = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What this machine allows this process.

    Attributes:
        open_files: The files that a worker may open (RLIMIT_NOFILE, hard: it raises its own limit as far as that);
            None for no limit.
        disk_free: Bytes that are free in the data folder of the embedded server; None when that is not used.
    """

    open_files: int | None
    disk_free: int | None = None


def files_needed(config: Config) -> int:
    """Open files that a worker needs at most: each request in flight is one, and each connection that is kept."""
    worker = config.worker
    return worker.max_in_flight + worker.max_slow + worker.max_idle + _OTHER_FILES


def open_files(most: int | None, config: Config) -> Finding:
    """The finding of a limit of open files."""
    needed = files_needed(config)
    if most is None or most >= needed:
        return ok("open_files", f"a worker here may open the {needed:,} files that it may need")
    return warning(
        "open_files",
        f"a worker here may open {most:,} files and needs up to {needed:,} (worker.max_in_flight, worker.max_slow); "
        "raise the limit where it is started (`ulimit -n 4096`, LimitNOFILE= of systemd), or lower these",
    )


def limits(machine: Machine, config: Config) -> Iterator[Finding]:
    """The findings of what a worker may open, and of the room for the embedded server."""
    yield open_files(machine.open_files, config)
    if machine.disk_free is not None:
        free = storage(machine.disk_free)
        if machine.disk_free < _LEAST_DISK:
            yield warning(
                "disk",
                f"{free} are free in redis.data_dir ({config.redis.data_dir}): when the disk is full new events are "
                "refused; make room",
            )
        else:
            yield ok("disk", f"{free} are free in redis.data_dir")
