"""Test-only: what a worker or producer of a run does to itself. The product has no switch for any of it.

`planted` is a fault that the checker has to find, `die` a kill -9 at an exact place, `poison` a text that kills whoever
is about to send it, `clock` a clock that is wrong, `no_names` a network without name servers. `count` is no harm: the
folder in which the process counts what it has open (`unsettled.py`), planted faults included; what a death at an exact
place prevents is not open.
All of it patches the product's seams after the fork (`AsyncStore.run`, `Transport.send`), before it runs.
"""

import asyncio
import ipaddress
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kasplo_notify.emission import Emission
from kasplo_notify.held import Held, Item
from kasplo_notify.outcome import Outcome
from kasplo_notify.request import Request
from kasplo_notify.sender import Sender
from kasplo_notify.settlement import Result, Settlement
from kasplo_notify.store import AsyncStore, Call, Store
from kasplo_notify.transport import Transport
from kasplo_notify.verdict import Verdict
from kasplo_notify.window import Ticket
from tests.torture import unsettled
from tests.torture.unsettled import HEADER, ROW

Run = Callable[[AsyncStore, Call], Coroutine[Any, Any, Any]]

# Where a worker can be told to die. Before a script: not sent. After it: applied, and who asked has not been told.
# Inside settle's reply: applied, and bytes of the reply have come that nobody has parsed.
BOUNDARIES = (
    "after claim", "after read", "before the request", "after the answer", "before settle",
    "inside settle's reply", "after settle", "before release", "after release", "after renew", "in the dispatcher",
)  # fmt: skip


def apply(how: dict[str, Any]) -> None:
    """Do to this process what `how` says."""
    if planted := how.get("planted"):
        PLANTED[planted]()
    if "count" in how:
        unsettled.count(Path(how["count"]) / str(os.getpid()))
    if "die" in how:
        _die(how["die"], how["after"])
    if "poison" in how:
        _die_of(how["poison"].encode())
    if "clock" in how:
        _shift_clock(how["clock"])
    if how.get("no_names"):
        _no_names()


# --- planted faults --------------------------------------------------------------------------------------------------


def _settle_before_deliver() -> None:
    """The event leaves Redis before its subscriber has it."""
    attempt = Sender._attempt

    async def settled_first(self: Sender, held: Held, item: Item, ticket: Ticket, request: Request) -> None:
        early = Settlement(self._gear.config, held.token)
        early.add(Result(held, item, Verdict(action="delivered", reason="delivered"), None), 0.0)
        held.unsettled -= 1
        await self._gear.store.run(early.call())
        await attempt(self, held, item, ticket, request)

    Sender._attempt = settled_first  # type: ignore[method-assign]


def _move_in_two_calls() -> None:
    """A retry is taken out of its queue by one call, and put back by the next."""
    run = AsyncStore.run

    async def moved(self: AsyncStore, call: Call) -> Any:
        if call.script != "settle":
            return await run(self, call)
        given: list[Any] = list(call.args)
        for at in range(HEADER, len(given), ROW):
            queue, kind, ref, action, progress, delay = given[at : at + 6]
            if action != "retry" or kind != "n":
                continue
            key = self.keys(f"new:{queue}")
            ((_, fields),) = await self.client.xrange(key, ref, ref) or ((b"", {}),)
            await self.client.xdel(key, ref)
            await asyncio.sleep(0.05)
            if fields:
                member = progress + b"\n" + fields[b"e"]
                seconds, _ = await self.client.time()
                await self.client.zadd(self.keys(f"retry:{queue}"), {member: seconds * 1000 + int(delay)})
        return await run(self, call)

    AsyncStore.run = moved  # type: ignore[method-assign]


def _short_lease() -> None:
    """The lease ends before a request has to."""
    run = AsyncStore.run

    async def short(self: AsyncStore, call: Call) -> Any:
        if call.script in ("claim", "renew"):
            call = Call(call.script, [call.args[0], 300, *call.args[2:]], call.keys)
        return await run(self, call)

    AsyncStore.run = short  # type: ignore[method-assign]


def _no_token() -> None:
    """A push cannot be recognised when it is repeated."""
    make = Emission._call

    def without(self: Emission, *args: Any) -> Call:
        call = make(self, *args)
        made = list(call.args)
        made[1] = ""
        for at in range(7 + 3 * int(made[6]), len(made), 3):
            made[at] = ""
        return Call(call.script, made, call.keys)

    Emission._call = without  # type: ignore[method-assign, assignment]


def _pop() -> None:
    """Whoever reads events takes them out."""
    run = AsyncStore.run

    async def popped(self: AsyncStore, call: Call) -> Any:
        reply = await run(self, call)
        if call.script == "claim":
            read = [(queue.decode(), events) for queue, *_, events in reply[4]]
        elif call.script == "read":
            read = [(call.args[at], row[1]) for at, row in zip(range(2, len(call.args), 5), reply[2], strict=True)]
        else:
            read = []
        for queue, events in read:
            for kind, ref, *_ in events:
                if kind == b"n":
                    await self.client.xdel(self.keys(f"new:{queue}"), ref)
                else:
                    await self.client.zrem(self.keys(f"retry:{queue}"), ref)
        return reply

    AsyncStore.run = popped  # type: ignore[method-assign]


