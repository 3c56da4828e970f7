"""A drain: claim queues that are due, deliver their events, settle, release, while anything is due.

One coroutine holds the thread of it (:meth:`Drain.run`); each request in flight is a task. Whatever dies here,
wherever, loses nothing: an event leaves Redis only by the settle script, after its subscriber answered.
"""

import asyncio
import logging
import time
import uuid
from typing import Any

from kasplo_notify.book import Subscriber
from kasplo_notify.equipment import Equipment, Tally
from kasplo_notify.errors import NotifyError
from kasplo_notify.held import POISON_AFTER, Held
from kasplo_notify.line import Line
from kasplo_notify.registry import removal
from kasplo_notify.sender import Sender
from kasplo_notify.settlement import Settlement
from kasplo_notify.store import Call

log = logging.getLogger(__name__)

TICK_S = 0.5
SLICE_S = 1.0
MAX_RUN_S = 300.0
# How often to look for queues that came due unannounced, and how long to leave one to an idle worker.
LOOK_S, HAND_OVER_S = 0.25, 0.1
# When to see again whether there is room for more.
CROWDED_S = 0.02
MAX_HELD, MAX_CLAIM, READ_AT_CLAIM = 256, 128, 16
STOP_MARGIN_S = 1.5
REDIS_RETRY_S = 0.2


