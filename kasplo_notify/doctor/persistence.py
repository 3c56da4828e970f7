"""Whether what is stored survives: the append-only file, snapshots, and the disk below them."""

from collections.abc import Iterator

from kasplo_notify.doctor.finding import Finding, fault, note, ok, warning
from kasplo_notify.doctor.server import Server
from kasplo_notify.quantities import counted


def persistence(server: Server) -> Iterator[Finding]:
    """The findings of a server's persistence."""
    yield from _appendonly(server)
    if server.appendonly != "no":
        yield from _appendfsync(server)
        yield from _aof_write(server)
        yield from _aof_rewrite(server)
        yield from _slow_disk(server)
    yield from _snapshot(server)


def _appendonly(server: Server) -> Iterator[Finding]:
    value = server.appendonly
    if value == "yes":
        yield ok("appendonly", "appendonly is yes")
    elif value is not None:
        yield fault(
            "appendonly",
            f"appendonly is {value}: a restart of Redis loses what came since its last snapshot; set it to yes, in the "
            "server's configuration file as well",
        )


def _appendfsync(server: Server) -> Iterator[Finding]:
    value = server.setting("appendfsync")
    if value == "everysec":
        # Redis syncs once a second; what it wrote is safe when the sync has ended, however long that takes.
        yield note(
            "appendfsync",
            "appendfsync is everysec: a power loss can cost the events of the last second, and of more where the disk "
            "is slow to sync; always costs none, and a disk sync per write",
        )
    elif value == "always":
        yield ok("appendfsync", "appendfsync is always")
    elif value is not None:
        yield fault(
            "appendfsync",
            f"appendfsync is {value}: a power loss costs what the kernel has not written yet, half a minute of events "
            "perhaps; set it to everysec, in the server's configuration file as well",
        )


def _aof_write(server: Server) -> Iterator[Finding]:
    status = server.word("aof_last_write_status")
    if status == "ok":
        yield ok("aof_write", "the append-only file is written")
    elif status is not None:
        yield fault(
            "aof_write",
            "the append-only file could not be written, and new events are refused; make room on the disk of Redis, or "
            "see its log for another reason",
        )


def _aof_rewrite(server: Server) -> Iterator[Finding]:
    status = server.word("aof_last_bgrewrite_status")
    if status not in (None, "ok"):
        yield warning(
            "aof_rewrite",
            "the last rewriting of the append-only file failed, so the file grows until the disk is full; the log of "
            "Redis says why: no room on the disk, or no memory for a fork (vm.overcommit_memory = 1)",
        )


def _slow_disk(server: Server) -> Iterator[Finding]:
    delayed = server.number("aof_delayed_fsync")
    if delayed:
        yield note(
            "slow_disk",
            f"{counted(delayed, 'write')} waited for a slow disk sync since Redis was started; if that grows, find "
            "what else uses the disk",
        )


def _snapshot(server: Server) -> Iterator[Finding]:
    status = server.word("rdb_last_bgsave_status")
    if status in (None, "ok"):
        return
    what = "the last snapshot (RDB) failed"
    mend = "the log of Redis says why: no room on the disk, or no memory for a fork (vm.overcommit_memory = 1)"
    stops, saves = server.setting("stop-writes-on-bgsave-error"), server.setting("save")
    if stops == "yes" and saves:
        yield fault("snapshot", f"{what}, and new events are refused (stop-writes-on-bgsave-error); {mend}")
    elif stops is None:
        yield warning("snapshot", f"{what}; with stop-writes-on-bgsave-error new events are refused; {mend}")
    else:
        yield warning("snapshot", f"{what}; {mend}")
