"""Emits/s against raw XADD, and what a queued event weighs in Redis."""

import time
from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any, cast

from kasplo_notify import Notifier
from kasplo_notify.carrier import CONNECTIONS, TIMEOUT
from kasplo_notify.console import Console
from kasplo_notify.events import validate
from kasplo_notify.store import connect
from kasplo_notify.stored import StoredEvent

from .figure import Figure, Plan, compared
from .stage import MAIL_CLASS, QUEUES, Stage, event

_BATCH = 500
_PUSH_ALL = "for i = 1, #ARGV do redis.call('XADD', KEYS[1], '*', 'e', ARGV[i]) end return #ARGV"


def measure(stage: Stage, plan: Plan, console: Console) -> list[Figure]:
    """Single emits and batches of 500, each against the fastest that Redis takes them through the same client.

    Call by call in turn: whether a round trip takes 50 or 150 microseconds depends on how deep the other core
    sleeps, and that changes from one tenth of a second to the next.
    """
    stage.add_endpoint(3600.0)
    events = [event(number) for number in range(_BATCH * plan.batches)]
    packed = [_packed(number, fields) for number, fields in enumerate(events)]
    bodies = [{name: value for name, value in fields.items() if name != "mail_class"} for fields in events]
    client = connect(stage.config.redis.url, timeout=TIMEOUT, connections=CONNECTIONS)
    digest = client.script_load(_PUSH_ALL)
    with Notifier(config=stage.config) as notifier:

        def emit(number: int) -> None:
            notifier.emit(cast("Any", bodies[number]), mail_class=MAIL_CLASS)

        def xadd(number: int) -> None:
            client.xadd("raw", {"e": packed[number]})

        def emit_batch(number: int) -> None:
            notifier.emit_many(events[number * _BATCH : (number + 1) * _BATCH])

        def push_batch(number: int) -> None:
            client.evalsha(digest, 1, "raw", *packed[number * _BATCH : (number + 1) * _BATCH])

        def turns(mine: Callable[[int], None], its: Callable[[int], None], calls: int) -> list[tuple[float, float]]:
            # One turn to warm up.
            return [_turn(stage, mine, its, calls) for _ in range(plan.turns + 1)][1:]

        console.status("emit() one by one")
        single = turns(emit, xadd, plan.emits)
        console.status(f"emit_many() of {_BATCH}")
        many = [(_BATCH * mine, _BATCH * its) for mine, its in turns(emit_batch, push_batch, plan.batches)]
    client.close()
    return [
        compared("emit(), one thread", "/s", single, "one XADD a call"),
        compared("emit_many(500), one thread", "/s", many, "one script with 500 payloads a call"),
    ]


def measure_memory(stage: Stage, plan: Plan, console: Console) -> list[Figure]:
    """What Redis needs for an event beyond the bytes that will be sent."""
    found = []
    for what, batched in (("emit_many()", True), ("emit()", False)):
        stage.clear()
        stage.add_endpoint(3600.0)
        events = [event(number) for number in range(plan.stored)]
        payload = mean(len(_body(fields)) for fields in events)
        with Notifier(config=stage.config) as notifier:
            notifier.emit(cast("Any", events[0]))
            before = _memory(stage)
            console.status(f"queueing {plan.stored:,} events by {what}")
            if batched:
                notifier.emit_many(events)
            else:
                for fields in events:
                    notifier.emit(cast("Any", fields))
            over = (_memory(stage) - before) / plan.stored - payload
        note = "" if batched else "in the first minute, while each call's token is kept"
        size = f"payload of {payload:.0f} bytes"
        found.append(
            Figure(
                name=f"Redis bytes per event over its payload, {what}",
                unit="B",
                value=over,
                note="; ".join(filter(None, [size, note])),
            )
        )
    return found


def _memory(stage: Stage) -> int:
    used = stage.info("memory")
    return int(used["used_memory"]) - int(used["mem_clients_normal"]) - int(used["mem_aof_buffer"])


def _turn(stage: Stage, mine: Callable[[int], None], its: Callable[[int], None], calls: int) -> tuple[float, float]:
    """Calls/s of both."""
    spent = [0.0, 0.0]
    for number in range(calls):
        for which, call in enumerate((mine, its)):
            began = time.perf_counter()
            call(number)
            spent[which] += time.perf_counter() - began
    keys = stage.registry.store.keys
    stage.registry.store.client.unlink("raw", *_streams(keys("new:bench.")))
    return calls / spent[0], calls / spent[1]


def _streams(stem: str) -> Sequence[str]:
    return [f"{stem}{number}" for number in range(QUEUES)]


def _body(fields: dict[str, object]) -> bytes:
    own = {name: value for name, value in fields.items() if name != "mail_class"}
    return validate(str(own["event_type"]), own).body


def _packed(number: int, fields: dict[str, object]) -> bytes:
    return StoredEvent(f"msg_{number:024x}", MAIL_CLASS, _body(fields)).pack()
