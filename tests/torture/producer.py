"""A producer: emits events as a mail engine does, and writes what `emit` said of each into the ledger."""

import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Bound before a scenario puts the clock of this process wrong: the ledger has the true time.
from time import time as true_time
from typing import Any

from kasplo_notify import Notifier, QueueFull, StorageUnavailable
from kasplo_notify.config import Config
from tests.torture.ledger import Emitted, Ledger, digest

# For how long a refused call is completed with the ids of its error: less than the minute that ids are remembered.
_COMPLETE_S = 45.0


@dataclass(frozen=True, slots=True)
class Load:
    """What one producer emits.

    Attributes:
        first, count: Numbers of its events; the number is in the event.
        batch: Events of one call; 1 is `emit`, more is `emit_many`.
        rate: Events per second; 0 as fast as it goes.
        routes: Mail class -> the endpoints that have to get it.
        zipf: Mail classes are drawn with probability 1/rank, not in turn.
        seed: For what is drawn.
        ledger: Path of the ledger of what was emitted.
        refusals: Path of a file that gets the name of each error of `emit`.
    """

    first: int
    count: int
    batch: int
    rate: float
    routes: dict[str, list[str]]
    seed: int
    ledger: str
    refusals: str
    zipf: bool = False


def event(number: int) -> dict[str, object]:
    """A small event to a recipient of its own."""
    return {
        "event_type": "engine_unsub",
        "event_time": 1_700_000_000 + number,
        "email": f"reader-{number}@example.com",
        "listid": "t99",
        "sendid": "t9920110705",
        "click_url": "",
        "click_tracking_id": str(number),
    }


def body(fields: dict[str, object]) -> bytes:
    """The bytes that have to arrive: written here without the help of the product."""
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


def run(config: Config, options: dict[str, Any]) -> int:
    """Emit the whole load. Returns 0."""
    load = Load(**options["load"])
    ledger = Ledger(Path(load.ledger))
    with Notifier(config=config) as notifier:
        began = time.monotonic()
        done = 0
        for batch in _batches(load):
            if load.rate:
                time.sleep(max(0.0, began + done / load.rate - time.monotonic()))
            ledger.write([each.line() for each in _emit(notifier, batch, load)])
            done += len(batch)
    return 0


def _batches(load: Load) -> Iterator[list[tuple[str, dict[str, object]]]]:
    rng = random.Random(load.seed)
    classes = list(load.routes)
    weights = [1 / rank for rank in range(1, len(classes) + 1)]
    for start in range(load.first, load.first + load.count, load.batch):
        numbers = range(start, min(start + load.batch, load.first + load.count))
        drawn = (
            rng.choices(classes, weights, k=len(numbers)) if load.zipf else [classes[n % len(classes)] for n in numbers]
        )
        yield [(mail_class, event(number)) for mail_class, number in zip(drawn, numbers, strict=True)]


def _emit(notifier: Notifier, batch: Sequence[tuple[str, dict[str, object]]], load: Load) -> list[Emitted]:
    """One call, completed with the ids of its error as often as it takes."""
    given: list[dict[str, object]] = [{"mail_class": mail_class, **fields} for mail_class, fields in batch]
    began = [true_time()] * len(batch)
    # How many are known to be stored, and whether the others are known not to be.
    stored, absent = 0, True
    give_up = time.monotonic() + _COMPLETE_S
    while True:
        try:
            ids, pushed = _ids(notifier, given), len(batch)
        except (StorageUnavailable, QueueFull) as error:
            Ledger(Path(load.refusals)).write([f"{type(error).__name__}\n"])
            ids, pushed = error.event_ids, error.pushed
            absent = absent and isinstance(error, QueueFull)
        # A call that completes another one may be refused before it comes as far as that one.
        stored = max(stored, pushed)
        if stored == len(batch) or time.monotonic() > give_up:
            break
        given = [{**fields, "event_id": each} for fields, each in zip(given, ids, strict=True)]
        time.sleep(0.05)
        if absent:
            began[stored:] = [true_time()] * (len(batch) - stored)
    ended = true_time()
    return [
        Emitted(began[position], ended, each, digest(body(fields)), position < stored, tuple(load.routes[mail_class]))
        for position, (each, (mail_class, fields)) in enumerate(zip(ids, batch, strict=True))
    ]


def _ids(notifier: Notifier, events: Sequence[dict[str, object]]) -> tuple[str, ...]:
    if len(events) == 1:
        return (notifier.emit(events[0]).id,)
    return tuple(receipt.id for receipt in notifier.emit_many(events))
