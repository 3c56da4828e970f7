"""All that a shard of two endpoints holds, in one look; and a stand-in for the passing of time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kasplo_notify.stored import Progress, StoredEvent
from tests.integration.shard import HOUR, Shard

ENDPOINTS = ("bi", "crm")
MOST_QUEUES = 3
QUEUES = tuple(f"{endpoint}.{number}" for endpoint in ENDPOINTS for number in range(MOST_QUEUES))
# The fields of an endpoint's health that are moments; the others are numbers and words.
_MOMENTS = ("paused_at", "resumed_at", "not_before", "probe_at", "probe_until", "failing_since", "blocked_since")

# One event for one endpoint: event id, endpoint.
Key = tuple[str, str]


def endpoint_of(queue: str) -> str:
    return queue.rpartition(".")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One copy of an event, where it was found.

    Attributes:
        key: The event and the endpoint that it is for.
        place: new, retry or dead.
        queue: The queue it is in, or was in when it died.
        ref: The stream's entry id, or the member of the retry set.
        at: When it arrived (new), is next due (retry), or died; Unix ms.
        attempts: Requests that were made for it.
        size: Bytes of the stored event.
    """

    key: Key
    place: str
    queue: str
    ref: bytes
    at: int
    attempts: int
    size: int

    def due(self, delay: int) -> int:
        """When it may be attempted. Entry ids drop the microseconds, so a new event is due one ms after its delay."""
        return self.at + delay + 1 if self.place == "new" else self.at


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was stored at one moment.

    Attributes:
        now: That moment, Unix ms by the server's clock.
        copies: Every copy of every event: of each queue the retries in their order, then the new events in theirs,
            then the dead letters of each endpoint from the oldest on.
        schedule: Queue -> score.
        owners: Queue -> token.
        deaths: Queue -> how many drains died holding it.
        alone: Queue -> since when which event is alone in flight, as its drain said.
        suspects: Queue -> which event was alone at the last deaths, at how many, and just gone out at how many.
        dead_bytes: Endpoint -> bytes of its dead letters, as they are counted.
        counters: What is counted over all endpoints.
        stats: Endpoint -> what is counted for it.
        health: Endpoint -> its health.
    """

    now: int
    copies: tuple[Found, ...]
    schedule: Mapping[str, int]
    owners: Mapping[str, str]
    deaths: Mapping[str, int]
    alone: Mapping[str, str]
    suspects: Mapping[str, str]
    dead_bytes: Mapping[str, int]
    counters: Mapping[str, int]
    stats: Mapping[str, Mapping[str, int]]
    health: Mapping[str, Mapping[str, str]]

    @classmethod
    def of(cls, shard: Shard) -> "Seen":
        """Look at everything in one transaction."""
        keys = shard.keys
        hour = shard.now() // HOUR
        with shard.client.pipeline(transaction=True) as pipeline:
            pipeline.time()
            pipeline.zrange(keys("schedule"), 0, -1, withscores=True)
            for name in ("owner", "deaths", "alone", "suspect", "dead", "counters"):
                pipeline.hgetall(keys(name))
            for endpoint in ENDPOINTS:
                pipeline.hgetall(keys(f"health:{endpoint}"))
                pipeline.xrange(keys(f"dead:{endpoint}"))
                # An example that began in the hour before is short of an hour old.
                for each in (hour - 1, hour):
                    pipeline.hgetall(keys(f"stats:{endpoint}:h{each}"))
            for queue in QUEUES:
                pipeline.zrange(keys(f"retry:{queue}"), 0, -1, withscores=True)
                pipeline.xrange(keys(f"new:{queue}"))
            (seconds, micros), schedule, owners, deaths, alone, suspects, dead, counters, *rest = pipeline.execute()
        by_endpoint = {endpoint: rest[4 * at : 4 * at + 4] for at, endpoint in enumerate(ENDPOINTS)}
        by_queue = {queue: rest[4 * len(ENDPOINTS) + 2 * at :][:2] for at, queue in enumerate(QUEUES)}
        copies = [
            *(copy for queue, (retries, fresh) in by_queue.items() for copy in _waiting(queue, retries, fresh)),
            *(copy for letters in by_endpoint.values() for copy in _dead(letters[1])),
        ]
        return cls(
            now=int(seconds) * 1000 + int(micros) // 1000,
            copies=tuple(copies),
            schedule={queue.decode(): int(score) for queue, score in schedule},
            owners=_texts(owners),
            deaths=_numbers(deaths),
            alone=_texts(alone),
            suspects=_texts(suspects),
            dead_bytes=_numbers(dead),
            counters=_numbers(counters),
            stats={name: _sum(*rows[2:]) for name, rows in by_endpoint.items()},
            health={name: _texts(rows[0]) for name, rows in by_endpoint.items()},
        )

    def waiting(self, queue: str) -> list[Found]:
        """What a queue holds, the oldest first: what waits in retry arrived before the head of new."""
        return [copy for copy in self.copies if copy.queue == queue and copy.place != "dead"]

    def dead(self, endpoint: str) -> list[Found]:
        return [copy for copy in self.copies if copy.key[1] == endpoint and copy.place == "dead"]

    def find(self, key: Key) -> list[Found]:
        return [copy for copy in self.copies if copy.key == key]

    def unowned(self, endpoint: str) -> set[str]:
        """The queues of an endpoint that wait on the schedule for an owner."""
        return {queue for queue in self.schedule.keys() - self.owners if endpoint_of(queue) == endpoint}

    def partitions(self, endpoint: str) -> int:
        return int(self.health[endpoint].get("partitions", 1))

    def gate(self, endpoint: str, now: int) -> int:
        """No attempt before this: the endpoint asked to be left alone, or its breaker is open."""
        health = {name: int(value) for name, value in self.health[endpoint].items() if value.isdigit()}
        gate = health.get("not_before", 0)
        if "open" in health:
            probed = "probe" in self.health[endpoint] and health.get("probe_until", 0) > now
            gate = max(gate, health["probe_until"] if probed else health.get("probe_at", 0))
        return gate


def pass_time(shard: Shard, seen: Seen, ms: int) -> None:
    """Make everything that was seen older by so many ms, as if that much time had passed."""
    keys = shard.keys
    tokens = {name: shard.client.pttl(name) for name in shard.client.keys(keys("pushed:*"))}
    streams = {name: shard.client.xrange(keys(name)) for name in _streams(seen)}
    with shard.client.pipeline(transaction=True) as pipeline:
        for name, left in tokens.items():
            # A token whose time is over is deleted by this.
            pipeline.pexpire(name, max(0, left - ms))
        for queue in seen.schedule:
            pipeline.zincrby(keys("schedule"), -ms, queue)
        for copy in seen.copies:
            if copy.place == "retry":
                pipeline.zincrby(keys(f"retry:{copy.queue}"), -ms, copy.ref)
        for name, entries in streams.items():
            pipeline.delete(keys(name))
            for ref, fields in entries:
                pipeline.xadd(keys(name), fields, id=older(ref, ms))
        for queue, noted in seen.alone.items():
            sent, _, event_id = noted.partition(" ")
            pipeline.hset(keys("alone"), queue, f"{int(sent) - ms} {event_id}")
        for endpoint, health in seen.health.items():
            for field in set(_MOMENTS) & health.keys():
                pipeline.hincrby(keys(f"health:{endpoint}"), field, -ms)
        pipeline.execute()


def _streams(seen: Seen) -> set[str]:
    fresh = {f"new:{copy.queue}" for copy in seen.copies if copy.place == "new"}
    return fresh | {f"dead:{copy.key[1]}" for copy in seen.copies if copy.place == "dead"}


def older(ref: bytes, ms: int) -> bytes:
    """An entry id after so many ms have passed in this way."""
    time, _, sequence = ref.decode().partition("-")
    return f"{int(time) - ms}-{sequence}".encode()


def _waiting(queue: str, retries: Any, fresh: Any) -> Iterator[Found]:
    for member, score in retries:
        progress, _, packed = member.partition(b"\n")
        attempts = Progress.unpack(progress).attempts
        yield _found(packed, place="retry", queue=queue, ref=member, at=int(score), attempts=attempts)
    for ref, fields in fresh:
        yield _found(fields[b"e"], place="new", queue=queue, ref=ref, at=int(ref.split(b"-")[0]), attempts=0)


def _dead(letters: Any) -> Iterator[Found]:
    for ref, fields in letters:
        attempts = Progress.unpack(fields[b"p"]).attempts if fields[b"p"] else 0
        queue, died = fields[b"q"].decode(), int(ref.split(b"-")[0])
        yield _found(fields[b"e"], place="dead", queue=queue, ref=ref, at=died, attempts=attempts)


def _found(packed: bytes, *, queue: str, **more: Any) -> Found:
    key = (StoredEvent.unpack(packed).id, endpoint_of(queue))
    return Found(key=key, queue=queue, size=len(packed), **more)


def _texts(stored: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in stored.items()}


def _numbers(stored: Mapping[bytes, bytes]) -> dict[str, int]:
    return {name.decode(): int(value) for name, value in stored.items()}


def _sum(*parts: Mapping[bytes, bytes]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, value in _numbers(part).items():
            total[name] = total.get(name, 0) + value
    return total