def _twice() -> None:
    """Every fourth request is made twice."""
    send = Transport.send
    sent = 0

    async def again(self: Transport, request: Request, *, timeout: float) -> Outcome:  # noqa: ASYNC109 - as it has it
        nonlocal sent
        sent += 1
        if sent % 4 == 0:
            await send(self, request, timeout=timeout)
        return await send(self, request, timeout=timeout)

    Transport.send = again  # type: ignore[method-assign]


PLANTED = {
    "settle before deliver": _settle_before_deliver,
    "move in two calls": _move_in_two_calls,
    "lease shorter than the timeout": _short_lease,
    "emit without its token": _no_token,
    "claim by a pop": _pop,
    "a request made twice": _twice,
}


# --- deaths ----------------------------------------------------------------------------------------------------------


def _die(boundary: str, after: int) -> None:
    """Kill -9 by its own hand, when it has passed `boundary` so often."""
    left = after

    def passed() -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    if boundary in ("before the request", "after the answer"):
        _die_at_request(boundary, passed)
    elif boundary == "in the dispatcher":
        _die_at_peek(passed)
    elif boundary == "inside settle's reply":
        _die_at_reply(passed)
    else:
        _die_at_script(boundary, passed)


def _die_at_script(boundary: str, passed: Callable[[], None]) -> None:
    when, _, script = boundary.partition(" ")
    run = AsyncStore.run

    async def deadly(self: AsyncStore, call: Call) -> Any:
        if call.script == script and when == "before":
            passed()
        reply = await run(self, call)
        # A claim that found nothing is no boundary.
        if call.script == script and when == "after" and (script != "claim" or reply[4]):
            passed()
        return reply

    AsyncStore.run = deadly  # type: ignore[method-assign]


def _die_at_request(boundary: str, passed: Callable[[], None]) -> None:
    send = Transport.send

    async def deadly(self: Transport, request: Request, *, timeout: float) -> Outcome:  # noqa: ASYNC109 - as it has it
        if boundary == "before the request":
            passed()
        outcome = await send(self, request, timeout=timeout)
        if boundary == "after the answer":
            passed()
        return outcome

    Transport.send = deadly  # type: ignore[method-assign]


def _die_at_reply(passed: Callable[[], None]) -> None:
    """redis-py reads from a stream that asyncio fills; nothing else of a worker does: HTTP has its own."""
    run, feed = AsyncStore.run, asyncio.StreamReader.feed_data
    waiting = 0

    async def awaited(self: AsyncStore, call: Call) -> Any:
        nonlocal waiting
        waiting += call.script == "settle"
        try:
            return await run(self, call)
        finally:
            waiting -= call.script == "settle"

    def fed(self: asyncio.StreamReader, data: bytes) -> None:
        # A server that does not know the script says so, and has not run it.
        if waiting and not data.startswith(b"-"):
            passed()
        feed(self, data)

    AsyncStore.run = awaited  # type: ignore[method-assign]
    asyncio.StreamReader.feed_data = fed  # type: ignore[method-assign, assignment]


def _die_at_peek(passed: Callable[[], None]) -> None:
    run = Store.run

    def deadly(self: Store, call: Call) -> Any:
        reply = run(self, call)
        # It was this worker's turn to ask for a drain.
        if call.script == "peek" and reply[7]:
            passed()
        return reply

    Store.run = deadly  # type: ignore[method-assign]


def _die_of(poison: bytes) -> None:
    """Kill -9 by its own hand, whenever a request has this in its body."""
    send = Transport.send

    async def deadly(self: Transport, request: Request, *, timeout: float) -> Outcome:  # noqa: ASYNC109 - as it has it
        if poison in request.body:
            os.kill(os.getpid(), signal.SIGKILL)
        return await send(self, request, timeout=timeout)

    Transport.send = deadly  # type: ignore[method-assign]


# --- clocks ----------------------------------------------------------------------------------------------------------


def _shift_clock(seconds: float) -> None:
    """Every clock of this process that shows the time of day is wrong by so much."""
    true = time.time
    time.time = lambda: true() + seconds
    for name, module in list(sys.modules.items()):
        if name.startswith("rq") and hasattr(module, "now"):
            setattr(module, "now", lambda: datetime.now(UTC) + timedelta(seconds=seconds))  # noqa: B010 - RQ has no types


# --- names -----------------------------------------------------------------------------------------------------------


def _no_names() -> None:
    """No name resolves; addresses do."""
    look_up = socket.getaddrinfo

    def numeric(host: Any, *args: Any, **options: Any) -> Any:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise socket.gaierror(socket.EAI_NONAME, "there are no names here") from None
        return look_up(host, *args, **options)

    socket.getaddrinfo = numeric
