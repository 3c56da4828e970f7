"""One shard under test: runs each script by its name, moves time by writing it, and sees what was left."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from kasplo_notify.store import Arg, Call, Store
from kasplo_notify.stored import Progress, StoredEvent

DELAY = 30_000
LEASE = 30_000
HOUR = 3_600_000
DAY = 24 * HOUR
UNLIMITED = 10**12
_ONE_ATTEMPT = Progress(1, 0, 0)


def packed(event_id: str, size: int = 0) -> bytes:
    """A stored event; `size` bytes are added to its body."""
    return StoredEvent(event_id, "promo", b'{"event_type":"scomp"}' + b" " * size).pack()


def scomp(email: str = "customer@example.com", **more: object) -> dict[str, object]:
    """The document's spam complaint."""
    fields = {"event_type": "scomp", "email": email, "listid": "t99", "sendid": "t9920110705"}
    return {**fields, "click_tracking_id": "1927393", **more}


@dataclass(frozen=True, slots=True)
class Read:
    """One event as `claim` and `read` return it."""

    kind: str
    ref: bytes
    time: int
    packed: bytes

    @property
    def id(self) -> str:
        stored = self.packed if self.kind == "n" else self.ref.partition(b"\n")[2]
        return StoredEvent.unpack(stored).id


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A queue as `claim` returns it."""

    queue: str
    probe: bool
    deaths: int
    alone: str
    resumed: int
    asked: int
    events: list[Read]

    @property
    def ids(self) -> list[str]:
        return [event.id for event in self.events]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The reply of `claim`."""

    now: int
    version: str
    first: int | None
    removing: list[str]
    queues: list[Claimed]
    own: list[str]
    broken: dict[str, str]

    @property
    def names(self) -> list[str]:
        return [claimed.queue for claimed in self.queues]

    @property
    def ids(self) -> list[str]:
        return [event_id for claimed in self.queues for event_id in claimed.ids]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What came of one event, as `settle` takes it."""

    ref: bytes
    queue: str = "crm.0"
    kind: str = "n"
    action: str = "delivered"
    progress: Progress = _ONE_ATTEMPT
    delay: int = 0
    reason: str = "http_500"
    detail: str = "the subscriber answered 500"
    strike: bool = False
    wait: int = 0
    status: int | str = 200
    ms: int = 7
    attempt: int | str = 1
    event_id: str = "e"
    excerpt: bytes = b""

    def row(self) -> tuple[Arg, ...]:
        made = (self.status, self.ms, self.attempt, self.event_id, self.excerpt)
        verdict = (self.action, self.progress.pack(), self.delay, self.reason, self.detail, int(self.strike), self.wait)
        return (self.queue, self.kind, self.ref, *verdict, *made)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The reply of `settle`."""

    applied: int
    alone: dict[str, tuple[str, int]]


def failed(ref: bytes, **more: Any) -> Item:
    """An attempt that was answered with 500, and that counts for the breaker."""
    return Item(ref=ref, **{"action": "retry", "delay": DELAY, "strike": True, "status": 500, **more})


