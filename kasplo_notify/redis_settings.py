"""The settings of a Redis server that the guarantee rests on, and what to do about the others."""

from collections.abc import Iterator, Mapping
from typing import Any

from kasplo_notify.errors import StorageUnavailable
from kasplo_notify.store import Command, Store

_OLDEST = (7, 0)
_WANTED = {
    "maxmemory-policy": ("noeviction", "Redis deletes queued events when its memory is full"),
    "appendonly": ("yes", "a restart of Redis loses what came since its last snapshot"),
}


def redis_faults(store: Store) -> list[str]:
    """What is wrong, and what to set, one sentence each. What the login may not read is not judged.

    Raises:
        StorageUnavailable: Redis does not answer.
    """
    store.read(("PING",))
    version = _readable(store, ("INFO", "server")).get("redis_version")
    settings = {name: _readable(store, ("CONFIG GET", name)).get(name) for name in _WANTED}
    return list(faults(version, settings))


def faults(version: object, settings: Mapping[str, object]) -> Iterator[str]:
    """The faults of a server of this version with these settings; None where a value is not known."""
    numbers = str(version).split(".")
    if all(each.isdigit() for each in numbers) and tuple(map(int, numbers)) < _OLDEST:
        yield f"this is Redis {version}; install Redis 7.0 or Valkey 7.2, or newer"
    for name, (wanted, why) in _WANTED.items():
        value = settings.get(name)
        if value is not None and value != wanted:
            yield f"{name} is {value}: {why}; set it to {wanted}, in the server's configuration file as well"


def _readable(store: Store, command: Command) -> Mapping[str, Any]:
    try:
        (answer,) = store.read(command)
    except StorageUnavailable:
        return {}
    return answer if isinstance(answer, dict) else {}
