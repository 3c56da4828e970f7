"""A drain: claim queues that are due, deliver their events, settle, release, while anything is due.

One coroutine holds the thread of it (:meth:`Drain.run`); each request in flight is a task. Whatever dies here,
wherever, loses nothing: an event leaves Redis only by the settle script, after its subscriber answered.
"""

import asyncio
import logging
import time
import uuid

from kasplo_notify.equipment import Equipment, Tally
from kasplo_notify.held import Held
from kasplo_notify.intake import REDIS_RETRY_S, SLICE_S, Intake
from kasplo_notify.line import Line
from kasplo_notify.sender import Sender
from kasplo_notify.settlement import Settlement
from kasplo_notify.store import Call

log = logging.getLogger(__name__)

TICK_S = 0.5
MAX_RUN_S = 300.0
# How long to leave a queue that is still due to an idle worker.
HAND_OVER_S = 0.1
STOP_MARGIN_S = 1.5
# More than the scripts write of the reason of a pause.
_REASON = 60


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
        self._intake = Intake(equipment, self._token, self._line, self._sender, self._held)
        self._settle_failed = False
        self._stopping = False
        self._end_at = time.monotonic() + MAX_RUN_S
        self._give_up_at = float("inf")
        self._tick_at = 0.0

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
        """Deliver while anything is due. Whatever Redis, a record or a receiver does, it does not raise."""
        started = time.monotonic()
        try:
            while not await self._turn():
                await self._rest()
        except Exception:
            log.exception("drain_failed: what it had is given back")
            await self._save()
            raise
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
        await self._settle_due(now)
        await self._release()
        # Nothing is begun while what came of the last could not be noted.
        if not self._settle_failed:
            if not self._stopping or self._intake.lost:
                await self._intake.claim(now, stopping=self._stopping)
            if not self._stopping:
                await self._intake.read()
                await self._send()
        return self._ended()

    async def _send(self) -> None:
        if await self._intake.know(set()):
            await self._sender.start()
        for endpoint in self._sender.broken:
            await self._intake.pause(endpoint, "broken")
        self._sender.broken.clear()

    def _ended(self) -> bool:
        intake = self._intake
        if self._held or intake.strays or intake.lost or self._sender.in_flight or self._settlement:
            return False
        if self._stopping:
            return True
        if self._line.away:
            return False
        return intake.next_due_ms is None or intake.next_due_ms - self._line.now_ms() > self._linger_ms

    async def _rest(self) -> None:
        """Wait for an answer, or for the next thing that has its time."""
        now = time.monotonic()
        wait = min(self._tick_at - now, self._intake.claim_at - now, self._settlement.wait(now))
        if self._line.away or self._settle_failed:
            wait = max(wait, REDIS_RETRY_S)
        elif self._sender.room <= 0 or self._stopping:
            # Only an answer makes room to claim or read; the clock has nothing to add but the tick.
            wait = min(self._tick_at - now, self._settlement.wait(now))
        timer = asyncio.get_running_loop().call_later(max(0.0, wait), self._sender.wake.set)
        await self._sender.wake.wait()
        timer.cancel()
        self._sender.wake.clear()

    def _may_hand_back(self, held: Held) -> bool:
        """Whether a queue may go. A slow answer would keep the rest of it waiting for it.

        A queue whose drains have died stays until it has had its turn alone.
        """
        waits = held.single and held.buffered and not held.served
        if not waits and not (held.in_flight and self._gear.slots.has_slow(held.endpoint)):
            return True
        held.slice_end += SLICE_S
        return False

    # --- what a drain holds ------------------------------------------------------------------------------------

    async def _renew(self, now: float) -> None:
        lease = self._gear.config.worker.lease
        self._tick_at = now + TICK_S
        queues = list(self._held.values())
        for held in queues:
            held.hangs = self._gear.slots.hangs(held.endpoint, now)
            if held.hangs:
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

    async def _settle_due(self, now: float) -> None:
        """Settle until less than a batch is left, as answers go on arriving meanwhile; nothing is begun before that.

        So what a death of the worker delivers twice is bounded: what may be in flight, and a batch.
        """
        while self._settlement.due(now) or (self._settlement and not self._sender.in_flight):
            await self._settle()
            if self._settle_failed:
                return

    async def _settle(self) -> None:
        reply = await self._line.ask(self._settlement.call())
        self._settle_failed = reply is None
        if reply is None:
            return
        self._settlement.done(time.monotonic())
        for name, paused, _gate in reply[3:]:
            endpoint = name.decode()
            held = [each for each in self._held.values() if each.endpoint == endpoint]
            if paused and any(each.probe or not each.closing for each in held):
                log.warning(
                    "endpoint_paused: %s is paused (%s); its events wait",
                    endpoint,
                    paused[:_REASON].decode(errors="replace"),
                )
            for each in held:
                if not each.probe:
                    self._sender.close(each)

    async def _release(self) -> None:
        ready = [held for held in self._held.values() if held.done]
        unserved = [held.queue for held in ready if not held.served] + self._intake.strays
        done = unserved + [held.queue for held in ready if held.served]
        if not done:
            return
        reply = await self._line.ask(self._release_call(done, len(unserved)))
        if reply is None:
            return
        for queue in done:
            self._held.pop(queue, None)
        self._intake.strays = []
        still_due, idle, first = reply[3:]
        self._intake.next_due_ms = float(first) if first else None
        if still_due:
            # While there is other work, an idle worker may have what comes due again.
            leave = bool(idle) and bool(self._held)
            self._intake.claim_at = time.monotonic() + HAND_OVER_S if leave else 0.0
            if idle:
                self._gear.help_wanted()

    async def _save(self) -> None:
        """After a fault of ours: note what was answered, and let the queues not wait for the end of the lease."""
        await self._sender.cancel()
        while self._settlement and not self._settle_failed:
            await self._settle()
        held = [*self._held, *self._intake.strays]
        if held:
            await self._line.ask(self._release_call(held, len(held)))

    def _release_call(self, queues: list[str], unserved: int) -> Call:
        """The call that gives back `queues`; the first ones were not served, and it may be they that kill."""
        return Call("release", [self._token, self._gear.default_delay_ms, unserved, *queues])
