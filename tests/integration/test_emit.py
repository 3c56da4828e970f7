"""emit and emit_many, for threads and for asyncio: what returned is stored once; what failed can be completed."""

import asyncio
import gc
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from kasplo_notify import (
    AsyncNotifier,
    Config,
    ConfigError,
    InvalidEvent,
    Notifier,
    QueueFull,
    Receipt,
    StorageUnavailable,
    emission,
    patience,
)
from kasplo_notify.carrier import CONNECTIONS
from kasplo_notify.config import DeliveryConfig, RedisConfig
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.errors import NotifyError
from kasplo_notify.registry import Registry
from kasplo_notify.stored import StoredEvent
from tests.integration.emitter import Emitter
from tests.integration.proxy import Proxy
from tests.integration.shard import DELAY, HOUR, Item, Shard, scomp
from tests.integration.wire import Wire

Make = Callable[[Config], Emitter]
no_server = pytest.mark.parametrize("wire", ["fakeredis"], indirect=True)
on_the_server = pytest.mark.parametrize("wire", ["server"], indirect=True)


def endpoint(name: str = "crm", **more: Any) -> Endpoint:
    return Endpoint(**{"name": name, "url": f"https://{name}.example/hook", "queues": 1, **more})


FIELDS: dict[str, Any] = {name: value for name, value in scomp().items() if name != "event_type"}


def scomps(number: int) -> list[dict[str, object]]:
    return [scomp(f"customer{n}@example.com") for n in range(number)]


@pytest.fixture
def crm(registry: Registry) -> Endpoint:
    """An endpoint that takes everything, in one queue."""
    registry.add(endpoint())
    return registry.get("crm")


# --- one event -------------------------------------------------------------------------------------------------------


def test_an_emitted_event_is_stored_for_the_endpoint_that_the_receipt_names(
    emitter: Emitter, shard: Shard, crm: Endpoint
) -> None:
    receipt = emitter.emit("scomp", mail_class="Promo", **FIELDS)
    assert receipt.endpoints == ("crm",)
    ((_, fields),) = shard.client.xrange(shard.keys("new:crm.0"))
    stored = StoredEvent.unpack(fields[b"e"])
    assert (stored.id, stored.mail_class) == (receipt.id, "Promo")
    assert stored.body == (
        b'{"event_type":"scomp","email":"customer@example.com","listid":"t99","sendid":"t9920110705",'
        b'"click_tracking_id":"1927393"}'
    )
    assert shard.now() < (shard.score() or 0) <= shard.now() + DELAY + 1


def test_a_mapping_does_as_well_and_its_routing_fields_are_not_sent(
    emitter: Emitter, shard: Shard, crm: Endpoint
) -> None:
    receipt = emitter.emit(scomp(mail_class="promo", event_id="mine"))
    assert receipt == Receipt("mine", ("crm",))
    ((_, fields),) = shard.client.xrange(shard.keys("new:crm.0"))
    assert orjson.loads(StoredEvent.unpack(fields[b"e"]).body) == scomp()


def test_an_event_that_nobody_wants_is_counted_and_its_receipt_empty(emitter: Emitter, shard: Shard) -> None:
    assert emitter.emit(scomp()).endpoints == ()
    assert shard.counters() == {"emitted": "1", "unrouted": "1"}


def test_an_endpoints_own_delay_counts_from_the_emit(emitter: Emitter, shard: Shard, registry: Registry) -> None:
    registry.add(endpoint(delay=3600.0))
    emitter.emit(scomp())
    assert shard.now() + DELAY < (shard.score() or 0) <= shard.now() + HOUR + 1


def test_the_configured_delay_counts_for_the_others(
    emitters: Make, config: Config, shard: Shard, crm: Endpoint
) -> None:
    emitters(Config(redis=config.redis, delivery=DeliveryConfig(delay=7200))).emit(scomp())
    assert shard.now() + HOUR < (shard.score() or 0) <= shard.now() + 2 * HOUR + 1


@on_the_server
def test_a_delay_is_the_milliseconds_that_it_says(emitter: Emitter, shard: Shard, registry: Registry) -> None:
    """As a binary fraction, 32.3 * 1000 is less than 32,300."""
    registry.add(endpoint(delay=32.3))
    emitter.emit(scomp())
    ((entry, _),) = shard.client.xrange(shard.keys("new:crm.0"))
    # fakeredis gives the entry an id of a later millisecond than the script's clock.
    assert int(entry.partition(b"-")[0]) - (shard.score() or 0) + 32_300 + 1 in range(20)


@pytest.mark.parametrize("kind", [Notifier, AsyncNotifier])
def test_a_url_that_is_none_is_said_to_be_the_one_that_was_given(kind: type[Notifier | AsyncNotifier]) -> None:
    with pytest.raises(ConfigError, match=r"redis\.url must be .* \(the url given to the notifier\)") as caught:
        kind("foo")
    assert "command line" not in str(caught.value)