class Shard:
    """The structures of one shard.

    Attributes:
        client: A connection of the test's own. Any: redis-py types a reply as everything that any version returns.
        store: Runs the scripts.
        url: Where a notifier finds the same server.
    """

    def __init__(self, client: Any, url: str) -> None:
        self.client = client
        self.url = url
        self.store = Store(client, "kasplo:")
        self.keys = self.store.keys
        self._seq = count()

    # --- scripts -------------------------------------------------------------------------------------------------

    def run(self, script: str, *args: Arg, keys: Sequence[str] = ()) -> Any:
        return self.store.run(Call(script, args, keys))

    def push(
        self,
        *event_ids: str,
        queues: Sequence[str] = ("crm.0",),
        version: str = "0",
        token: str = "",
        own: bool = False,
        delay: int = DELAY,
        cap: int = 1_000_000,
        dead_bytes: int = UNLIMITED,
        dead_keep: int = DAY,
        size: int = 0,
    ) -> tuple[str, int]:
        """Push events, each to all of `queues`. `own`: the ids are the caller's."""
        args: list[Arg] = [version, token, 60_000, HOUR, dead_bytes, dead_keep, len(queues)]
        for queue in queues:
            args += (queue, delay, cap)
        positions = " ".join(str(number + 1) for number in range(len(queues)))
        for event_id in event_ids:
            args += (event_id if own else "", packed(event_id, size), positions)
        status, number, *self.repeated = self.run("push", *args)
        return status.decode(), int(number)

    def claim(
        self,
        drain: str = "drain1",
        *,
        lease: int = LEASE,
        delay: int = DELAY,
        most: int = 100,
        per_queue: int = 16,
        events: int = 1000,
        held: int = 0,
        lost: bool = False,
    ) -> Claim:
        return read_claim(self.run("claim", drain, lease, delay, most, per_queue, events, held, int(lost)))

    def read(self, token: str, *wanted: tuple[str, str, int, str, int], delay: int = DELAY) -> list[list[Read] | None]:
        """For each (queue, last id, new, lowest score, retries) the events; None for a queue that is not held."""
        args: list[Arg] = [token, delay]
        for each in wanted:
            args += each
        _, _, replies = self.run("read", *args)
        return [_reads(events) if held else None for held, events in replies]

    def settle(
        self,
        token: str,
        *items: Item,
        dead_bytes: int = UNLIMITED,
        dead_keep: int = DAY,
        attempts: int = 100,
        pause_after: int = 5 * DAY,
        blocked_after: int = HOUR,
    ) -> Settled:
        args: list[Arg] = [token, DELAY, dead_bytes, dead_keep, attempts, pause_after, blocked_after]
        for item in items:
            args += item.row()
        _, _, applied, *alone = self.run("settle", *args)
        return Settled(
            applied=applied,
            alone={name.decode(): (paused.decode(), int(gate)) for name, paused, gate in alone},
        )

    def renew(self, token: str, *queues: str, lease: int = LEASE) -> list[tuple[bool, str, int]]:
        """For each queue: whether it is still held, why its endpoint is paused, its gate."""
        _, _, replies = self.run("renew", token, lease, *queues)
        return [(bool(held), paused.decode(), int(gate)) for held, paused, gate in replies]

    def release(self, token: str, *queues: str, unserved: Sequence[str] = ()) -> tuple[int, int, int]:
        """Queues that were still held, how many of them are due at once, workers idle."""
        _, _, released, still_due, idle, _ = self.run("release", token, DELAY, len(unserved), *unserved, *queues)
        return released, still_due, idle

    def repair(self, *endpoints: str, dead_bytes: int = UNLIMITED, dead_keep: int = DAY) -> list[str]:
        return [queue.decode() for queue in self.run("repair", DELAY, dead_bytes, dead_keep, LEASE, *endpoints)]

    # --- what a test writes --------------------------------------------------------------------------------------

    def put(self, queue: str, *event_ids: str, age: int = DELAY + 1000, size: int = 0) -> list[bytes]:
        """Store new events that arrived `age` ms ago, and schedule them as a push did then. Returns their refs."""
        arrived = self.now() - age
        refs = [
            # Numbered over all calls: two of them may come in one millisecond.
            self.client.xadd(
                self.keys(f"new:{queue}"), {"e": packed(event_id, size)}, id=f"{arrived}-{next(self._seq)}"
            )
            for event_id in event_ids
        ]
        self.client.zadd(self.keys("schedule"), {queue: arrived + DELAY + 1}, nx=True)
        return refs

    def put_retry(self, queue: str, event_id: str, *, due_in: int = -1000, attempts: int = 1, size: int = 0) -> bytes:
        """Store an event that was attempted, and is next due in so many ms. Returns its member."""
        due = self.now() + due_in
        member = Progress(attempts, 0, due - HOUR).pack() + b"\n" + packed(event_id, size)
        self.client.zadd(self.keys(f"retry:{queue}"), {member: due})
        self.client.zadd(self.keys("schedule"), {queue: due}, nx=True)
        return member

    def let_pass(self, queue: str, ms: int) -> None:
        """Make a queue's new events, and the time when nobody looks at it before, older by so many ms."""
        key = self.keys(f"new:{queue}")
        entries = self.client.xrange(key)
        self.client.delete(key)
        for ref, fields in entries:
            time, _, sequence = ref.decode().partition("-")
            self.client.xadd(key, fields, id=f"{int(time) - ms}-{sequence}")
        self.client.zincrby(self.keys("schedule"), -ms, queue)

    def end_lease(self, *queues: str) -> None:
        """Let the owner of queues be silent for longer than its lease."""
        self.client.zadd(self.keys("schedule"), dict.fromkeys(queues, self.now() - 1), xx=True)

    def set_health(self, endpoint: str = "crm", **values: int | str) -> None:
        self.client.hset(self.keys(f"health:{endpoint}"), mapping=dict(values))

    def hold(self, drain: str = "drain1", *, queue: str = "crm.0", events: int = 1) -> list[bytes]:
        """Have a drain hold a queue with due events, named e0, e1, ... Returns their refs."""
        refs = self.put(queue, *(f"e{number}" for number in range(events)))
        self.client.zadd(self.keys("schedule"), {queue: self.now() + LEASE})
        self.client.hset(self.keys("owner"), queue, drain)
        return refs

    # --- what a test sees ----------------------------------------------------------------------------------------

    def now(self) -> int:
        """Unix ms by the server's clock."""
        seconds, micros = self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def score(self, queue: str = "crm.0") -> float | None:
        score = self.client.zscore(self.keys("schedule"), queue)
        return None if score is None else float(score)

    def owner(self, queue: str = "crm.0") -> str | None:
        token = self.client.hget(self.keys("owner"), queue)
        return None if token is None else str(token.decode())

    def new(self, queue: str = "crm.0") -> list[str]:
        """The ids of the events that were never attempted, oldest first."""
        return [StoredEvent.unpack(fields[b"e"]).id for _, fields in self.client.xrange(self.keys(f"new:{queue}"))]

    def retries(self, queue: str = "crm.0") -> dict[str, tuple[bytes, float]]:
        """The events that wait for another attempt: id -> progress, time."""
        found = self.client.zrange(self.keys(f"retry:{queue}"), 0, -1, withscores=True)
        split = [(member.partition(b"\n"), score) for member, score in found]
        return {StoredEvent.unpack(event).id: (progress, score) for (progress, _, event), score in split}

    def dead(self, endpoint: str = "crm") -> list[tuple[str, str]]:
        """The dead letters: id, reason; oldest first."""
        found = self.client.xrange(self.keys(f"dead:{endpoint}"))
        return [(StoredEvent.unpack(fields[b"e"]).id, fields[b"r"].decode()) for _, fields in found]

    def dead_bytes(self, endpoint: str = "crm") -> int | None:
        size = self.client.hget(self.keys("dead"), endpoint)
        return None if size is None else int(size)

    def health(self, endpoint: str = "crm") -> dict[str, str]:
        return self._hash(f"health:{endpoint}")

    def counters(self) -> dict[str, str]:
        return self._hash("counters")

    def attempts(self, endpoint: str = "crm") -> list[dict[str, str]]:
        found = self.client.xrange(self.keys(f"attempts:{endpoint}"))
        return [{name.decode(): value.decode() for name, value in fields.items()} for _, fields in found]

    def stats(self, endpoint: str = "crm", span: str = "h") -> dict[str, int]:
        """The counters of an endpoint, the minutes (m) or hours (h) added up."""
        total: dict[str, int] = {}
        for key in self.client.keys(self.keys(f"stats:{endpoint}:{span}*")):
            for name, value in self.client.hgetall(key).items():
                total[name.decode()] = total.get(name.decode(), 0) + int(value)
        return total

    def names(self) -> set[str]:
        """All keys, the shard's without its stem, the numbers of times and tokens left out."""
        return {self._plain(key.decode()) for key in self.client.keys("*")}

    def dump(self) -> dict[str, object]:
        """Everything that is stored."""
        return {key.decode(): self._value(key) for key in sorted(self.client.keys("*"))}

    def _plain(self, key: str) -> str:
        name = key.removeprefix(self.keys.stem).removeprefix("kasplo:")
        for volatile in ("stats:", "pushed:"):
            if name.startswith(volatile):
                return volatile
        return name

    def _value(self, key: bytes) -> object:
        kind = self.client.type(key)
        if kind == b"hash":
            return self.client.hgetall(key)
        if kind == b"zset":
            return self.client.zrange(key, 0, -1, withscores=True)
        if kind == b"stream":
            return self.client.xrange(key)
        return self.client.get(key)

    def _hash(self, name: str) -> dict[str, str]:
        return {key.decode(): value.decode() for key, value in self.client.hgetall(self.keys(name)).items()}


def read_claim(reply: Sequence[Any]) -> Claim:
    now, version, first, removing, claimed, own, broken = reply
    return Claim(
        now=int(now),
        version=version.decode(),
        first=int(float(first)) if first else None,
        removing=[queue.decode() for queue in removing],
        queues=[
            Claimed(
                queue=queue.decode(),
                probe=bool(probe),
                deaths=deaths,
                alone=alone.decode(),
                resumed=int(resumed),
                asked=asked,
                events=_reads(events),
            )
            for queue, probe, deaths, alone, resumed, asked, events in claimed
        ],
        own=[queue.decode() for queue in own],
        broken={queue.decode(errors="replace"): fault.decode() for queue, fault in broken},
    )


def _reads(rows: Iterable[Sequence[bytes]]) -> list[Read]:
    return [Read(kind.decode(), ref, int(float(time)), stored) for kind, ref, time, stored in rows]
