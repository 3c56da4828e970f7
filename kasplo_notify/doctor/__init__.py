"""What is wrong with Redis, the clock, the limits, the workers: for `kasplo-notify doctor` and a worker's start.

`reading` reads, and changes nothing; the other modules judge what was read, each a part of it, as pure functions from
values to findings. A judgement stands here once, whoever asks for it.
"""

from collections.abc import Iterator, Sequence

from kasplo_notify.config import Config
from kasplo_notify.config_checks import masked_url
from kasplo_notify.doctor.attempt import Attempt, Unread
from kasplo_notify.doctor.clock import clocks, stepped_back
from kasplo_notify.doctor.finding import LEVELS, Finding, Level, by_gravity, fault, note, ok
from kasplo_notify.doctor.fleet import deliveries, endpoints, lease
from kasplo_notify.doctor.machine import files_needed, limits, open_files
from kasplo_notify.doctor.memory import memory
from kasplo_notify.doctor.persistence import persistence
from kasplo_notify.doctor.reading import Reading, read_all, read_server
from kasplo_notify.doctor.server import Server
from kasplo_notify.doctor.serving import serving
from kasplo_notify.doctor.spooled import spool
from kasplo_notify.quantities import listed
from kasplo_notify.store import Store

__all__ = [
    "LEVELS",
    "Finding",
    "Level",
    "Reading",
    "examine",
    "file_fault",
    "files_needed",
    "read_all",
    "server_faults",
]


def examine(reading: Reading) -> list[Finding]:
    """All findings, the gravest first."""
    return by_gravity(_all(reading))


def server_faults(store: Store) -> list[str]:
    """What of Redis itself endangers what is stored there, and what to do, one sentence each.

    What the login may not read is not judged.

    Raises:
        StorageUnavailable: Redis does not answer.
    """
    return [each.text for each in judge_server(read_server(store, Attempt())) if each.level == "fault"]


def file_fault(most: int | None, config: Config) -> str:
    """What is wrong with a limit of open files (None: there is none) for a worker; empty when nothing is."""
    found = open_files(most, config)
    return "" if found.level == "ok" else found.text


def judge_server(server: Server) -> Iterator[Finding]:
    """The findings of what Redis says of itself."""
    yield from serving(server)
    yield from persistence(server)
    yield from memory(server)


def _all(reading: Reading) -> Iterator[Finding]:
    yield from _reached(reading)
    if reading.server is not None:
        yield from judge_server(reading.server)
    if reading.clock is not None:
        yield from clocks(reading.clock)
    yield from stepped_back(reading.ahead or 0)
    yield from limits(reading.machine, reading.config)
    if reading.spooled is not None:
        yield from spool(reading.spooled, reading.config)
    yield from _configuration(reading)
    yield from deliveries(reading.fleet)
    yield from endpoints(reading.fleet, reading.config)
    if reading.fleet.endpoints is None:
        yield from lease((), reading.config)
    yield from _unread(reading.unread)


def _reached(reading: Reading) -> Iterator[Finding]:
    if reading.away:
        yield fault("redis", "Redis cannot be used, and what is in it was not looked at")
        return
    where = masked_url(reading.config.redis.url)
    fast = "" if reading.clock is None else f" within {max(0.1, reading.clock.uncertainty_s * 2000):.1f} ms"
    yield ok("redis", f"Redis answers{fast} ({where})")


def _configuration(reading: Reading) -> Iterator[Finding]:
    config = reading.config
    idle = [each.key for each in config.describe() if each.source != "default" and "no effect" in each.comment]
    where = f"file {config.file}" if config.file else "no file"
    if idle:
        yield note("configuration", f"{', '.join(idle)}: given, and without effect in this version")
    else:
        yield ok("configuration", f"it is in order ({where})")


def _unread(unread: Sequence[Unread]) -> Iterator[Finding]:
    """What was not shown, and why; many things often for one reason."""
    by_reason: dict[tuple[bool, str], list[str]] = {}
    for each in unread:
        by_reason.setdefault((each.needed, each.why), []).append(each.what)
    for (needed, why), what in by_reason.items():
        if needed:
            yield fault("unread", f"{listed(what)} could not be looked at, and workers need that: {why}")
        else:
            yield note("unread", f"{listed(what)} could not be looked at, and nothing of it is judged: {why}")