@pytest.mark.parametrize("kind", [Notifier, AsyncNotifier])
def test_a_notifier_takes_a_url_or_a_configuration(kind: type[Notifier | AsyncNotifier], config: Config) -> None:
    wrong: list[dict[str, Any]] = [{"url": "redis://other", "config": config}, {"config": {}}, {"config": 5}]
    for given in wrong:
        with pytest.raises(ConfigError, match="a Redis URL, or config=Config"):
            kind(**given)


def test_none_is_no_value_of_a_field_beside_a_mapping_either(emitter: Emitter, shard: Shard, crm: Endpoint) -> None:
    for more in ({"email": None}, {"foo": None}):
        with pytest.raises(InvalidEvent, match=next(iter(more))):
            emitter.emit(scomp(), **more)
    assert emitter.emit({**scomp(), "mail_class": "promo", "event_id": "mine"}).id == "mine"
    assert shard.new() == ["mine"]


def test_an_invalid_event_changes_nothing(emitter: Emitter, shard: Shard, crm: Endpoint) -> None:
    before = shard.dump()
    with pytest.raises(InvalidEvent):
        emitter.emit(scomp(listid=1.5))
    with pytest.raises(InvalidEvent, match=r"event 2: scomp: email, .* are missing"):
        emitter.emit_many([scomp(), scomp(), {"event_type": "scomp"}])
    assert shard.dump() == before


def test_an_emit_is_one_round_trip(emitter: Emitter, wire: Wire, crm: Endpoint) -> None:
    emitter.emit(scomp())
    wire.sent.clear()
    emitter.emit(scomp())
    assert wire.sent == ["script"]


def test_max_backlog_is_shared_by_the_queues_of_an_endpoint(
    emitters: Make, config: Config, shard: Shard, registry: Registry
) -> None:
    registry.add(endpoint(queues=2))
    emitter = emitters(Config(redis=config.redis, delivery=DeliveryConfig(max_backlog=6)))
    emitter.emit_many(scomps(40))
    emitter.emit_many(scomps(2))
    assert len(shard.new("crm.0")) == len(shard.new("crm.1")) == 3
    assert {reason for _, reason in shard.dead()} == {"backlog_full"}


def test_of_what_was_delivered_nothing_is_left_but_what_is_counted_and_known(
    emitter: Emitter, shard: Shard, crm: Endpoint
) -> None:
    emitter.emit_many(scomps(3))
    shard.let_pass("crm.0", DELAY + 1)
    (claimed,) = shard.claim().queues
    shard.settle("drain1", *(Item(ref=event.ref) for event in claimed.events))
    shard.release("drain1", "crm.0")
    known = {"endpoints", "routes", "version", "health:crm", "counters", "stats:", "attempts:crm", "pushed:"}
    assert shard.names() == known
    assert shard.health() == {"partitions": "1"}


# --- many ------------------------------------------------------------------------------------------------------------


def test_many_events_have_their_receipts_in_order(emitter: Emitter, shard: Shard, crm: Endpoint) -> None:
    receipts = emitter.emit_many(scomps(1201))
    assert shard.new() == [receipt.id for receipt in receipts]
    assert len(set(shard.new())) == 1201
    bodies = [
        orjson.loads(StoredEvent.unpack(fields[b"e"]).body)["email"]
        for _, fields in shard.client.xrange(shard.keys("new:crm.0"))
    ]
    assert bodies == [f"customer{n}@example.com" for n in range(1201)]


def test_many_events_are_pushed_in_chunks(emitter: Emitter, wire: Wire, crm: Endpoint) -> None:
    emitter.emit(scomp())
    wire.sent.clear()
    emitter.emit_many(scomps(1001))
    assert wire.sent == ["script"] * 3


def test_large_events_are_pushed_in_smaller_chunks(emitter: Emitter, wire: Wire, shard: Shard, crm: Endpoint) -> None:
    emitter.emit(scomp())
    wire.sent.clear()
    large = [scomp(f"customer{n}@example.com", sendid="x" * 2000) for n in range(100)]
    very_large = [
        {
            **scomp(),
            "event_type": "bounce_all",
            "event_time": 1,
            "bounce_type": "h",
            "bounce_code": 550,
            "bounce_text": "x" * 200_000,
        }
        for _ in range(11)
    ]
    emitter.emit_many([*large, *very_large])
    assert wire.sent == ["script"] * 3
    assert len(shard.new()) == 112


def test_a_chunk_is_bounded_by_its_copies(emitter: Emitter, wire: Wire, shard: Shard, registry: Registry) -> None:
    for number in range(30):
        registry.add(endpoint(f"crm{number}"))
    emitter.emit(scomp())
    wire.sent.clear()
    receipts = emitter.emit_many(scomps(200))
    assert wire.sent == ["script"] * 4  # 66 events of 30 copies each are 1,980
    assert shard.new("crm29.0")[1:] == [receipt.id for receipt in receipts]


