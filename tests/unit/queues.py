"""Queues in a drain's hands, and their events as the scripts return them."""

from collections.abc import Sequence

from kasplo_notify.book import Subscriber
from kasplo_notify.config import Config
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.held import Held
from kasplo_notify.stored import StoredEvent
from kasplo_notify.window import Window

Row = Sequence[bytes]


def window_of(size: float) -> Window:
    window = Window()
    window.size = size
    return window


def hold(*, cap: int = 1000, size: float = 8.0, probe: bool = False, deaths: int = 0) -> Held:
    endpoint = Endpoint(name="crm", url="https://e.example/", queues=1, max_in_flight=cap)
    return Held(
        queue="crm.0",
        endpoint="crm",
        token="drain1",
        subscriber=Subscriber.of(endpoint, Config()),
        window=window_of(size),
        lease_end=30.0,
        slice_end=2.0,
        probe=probe,
        deaths=deaths,
    )


def packed(event_id: str) -> bytes:
    return StoredEvent(event_id, "promo", b"{}").pack()


def fresh(*numbers: int) -> list[Row]:
    """New events as the scripts return them."""
    return [(b"n", b"%d-0" % number, b"%d" % number, packed(f"n{number}")) for number in numbers]


def again(*numbers: int, score: int | None = None) -> list[Row]:
    """Retries as the scripts return them; due at `score`, or at their number."""
    return [
        (b"r", b"1,0,7\n" + packed(f"r{number}"), b"%d" % (number if score is None else score), b"")
        for number in numbers
    ]
