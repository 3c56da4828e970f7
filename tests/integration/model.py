"""What must become of every event, whatever is done to it in whatever order: the design's rules without Redis."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kasplo_notify.emission import OWN_ID_MS, TOKEN_MS
from kasplo_notify.store import Call
from kasplo_notify.stored import StoredEvent
from tests.integration.seen import ENDPOINTS, QUEUES, Found, Key, Seen, endpoint_of
from tests.integration.shard import DELAY, HOUR, Claim, Item

CLASSES = {"bi": ("promo",), "crm": ("promo", "news")}
DEAD_BYTES, DEAD_KEEP = 1500, 3 * HOUR
# As in claim.lua.
JUST = 500
FAILURES_TO_OPEN, WINS_TO_CLOSE, FIRST_PROBE, LAST_PROBE = 10, 3, 5000, 60_000
# Between a token's time as it is told and as it is: what a step may take on a busy machine.
UNSURE = 10_000


def chunk_of(event_id: str) -> tuple[str, int]:
    """The token of the push that generated this id, and the id's number there; an empty token for any other id."""
    made = re.fullmatch(r"(msg_[0-9a-fA-F]+)-(0|[1-9][0-9]*)", event_id)
    return (f"{made[1]}.", int(made[2])) if made else ("", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """Where one event is for one endpoint.

    Attributes:
        place: new, retry or dead.
        queue: Its queue.
        attempts: Requests that were made.
        at: When it arrived, is next due, or died. Exact once it was seen; before that, the earliest that it can be.
        exact: Whether it was seen.
        slack: ms that it may be later than at its earliest, beside those that the step took.
        size: Bytes of the stored event; 0 until it was seen.
    """

    place: str
    queue: str
    attempts: int
    at: int
    exact: bool = False
    slack: int = 0
    size: int = 0


@dataclass(slots=True, kw_only=True)
class Health:
    """An endpoint's pause and breaker."""

    paused: str = ""
    fails: int = 0
    open: bool = False
    wins: int = 0
    wait: int = 0
    probe: str = ""

    def succeeded(self) -> None:
        self.fails = 0
        self.wins += self.open
        if self.wins >= WINS_TO_CLOSE:
            self.open, self.wins, self.wait, self.probe = False, 0, 0, ""

    def failed(self, *, probing: bool) -> None:
        self.fails += 1
        if not self.open and self.fails >= FAILURES_TO_OPEN:
            self.open, self.wins, self.wait = True, 0, FIRST_PROBE
        elif probing:
            self.wins, self.wait = 0, min(2 * self.wait, LAST_PROBE)

    def stored(self) -> dict[str, str]:
        """These fields as they are stored: what is nothing is absent, but for the wins of an open breaker."""
        numbers = {"fails": self.fails, "open": int(self.open), "probe_wait": self.wait}
        told = {name: str(number) for name, number in numbers.items() if number}
        told |= {"wins": str(self.wins)} if self.open else {}
        return told | {name: word for name, word in (("paused", self.paused), ("probe", self.probe)) if word}


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """What the registry says of an endpoint; `removing` is keep, drop or empty."""

    queues: int
    delay: int = DELAY
    removing: str = ""


@dataclass(slots=True)
class Model:
    """The state that the server must be in.

    Attributes:
        copies: Where every copy is; what was delivered, purged or dropped is not there. Dead letters are in the
            order of their deaths.
        owners: Queue -> token of the drain that holds it.
        leases: Queue -> when that drain's lease ends.
        deaths: Queue -> drains that never gave it back, since one served it and did.
        alone: Queue -> since when which event is alone in flight, as its drain said.
        suspects: Queue -> at how many deaths, one after another, an event had just gone out; at how many it was alone
            in flight; and which.
        registered: The endpoints.
        health: Their pauses and breakers.
        tokens: Of each token of a push, and each id that a caller gave, how many ms it is remembered for.
        chunks: Of each token of many events, how many ids it stands for; 0 once they are pushed one by one.
        counters, stats: What is counted, over all and for each endpoint.
        early: Queues that may be looked at before their first event may be attempted. The design has it that such a
            look costs one claim, which puts it right: the gate was raised, or another than the owner took the
            first event out.
        served: Queues that were given back in this step.
        sought: Endpoints that are being removed, and of which this step made sure that somebody finds that.
    """

    copies: dict[Key, Copy] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    leases: dict[str, int] = field(default_factory=dict)
    deaths: Counter[str] = field(default_factory=Counter)
    alone: dict[str, tuple[int, str]] = field(default_factory=dict)
    suspects: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    registered: dict[str, Registered] = field(default_factory=dict)
    health: dict[str, Health] = field(default_factory=lambda: {name: Health() for name in ENDPOINTS})
    tokens: dict[str, int] = field(default_factory=dict)
    chunks: dict[str, int] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)
    stats: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in ENDPOINTS})
    early: set[str] = field(default_factory=set)
    served: set[str] = field(default_factory=set)
    sought: set[str] = field(default_factory=set)

    # --- emit ----------------------------------------------------------------------------------------------------

    def remembers(self, event_id: str) -> bool:
        return self._remembered_for(event_id) > 0

    def _remembered_for(self, event_id: str) -> int:
        """For how many ms: by itself, or in the push that generated its id."""
        token, number = chunk_of(event_id)
        chunk = self.tokens.get(token, 0) if number < self.chunks.get(token, 0) else 0
        return max(self.tokens.get(event_id, 0), chunk)

    def takers(self, mail_class: str) -> list[str]:
        """The endpoints that an event of this class is for."""
        return [name for name in ENDPOINTS if self.serves(name) and mail_class in CLASSES[name]]

    def serves(self, endpoint: str) -> bool:
        """Whether an endpoint is registered, and not on its way out."""
        return endpoint in self.registered and not self.registered[endpoint].removing

    def may_emit(self, event_id: str) -> bool:
        """Whether it is certain what an emit with this id does: the id is remembered, or nothing of it is left."""
        left = self._remembered_for(event_id)
        return left > UNSURE or (left <= 0 and not any(key[0] == event_id for key in self.copies))

    def pushed(self, call: Call, before: Seen) -> list[bytes | int]:
        """A push by the current routes. Returns its reply."""
        args: Any = call.args
        token, table, rows = args[1], _rows(args[7 : 7 + 3 * args[6]], 3), _rows(args[7 + 3 * args[6] :], 3)
        if self.tokens.get(token, 0) > 0:
            return [b"repeated", 0]
        known = []
        arrived: dict[str, list[Key]] = {queue: [] for queue, _, _ in table}
        for position, (own, packed, places) in enumerate(rows, start=1):
            if self.remembers(own):
                known.append(position)
                continue
            queues = [table[int(place) - 1][0] for place in places.split()]
            for key, queue in self._arrived(packed, queues, before):
                arrived[queue].append(key)
            if own:
                self.tokens[own] = OWN_ID_MS
                self._close_chunk(own)
        self.tokens[token], self.chunks[token] = TOKEN_MS, len(rows)
        for queue, _, cap in table:
            self._cap(queue, cap, arrived[queue], before)
        return [b"pushed", len(rows) - len(known), *known]

    def _close_chunk(self, event_id: str) -> None:
        """Its own push, should it arrive after all, changes nothing."""
        token, _ = chunk_of(event_id)
        if token and self.tokens.get(token, 0) <= 0:
            self.tokens[token], self.chunks[token] = OWN_ID_MS, 0

    def _arrived(self, packed: bytes, queues: Sequence[str], before: Seen) -> Iterator[tuple[Key, str]]:
        """One event into its queues; yields its copies."""
        event = StoredEvent.unpack(packed)
        assert sorted(map(endpoint_of, queues)) == self.takers(event.mail_class)
        self.counters.update(emitted=1, unrouted=not queues)
        for queue in queues:
            key = (event.id, endpoint_of(queue))
            assert key not in self.copies, f"{key} was pushed twice"
            self.copies[key] = Copy(place="new", queue=queue, attempts=0, at=before.now, size=len(packed))
            yield key, queue

    def _cap(self, queue: str, cap: int, arrived: Sequence[Key], before: Seen) -> None:
        """Of a queue that holds too much the oldest die; of an owned one, only what is behind its owner's share."""
        line = [*(copy.key for copy in before.waiting(queue)), *arrived]
        limit = 2 * len(arrived) + 8
        over = min(len(line) - cap, limit)
        if not arrived or over <= 0:
            return
        if queue not in self.owners:
            for key in line[:over]:
                self._bury(key, before)
            self.early.add(queue)
        self._trim(endpoint_of(queue), before, limit)

    # --- what a drain does ---------------------------------------------------------------------------------------

    def claimed(self, token: str, before: Seen, reply: Claim, limits: tuple[int, int, int], lease: int) -> None:
        """A claim of at most (queues, events of each kind, events in all)."""
        most, per_queue, left = limits
        due = sorted((score, queue) for queue, score in before.schedule.items() if score <= reply.now)
        given: list[tuple[str, bool, int, str, list[str]]] = []
        removing, own = [], []
        for _, queue in due[:most]:
            if left <= 0:
                break
            health = self.health[endpoint_of(queue)]
            gate = before.gate(endpoint_of(queue), reply.now)
            probing = health.open and any(
                probe and endpoint_of(name) == endpoint_of(queue) for name, probe, *_ in given
            )
            if self.owners.get(queue) == token:
                own.append(queue)
                self.leases[queue] = reply.now + lease
            elif health.paused or gate > reply.now or probing:
                if queue in self.owners and health.paused != "removing":
                    self._died(queue, lease)
                self._disown(queue)
                removing += [queue] if health.paused == "removing" else []
            else:
                if queue in self.owners:
                    self._died(queue, lease)
                wanted = 1 if health.open or self.deaths[queue] else min(per_queue, left)
                events = [copy.key[0] for copy in self._due(queue, before, reply.now, wanted, wanted)]
                suspect = "{} {} {}".format(*self.suspects[queue]) if queue in self.suspects else ""
                given.append((queue, health.open, self.deaths[queue], suspect, events))
                left -= len(events)
                self.owners[queue], self.leases[queue] = token, reply.now + lease
                health.probe = f"{token} {queue}" if health.open else health.probe
        assert [(each.queue, each.probe, each.deaths, each.alone, each.ids) for each in reply.queues] == given
        assert (reply.removing, reply.own, reply.broken) == (removing, own, {})

    def _died(self, queue: str, lease: int) -> None:
        """A drain died holding a queue."""
        self.deaths[queue] += 1
        if noted := self.alone.pop(queue, None):
            sent, event_id = noted
            quick, times, suspect = self.suspects.get(queue, (0, 0, ""))
            if suspect != event_id:
                quick, times = 0, 0
            seen_alive = self.leases[queue] - lease
            self.suspects[queue] = (quick + 1 if seen_alive - sent < JUST else 0, times + 1, event_id)

    def went_alone(self, token: str, queue: str, event_id: str, now: int) -> bool:
        """Returns whether the drain holds the queue."""
        if self.owners.get(queue) != token:
            return False
        self.alone[queue] = now, event_id
        return True

    def due(self, queue: str, before: Seen, now: int, fresh: int, again: int) -> list[str]:
        """The ids of the events that may be attempted: so many new ones, and so many retries."""
        return [copy.key[0] for copy in self._due(queue, before, now, fresh, again)]

    def _due(self, queue: str, before: Seen, now: int, fresh: int, again: int) -> list[Found]:
        delay = self.registered[endpoint_of(queue)].delay
        due = [copy for copy in before.waiting(queue) if copy.due(delay) <= now]
        return [
            *[copy for copy in due if copy.place == "new"][:fresh],
            *[copy for copy in due if copy.place == "retry"][:again],
        ]

    def settled(self, token: str, items: Iterable[tuple[Key, Item]], before: Seen) -> int:
        """Returns how many items must take effect."""
        effects = 0
        moved: set[Key] = set()
        for key, item in items:
            there = [copy for copy in before.find(key) if copy.ref == item.ref and copy.queue == item.queue]
            mine = self.owners.get(item.queue) == token
            if mine and self.alone.get(item.queue, (0, ""))[1] == item.event_id:
                del self.alone[item.queue]
                if self.suspects.get(item.queue, (0, 0, ""))[2] == item.event_id:
                    del self.suspects[item.queue]
            if there and key not in moved and (mine or item.action == "delivered"):
                moved.add(key)
                effects += 1
                self._take_effect(token, key, item, before)
        return effects

    def _take_effect(self, token: str, key: Key, item: Item, before: Seen) -> None:
        health = self.health[key[1]]
        if item.action == "delivered":
            del self.copies[key]
            self.early |= {item.queue} - self.owners.keys()
        elif item.action == "dead":
            self._bury(key, before, attempts=item.progress.attempts)
            self._trim(key[1], before, 100)
        else:
            self.copies[key] = replace(
                self.copies[key],
                place="retry",
                attempts=item.progress.attempts,
                at=before.now + item.delay,
                exact=False,
            )
        if item.attempt == "":
            return
        probing = health.probe == f"{token} {item.queue}"
        health.probe = "" if probing else health.probe
        self.stats[key[1]]["delivered" if item.action == "delivered" else "failed"] += 1
        if item.action == "delivered":
            health.succeeded()
        elif item.strike:
            health.failed(probing=probing)
        if item.wait:
            self.early |= before.unowned(key[1])
        if item.action == "pause":
            health.paused = health.paused or item.reason

    def renewed(self, token: str, now: int, lease: int) -> list[bool]:
        """A renewal of all queues at `now`. Returns which of them the drain holds."""
        held = [self.owners.get(queue) == token for queue in QUEUES]
        self.leases |= {queue: now + lease for queue, still in zip(QUEUES, held, strict=True) if still}
        return held

    def released(self, token: str, queue: str, *, served: bool = True) -> bool:
        """Returns whether the drain still held the queue."""
        if self.owners.get(queue) != token:
            return False
        self._disown(queue)
        self.served.add(queue)
        if served:
            self.forget_deaths(queue)
        health = self.health[endpoint_of(queue)]
        self.sought |= {endpoint_of(queue)} if health.paused == "removing" else set()
        health.probe = "" if health.probe == f"{token} {queue}" else health.probe
        return True

    def forget_deaths(self, queue: str) -> None:
        del self.deaths[queue]
        self.alone.pop(queue, None)
        self.suspects.pop(queue, None)

    def _disown(self, queue: str) -> None:
        self.owners.pop(queue, None)
        self.leases.pop(queue, None)

    # --- what an operator does -----------------------------------------------------------------------------------

    def swept(self, endpoint: str, before: Seen, limit: int) -> tuple[str, int, int]:
        """One step of a removal. Returns its reply."""
        drop = self.registered[endpoint].removing == "drop"
        swept = held = 0
        for number in range(before.partitions(endpoint)):
            queue = f"{endpoint}.{number}"
            if queue in self.owners and self.leases[queue] > before.now:
                held += 1
                continue
            self._disown(queue)
            for copy in before.waiting(queue)[: limit - swept]:
                swept += 1
                if drop:
                    del self.copies[copy.key]
                else:
                    self._bury(copy.key, before)
        self._trim(endpoint, before, limit)
        if held or any(copy.place != "dead" and key[1] == endpoint for key, copy in self.copies.items()):
            return "removing", swept, held
        del self.registered[endpoint]
        self.health[endpoint] = Health()
        return "removed", swept, 0

    def resumed(self, endpoint: str, before: Seen, now: int) -> bool:
        """Pause and breaker are forgotten, and what waits for another attempt is due.

        Returns whether anything but that kept the endpoint from being served.
        """
        held_up = bool(self.health[endpoint].paused) or before.gate(endpoint, now) > now
        self.health[endpoint] = Health()
        for key, copy in self.copies.items():
            if key[1] == endpoint and copy.place == "retry" and copy.at > before.now:
                self.copies[key] = replace(copy, at=before.now - 1, exact=False, slack=1)
        return held_up

    def replayed(self, endpoint: str, keys: Iterable[Key], before: Seen) -> None:
        queues = self.registered[endpoint].queues
        for key in keys:
            queue = f"{endpoint}.{int(self.copies[key].queue.rpartition('.')[2]) % queues}"
            copy = self.copies.pop(key)
            self.copies[key] = replace(copy, place="retry", queue=queue, attempts=0, at=before.now, exact=False)

    def purged(self, keys: Iterable[Key]) -> None:
        for key in keys:
            del self.copies[key]

    def waits_for_its_time(self, queue: str, before: Seen) -> bool:
        """Whether a queue is on the schedule because of its events alone."""
        return bool(before.waiting(queue)) and queue not in self.owners and not self.health[endpoint_of(queue)].paused

    def repaired(self, before: Seen) -> None:
        for endpoint in self.registered:
            self._trim(endpoint, before, 1000)
            self.sought |= {endpoint} if self.health[endpoint].paused == "removing" else set()

    # --- dead letters and time -----------------------------------------------------------------------------------

    def dead(self, endpoint: str) -> list[Key]:
        return [key for key, copy in self.copies.items() if copy.place == "dead" and key[1] == endpoint]

    def _bury(self, key: Key, before: Seen, attempts: int | None = None) -> None:
        copy = self.copies.pop(key)
        attempts = copy.attempts if attempts is None else attempts
        self.copies[key] = replace(copy, place="dead", attempts=attempts, at=before.now, exact=False)
        self.stats[key[1]]["dead"] += 1

    def _trim(self, endpoint: str, before: Seen, steps: int) -> None:
        """The oldest dead letters fall out where they are too many bytes, or too old."""
        for key in self.dead(endpoint)[:steps]:
            size = sum(self.copies[each].size for each in self.dead(endpoint))
            if size <= DEAD_BYTES and self.copies[key].at >= before.now - DEAD_KEEP:
                break
            del self.copies[key]
            self.stats[endpoint]["dropped"] += 1
            self.counters["dropped"] += 1

    def passed(self, ms: int) -> None:
        """So much time has passed: all that is known is that much longer ago."""
        self.copies = {key: replace(copy, at=copy.at - ms) for key, copy in self.copies.items()}
        self.leases = {queue: end - ms for queue, end in self.leases.items()}
        self.alone = {queue: (sent - ms, event_id) for queue, (sent, event_id) in self.alone.items()}
        self.tokens = {token: left - ms for token, left in self.tokens.items()}


def _rows(args: Sequence[Any], width: int) -> list[Sequence[Any]]:
    return [args[at : at + width] for at in range(0, len(args), width)]
