"""The reading of everything that is judged. It changes nothing, in Redis or elsewhere."""

import resource
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from kasplo_notify.config import Config
from kasplo_notify.doctor.attempt import Attempt, Unread
from kasplo_notify.doctor.census import read_fleet
from kasplo_notify.doctor.clock import Clock
from kasplo_notify.doctor.fleet import Fleet
from kasplo_notify.doctor.machine import Machine
from kasplo_notify.doctor.server import SETTINGS, Server
from kasplo_notify.doctor.spooled import Spooled
from kasplo_notify.errors import PushError
from kasplo_notify.registry import Registry
from kasplo_notify.spool.segments import segments
from kasplo_notify.status import redis_ms
from kasplo_notify.store import Store

_COMPARISONS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was read; None where it was not.

    Attributes:
        config: The configuration.
        machine: This machine.
        spooled: The spool of this machine, if there is one.
        away: Why Redis cannot be reached, or answers that it is not ready; empty when it can.
        server: What Redis says of itself.
        clock: The clocks, compared.
        ahead: Queues whose first event has a time in the future.
        fleet: Workers and endpoints.
        unread: What Redis did not show.
    """

    config: Config
    machine: Machine
    spooled: Spooled | None = None
    away: str = ""
    server: Server | None = None
    clock: Clock | None = None
    ahead: int | None = None
    fleet: Fleet = field(default_factory=Fleet)
    unread: Sequence[Unread] = ()


def read_all(config: Config) -> Reading:
    """Read everything that can be read. Where Redis is away that is what this machine knows.

    Raises:
        ConfigError: redis.url is not usable.
    """
    attempt = Attempt()
    reading = Reading(config=config, machine=_machine(config))
    if config.spool.path is not None:
        spooled = attempt.read(f"the spool ({config.spool.path})", partial(_spooled, config.spool.path))
        reading = replace(reading, spooled=spooled)
    try:
        with closing(Registry.open(config)) as registry:
            store = registry.store
            reading = replace(reading, server=read_server(store, attempt))
            reading = replace(reading, clock=attempt.read("the clock (TIME)", partial(_clock, store), needed=True))
            reading = replace(reading, ahead=attempt.read("the times of queues", partial(_ahead, store)))
            reading = replace(reading, fleet=read_fleet(registry, attempt))
    except PushError as error:
        reading = replace(reading, away=str(error))
    return replace(reading, unread=attempt.unread)


def read_server(store: Store, attempt: Attempt) -> Server:
    """What Redis says of itself, as far as this login may read it.

    Raises:
        StorageUnavailable: Redis cannot be reached, or is not ready.
    """
    # As one word it is unknown to redis-py, whose parser of INFO fails on some text; the server gets two.
    info = attempt.read("INFO", lambda: store.read(("INFO default",))[0])
    return Server.of(info, attempt.read("CONFIG GET", partial(_settings, store)) or {})


def compare_clocks(store: Store) -> Clock:
    """One comparison: Redis' time is that of some moment of the round trip, of its middle most likely.

    Raises:
        StorageUnavailable: Redis does not answer.
    """
    before, began = time.time(), time.monotonic()
    theirs = redis_ms(store) / 1000
    took = time.monotonic() - began
    return Clock(ahead_s=theirs - (before + took / 2), uncertainty_s=took / 2)


def _clock(store: Store) -> Clock:
    return min((compare_clocks(store) for _ in range(_COMPARISONS)), key=lambda clock: clock.uncertainty_s)


def _ahead(store: Store) -> int:
    return int(store.read(("HLEN", store.keys("ahead")))[0])


def _settings(store: Store) -> Mapping[object, object]:
    replies = store.read(*(("CONFIG GET", name) for name in SETTINGS))
    return {name: value for reply in replies for name, value in dict(reply).items()}


def _machine(config: Config) -> Machine:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limited = hard != resource.RLIM_INFINITY
    return Machine(open_files=hard if limited else None, disk_free=_disk_free(config))


def _spooled(folder: Path) -> Spooled:
    found = [each for each in segments(folder) if each.size]
    waiting = [each for each in found if not each.aside]
    return Spooled(
        size=sum(each.size for each in found),
        waiting=len(waiting),
        oldest_s=max((time.time() - each.created for each in waiting), default=0.0),
        aside=len(found) - len(waiting),
    )


def _disk_free(config: Config) -> int | None:
    if config.redis.url != "embedded":
        return None
    try:
        return shutil.disk_usage(config.redis.data_dir).free
    except OSError:
        return None