def test_a_chunk_is_bounded_by_the_bytes_of_its_copies(emitter: Emitter, wire: Wire, registry: Registry) -> None:
    for number in range(10):
        registry.add(endpoint(f"crm{number}"))
    emitter.emit(scomp())
    wire.sent.clear()
    emitter.emit_many([scomp(sendid="x" * 2000) for _ in range(100)])
    assert wire.sent == ["script"] * 3


@no_server
def test_an_event_of_more_copies_than_a_chunk_has_is_pushed_alone(
    emitter: Emitter, wire: Wire, shard: Shard, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emission, "CHUNK_COPIES", 2)
    for number in range(3):
        registry.add(endpoint(f"crm{number}"))
    emitter.emit(scomp())
    wire.sent.clear()
    emitter.emit_many(scomps(3))
    assert wire.sent == ["script"] * 3
    assert len(shard.new("crm2.0")) == 4


def test_no_events_are_no_round_trip(emitter: Emitter, wire: Wire) -> None:
    assert emitter.emit_many([]) == []
    assert wire.sent == []


def test_each_event_goes_to_who_wants_it(emitter: Emitter, shard: Shard, registry: Registry) -> None:
    registry.add(endpoint("promo", mail_classes=("promo",)))
    registry.add(endpoint("clicks", event_types=("engine_click",)))
    registry.add(endpoint("rest", mail_classes=("default",)))
    receipts = emitter.emit_many([scomp(mail_class="PROMO"), scomp(mail_class="alerts"), scomp()])
    assert [receipt.endpoints for receipt in receipts] == [("promo",), ("rest",), ("rest",)]
    assert shard.new("promo.0") == [receipts[0].id]
    assert shard.new("rest.0") == [receipts[1].id, receipts[2].id]
    assert shard.new("clicks.0") == []


# --- the registry changes --------------------------------------------------------------------------------------------


def test_an_endpoint_added_before_the_emit_gets_the_event_whatever_was_cached(
    emitters: Make, config: Config, shard: Shard, registry: Registry
) -> None:
    first, second = emitters(config), emitters(config)
    registry.add(endpoint("one"))
    assert first.emit(scomp()).endpoints == second.emit(scomp()).endpoints == ("one",)
    registry.add(endpoint("two"))
    assert first.emit(scomp()).endpoints == ("one", "two")
    assert second.emit_many(scomps(2))[1].endpoints == ("one", "two")
    assert len(shard.new("two.0")) == 3


def test_an_endpoint_removed_before_the_emit_does_not_get_the_event(
    emitter: Emitter, shard: Shard, registry: Registry, crm: Endpoint
) -> None:
    emitter.emit(scomp())
    list(registry.remove("crm", drop=True))
    assert emitter.emit(scomp()).endpoints == ()
    assert shard.new() == []


def test_an_endpoint_that_moves_to_more_queues_gets_its_events_there(
    emitter: Emitter, shard: Shard, registry: Registry, crm: Endpoint
) -> None:
    emitter.emit(scomp())
    registry.update("crm", lambda known: endpoint(known.name, queues=8))
    emitter.emit_many(scomps(50))
    held = [len(shard.new(f"crm.{number}")) for number in range(8)]
    assert sum(held) == 51
    assert all(held)


def test_events_of_one_recipient_are_in_one_queue(emitter: Emitter, shard: Shard, registry: Registry) -> None:
    registry.add(endpoint(queues=8))
    emitter.emit_many([scomp("Customer@Example.com") for _ in range(5)] + [scomp("customer@example.COM")])
    assert sorted(len(shard.new(f"crm.{number}")) for number in range(8)) == [0] * 7 + [6]


HOSTILE = [
    b"not json",
    b"17",
    b'{"a":1}',
    b"[1]",
    b"[[]]",
    b'[["crm",["*"],[]]]',
    b'[["crm",["*"],[],0,null]]',
    b'[["crm",["*"],[],-1,null]]',
    b'[["crm",["*"],[],1.5,null]]',
    b'[["crm",["*"],[],"4",null]]',
    b'[["crm",["*"],[],1000000,null]]',
    b'[["crm",["*"],[],1,"soon"]]',
    b'[["crm",["*"],[],1,[]]]',
    b'[["crm",["*"],[],1,-1]]',
    b'[["crm",["*"],[],1,1e300]]',
    b'[["crm",["*"],[],1,true]]',
    b'[["crm","*",[],1,null]]',
    b'[["crm",[["*"]],[],1,null]]',
    b'[["crm",["*"],"scomp",1,null]]',
    b'[["crm",["*"],[7],1,null]]',
    b'[[7,["*"],[],1,null]]',
    b'[["c\\nrm",["*"],[],1,null]]',
    b'[["",["*"],[],1,null]]',
    b"\xff",
    b"[" * 100_000,
]


