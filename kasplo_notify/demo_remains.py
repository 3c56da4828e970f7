"""What a demo leaves while it runs: its folder, and its keys in a Redis that others use too. Both are removed.

A demo holds the lock of its folder, run.lock, and keeps its configuration there, which says where its keys are. So
whoever finds a folder that nobody holds can remove both, however that demo ended.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kasplo_notify import datadir
from kasplo_notify.config import Config
from kasplo_notify.errors import NotifyError
from kasplo_notify.registry import Registry
from kasplo_notify.status import redis_ms

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG = "config.toml"
# For all that is looked through in one go; what takes longer is left to the next demo.
_SWEEP_S = 10.0
_NAME = re.compile(r"kasplo-demo-[0-9a-f]{8}")


def new_name() -> str:
    """What the keys and the RQ queue of one demo begin with."""
    return f"kasplo-demo-{secrets.token_hex(4)}"


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder of one demo's own, which must hold its lock (`datadir.RunLock`); removed at the end."""
    path = Path(tempfile.mkdtemp(prefix=_folders()))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def sweep() -> None:
    """Remove what demos left that were killed: folders that are ours and that nobody holds, with their keys.

    Where their Redis is away, or takes too long, the folder stays for the next time.
    """
    deadline = time.monotonic() + _SWEEP_S
    for path in Path(tempfile.gettempdir()).glob(f"{_folders()}*"):
        with suppress(OSError, NotifyError):
            if path.is_symlink() or path.stat().st_uid != os.getuid() or not (path / "run.lock").exists():
                continue
            lock = datadir.open_lock(path / "run.lock")
            if lock is None:
                continue
            try:
                if _forget_left(path, deadline):
                    datadir.remove_socket(path)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)


def forget(registry: Registry, name: str, *, deadline: float | None = None) -> bool:
    """Remove the keys of a demo from a server that others use too, its RQ queue and jobs included.

    Args:
        registry: where.
        name: the demo's `new_name`.
        deadline: when to give up, in seconds of the monotonic clock; by default in ten seconds.

    Returns:
        Whether nothing is left: False when Redis is away, or the time is over.
    """
    deadline = time.monotonic() + _SWEEP_S if deadline is None else deadline
    read, queue, cursor = registry.store.read, f"rq:queue:{name}", 0
    try:
        # The keys of jobs have ids in their names only. Those that have ended expire; the others would not.
        started = [("ZRANGE", f"rq:{state}:{name}", 0, -1) for state in ("wip", "finished", "failed")]
        found = read(("LRANGE", queue, 0, -1), *started)
        jobs = {entry.partition(b":")[0].decode() for entries in found for entry in entries}
        kinds = ("job", "results", "executions")
        read(("SREM", "rq:queues", queue), *(("UNLINK", *(f"rq:{kind}:{job}" for kind in kinds)) for job in jobs))
        while time.monotonic() < deadline:
            [(cursor, keys)] = read(("SCAN", cursor, "MATCH", f"*{name}*", "COUNT", 1000))
            if keys:
                read(("UNLINK", *keys))
            if not cursor:
                return True
    except NotifyError:
        pass
    return False


def _folders() -> str:
    return f"kasplo-demo-{os.getuid()}-"


def _forget_left(path: Path, deadline: float) -> bool:
    """Whether nothing of the demo that left this folder is in a Redis that others use, any more."""
    config = _config_of(path)
    if config is None:
        return True
    with contextlib.closing(Registry.open(config)) as registry:
        keys, now_ms = registry.store.keys, redis_ms(registry.store)
        # Its workers end soon after it; while they live they would write again.
        living = registry.store.read(*(("ZCOUNT", keys(state), now_ms, "+inf") for state in ("idle", "busy")))
        return not any(living) and forget(registry, config.worker.queue, deadline=deadline)


def _config_of(path: Path) -> Config | None:
    """The configuration of a demo that had its keys in a Redis that others use; None when nothing is there."""
    note = datadir.read_note(path)
    if note is None or note.socket:  # it was killed before it began, or its server was its own and ended with it
        return None
    try:
        config = Config.load(path / CONFIG, environ={})
    except NotifyError:
        return None
    # Everything that has this name in it is removed: it must be one that only a demo has.
    return config if _NAME.fullmatch(config.worker.queue) else None
