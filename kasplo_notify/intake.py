"""What a drain takes from Redis: queues that are due, their events, and what the registry says of their endpoints."""

import logging
import time
from typing import Any

from kasplo_notify.book import Subscriber
from kasplo_notify.equipment import Equipment
from kasplo_notify.errors import NotifyError
from kasplo_notify.held import Held, suspicion
from kasplo_notify.line import Line
from kasplo_notify.registry import removal
from kasplo_notify.sender import Sender
from kasplo_notify.store import Arg, Call

log = logging.getLogger(__name__)

SLICE_S = 1.0
# How often to look for queues that came due unannounced, and when to see again whether there is room for more.
LOOK_S, CROWDED_S = 0.25, 0.02
MAX_HELD, MAX_CLAIM, READ_AT_CLAIM = 256, 128, 16
REDIS_RETRY_S = 0.2
# For how long a worker has to live before it sends what is suspected: else whatever ends workers soon after their start
# would condemn what they send first.
PROOF_S = (1.0, 3.0)
_TOLD = 200


class Intake:
    """Claims and reads for one drain.

    Args:
        equipment: What the process shares.
        token: The drain, as the scripts know it.
        line: Its line to Redis.
        sender: Gets the events.
        held: The queues that the drain holds, by name; what is claimed is put in.

    Attributes:
        strays: Queues that were claimed and cannot be worked with; the drain gives them back.
        lost: Whether the reply to the last claim is missing: Redis may have given the drain more than it knows.
        next_due_ms: When the schedule says that something is due next, in Unix milliseconds by Redis' clock.
        claim_at: When to claim again, in seconds of the monotonic clock.
    """

    def __init__(self, equipment: Equipment, token: str, line: Line, sender: Sender, held: dict[str, Held]) -> None:
        self._gear = equipment
        self._token = token
        self._line = line
        self._sender = sender
        self._held = held
        self.strays: list[str] = []
        self.lost = False
        self.next_due_ms: float | None = None
        self.claim_at = 0.0

    # --- what is due ---------------------------------------------------------------------------------------------

    async def claim(self, now: float, *, stopping: bool) -> None:
        """Claim queues that are due, if it is time and there is room; when `stopping`, only what a lost reply gave."""
        if now < self.claim_at:
            return
        room = self._sender.room
        # A queue that only waits for slow answers, or to be given back, costs next to nothing.
        active = sum(not (held.hangs or held.closing) for held in self._held.values())
        most = 0 if stopping else max(0, min(MAX_CLAIM, room, MAX_HELD - active))
        if not most and not self.lost:
            self.claim_at = now + CROWDED_S
            return
        lease_ms = int(self._gear.config.worker.lease * 1000)
        limits = [most, READ_AT_CLAIM, room, len(self._held)]
        args: list[Arg] = [self._token, lease_ms, self._gear.default_delay_ms, *limits, int(self.lost)]
        reply = await self._line.ask(Call("claim", args))
        self.lost = reply is None
        if reply is None:
            self.claim_at = now + REDIS_RETRY_S
            return
        _, _, first, removing, claimed, own, broken = reply
        for queue, fault in broken:
            log.error("queue_broken: the keys of %s are not as they should be: %s", _text(queue), _text(fault))
        # What the lost reply gave to this drain: given back, it is claimed anew.
        self.strays += {queue.decode() for queue in own} - self._held.keys() - {*self.strays}
        self.next_due_ms = float(first) if first else None
        self._plan(more=len(claimed) == most > 0)
        leaving = {_endpoint(queue) for queue in removing}
        if await self.know(leaving | {_endpoint(row[0]) for row in claimed}):
            for row in claimed:
                await self._take(row, now)
            for endpoint in leaving:
                await self._remove(endpoint)
        else:
            self.strays += [row[0].decode() for row in claimed]

    async def read(self) -> None:
        """Read more of what is due in the queues that are held."""
        now, slots = time.monotonic(), self._gear.slots
        hungry = [
            (held, wants)
            for held in self._held.values()
            if (wants := held.wants()) and (not held.hangs or slots.may_open(held.endpoint, now))
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

    def _plan(self, *, more: bool) -> None:
        """When to claim again: at once while there is more, else when the schedule says, or after a look."""
        wait = 0.0 if more else LOOK_S
        if not more and self.next_due_ms is not None:
            wait = min(LOOK_S, max(0.01, (self.next_due_ms - self._line.now_ms()) / 1000 + 0.001))
        self.claim_at = time.monotonic() + wait

    async def _take(self, row: list[Any], now: float) -> None:
        queue, endpoint = row[0].decode(), _endpoint(row[0])
        subscriber = self._gear.book.subscribers[endpoint]
        if not isinstance(subscriber, Subscriber):
            self.strays.append(queue)
            await self.pause(endpoint, subscriber)
            return
        try:
            held = self._hold(row, subscriber, now)
        except ValueError:
            # Whatever is wrong with one endpoint must not end the deliveries to all others.
            log.exception("endpoint_broken: what is stored for %s cannot be worked with", queue)
            self.strays.append(queue)
            await self.pause(endpoint, "broken")
            return
        if held.probe:
            held.window.restart()
        else:
            held.window.resume(now)
        self._held[queue] = held
        self._sender.take(held, row[6], row[5])

    def _hold(self, row: list[Any], subscriber: Subscriber, now: float) -> Held:
        name, probe, deaths, noted, resumed, _, _ = row
        suspected, poison = suspicion(noted.decode())
        return Held(
            queue=name.decode(),
            endpoint=_endpoint(name),
            token=self._token,
            subscriber=subscriber,
            window=self._gear.window(name.decode()),
            lease_end=now + self._gear.config.worker.lease,
            slice_end=now + SLICE_S * self._gear.rng.uniform(0.5, 1.5),
            probe=bool(probe),
            deaths=deaths,
            suspected=suspected,
            not_before=now + self._gear.rng.uniform(*PROOF_S) if suspected else 0.0,
            poison=poison,
            resumed_ms=int(resumed),
            # Where a drain sends but one event before it has to stop, neither kind must wait for ever.
            was_fresh=self._gear.rng.random() < 0.5,
        )

    # --- what is known -------------------------------------------------------------------------------------------

    async def know(self, claimed: set[str]) -> bool:
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
                await self.pause(held.endpoint, subscriber)
        return True

    async def pause(self, endpoint: str, reason: str) -> None:
        """Pause an endpoint that cannot be delivered to: its record is `broken`, or it is `unregistered`."""
        log.error("endpoint_paused: the record of %s is %s; its events wait", endpoint, reason)
        try:
            await self._gear.store.run(Call("pause", [endpoint, reason]))
        except NotifyError as error:
            self._line.lost(error)

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


def _text(stored: bytes) -> str:
    """What somebody else may have written to Redis, for the log."""
    return ascii(stored[:_TOLD].decode(errors="replace"))[1:-1]
