"""Which event is sent next, and what its answer means: from read-ahead to verdict."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence

from kasplo_notify.book import Subscriber
from kasplo_notify.equipment import Equipment, Tally
from kasplo_notify.errors import quoted
from kasplo_notify.held import Held, Item
from kasplo_notify.line import Line
from kasplo_notify.outcome import Outcome
from kasplo_notify.request import Request, UnbuildableEvent
from kasplo_notify.settlement import Result, Settlement
from kasplo_notify.store import Call
from kasplo_notify.verdict import Verdict, decide
from kasplo_notify.window import SLOW_AFTER_S, Ticket

log = logging.getLogger(__name__)

MAX_BUFFERED, MAX_BUFFERED_BYTES = 1024, 16_777_216


class Sender:
    """The events that a drain has read, and its requests in flight.

    Attributes:
        in_flight: Requests that have no verdict yet.
        broken: Endpoints of which something stored cannot be worked with.
        wake: Set when a request was answered.
    """

    def __init__(self, equipment: Equipment, settlement: Settlement, line: Line, tally: Tally) -> None:
        self._gear = equipment
        self._settlement = settlement
        self._line = line
        self._tally = tally
        self._ready: deque[Held] = deque()
        self._one_by_one: deque[Held] = deque()
        self._alone: Held | None = None
        self._alone_since = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._buffered = self._buffered_bytes = 0
        self.in_flight = 0
        self.broken: set[str] = set()
        self.wake = asyncio.Event()

    @property
    def room(self) -> int:
        """How many more events are worth reading."""
        if self._buffered_bytes >= MAX_BUFFERED_BYTES:
            return 0
        return min(MAX_BUFFERED - self._buffered, self._gear.slots.free)

    def take(self, held: Held, rows: Sequence[Sequence[bytes]], asked: int) -> None:
        """Buffer what was read from a queue; what must not be attempted is given up."""
        try:
            self._sort(held, rows, asked)
        except Exception:
            # Whatever is wrong with one endpoint must not end the deliveries to all others.
            log.exception("endpoint_broken: what is stored for %s cannot be worked with", held.queue)
            self.close(held)
            self.broken.add(held.endpoint)
        self.list(held)

    def _sort(self, held: Held, rows: Sequence[Sequence[bytes]], asked: int) -> None:
        now_ms = self._line.now_ms()
        max_age_ms = self._gear.config.delivery.max_age * 1000
        for item in held.add(rows, asked):
            if item.event is None:
                self._give_up(held, item, "broken_record", "the stored record is not an event")
            elif item.event.id == held.poison:
                self._give_up(held, item, "poison", "workers died while it alone was being delivered")
            elif now_ms - max(item.progress.first_due_ms, held.resumed_ms) > max_age_ms:
                self._give_up(held, item, "too_old", "it was older than delivery.max_age")
            else:
                held.keep(item)
                self._buffered += 1
                self._buffered_bytes += item.size

    def list(self, held: Held) -> None:
        """Put a queue in line for :meth:`start`, if it has something to send."""
        if held.buffered and not held.listed and not held.closing:
            held.listed = True
            if not held.single:
                self._ready.append(held)
            elif held.suspected:
                # What nobody suspects yet must not kill the worker while this is in flight.
                self._one_by_one.appendleft(held)
            else:
                self._one_by_one.append(held)

    def close(self, held: Held) -> None:
        """Start nothing more of a queue."""
        held.closing = True
        self.forget(held)

    def forget(self, held: Held) -> None:
        """Let go of what was read ahead of a queue; it is in Redis all the same."""
        self._buffered -= held.buffered
        self._buffered_bytes -= held.forget()

    async def start(self) -> None:
        """Start requests, one of each queue in turn, as far as windows and slots allow.

        A queue that may not send leaves the line; an answer, or the next tick of the drain, puts it back.
        """
        while self._gear.slots.free and (held := self._next_in_line()) is not None:
            held.listed = False
            now = time.monotonic()
            if not self._may_start(held, now):
                continue
            if held.single:
                self._alone, self._alone_since = held, now
            item = held.next()
            self._buffered -= 1
            self._buffered_bytes -= item.size
            if held.single and not await self._announce(held, item):
                held.finished(item)
                self.close(held)
                continue
            try:
                self._open(held, item)
            except Exception:  # as above
                log.exception("endpoint_broken: no request can be made for %s", held.endpoint)
                held.finished(item)
                self.close(held)
                self.broken.add(held.endpoint)
            self.list(held)

    async def cancel(self) -> None:
        """End the requests in flight; their events stay where they are."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # A task that had not begun could not give its slot back.
        self._gear.slots.clear()

    def _next_in_line(self) -> Held | None:
        """A queue whose drains have died goes one event at a time. What just went out then is suspected at a death.

        A drain sends what is suspected by itself, without the events of other such queues: it will be alone to blame.
        For a second; more would prove nothing.
        """
        if self._one_by_one and self._may_follow(self._one_by_one[0]):
            return self._one_by_one.popleft()
        return self._ready.popleft() if self._ready else None

    def _may_follow(self, following: Held) -> bool:
        alone = self._alone
        if alone is None or alone.idle or not (alone.suspected or following.suspected):
            return True
        return time.monotonic() - self._alone_since >= SLOW_AFTER_S

    def _may_start(self, held: Held, now: float) -> bool:
        return (
            held.buffered > 0
            and not held.closing
            and now >= held.not_before
            and held.in_flight < held.limit
            and now + held.subscriber.timeout < held.lease_end
            and self._gear.slots.may_open(held.endpoint, now)
        )

    async def _announce(self, held: Held, item: Item) -> bool:
        """Drains died holding this queue: say which event is alone in flight before it is."""
        event_id = item.event.id if item.event else ""
        reply = await self._line.ask(Call("alone", [held.token, held.queue, event_id]))
        return reply is not None and bool(reply[2])

    def _open(self, held: Held, item: Item) -> None:
        event = item.event
        if event is None:
            return
        try:
            request = held.subscriber.builder.build(
                event, attempt=item.progress.attempts + 1, timestamp=int(self._line.now_ms() / 1000)
            )
        except UnbuildableEvent as error:
            # The id may be what is broken, and other formatters than ours write it as it is.
            log.error("event_unbuildable: %s for %s: %s", quoted(event.id), held.endpoint, error)
            held.finished(item)
            self._give_up(held, item, "unbuildable", str(error))
            return
        if held.probe:
            self.close(held)
        self.in_flight += 1
        # While it waits the event is there, and the request once, as it is written.
        ticket = self._gear.slots.opened(held.endpoint, time.monotonic(), item.size + request.size)
        task = asyncio.ensure_future(self._attempt(held, item, ticket, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _attempt(self, held: Held, item: Item, ticket: Ticket, request: Request) -> None:
        subscriber = held.subscriber
        try:
            sending = self._gear.transport.send(request, timeout=subscriber.timeout)
            del request  # it is the transport's, which lets go of it
            outcome = await sending
            verdict = self._decide(outcome, item, subscriber)
        except Exception:
            # A fault of ours must neither lose the event nor stop the other deliveries.
            log.exception("attempt_failed: %s for %s", item.event.id if item.event else "", held.endpoint)
            outcome = Outcome(status=None, error="worker", detail="the attempt failed in the worker", duration_ms=0)
            verdict = self._decide(outcome, item, subscriber)
        finally:
            now = time.monotonic()
            self._gear.slots.closed(ticket, now)
            held.finished(item)
            self.in_flight -= 1
            self.wake.set()
        if verdict.action == "delivered":
            self._tally.delivered += 1
            held.window.succeeded(subscriber.cap, now)
        else:
            self._tally.failed += 1
            self._tally.dead += verdict.action == "dead"
            held.window.failed(now, ticket.started)
        self._settlement.add(Result(held, item, verdict, outcome), now)
        self.list(held)

    def _decide(self, outcome: Outcome, item: Item, subscriber: Subscriber) -> Verdict:
        return decide(outcome, item.progress, subscriber.policy, self._line.now_ms() / 1000, self._gear.rng)

    def _give_up(self, held: Held, item: Item, reason: str, detail: str) -> None:
        self._tally.dead += 1
        verdict = Verdict(action="dead", reason=reason)
        self._settlement.add(Result(held, item, verdict, None, detail), time.monotonic())
