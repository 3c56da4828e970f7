"""The final scan: every key that is left, and every event in it. Read with plain commands, by the data model alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.torture.ledger import digest

# What may be left when nothing waits: the registry, what is known and counted of endpoints, and dead letters.
_STAYS = ("endpoints", "routes", "{0}:version", "{0}:counters", "{0}:dead", "{0}:health:", "{0}:attempts:", "{0}:dead:")
# What has to end by itself.
_EXPIRES = ("{0}:pushed:", "{0}:stats:", "{0}:calling", "{0}:maintenance")
# For how long a worker is believed to be there that says nothing, and a little more.
_BELIEVED_MS = 4000
# What is left of an endpoint's health when it is well.
_HEALTHY = {b"delay", b"partitions", b"resumed_at"}


@dataclass(frozen=True, slots=True)
class Kept:
    """An event that Redis has.

    Attributes:
        place: `new`, `retry` or `dead`.
        endpoint: Whose.
        id: The event id.
        body: Digest of its bytes.
        reason: Of a dead letter, why it was given up.
        burnt: Of a dead letter, how many attempts of its schedule it had; the free ones are not among them.
    """

    place: str
    endpoint: str
    id: str
    body: str
    reason: str = ""
    burnt: int = 0


@dataclass(frozen=True, slots=True)
class Scan:
    """What is left in Redis.

    Attributes:
        kept: All events.
        leaks: Keys and entries that nothing will ever take away, in words.
    """

    kept: tuple[Kept, ...]
    leaks: tuple[str, ...]


def scan(client: Any, prefix: str = "kasplo:") -> Scan:
    """Read everything that a `redis.Redis` has. Nobody else may be writing."""
    kept: list[Kept] = []
    leaks: list[str] = []
    for key in client.scan_iter(count=1000):
        name = key.decode()
        if name.startswith("rq:"):
            leaks += _rq_leak(client, name)
        elif not name.startswith(prefix):
            leaks.append(f"{name}: not ours")
        else:
            own = name.removeprefix(prefix)
            kept += _events(client, name, own)
            leaks += _leak(client, name, own)
    return Scan(tuple(kept), tuple(leaks))


def _events(client: Any, name: str, own: str) -> Iterator[Kept]:
    place, _, owner = own.removeprefix("{0}:").partition(":")
    if place == "new":
        packed = [(fields[b"e"], b"", b"") for _, fields in client.xrange(name)]
    elif place == "retry":
        packed = [(member.partition(b"\n")[2], b"", b"") for member in client.zrange(name, 0, -1)]
    elif place == "dead" and owner:
        packed = [(fields[b"e"], fields[b"r"], fields[b"p"]) for _, fields in client.xrange(name)]
    else:
        return
    endpoint = owner if place == "dead" else owner.rpartition(".")[0]
    for each, reason, progress in packed:
        _, event_id, _, body = each.split(b"\n", 3)
        attempts, free, _ = (int(part) for part in progress.split(b",")) if progress else (0, 0, 0)
        yield Kept(place, endpoint, event_id.decode(), digest(body), reason.decode(), attempts - free)


def _leak(client: Any, name: str, own: str) -> list[str]:
    if own.startswith(_EXPIRES):
        return [] if client.pttl(name) != -1 else [f"{name}: does not expire"]
    if own.startswith("{0}:health:"):
        extra = set(client.hkeys(name)) - _HEALTHY
        return [f"{name}: {sorted(extra)}"] if extra else []
    if own in ("{0}:idle", "{0}:busy"):
        # The next look of any worker takes out those that are believed no longer.
        believed = client.zcount(name, client.time()[0] * 1000 + _BELIEVED_MS, "+inf")
        return [f"{name}: {believed} workers that ended are believed to be there"] if believed else []
    return [] if own.startswith(_STAYS) else [f"{name}: {client.type(name).decode()}"]


def _rq_leak(client: Any, name: str) -> list[str]:
    """What RQ will never take away. A job of a worker that was killed waits for RQ's maintenance in a list of its."""
    if not name.startswith(("rq:job:", "rq:results:", "rq:worker:")) or client.pttl(name) != -1:
        return []
    job = name.removeprefix("rq:job:")
    listed = any(client.lpos(key, job) is not None for key in ("rq:queue:kasplo", "rq:queue:kasplo:intermediate"))
    started = any(member.startswith(job.encode()) for member in client.zrange("rq:wip:kasplo", 0, -1))
    return [] if listed or started else [f"{name}: does not expire"]
