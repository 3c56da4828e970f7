"""How many requests may be in flight: a window per queue, and slots per worker process. Pure bookkeeping.

Hanging subscribers must cost the others nothing. So a request that is older than a second leaves the slots that
all share for a separate allowance. An endpoint that has such requests and has answered none for a second hangs: it
opens at most one more per second. One that answers most of its requests at once and few of them slowly does not; its
own limit bounds what it has of the allowance.
"""

from collections import deque
from dataclasses import dataclass, field

START = 4.0
# A breaker is open for five seconds at least.
IDLE_S = 3.0
SLOW_AFTER_S = 1.0
# Bytes that requests in flight may hold, those in the shared slots and the slow ones; and one request more.
FAST_BYTES, SLOW_BYTES = 33_554_432, 100_663_296


class Window:
    """The concurrency of one queue: additive increase, multiplicative decrease (as TCP, RFC 5681).

    `now` is in seconds of a monotonic clock, here and below.

    Attributes:
        size: Requests that may be in flight, at least 1.
    """

    __slots__ = ("_answered", "_last_shrunk", "_threshold", "size")

    def __init__(self) -> None:
        self._answered = float("-inf")
        self.restart()

    def restart(self) -> None:
        """Begin small, as after a breaker was open."""
        self.size = START
        self._threshold = float("inf")
        self._last_shrunk = float("-inf")

    def resume(self, now: float) -> None:
        """Begin no larger than small when nothing was answered for a while (RFC 5681, section 4.1).

        The size says what the subscriber took then. It may have been down since, and this queue not have heard of it.
        """
        if self.size > START and now - self._answered >= IDLE_S:
            self.restart()

    def succeeded(self, cap: int, now: float) -> None:
        """A request was answered with 2xx: double per round trip at first, then grow by one."""
        self._answered = now
        self.size = min(float(cap), self.size + (1 if self.size < self._threshold else 1 / self.size))

    def failed(self, now: float, started: float) -> None:
        """A request failed: halve, once for all that were in flight together.

        Args:
            now: The moment of its answer.
            started: When the failed request began.
        """
        self._answered = now
        if started < self._last_shrunk:
            return
        self._last_shrunk = now
        self._threshold = self.size = max(1.0, self.size / 2)


@dataclass(slots=True)
class Usage:
    """What one endpoint has in flight in this process: in the shared slots, and in the slow allowance.

    Attributes:
        opened: When its last request began, in seconds of the monotonic clock.
        answered: When a request of it last ended within a second.
    """

    fast: int = 0
    slow: int = 0
    fast_bytes: int = 0
    opened: float = 0.0
    answered: float = float("-inf")


@dataclass(slots=True)
class Ticket:
    """One request in flight, and the bytes that it holds."""

    endpoint: str
    started: float
    size: int = 0
    slow: bool = False
    done: bool = False


@dataclass(slots=True)
class Slots:
    """The requests in flight of one worker process.

    Attributes:
        fast_limit: Requests that all endpoints share.
        slow_limit: Requests that may be in flight beside them once they are older than a second.
        fast_bytes, slow_bytes: What these and those hold.
    """

    fast_limit: int
    slow_limit: int
    fast: int = 0
    slow: int = 0
    fast_bytes: int = 0
    slow_bytes: int = 0
    _usage: dict[str, Usage] = field(default_factory=dict)
    _by_age: deque[Ticket] = field(default_factory=deque)

    @property
    def free(self) -> int:
        return self.fast_limit - self.fast if self.fast_bytes < FAST_BYTES else 0

    @property
    def _slow_is_full(self) -> bool:
        return self.slow >= self.slow_limit or self.slow_bytes >= SLOW_BYTES

    @property
    def in_flight(self) -> int:
        return self.fast + self.slow

    def has_slow(self, endpoint: str) -> bool:
        """Whether an endpoint has a request that is older than a second."""
        usage = self._usage.get(endpoint)
        return usage is not None and usage.slow > 0

    def hangs(self, endpoint: str, now: float) -> bool:
        """Whether an endpoint has a request that is older than a second, and nothing was answered since."""
        usage = self._usage.get(endpoint)
        return usage is not None and usage.slow > 0 and now - usage.answered >= SLOW_AFTER_S

    def may_open(self, endpoint: str, now: float) -> bool:
        """Whether an endpoint may have one more request.

        Once half of the slots, or of the bytes, are taken nobody may hold more than an equal share of them. Once the
        slow allowance is used up, who has a part of it gets no more: the slots are for those who answer.
        """
        if not self.free:
            return False
        usage = self._usage.get(endpoint)
        if usage is None:
            return True
        if usage.slow and (self._slow_is_full or (self.hangs(endpoint, now) and now < usage.opened + 1.0)):
            return False
        if self.fast < self.fast_limit // 2 and self.fast_bytes < FAST_BYTES // 2:
            return True
        sharing = len(self._usage)
        return usage.fast < max(1, self.fast_limit // sharing) and usage.fast_bytes < max(1, FAST_BYTES // sharing)

    def opened(self, endpoint: str, now: float, size: int = 0) -> Ticket:
        """A request begins that holds `size` bytes."""
        usage = self._usage.setdefault(endpoint, Usage())
        usage.fast += 1
        usage.fast_bytes += size
        usage.opened = now
        self.fast += 1
        self.fast_bytes += size
        ticket = Ticket(endpoint, now, size)
        self._by_age.append(ticket)
        return ticket

    def closed(self, ticket: Ticket, now: float) -> None:
        ticket.done = True
        usage = self._usage[ticket.endpoint]
        if ticket.slow:
            usage.slow -= 1
            self.slow -= 1
            self.slow_bytes -= ticket.size
        else:
            usage.fast -= 1
            usage.fast_bytes -= ticket.size
            self.fast -= 1
            self.fast_bytes -= ticket.size
            if now - ticket.started < SLOW_AFTER_S:
                usage.answered = now
        if not usage.fast and not usage.slow:
            del self._usage[ticket.endpoint]

    def clear(self) -> None:
        """Nothing is in flight: a drain has ended, whatever became of its requests."""
        self.fast = self.slow = self.fast_bytes = self.slow_bytes = 0
        self._usage.clear()
        self._by_age.clear()

    def age(self, now: float) -> None:
        """Move the requests that are older than a second out of the shared slots, as far as there is room."""
        by_age = self._by_age
        while by_age and (by_age[0].done or now - by_age[0].started >= SLOW_AFTER_S):
            if not by_age[0].done and self._slow_is_full:
                return
            ticket = by_age.popleft()
            if not ticket.done:
                usage = self._usage[ticket.endpoint]
                ticket.slow = True
                usage.fast -= 1
                usage.fast_bytes -= ticket.size
                usage.slow += 1
                self.fast -= 1
                self.fast_bytes -= ticket.size
                self.slow += 1
                self.slow_bytes += ticket.size