@pytest.mark.parametrize("stored", HOSTILE, ids=lambda stored: stored[:40].decode(errors="replace"))
def test_routes_that_nobody_can_read_are_one_sentence_and_nothing_is_stored(
    emitter: Emitter, shard: Shard, stored: bytes
) -> None:
    shard.client.set(shard.keys.routes, stored)
    before = shard.dump()
    with pytest.raises(StorageUnavailable, match="routes in Redis are not readable: change any endpoint") as caught:
        emitter.emit(scomp(event_id="mine"))
    assert (caught.value.event_ids, caught.value.pushed) == (("mine",), 0)
    assert shard.dump() == before


def test_routes_that_were_written_anew_are_read_again(emitter: Emitter, shard: Shard, registry: Registry) -> None:
    shard.client.set(shard.keys.routes, b"[[")
    with pytest.raises(StorageUnavailable):
        emitter.emit(scomp())
    registry.add(endpoint())
    assert emitter.emit(scomp()).endpoints == ("crm",)


# --- what is sent twice is stored once -------------------------------------------------------------------------------


def test_an_own_id_is_stored_once(emitter: Emitter, shard: Shard, crm: Endpoint) -> None:
    assert emitter.emit(scomp(), event_id="mine") == Receipt("mine", ("crm",))
    assert emitter.emit(scomp(), event_id="mine") == Receipt("mine", ("crm",), repeated=True)
    assert shard.new() == ["mine"]


def test_an_id_derived_from_the_id_of_another_event_is_an_event_of_its_own(
    emitter: Emitter, shard: Shard, crm: Endpoint
) -> None:
    first, batch = emitter.emit(scomp()), emitter.emit_many(scomps(2))
    given = [f"{first.id}-1", f"{batch[0].id}-1", batch[0].id.removesuffix("-0"), f"{batch[1].id}0", "msg_" + "a" * 24]
    given.append(f"{given[-1]}-2")
    receipts = [emitter.emit(scomp(), event_id=each) for each in given]
    assert [receipt.repeated for receipt in receipts] == [False] * len(given)
    assert shard.new() == [first.id, *(each.id for each in batch), *given]


def test_the_receipts_say_which_events_were_there_already(emitter: Emitter, shard: Shard, crm: Endpoint) -> None:
    emitter.emit(scomp(), event_id="mine")
    events = [scomp(), scomp(event_id="mine"), scomp(event_id="other"), scomp(event_id="other"), scomp()]
    receipts = emitter.emit_many(events)
    assert [receipt.repeated for receipt in receipts] == [False, True, False, True, False]
    assert shard.new() == ["mine", receipts[0].id, "other", receipts[4].id]


def test_an_emit_whose_reply_was_lost_is_stored_once(emitter: Emitter, wire: Wire, shard: Shard, crm: Endpoint) -> None:
    emitter.emit(scomp())
    wire.lose = 1
    receipt = emitter.emit(scomp())
    assert wire.lose == 0
    assert shard.new()[1:] == [receipt.id]


def test_a_batch_whose_reply_was_lost_is_stored_once(emitter: Emitter, wire: Wire, shard: Shard, crm: Endpoint) -> None:
    emitter.emit(scomp())
    wire.lose = 1
    receipts = emitter.emit_many(scomps(700))
    assert shard.new()[1:] == [receipt.id for receipt in receipts]
    assert shard.counters() == {"emitted": "701"}


def test_a_lost_reply_and_a_changed_registry_together_store_it_once(
    emitter: Emitter, wire: Wire, shard: Shard, crm: Endpoint
) -> None:
    """The push was applied; before it is tried again the registry's version changes."""
    emitter.emit(scomp())
    wire.lose = 1
    wire.on_loss = lambda: shard.client.incr(shard.keys("version"))
    receipt = emitter.emit(scomp())
    assert shard.new()[1:] == [receipt.id]


@pytest.mark.parametrize("lost", [False, True])
def test_a_chunk_that_has_become_too_large_by_a_change_of_the_registry_is_stored_once(
    emitter: Emitter, wire: Wire, shard: Shard, registry: Registry, monkeypatch: pytest.MonkeyPatch, *, lost: bool
) -> None:
    """Whether or not the first try was applied, before its reply was lost and the registry changed."""
    monkeypatch.setattr(emission, "CHUNK_COPIES", 20)
    registry.add(endpoint("one"))
    emitter.emit(scomp(), event_id="first")
    events = [*scomps(10), scomp(event_id="mine"), *scomps(14)]
    if lost:
        wire.lose = 1
        wire.on_loss = lambda: registry.add(endpoint("two"))
    else:
        registry.add(endpoint("two"))
    wire.sent.clear()
    receipts = emitter.emit_many(events)
    ids = [receipt.id for receipt in receipts]
    assert shard.new("one.0") == ["first", *ids]
    assert shard.new("two.0") == (ids[20:] if lost else ids)
    assert ids[10] == "mine"
    assert not any(receipt.repeated for receipt in receipts if receipt.id != "mine")
    # The first 20 (after the loss again), the new routes, and then no more than 10 at once.
    assert wire.sent == [*["script"] * (2 if lost else 1), "read", *["script"] * 3]


