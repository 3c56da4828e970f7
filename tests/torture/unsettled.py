"""What a worker has begun and not settled, counted in a file of its own that outlives a kill -9.

That is what its death may cost: each of these requests may be made once more, and none beside them. One more from the
moment that a request is begun; one less when the reply to the settle that has its result is there.
"""

import mmap
import os
from pathlib import Path
from typing import Any

from kasplo_notify.outcome import Outcome
from kasplo_notify.request import Request
from kasplo_notify.store import AsyncStore, Call
from kasplo_notify.transport import Transport

# Arguments of settle: so many, then so many for each result; one of these is the attempt's number, '' if none was made.
HEADER, ROW = 7, 15
_ATTEMPT = 12
_BYTES = 8


def count(path: Path) -> None:
    """Count for this process from now on."""
    shared = _map(path)
    send, run = Transport.send, AsyncStore.run
    open_now = 0

    def add(requests: int) -> None:
        nonlocal open_now
        open_now += requests
        shared[:] = open_now.to_bytes(_BYTES, "little")

    async def begun(self: Transport, request: Request, *, timeout: float) -> Outcome:  # noqa: ASYNC109 - as it has it
        add(1)
        return await send(self, request, timeout=timeout)

    async def settled(self: AsyncStore, call: Call) -> Any:
        reply = await run(self, call)
        if call.script == "settle":
            add(-sum(attempt != "" for attempt in call.args[HEADER + _ATTEMPT :: ROW]))
        return reply

    Transport.send = begun  # type: ignore[method-assign]
    AsyncStore.run = settled  # type: ignore[method-assign]


def take(path: Path) -> int:
    """What was open when the process of this file died, which is removed; 0 if it never came so far as to count."""
    try:
        return int.from_bytes(path.read_bytes(), "little")
    except FileNotFoundError:
        return 0
    finally:
        path.unlink(missing_ok=True)


def _map(path: Path) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.ftruncate(descriptor, _BYTES)
        return mmap.mmap(descriptor, _BYTES)
    finally:
        os.close(descriptor)
