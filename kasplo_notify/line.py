"""A drain's line to Redis: it may be cut, and it tells the time."""

import logging
import time
from typing import Any

from kasplo_notify.errors import NotifyError
from kasplo_notify.store import AsyncStore, Call

log = logging.getLogger(__name__)


class Line:
    """Runs scripts whose reply begins with Redis' time and the registry's version.

    Attributes:
        away: Whether Redis did not answer the last call.
        version: The registry's version, as of the last reply.
        stale: Whether it has changed since somebody set this to False.
    """

    def __init__(self, store: AsyncStore) -> None:
        self._store = store
        self._offset_ms = 0.0
        self.away = False
        self.version = ""
        self.stale = False

    async def ask(self, call: Call) -> Any:
        """Run a script; None when Redis did not answer. Scripts may run twice, so whoever asked asks again."""
        try:
            reply = await self._store.run(call)
        except NotifyError as error:
            self.lost(error)
            return None
        if self.away:
            log.warning("redis_back")
            self.away = False
        # The script read the clock before its reply came: our time may be behind Redis', never ahead of it.
        self._offset_ms = float(reply[0]) - time.monotonic() * 1000
        if reply[1] != self.version.encode():
            self.version, self.stale = reply[1].decode(), True
        return reply

    def lost(self, error: NotifyError) -> None:
        """Note that a call failed; the first one is logged."""
        if not self.away:
            log.warning("redis_away: %s", error)
        self.away = True

    def now_ms(self) -> float:
        """Unix milliseconds by Redis' clock, at most the length of a round trip behind."""
        return time.monotonic() * 1000 + self._offset_ms