class Drain:
    """One run of claim, deliver, settle, release.

    Args:
        equipment: What the process shares; no other drain may use it meanwhile.
        linger: Seconds that a queue may be away from being due for the drain to wait for it.
    """

    def __init__(self, equipment: Equipment, *, linger: float) -> None:
        self._gear = equipment
        self._linger_ms = linger * 1000
        self._token = f"{equipment.name}:{uuid.uuid4().hex[:12]}"
        self.tally = Tally()
        self._line = Line(equipment.store)
        self._settlement = Settlement(equipment.config, self._token)
        self._sender = Sender(equipment, self._settlement, self._line, self.tally)
        self._held: dict[str, Held] = {}
        # Queues that were claimed for an endpoint that nobody knows how to deliver to.
        self._strays: list[str] = []
        self._stopping = False
        self._end_at = time.monotonic() + MAX_RUN_S
        self._give_up_at = float("inf")
        self._tick_at = self._claim_at = 0.0
        self._next_due_ms: float | None = None

    def stop(self) -> None:
        """Claim and start nothing more; :meth:`run` returns when what is in flight is settled."""
        if not self._stopping:
            self._stopping = True
            longest = max((held.subscriber.timeout for held in self._held.values()), default=0.0)
            self._give_up_at = time.monotonic() + longest + STOP_MARGIN_S
            self._sender.wake.set()

    def abort(self) -> None:
        """Stop without waiting for answers: what is in flight will be delivered again."""
        self.stop()
        self._give_up_at = 0.0
        self._sender.wake.set()

    async def run(self) -> Tally:
        """Deliver while anything is due. Whatever Redis or a receiver does, it does not raise."""
        started = time.monotonic()
        try:
            while not await self._turn():
                await self._rest()
        finally:
            await self._sender.cancel()
            self.tally.seconds = time.monotonic() - started
        return self.tally

    async def _turn(self) -> bool:
        """Do what there is to do; whether the drain has ended."""
        now = time.monotonic()
        if now >= self._end_at:
            self.stop()
        if now >= self._give_up_at:
            unknown = (self._sender.in_flight, len(self._settlement))
            log.warning("stopped_early: %d requests without an answer, %d answers not settled", *unknown)
            return True
        self._gear.slots.age(now)
        for held in self._held.values():
            if self._stopping or (now >= held.slice_end and self._may_hand_back(held)):
                self._sender.close(held)
        if now >= self._tick_at:
            await self._renew(now)
        if self._settlement.due(now) or (self._settlement and not self._sender.in_flight):
            await self._settle()
        await self._release()
        if not self._stopping:
            await self._claim(now)
            await self._read()
            if await self._know(set()):
                await self._sender.start()
        return self._ended()

    def _ended(self) -> bool:
        if self._held or self._strays or self._sender.in_flight or self._settlement:
            return False
        if self._stopping:
            return True
        if self._line.away:
            return False
        return self._next_due_ms is None or self._next_due_ms - self._line.now_ms() > self._linger_ms

    async def _rest(self) -> None:
        """Wait for an answer, or for the next thing that has its time."""
        now = time.monotonic()
        wait = min(self._tick_at - now, self._claim_at - now, self._settlement.wait(now))
        if self._line.away:
            wait = max(wait, REDIS_RETRY_S)
        elif self._sender.room <= 0 or self._stopping:
            # Only an answer makes room to claim or read; the clock has nothing to add but the tick.
            wait = min(self._tick_at - now, self._settlement.wait(now))
        timer = asyncio.get_running_loop().call_later(max(0.0, wait), self._sender.wake.set)
        await self._sender.wake.wait()
        timer.cancel()
        self._sender.wake.clear()

    def _may_hand_back(self, held: Held) -> bool:
        """Whether a served queue may go. A slow answer would keep the rest of the queue waiting for it."""
        if not (held.slow and held.in_flight):
            return True
        held.slice_end += SLICE_S
        return False

    # --- what a drain holds ------------------------------------------------------------------------------------

    async def _renew(self, now: float) -> None:
        lease = self._gear.config.worker.lease
        self._tick_at = now + TICK_S
        queues = list(self._held.values())
        for held in queues:
            held.slow = self._gear.slots.has_slow(held.endpoint)
            if held.slow:
                # It opens one request a second at most; what others could send must not wait behind its events.
                self._sender.forget(held)
            self._sender.list(held)
            # More may have come due while answers are waited for.
            held.exhausted = held.exhausted and not held.in_flight
        if not queues:
            return
        reply = await self._line.ask(Call("renew", [self._token, int(lease * 1000), *self._held]))
        if reply is None:
            return
        for held, (still, paused, gate) in zip(queues, reply[2], strict=True):
            # By the clock of before the call: the lease in Redis ends later than we believe, never earlier.
            held.lease_end = now + lease
            if not still or paused or (float(gate) > self._line.now_ms() and not held.probe):
                self._sender.close(held)

    async def _settle(self) -> None:
        reply = await self._line.ask(self._settlement.call())
        if reply is None:
            return
        self._settlement.done(time.monotonic())
        for name, paused, _gate in reply[3:]:
            endpoint = name.decode()
            if paused:
                log.warning("endpoint_paused: %s is paused (%s); its events wait", endpoint, paused.decode())
            for held in self._held.values():
                if held.endpoint == endpoint and not held.probe:
                    self._sender.close(held)

    async def _release(self) -> None:
        done = [held.queue for held in self._held.values() if held.done] + self._strays
        if not done:
            return
        reply = await self._line.ask(Call("release", [self._token, self._gear.default_delay_ms, *done]))
        if reply is None:
            return
        for queue in done:
            self._held.pop(queue, None)
        self._strays = []
        still_due, idle, first = reply[3:]
        self._next_due_ms = float(first) if first else None
        if still_due:
            # While there is other work, an idle worker may have what comes due again.
            leave = bool(idle) and bool(self._held)
            self._claim_at = time.monotonic() + HAND_OVER_S if leave else 0.0
            if idle:
                self._gear.help_wanted()

    # --- what it knows -----------------------------------------------------------------------------------------

    async def _know(self, claimed: set[str]) -> bool:
        """See the registry as it is, for the queues that are held and for endpoints just claimed.

        False when Redis did not answer; nothing must be sent then.
        """
        book = self._gear.book
        if not self._line.stale and claimed <= book.subscribers.keys():
            return True
        names = claimed | {held.endpoint for held in self._held.values()}
        try:
            await book.load(names, self._line.version)
        except NotifyError as error:
            self._line.lost(error)
            return False
        self._line.stale = False
        for held in self._held.values():
            subscriber = book.subscribers[held.endpoint]
            if isinstance(subscriber, Subscriber):
                held.subscriber = subscriber
            else:
                self._sender.close(held)
                await self._pause(held.endpoint, subscriber)
        return True

    async def _pause(self, endpoint: str, reason: str) -> None:
        log.error("endpoint_paused: the record of %s is %s; its events wait", endpoint, reason)
        try:
            await self._gear.store.run(Call("pause", [endpoint, reason]))
        except NotifyError as error:
            self._line.lost(error)

    # --- what is due -------------------------------------------------------------------------------------------

    async def _claim(self, now: float) -> None:
        if now < self._claim_at:
            return
        room = self._sender.room
        # A queue that only waits for slow answers, or to be given back, costs next to nothing.
        active = sum(not (held.slow or held.closing) for held in self._held.values())
        most = min(MAX_CLAIM, room, MAX_HELD - active)
        if most <= 0:
            self._claim_at = now + CROWDED_S
            return
        gear = self._gear
        lease_ms = int(gear.config.worker.lease * 1000)
        held = len(self._held)
        reply = await self._line.ask(
            Call("claim", [self._token, lease_ms, gear.default_delay_ms, most, READ_AT_CLAIM, room, held])
        )
        if reply is None:
            self._claim_at = now + REDIS_RETRY_S
            return
        _, _, first, removing, claimed, own, broken = reply
        for queue, fault in broken:
            log.error("queue_broken: the keys of %s are not as they should be: %s", queue.decode(), fault.decode())
        # The reply that gave them to this drain was lost: given back, they are claimed anew.
        self._strays += [queue.decode() for queue in own if queue.decode() not in self._held]
        self._next_due_ms = float(first) if first else None
        self._plan(more=len(claimed) == most)
        leaving = {_endpoint(queue) for queue in removing}
        if await self._know(leaving | {_endpoint(row[0]) for row in claimed}):
            for row in claimed:
                await self._take(row, now)
            for endpoint in leaving:
                await self._remove(endpoint)
        else:
            self._strays += [row[0].decode() for row in claimed]

    def _plan(self, *, more: bool) -> None:
        """When to claim again: at once while there is more, else when the schedule says, or after a look."""
        wait = 0.0 if more else LOOK_S
        if not more and self._next_due_ms is not None:
            wait = min(LOOK_S, max(0.01, (self._next_due_ms - self._line.now_ms()) / 1000 + 0.001))
        self._claim_at = time.monotonic() + wait

    async def _take(self, row: list[Any], now: float) -> None:
        name, probe, deaths, alone, resumed, asked, events = row
        queue, endpoint = name.decode(), _endpoint(name)
        subscriber = self._gear.book.subscribers[endpoint]
        if not isinstance(subscriber, Subscriber):
            self._strays.append(queue)
            await self._pause(endpoint, subscriber)
            return
        seen, _, suspect = alone.decode().partition(" ")
        held = Held(
            queue=queue,
            endpoint=endpoint,
            token=self._token,
            subscriber=subscriber,
            window=self._gear.window(queue),
            lease_end=now + self._gear.config.worker.lease,
            slice_end=now + SLICE_S * self._gear.rng.uniform(0.5, 1.5),
            probe=bool(probe),
            deaths=deaths,
            suspect=suspect if seen.isdigit() and int(seen) >= POISON_AFTER else "",
            resumed_ms=int(resumed),
        )
        if held.probe:
            held.window.restart()
        self._held[queue] = held
        self._sender.take(held, events, asked)

    async def _read(self) -> None:
        now, slots = time.monotonic(), self._gear.slots
        hungry = [
            (held, wants)
            for held in self._held.values()
            if (wants := held.wants()) and (not held.slow or slots.may_open(held.endpoint, now))
        ]
        if not hungry or self._sender.room <= 0:
            return
        args: list[Any] = [self._token, self._gear.default_delay_ms]
        for held, wants in hungry:
            args += (held.queue, held.last_id, wants, held.last_score, wants + held.ties)
        reply = await self._line.ask(Call("read", args))
        if reply is None:
            return
        for (held, wants), (still, events) in zip(hungry, reply[2], strict=True):
            if still:
                self._sender.take(held, events, wants)
            else:
                self._sender.close(held)

    async def _remove(self, endpoint: str) -> None:
        """One step of a removal that its command did not finish."""
        subscriber = self._gear.book.subscribers[endpoint]
        drop = isinstance(subscriber, Subscriber) and subscriber.endpoint.removing == "drop"
        try:
            await self._gear.store.run(removal(self._gear.store.keys, self._gear.config, endpoint, drop=drop))
        except NotifyError as error:
            self._line.lost(error)


def _endpoint(queue: bytes) -> str:
    return queue.decode().rpartition(".")[0]