@pytest.mark.usefixtures("impatient")
def test_what_is_missing_after_a_chunk_was_divided_is_completed_by_the_same_call_with_its_ids(
    emitter: Emitter, wire: Wire, shard: Shard, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emission, "CHUNK_COPIES", 20)
    registry.add(endpoint("one"))
    emitter.emit(scomp(), event_id="first")
    registry.add(endpoint("two"))
    wire.good, wire.lose = 2, 1000
    with pytest.raises(StorageUnavailable) as caught:
        emitter.emit_many(scomps(25))
    wire.lose = 0
    ids = caught.value.event_ids
    assert (len(ids), len(set(ids)), caught.value.pushed) == (25, 25, 10)
    assert tuple(shard.new("two.0")) == ids[:20]
    again = [{**event, "event_id": event_id} for event, event_id in zip(scomps(25), ids, strict=True)]
    assert [receipt.repeated for receipt in emitter.emit_many(again)] == [True] * 20 + [False] * 5
    assert tuple(shard.new("one.0")[1:]) == tuple(shard.new("two.0")) == ids


def test_a_refused_connection_is_tried_again(emitter: Emitter, wire: Wire, shard: Shard, crm: Endpoint) -> None:
    wire.refuse = 1
    receipt = emitter.emit(scomp())
    assert shard.new() == [receipt.id]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that are about what is stored, not about how long it took."""
    monkeypatch.setattr(patience, "GIVE_UP", 0.03)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("applied", [False, True])
def test_a_failed_emit_is_completed_by_the_same_call_with_its_id(
    emitter: Emitter, wire: Wire, shard: Shard, crm: Endpoint, *, applied: bool
) -> None:
    emitter.emit(scomp())
    if applied:
        wire.lose = 1000
    else:
        wire.refuse = 1000
    with pytest.raises(StorageUnavailable) as caught:
        emitter.emit(scomp())
    wire.lose = wire.refuse = 0
    assert caught.value.pushed == 0
    (event_id,) = caught.value.event_ids
    assert emitter.emit(scomp(), event_id=event_id) == Receipt(event_id, ("crm",), repeated=applied)
    assert shard.new()[1:] == [event_id]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("applied", [False, True])
def test_a_failed_batch_says_how_far_it_came_and_is_completed_by_the_same_call_with_its_ids(
    emitter: Emitter, wire: Wire, shard: Shard, crm: Endpoint, *, applied: bool
) -> None:
    emitter.emit(scomp())
    events = [*scomps(700), scomp(event_id="mine"), *scomps(800)]
    wire.good = 1
    if applied:
        wire.lose = 1000
    else:
        wire.refuse = 1000
    with pytest.raises(StorageUnavailable) as caught:
        emitter.emit_many(events)
    wire.lose = wire.refuse = 0
    ids = caught.value.event_ids
    assert (len(ids), len(set(ids)), ids[700], caught.value.pushed) == (1501, 1501, "mine", 500)
    stored = shard.new()[1:]
    assert tuple(stored) == ids[: 1000 if applied else 500]
    again = [{**event, "event_id": event_id} for event, event_id in zip(events, ids, strict=True)]
    assert [receipt.id for receipt in emitter.emit_many(again)] == list(ids)
    assert tuple(shard.new()[1:]) == ids
    emitter.emit_many(again)
    assert tuple(shard.new()[1:]) == ids


@pytest.mark.usefixtures("impatient")
def test_no_event_vanishes_and_none_is_doubled_on_a_bad_line(
    emitter: Emitter, wire: Wire, shard: Shard, crm: Endpoint
) -> None:
    emitter.emit(scomp(), event_id="first")
    ids = ["first"]
    for number in range(60):
        # What fails comes and goes: sometimes for longer than an emit is patient.
        wire.refuse = [0, 1, 0, 1000, 2][number % 5]
        wire.lose = [1, 0, 0, 1000][number % 4] if not wire.refuse else 0
        try:
            ids.append(emitter.emit(scomp()).id)
        except StorageUnavailable as error:
            wire.refuse = wire.lose = 0
            ids.append(emitter.emit(scomp(), event_id=error.event_ids[0]).id)
    assert shard.new() == ids


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which an emit gives up."""
    clock = Clock()
    monkeypatch.setattr(patience, "monotonic", clock)
    return clock


@no_server
@pytest.mark.parametrize(("seconds", "tries"), [(0.6, 1), (0.4, 2), (0.2, 3)])
def test_no_try_begins_half_a_second_after_the_call(
    emitter: Emitter, wire: Wire, clock: Clock, crm: Endpoint, *, seconds: float, tries: int
) -> None:
    emitter.emit(scomp())
    wire.sent.clear()
    wire.lose = 1000
    wire.on_loss = lambda: clock.passes(seconds)
    with pytest.raises(StorageUnavailable):
        emitter.emit(scomp())
    assert wire.sent == ["script"] * tries


