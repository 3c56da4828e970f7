"""How a worker ends in time: whatever it waits for when it is told to stop, it does not wait for long."""

import logging
import os
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

log = logging.getLogger(__name__)

# What is left beside the longest request: to settle, to sign off, to close.
MARGIN_S = 1.7
# A process that still uses the CPU does not hang; on a busy machine it gets some more time.
_LOOK_S, _WORKING_S, _LOOKS = 0.25, 0.005, 40


class Stop:
    """The request to stop, once it was made; it can be waited for.

    Redis may hang, and RQ waits for it with commands of its own. So a thread of ours has the last word: from the
    first request on it counts the time, and ends the process when that is over. What was in flight then is delivered
    again.

    Args:
        longest: Seconds that the longest request in flight may still take.
    """

    def __init__(self, longest: Callable[[], float]) -> None:
        self._longest = longest
        self._told = self._done = False
        # Queues, not events: these may be put into by a signal handler that interrupted their getter.
        self._limit: SimpleQueue[float] = SimpleQueue()
        self._awake: SimpleQueue[None] = SimpleQueue()
        threading.Thread(target=self._last_word, name="kasplo-stop", daemon=True).start()

    def __bool__(self) -> bool:
        return self._told

    def tell(self) -> None:
        """Somebody asks for it; called by signal handlers."""
        if not self._told:
            self._told = True
            self._limit.put(self._longest() + MARGIN_S)
            self._awake.put(None)

    def wait(self, seconds: float) -> None:
        """Sleep, unless somebody asks to stop."""
        try:
            self._awake.get(timeout=seconds)
        except Empty:
            return

    def done(self) -> None:
        """Everything is settled and closed: the process may end as it likes, or go on."""
        self._done = True

    def _last_word(self) -> None:
        time.sleep(self._limit.get())
        used = -1.0
        for _ in range(_LOOKS):
            before, used = used, time.process_time()
            if self._done:
                return
            if used - before < _WORKING_S:
                break
            time.sleep(_LOOK_S)
        log.warning("stopped_early: something does not answer; what is not settled will be sent again")
        os._exit(1)
