"""A queue while a drain holds it: what was read ahead, what is in flight, and which event is next. No I/O."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from kasplo_notify.book import Subscriber
from kasplo_notify.stored import Progress, StoredEvent, split_retry
from kasplo_notify.window import Window

# Deaths of drains after which a queue is delivered one event at a time. Then, deaths one after another at which the
# same event had just gone out alone, after which it is given up; and deaths at which it was in flight alone at all:
# what kills may be the answer of a slow subscriber, but to be in flight for long proves little.
SINGLE_AFTER, POISON_AFTER, SLOW_POISON_AFTER = 2, 3, 10
READ_AHEAD = 128


@dataclass(slots=True)
class Item:
    """An event that was read from a queue.

    Attributes:
        kind: `n` for never attempted, `r` for a retry; where it is, as the settle script wants it.
        ref: The stream's entry id, or the member of the retry set.
        score: Of a retry, its score as Redis wrote it.
        progress: What has happened to it before.
        event: The event; None when the stored record is not readable.
        size: Bytes of the stored record.
    """

    kind: str
    ref: bytes
    score: str
    progress: Progress
    event: StoredEvent | None
    size: int

    @classmethod
    def read(cls, row: Sequence[bytes], delay_ms: int) -> "Item":
        """Read a row of the reply of `claim` and `read`; broken records become items without an event."""
        kind, ref, time, packed = row
        progress = Progress(0, 0, 0)
        event = None
        try:
            if kind == b"r":
                progress, packed = split_retry(ref)
            else:
                progress = Progress(0, 0, int(time) + delay_ms)
            event = StoredEvent.unpack(packed)
        except ValueError:
            pass
        return cls(kind.decode(), ref, time.decode(), progress, event, len(ref) + len(packed))


@dataclass(slots=True, kw_only=True)
class Held:
    """A queue that a drain holds.

    Attributes:
        queue: Its name.
        endpoint: Its endpoint's name.
        token: The drain that holds it, as the scripts know it.
        subscriber: How to deliver to it.
        window: Its concurrency, which outlives the holding.
        lease_end: Seconds of the monotonic clock; no request starts that could outlast it.
        slice_end: When it is handed back to the end of the line, by the same clock.
        probe: The endpoint's breaker is open and this queue may send one event.
        deaths: Drains that died holding it.
        suspected: One of its events had just gone out alone at the last death.
        not_before: Until then, by the same clock, the worker shows that it lives without that event.
        poison: The id of an event that is given up for its deaths.
        resumed_ms: When a pause of the endpoint ended; the age of its events counts from here.
        closing: Nothing more is started; given back when nothing is in flight.
        exhausted: The last read returned all that was due.
        hangs: Its endpoint has a request that is older than a second, and answered none since: read nothing ahead.
        listed: It is in the sender's line.
        was_fresh: Whether its last event was a new one, or shall pass for that.
        unsettled: Results of its events that are not in Redis yet.
        last_id, last_score: How far new events and retries were read.
    """

    queue: str
    endpoint: str
    token: str
    subscriber: Subscriber
    window: Window
    lease_end: float
    slice_end: float
    probe: bool = False
    deaths: int = 0
    suspected: bool = False
    not_before: float = 0.0
    poison: str = ""
    resumed_ms: int = 0
    closing: bool = False
    exhausted: bool = False
    hangs: bool = False
    listed: bool = False
    was_fresh: bool = False
    unsettled: int = 0
    fresh_in_flight: int = 0
    again_in_flight: int = 0
    last_id: str = ""
    last_score: str = "-inf"
    _fresh: deque[Item] = field(default_factory=deque)
    _again: deque[Item] = field(default_factory=deque)
    _refs: set[bytes] = field(default_factory=set)
    _ties: int = 0
    _kinds_read: set[str] = field(default_factory=set)
    _kinds_sent: set[str] = field(default_factory=set)

    @property
    def single(self) -> bool:
        return self.deaths >= SINGLE_AFTER

    @property
    def in_flight(self) -> int:
        return self.fresh_in_flight + self.again_in_flight

    @property
    def buffered(self) -> int:
        return len(self._fresh) + len(self._again)

    @property
    def limit(self) -> int:
        """Requests that may be in flight."""
        if self.single or self.probe:
            return 1
        return max(1, min(int(self.window.size), self.subscriber.cap))

    @property
    def idle(self) -> bool:
        """Whether nothing of it is in flight, or answered and not settled."""
        return not self.in_flight and not self.unsettled

    @property
    def served(self) -> bool:
        """Whether the first new event and the first retry were sent, as far as there were any.

        What was in flight when a drain died is the first of its kind by then.
        """
        return self._kinds_read <= self._kinds_sent

    @property
    def done(self) -> bool:
        """Whether it can be given back."""
        return self.idle and (self.closing or (self.exhausted and not self.buffered))

    def wants(self) -> int:
        """How many events of each kind to read ahead; 0 while there are enough."""
        if self.closing or self.exhausted or self.buffered > self.limit // 2:
            return 0
        if self.hangs:
            return 0 if self.buffered else 1
        return min(READ_AHEAD, max(1, 2 * self.limit - self.buffered))

    @property
    def ties(self) -> int:
        """Retries already read that the next read finds again, as they have the score that it begins with."""
        return self._ties

    def add(self, rows: Sequence[Sequence[bytes]], asked: int) -> list[Item]:
        """Take a reply of `claim` or `read`; returns the items that are new, in order.

        Args:
            rows: The events of the reply.
            asked: How many new events were asked for, and retries beside :attr:`ties`.
        """
        items = []
        fresh = again = 0
        for row in rows:
            item = Item.read(row, self.subscriber.delay_ms)
            if item.kind == "n":
                fresh += 1
                self.last_id = item.ref.decode()
            else:
                if item.ref in self._refs:
                    continue
                again += 1
                self._ties = self._ties + 1 if item.score == self.last_score else 1
                self.last_score = item.score
                self._refs.add(item.ref)
            items.append(item)
        self.exhausted = fresh < asked and again < asked
        return items

    def keep(self, item: Item) -> None:
        """Buffer an item until its turn."""
        self._kinds_read.add(item.kind)
        (self._fresh if item.kind == "n" else self._again).append(item)

    def next(self) -> Item:
        """The next item. New events and retries alternate, so that neither starves the other."""
        ahead = self.fresh_in_flight - self.again_in_flight
        # Where one at a time is in flight, their turn alone tells.
        fresh_first = ahead < 0 or (ahead == 0 and not self.was_fresh)
        self.was_fresh = bool(self._fresh) and (fresh_first or not self._again)
        if self.was_fresh:
            self.fresh_in_flight += 1
        else:
            self.again_in_flight += 1
        item = (self._fresh if self.was_fresh else self._again).popleft()
        self._kinds_sent.add(item.kind)
        return item

    def finished(self, item: Item) -> None:
        if item.kind == "n":
            self.fresh_in_flight -= 1
        else:
            self.again_in_flight -= 1

    def settled(self, item: Item) -> None:
        self.unsettled -= 1
        self._refs.discard(item.ref)

    def forget(self) -> int:
        """Forget what was read ahead, as if it had not been read. Returns how many bytes that was."""
        size = sum(item.size for item in (*self._fresh, *self._again))
        if self._fresh:
            self.last_id = _before(self._fresh[0].ref)
        if self._again:
            self.last_score = self._again[0].score
            self._refs.difference_update(item.ref for item in self._again)
            self._ties = len(self._refs)
        self.exhausted = self.exhausted and not size
        self._fresh.clear()
        self._again.clear()
        return size


def suspicion(noted: str) -> tuple[bool, str]:
    """Read claim's note of deaths: whether an event is suspected to kill its worker, and the id of one that does."""
    quick, _, rest = noted.partition(" ")
    every, _, event_id = rest.partition(" ")
    if not (quick.isdecimal() and every.isdecimal()):
        return False, ""
    convicted = int(quick) >= POISON_AFTER or int(every) >= SLOW_POISON_AFTER
    return int(quick) > 0, event_id if convicted else ""


def _before(entry_id: bytes) -> str:
    """The greatest stream id below this one."""
    ms, seq = (int(part) for part in entry_id.split(b"-"))
    return f"{ms}-{seq - 1}" if seq else f"{ms - 1}-{2**64 - 1}"
