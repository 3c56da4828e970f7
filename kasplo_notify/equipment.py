"""What the drains of one worker process share, one after another."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from kasplo_notify.book import Book
from kasplo_notify.config import Config
from kasplo_notify.endpoint import milliseconds
from kasplo_notify.store import AsyncStore
from kasplo_notify.transport import Transport
from kasplo_notify.window import Slots, Window

MAX_WINDOWS = 8192


@dataclass(slots=True, kw_only=True)
class Equipment:
    """The tools of a worker process.

    Attributes:
        config: The configuration.
        store: Redis.
        transport: The open HTTP client.
        name: The worker's name, the readable part of a drain's token.
        help_wanted: Called when another worker could help.
        rng: For jitter and slices.
        book: The endpoints.
        slots: The requests in flight.
        windows: Concurrency by queue; it outlives the holding of a queue, or each would begin small.
    """

    config: Config
    store: AsyncStore
    transport: Transport
    name: str
    help_wanted: Callable[[], None] = lambda: None
    rng: random.Random = field(default_factory=random.Random)
    book: Book = field(init=False)
    slots: Slots = field(init=False)
    windows: dict[str, Window] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.book = Book(self.store, self.config)
        self.slots = Slots(self.config.worker.max_in_flight, self.config.worker.max_slow)

    def window(self, queue: str) -> Window:
        """The window of a queue; the one unused for longest makes room."""
        window = self.windows.pop(queue, None) or Window()
        self.windows[queue] = window
        if len(self.windows) > MAX_WINDOWS:
            del self.windows[next(iter(self.windows))]
        return window

    @property
    def default_delay_ms(self) -> int:
        return milliseconds(self.config.delivery.delay)


@dataclass(slots=True)
class Tally:
    """What a drain did; its text is the result of the RQ job."""

    delivered: int = 0
    failed: int = 0
    dead: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        failed = f", {self.failed:,} failed" if self.failed else ""
        dead = f", {self.dead:,} dead" if self.dead else ""
        return f"{self.delivered:,} delivered{failed}{dead} in {self.seconds:.1f} s"