@no_server
def test_the_steps_of_a_call_have_one_deadline(
    emitter: Emitter, wire: Wire, clock: Clock, shard: Shard, crm: Endpoint
) -> None:
    """The first push is late, then refused as stale; the routes are read in vain until the time is over."""
    emitter.emit(scomp())
    shard.client.incr(shard.keys("version"))
    wire.sent.clear()
    wire.lose = 1
    wire.on_loss = lambda: clock.passes(0.3)
    wire.on_read = lambda: clock.passes(0.3)
    with pytest.raises(StorageUnavailable, match="did not answer within a second"):
        emitter.emit(scomp())
    assert wire.sent == ["script", "script", "read"]


@no_server
def test_a_slow_process_is_no_reason_to_give_up_while_redis_answers(
    emitter: Emitter, wire: Wire, clock: Clock, crm: Endpoint
) -> None:
    wire.on_read = lambda: clock.passes(2)
    assert emitter.emit(scomp()).endpoints == ("crm",)


@no_server
def test_each_chunk_that_is_pushed_gives_the_next_one_its_time(
    emitter: Emitter, wire: Wire, clock: Clock, crm: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every other reply is lost, which takes 0.4 seconds each time."""
    monkeypatch.setattr(emission, "CHUNK_EVENTS", 1)
    emitter.emit(scomp())
    wire.sent.clear()

    def lost() -> None:
        clock.passes(0.4)
        wire.good, wire.lose = 1, 1

    wire.lose, wire.on_loss = 1, lost
    assert len(emitter.emit_many(scomps(5))) == 5
    assert wire.sent == ["script"] * 10


# --- away and full ---------------------------------------------------------------------------------------------------


def listening(*, backlog: int = 64) -> socket.socket:
    """A port where connections are taken and never answered."""
    return socket.create_server(("127.0.0.1", 0), backlog=backlog)


def url_of(listener: socket.socket) -> str:
    return f"redis://127.0.0.1:{listener.getsockname()[1]}/0"


def away(emitter: Emitter) -> tuple[StorageUnavailable, float]:
    began = time.monotonic()
    with pytest.raises(StorageUnavailable) as caught:
        emitter.emit(scomp(event_id="mine"))
    return caught.value, time.monotonic() - began


@no_server
def test_a_refused_connection_is_given_up_soon_after_a_few_tries(emitters: Make, wire: Wire) -> None:
    with listening() as listener:
        url = url_of(listener)
    error, seconds = away(emitters(Config(redis=RedisConfig(url=url))))
    assert seconds < 5
    assert 2 <= len(wire.sent) <= 100
    assert "Redis is not available" in str(error)
    assert "redis.url" in str(error)
    assert (error.event_ids, error.pushed) == (("mine",), 0)


@no_server
def test_a_server_that_never_answers_is_given_up_soon(emitters: Make, wire: Wire) -> None:
    with listening() as listener:
        error, seconds = away(emitters(Config(redis=RedisConfig(url=url_of(listener)))))
    assert seconds < 5
    assert 1 <= len(wire.sent) <= 3
    assert error.event_ids == ("mine",)


@no_server
def test_however_many_threads_wait_for_a_server_that_never_answers_all_give_up_soon(wire: Wire) -> None:
    """They give up without a try where all connections are busy: those are tried twice in the time there is."""
    errors: list[StorageUnavailable] = []
    with listening() as listener, Notifier(config=Config(redis=RedisConfig(url=url_of(listener)))) as emits:

        def emit() -> None:
            try:
                emits.emit(scomp())
            except StorageUnavailable as error:
                errors.append(error)

        threads = [threading.Thread(target=emit) for _ in range(40)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - began
    assert len(errors) == 40
    assert seconds < 5
    assert len(wire.sent) <= 3 * CONNECTIONS


@no_server
async def test_however_many_tasks_wait_for_a_server_that_never_answers_all_give_up_soon(wire: Wire) -> None:
    with listening() as listener:
        async with AsyncNotifier(config=Config(redis=RedisConfig(url=url_of(listener)))) as emits:
            began = time.monotonic()
            errors = await asyncio.gather(*(emits.emit(event) for event in scomps(40)), return_exceptions=True)
            seconds = time.monotonic() - began
    assert {type(error) for error in errors} == {StorageUnavailable}
    assert seconds < 5
    assert len(wire.sent) <= 3 * 40


@no_server
@pytest.mark.usefixtures("impatient")
def test_a_thread_that_finds_all_connections_busy_says_so(config: Config, wire: Wire, crm: Endpoint) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    def held() -> None:
        begun.release()
        go_on.wait(30)

    def emit() -> None:
        with suppress(StorageUnavailable):
            emits.emit(scomp())

    with Notifier(config=config) as emits:
        emits.emit(scomp())
        wire.lose, wire.on_loss = CONNECTIONS, held
        threads = [threading.Thread(target=emit) for _ in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert begun.acquire(timeout=30)
        tried = len(wire.sent)
        try:
            with pytest.raises(StorageUnavailable, match="all connections to Redis are busy"):
                emits.emit(scomp())
            assert len(wire.sent) == tried
        finally:
            wire.on_loss = lambda: None
            go_on.set()
            for thread in threads:
                thread.join()
        emits.emit(scomp())


@no_server
@pytest.mark.usefixtures("impatient")
def test_a_socket_that_is_not_there_is_given_up_soon(emitters: Make, tmp_path: Path) -> None:
    error, seconds = away(emitters(Config(redis=RedisConfig(url=f"unix://{tmp_path}/none.sock"))))
    assert seconds < 5
    assert error.event_ids == ("mine",)


@no_server
@pytest.mark.usefixtures("impatient")
def test_no_embedded_server_is_one_sentence_that_names_up(emitters: Make, tmp_path: Path) -> None:
    error, seconds = away(emitters(Config(redis=RedisConfig(url="embedded", data_dir=tmp_path))))
    assert seconds < 5
    assert "kasplo-notify up" in str(error)
    assert error.event_ids == ("mine",)


@no_server
@pytest.mark.usefixtures("impatient")
def test_a_password_is_in_no_error(emitters: Make) -> None:
    with listening() as listener:
        port = listener.getsockname()[1]
    error, _ = away(emitters(Config(redis=RedisConfig(url=f"redis://user:s3cret@127.0.0.1:{port}/0"))))
    assert "s3cret" not in str(error)


@no_server
@pytest.mark.usefixtures("impatient")
def test_what_is_no_redis_is_given_up(emitters: Make) -> None:
    def babble(listener: socket.socket) -> None:
        with suppressed():
            while True:
                client, _ = listener.accept()
                client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                client.close()

    with listening() as listener:
        thread = threading.Thread(target=babble, args=(listener,))
        thread.start()
        error, seconds = away(emitters(Config(redis=RedisConfig(url=url_of(listener)))))
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert seconds < 5
    assert error.event_ids == ("mine",)


@contextmanager
def suppressed() -> Iterator[None]:
    try:
        yield
    except OSError:
        return


@on_the_server
def test_a_full_server_is_queue_full_and_the_call_can_be_completed(
    emitter: Emitter, shard: Shard, crm: Endpoint
) -> None:
    emitter.emit(scomp())
    before = shard.dump()
    shard.client.config_set("maxmemory", 1)
    with pytest.raises(QueueFull) as caught:
        emitter.emit_many(scomps(2))
    assert shard.dump() == before
    shard.client.config_set("maxmemory", 0)
    assert caught.value.pushed == 0
    emitter.emit_many(
        [{**event, "event_id": mine} for event, mine in zip(scomps(2), caught.value.event_ids, strict=True)]
    )
    assert tuple(shard.new()[1:]) == caught.value.event_ids


@on_the_server
@pytest.mark.usefixtures("unhurried")
def test_a_server_that_came_back_without_scripts_and_connections_is_used_again(
    emitter: Emitter, shard: Shard, crm: Endpoint
) -> None:
    emitter.emit(scomp())
    shard.client.script_flush()
    shard.client.client_kill_filter(_type="normal", skipme=True)
    emitter.emit(scomp())
    assert len(shard.new()) == 2


@pytest.mark.usefixtures("impatient")
def test_keys_of_another_kind_are_an_error_of_ours(emitter: Emitter, shard: Shard) -> None:
    shard.client.set(shard.keys("version"), "0")
    shard.client.rpush(shard.keys.routes, "a list")
    with pytest.raises(StorageUnavailable):
        emitter.emit(scomp())


# --- lost replies on a real socket -----------------------------------------------------------------------------------


@pytest.fixture
def proxy(wire: Wire) -> Iterator[Proxy]:
    with Proxy(wire.url) as proxy:
        yield proxy


@on_the_server
@pytest.mark.usefixtures("unhurried")
def test_a_reply_lost_on_the_socket_is_not_repeated_unseen_by_the_client(
    emitters: Make, proxy: Proxy, shard: Shard, crm: Endpoint
) -> None:
    """redis-py would send the script again by itself; each try must be one of ours."""
    emitter = emitters(Config(redis=RedisConfig(url=proxy.url)))
    emitter.emit(scomp())
    sent = proxy.scripts
    proxy.lose = 1
    receipt = emitter.emit(scomp())
    assert proxy.scripts == sent + 2
    assert shard.new()[1:] == [receipt.id]


# --- threads, forks, loops -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unhurried")
def test_twenty_threads_emit_through_one_notifier(config: Config, shard: Shard, crm: Endpoint) -> None:
    ids: list[str] = []
    failures: list[Exception] = []
    with Notifier(config=config) as emits:

        def emit(thread: int) -> None:
            try:
                ids.extend(emits.emit(scomp(f"{thread}.{number}@example.com")).id for number in range(10))
                ids.extend(receipt.id for receipt in emits.emit_many(scomps(30)))
            except NotifyError as error:
                failures.append(error)

        threads = [threading.Thread(target=emit, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    assert len(ids) == 20 * 40
    assert Counter(shard.new()) == Counter(ids)


@pytest.mark.usefixtures("unhurried")
def test_threads_see_a_change_of_the_registry_while_they_emit(
    config: Config, shard: Shard, registry: Registry, crm: Endpoint
) -> None:
    started, added = threading.Event(), threading.Event()
    late: list[Receipt] = []
    with Notifier(config=config) as emits:

        def emit() -> None:
            for _ in range(20):
                emits.emit(scomp())
            started.set()
            added.wait(30)
            late.extend(emits.emit(scomp()) for _ in range(5))

        threads = [threading.Thread(target=emit) for _ in range(4)]
        for thread in threads:
            thread.start()
        started.wait(30)
        registry.add(endpoint("two"))
        added.set()
        for thread in threads:
            thread.join()
    assert len(late) == 20
    assert {receipt.endpoints for receipt in late} == {("crm", "two")}
    assert {receipt.id for receipt in late} <= set(shard.new("two.0"))


@on_the_server
@pytest.mark.usefixtures("unhurried")
def test_a_forked_child_and_its_parent_emit_through_the_same_notifier(
    config: Config, shard: Shard, crm: Endpoint
) -> None:
    with Notifier(config=config) as emits:
        emits.emit(scomp(), event_id="before")
        children = []
        for child in range(4):
            pid = os.fork()
            if not pid:
                status = 1
                try:
                    for number in range(5):
                        emits.emit(scomp(), event_id=f"child{child}-{number}")
                    status = 0
                finally:
                    os._exit(status)
            children.append(pid)
        for number in range(20):
            emits.emit(scomp(), event_id=f"parent-{number}")
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
        emits.emit(scomp(), event_id="after")
    expected = {f"child{child}-{number}" for child in range(4) for number in range(5)}
    expected |= {f"parent-{number}" for number in range(20)} | {"before", "after"}
    assert Counter(shard.new()) == Counter(expected)


@pytest.mark.usefixtures("unhurried")
def test_an_async_notifier_serves_one_loop_after_another(config: Config, shard: Shard, crm: Endpoint) -> None:
    async_notifier = AsyncNotifier(config=config)

    async def emit(event_id: str) -> Receipt:
        async with async_notifier:
            return await async_notifier.emit(scomp(), event_id=event_id)

    for number in range(3):
        assert asyncio.run(emit(f"e{number}")).endpoints == ("crm",)
    assert shard.new() == ["e0", "e1", "e2"]


def emit_on_three_loops(async_notifier: AsyncNotifier) -> list[Receipt]:
    async def emit(event_id: str) -> Receipt:
        return await async_notifier.emit(scomp(), event_id=event_id)

    return [asyncio.run(emit(f"e{number}")) for number in range(3)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("unhurried")
def test_an_async_notifier_that_nobody_closed_serves_the_next_loop(config: Config, shard: Shard, crm: Endpoint) -> None:
    """What it leaves to the garbage collector, the collector may complain of; the events are stored."""
    receipts = emit_on_three_loops(AsyncNotifier(config=config))
    gc.collect()
    assert receipts == [Receipt(f"e{number}", ("crm",)) for number in range(3)]
    assert shard.new() == ["e0", "e1", "e2"]


@pytest.mark.usefixtures("unhurried")
async def test_many_tasks_emit_through_one_async_notifier(config: Config, shard: Shard, crm: Endpoint) -> None:
    async with AsyncNotifier(config=config) as emits:
        receipts = await asyncio.gather(*(emits.emit(event) for event in scomps(300)))
    assert Counter(shard.new()) == Counter(receipt.id for receipt in receipts)


@on_the_server
@pytest.mark.usefixtures("unhurried")
async def test_a_cancelled_emit_leaves_the_connections_sane(proxy: Proxy, shard: Shard, crm: Endpoint) -> None:
    """It is cancelled between its request and the reply, which must not become the next command's reply."""
    async with AsyncNotifier(config=Config(redis=RedisConfig(url=proxy.url))) as emits:
        await emits.emit(scomp(), event_id="first")
        proxy.replied.clear()
        proxy.open.clear()
        task = asyncio.ensure_future(emits.emit(scomp(), event_id="cancelled"))
        await asyncio.to_thread(proxy.replied.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        proxy.open.set()
        events = [scomp(event_id=f"e{number}") for number in range(20)]
        receipts = await asyncio.gather(*(emits.emit(event) for event in events))
    assert receipts == [Receipt(f"e{number}", ("crm",)) for number in range(20)]
    assert Counter(shard.new()) == Counter(["first", "cancelled", *(f"e{number}" for number in range(20))])


def test_a_closed_notifier_opens_again(emitters: Make, config: Config, shard: Shard, crm: Endpoint) -> None:
    emits = Notifier(config=config)
    emits.close()
    emits.emit(scomp(), event_id="a")
    emits.close()
    emits.close()
    emits.emit(scomp(), event_id="b")
    emits.close()
    assert shard.new() == ["a", "b"]
