"""A drain on a real server, with a transport that answers as it is told, and a line that loses replies."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
import trustme

from kasplo_notify import drain as drain_module
from kasplo_notify import intake as intake_module
from kasplo_notify import sender as sender_module
from kasplo_notify.config import Config, WorkerConfig
from kasplo_notify.drain import Drain
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.equipment import Equipment
from kasplo_notify.errors import StorageUnavailable
from kasplo_notify.intake import PROOF_S
from kasplo_notify.outcome import Outcome
from kasplo_notify.registry import Registry
from kasplo_notify.request import Request
from kasplo_notify.settlement import BATCH
from kasplo_notify.store import AsyncStore, Call, connect_async
from kasplo_notify.window import SLOW_AFTER_S
from tests.integration.shard import Shard

pytestmark = pytest.mark.parametrize("wire", ["server"], indirect=True)


class Answers:
    """A transport that answers 200 at once, and remembers what it was asked to send.

    Attributes:
        sent: The ids of the events, in order.
        on_send: Called with each of them.
        open: While it is not set, nothing is answered.
        hang: What is not answered while `open` is not set; None for everything.
        unanswered: Ids of the events that wait for their answer.
    """

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.on_send: Callable[[str], None] = lambda _: None
        self.open = asyncio.Event()
        self.open.set()
        self.hang: set[str] | None = None
        self.unanswered: set[str] = set()

    async def send(self, request: Request, *, timeout: float) -> Outcome:  # noqa: ASYNC109 - the transport's signature
        event_id = dict(request.headers)["webhook-id"]
        self.sent.append(event_id)
        self.unanswered.add(event_id)
        self.on_send(event_id)
        await asyncio.sleep(0)
        if self.hang is None or event_id in self.hang:
            await self.open.wait()
        self.unanswered.discard(event_id)
        return Outcome(status=200, duration_ms=1)


class LossyStore(AsyncStore):
    """Loses the reply of the first call of each script in `lose`: it was run, and nobody hears of it.

    Attributes:
        asked: The scripts that were run, each with the time of the monotonic clock.
        slow: Seconds that each script takes, by its name.
    """

    lose: set[str]
    slow: dict[str, float]
    on_lost: Callable[[str], None]
    asked: list[tuple[str, float]]

    async def run(self, call: Call) -> Any:
        self.asked.append((call.script, time.monotonic()))
        await asyncio.sleep(self.slow.get(call.script, 0.0))
        reply = await super().run(call)
        if call.script in self.lose:
            self.lose.discard(call.script)
            self.on_lost(call.script)
            raise StorageUnavailable("the reply was lost")
        return reply


@asynccontextmanager
async def drain_losing(
    config: Config, url: str, *lose: str, on_lost: Callable[[str], None] = lambda _: None
) -> AsyncIterator[tuple[Drain, Answers]]:
    store = LossyStore(connect_async(url), "kasplo:")
    store.lose, store.on_lost, store.asked, store.slow = set(lose), on_lost, [], {}
    answers = Answers()
    equipment = Equipment(config=config, store=store, transport=answers, name="tester")  # type: ignore[arg-type]
    try:
        yield Drain(equipment, linger=0.0), answers
    finally:
        await store.close()


@pytest.fixture
def crm(registry: Registry) -> None:
    registry.add(Endpoint(name="crm", url="http://127.0.0.1:9/", queues=2))


async def until(true: Callable[[], object]) -> None:
    while not true():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def put_due(shard: Shard, count: int) -> set[str]:
    ids = [f"e{number}" for number in range(count)]
    shard.put("crm.0", *ids[::2])
    shard.put("crm.1", *ids[1::2])
    return set(ids)


@pytest.mark.usefixtures("crm")
async def test_everything_that_is_due_is_delivered_once_and_nothing_is_left(shard: Shard, config: Config) -> None:
    ids = put_due(shard, 500)
    async with drain_losing(config, shard.url) as (drain, answers):
        tally = await drain.run()
    assert (sorted(answers.sent), tally.delivered) == (sorted(ids), 500)
    assert not {"owner", "schedule", "new:crm.0", "new:crm.1"} & shard.names()


@pytest.mark.usefixtures("crm")
@pytest.mark.parametrize("script", ["settle", "release", "read", "renew"])
async def test_a_lost_reply_costs_neither_an_event_nor_a_second_delivery(
    shard: Shard, config: Config, script: str
) -> None:
    ids = put_due(shard, 500)
    async with drain_losing(config, shard.url, script) as (drain, answers):
        await asyncio.wait_for(drain.run(), 20)
    assert sorted(answers.sent) == sorted(ids)
    assert not {"owner", "schedule", "new:crm.0", "new:crm.1"} & shard.names()


@pytest.mark.usefixtures("crm")
async def test_queues_whose_claim_nobody_heard_of_are_not_left_to_their_lease(shard: Shard, config: Config) -> None:
    ids = put_due(shard, 20)
    async with drain_losing(config, shard.url, "claim") as (drain, answers):
        # The lease is 30 s.
        await asyncio.wait_for(drain.run(), 20)
    assert sorted(answers.sent) == sorted(ids)


@pytest.mark.usefixtures("crm")
async def test_a_drain_that_is_told_to_stop_gives_back_what_a_lost_claim_gave_it(shard: Shard, config: Config) -> None:
    put_due(shard, 20)
    drains: list[Drain] = []
    async with drain_losing(config, shard.url, "claim", on_lost=lambda _: drains[0].stop()) as (drain, answers):
        drains.append(drain)
        await asyncio.wait_for(drain.run(), 20)
    assert answers.sent == []
    assert "owner" not in shard.names()


@pytest.mark.usefixtures("crm")
async def test_nothing_is_begun_while_answers_cannot_be_noted(shard: Shard, config: Config) -> None:
    put_due(shard, 500)
    async with drain_losing(config, shard.url) as (drain, answers):
        shard.client.set(shard.keys("deaths"), "junk")
        shard.client.set(shard.keys("alone"), "no hash")
        running = asyncio.ensure_future(drain.run())
        await asyncio.sleep(1.5)
        begun = len(answers.sent)
        await asyncio.sleep(0.5)
        assert len(answers.sent) == begun < 500
        shard.client.delete(shard.keys("deaths"), shard.keys("alone"))
        await asyncio.wait_for(running, 20)
    assert len(answers.sent) == 500


@pytest.mark.usefixtures("crm")
async def test_the_age_of_what_a_pause_held_back_counts_from_its_end(shard: Shard, config: Config) -> None:
    day = 86_400_000
    shard.put("crm.0", "held-back", age=30 * day)
    shard.put("crm.1", "late", age=30 * day)
    shard.set_health(resumed_at=shard.now() - 1000)
    async with drain_losing(config, shard.url) as (drain, answers):
        await asyncio.wait_for(drain.run(), 20)
    assert sorted(answers.sent) == ["held-back", "late"]
    shard.set_health(resumed_at=shard.now() - 4 * day)
    shard.put("crm.0", "too-old", age=30 * day)
    async with drain_losing(config, shard.url) as (drain, answers):
        await asyncio.wait_for(drain.run(), 20)
    assert answers.sent == []
    assert shard.dead() == [("too-old", "too_old")]


@pytest.mark.usefixtures("crm")
async def test_the_requests_of_a_process_are_as_many_as_it_is_configured_for(shard: Shard, config: Config) -> None:
    async with drain_losing(replace(config, worker=WorkerConfig(max_in_flight=3, max_slow=2)), shard.url) as (drain, _):
        assert (drain._gear.slots.fast_limit, drain._gear.slots.slow_limit) == (3, 2)


def spoil_the_secret(shard: Shard) -> None:
    record = orjson.loads(shard.client.hget("kasplo:endpoints", "bad") or b"")
    # Of the right length and of the right characters, and yet no base64.
    record["secret"] = "whsec_" + "A" * 33
    shard.client.hset("kasplo:endpoints", "bad", orjson.dumps(record))


def spoil_the_client_key(shard: Shard) -> None:
    record = orjson.loads(shard.client.hget("kasplo:endpoints", "bad") or b"")
    issued = trustme.CA().issue_cert("client.example")
    record |= {"client_cert": issued.cert_chain_pems[0].bytes().decode(), "client_key": "-----BEGIN PRIVATE KEY-----"}
    shard.client.hset("kasplo:endpoints", "bad", orjson.dumps(record))


BROKEN: dict[str, Callable[[Shard], object]] = {
    "a secret that is no base64": spoil_the_secret,
    "a client key that is none": spoil_the_client_key,
    "the time of a resume": lambda shard: shard.client.hset(shard.keys("health:bad"), "resumed_at", "inf"),
    "the time of a retry": lambda shard: shard.client.zadd(
        shard.keys("retry:bad.0"), {shard.put_retry("bad.0", "r"): float("-inf")}
    ),
    "the age of a retry": lambda shard: shard.client.zadd(
        shard.keys("retry:bad.0"), {b"1,0," + b"9" * 400 + b"\n1\nx\n\n{}": 1}
    ),
    "the note of a death": lambda shard: shard.client.hset(shard.keys("suspect"), "bad.0", b"\xff"),
}


@pytest.mark.usefixtures("crm")
@pytest.mark.parametrize("broken", BROKEN)
async def test_whatever_is_stored_for_one_endpoint_the_others_are_served(
    shard: Shard, config: Config, registry: Registry, broken: str
) -> None:
    registry.add(Endpoint(name="bad", url="http://127.0.0.1:9/", queues=1))
    shard.put("bad.0", "x")
    if broken == "the note of a death":
        shard.client.hset(shard.keys("owner"), "bad.0", "a drain that died")
    ids = put_due(shard, 20)
    BROKEN[broken](shard)
    async with drain_losing(config, shard.url) as (drain, answers):
        await asyncio.wait_for(drain.run(), 20)
    assert ids <= set(answers.sent)
    assert "owner" not in shard.names()


@pytest.mark.usefixtures("crm")
async def test_a_fault_of_ours_ends_the_drain_and_holds_nothing_up(
    shard: Shard, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_due(shard, 20)
    async with drain_losing(config, shard.url) as (drain, _):
        monkeypatch.setattr(drain._intake, "read", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(drain.run(), 20)
        assert drain._gear.slots.in_flight == 0
    assert "owner" not in shard.names()


@pytest.mark.usefixtures("crm")
async def test_a_broken_queue_stops_neither_the_drain_nor_the_other_queue(
    shard: Shard, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    ids = put_due(shard, 20)
    shard.client.delete(shard.keys("new:crm.0"))
    shard.client.set(shard.keys("new:crm.0"), "junk")
    async with drain_losing(config, shard.url) as (drain, answers):
        await asyncio.wait_for(drain.run(), 20)
    assert set(answers.sent) < ids
    assert len(answers.sent) == 10
    assert "queue_broken: the keys of crm.0" in caplog.text


@pytest.mark.usefixtures("crm")
async def test_a_request_in_flight_is_the_transports_alone(
    shard: Shard, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_due(shard, 2)
    holders: list[int] = []

    async def send(request: Request, **_: float) -> Outcome:
        await asyncio.sleep(0)
        holders.append(sys.getrefcount(request))
        return Outcome(status=200, duration_ms=1)

    async with drain_losing(config, shard.url) as (drain, answers):
        monkeypatch.setattr(answers, "send", send)
        await asyncio.wait_for(drain.run(), 20)
    # This one, and what counts them.
    assert len(holders) == 2
    assert max(holders) <= 2


@pytest.mark.usefixtures("crm")
async def test_what_is_in_flight_holds_so_many_bytes_and_one_request_more(
    shard: Shard, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kasplo_notify.window.FAST_BYTES", 50_000)
    config = replace(config, worker=WorkerConfig(max_slow=0))
    ids = [f"e{number}" for number in range(40)]
    shard.put("crm.0", "huge", size=200_000)
    shard.put("crm.0", *ids, size=10_000)
    async with drain_losing(config, shard.url) as (drain, answers), asyncio.timeout(20):
        answers.open.clear()
        running = asyncio.ensure_future(drain.run())
        await until(lambda: answers.sent)
        await asyncio.sleep(0.3)
        assert answers.sent == ["huge"], "what is larger than all that there may be goes alone"
        answers.open.set()
        answers.open.clear()
        await until(lambda: len(answers.unanswered) >= 3)
        await asyncio.sleep(0.3)
        # Each is there as it is stored, and as it is sent. The window would take five.
        assert len(answers.unanswered) == 3
        answers.open.set()
        await running
    assert sorted(answers.sent) == sorted(["huge", *ids])


@pytest.mark.usefixtures("crm")
@pytest.mark.parametrize("slots", [256, 2], ids=["some slots are free", "none is"])
async def test_a_drain_hears_of_changes_within_a_second_whatever_it_waits_for(
    shard: Shard, config: Config, slots: int
) -> None:
    config = replace(config, worker=WorkerConfig(max_in_flight=slots, max_slow=0))
    put_due(shard, 2)
    async with drain_losing(config, shard.url) as (drain, answers):
        answers.open.clear()
        running = asyncio.ensure_future(drain.run())
        await asyncio.sleep(2.8)
        answers.open.set()
        await asyncio.wait_for(running, 20)
        asked = [at for name, at in drain._gear.store.asked if name == "renew"]  # type: ignore[attr-defined]
    # The best of several: a busy machine holds some of them up. Between two replies nothing new is heard.
    assert min(later - earlier for earlier, later in pairwise(asked)) < 0.9


@pytest.mark.usefixtures("crm")
async def test_a_drain_ends_after_five_minutes_however_much_is_due(
    shard: Shard, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = [0.0]
    monkeypatch.setattr(drain_module, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + ahead[0]))

    def another(event_id: str) -> None:
        """For each event that leaves one more is due."""
        shard.put("crm.0", event_id)
        sent = len(answers.sent)
        ahead[0] = 0.0 if sent < 100 else 290.0 if sent < 200 else 301.0

    async with drain_losing(config, shard.url) as (drain, answers):
        answers.on_send = another
        put_due(shard, 40)
        tally = await asyncio.wait_for(drain.run(), 20)
    assert tally.delivered == len(answers.sent) >= 200
    assert "owner" not in shard.names()
    assert len([*shard.new("crm.0"), *shard.new("crm.1")]) == 40


@pytest.mark.usefixtures("crm")
async def test_what_is_answered_and_not_settled_is_bounded_however_slow_redis_is(
    shard: Shard, config: Config, registry: Registry
) -> None:
    """It is what a death of the worker delivers twice: at most what may be in flight, and a batch."""
    for number in range(8):
        registry.add(Endpoint(name=f"other-{number}", url="http://127.0.0.1:9/", queues=1))
        shard.put(f"other-{number}.0", *(f"o{number}-{one}" for one in range(500)))
    put_due(shard, 1000)
    most = 0
    async with drain_losing(config, shard.url) as (drain, answers):

        def look(_: str) -> None:
            nonlocal most
            most = max(most, len(answers.unanswered) + len(drain._settlement))

        answers.on_send = look
        drain._gear.store.slow["settle"] = 0.02  # type: ignore[attr-defined]
        tally = await asyncio.wait_for(drain.run(), 60)
    assert tally.delivered == 5000
    assert most <= config.worker.max_in_flight + BATCH


def put_with_deaths(shard: Shard, deaths: int) -> None:
    """Five events in each queue of crm, whose drains have died so often."""
    for queue in ("crm.0", "crm.1"):
        shard.put(queue, *(f"{queue[-1]}-{number}" for number in range(5)))
        shard.client.hset(shard.keys("owner"), queue, "a drain that died")
        shard.client.hset(shard.keys("deaths"), queue, deaths - 1)


@pytest.mark.usefixtures("crm")
@pytest.mark.parametrize(("deaths", "together"), [(1, range(3, 11)), (2, range(1, 3))])
async def test_where_drains_died_again_a_queue_sends_one_event_at_a_time(
    shard: Shard, config: Config, deaths: int, together: range
) -> None:
    put_with_deaths(shard, deaths)
    seen: list[int] = []
    async with drain_losing(config, shard.url) as (drain, answers):

        def look(event_id: str) -> None:
            seen.append(len(answers.unanswered))
            if deaths > 1:
                # Whoever dies now is the fault of this event, as far as its queue goes.
                alone = shard.client.hget(shard.keys("alone"), f"crm.{event_id[0]}") or b""
                assert alone.split()[1].decode() == event_id

        answers.on_send = look
        await asyncio.wait_for(drain.run(), 20)
    assert sorted(answers.sent) == sorted(f"{queue}-{number}" for queue in (0, 1) for number in range(5))
    assert max(seen) in together


def suspect(shard: Shard, *event_ids: str) -> None:
    """As if the drains of these events' queues had died of them just now."""
    put_with_deaths(shard, 2)
    for event_id in event_ids:
        shard.client.hset(shard.keys("alone"), f"crm.{event_id[0]}", f"{shard.now()} {event_id}")


@pytest.mark.usefixtures("crm")
async def test_what_is_suspected_goes_when_the_worker_has_shown_that_it_lives(shard: Shard, config: Config) -> None:
    suspect(shard, "1-0")
    times: dict[str, float] = {}
    began = time.monotonic()
    async with drain_losing(config, shard.url) as (drain, answers):
        answers.on_send = lambda event_id: times.update({event_id: time.monotonic() - began})
        await asyncio.wait_for(drain.run(), 20)
    assert times["1-0"] >= PROOF_S[0]
    assert answers.sent[:5] == [f"0-{number}" for number in range(5)]
    assert len(answers.sent) == 10
    assert not {"deaths", "suspect", "alone"} & shard.names()


@pytest.mark.usefixtures("crm")
async def test_a_suspected_event_is_in_flight_by_itself_for_a_second(shard: Shard, config: Config) -> None:
    suspect(shard, "0-0", "1-0")
    times: list[float] = []
    async with drain_losing(config, shard.url) as (drain, answers):
        answers.open.clear()
        passed = asyncio.Event()

        def look(_: str) -> None:
            times.append(time.monotonic())
            if len(times) == 2:
                passed.set()

        answers.on_send = look
        running = asyncio.ensure_future(drain.run())
        await asyncio.wait_for(passed.wait(), 20)
        answers.open.set()
        await asyncio.wait_for(running, 20)
    assert times[1] - times[0] >= SLOW_AFTER_S
    assert len(answers.sent) == 10


@pytest.mark.usefixtures("crm")
async def test_a_queue_that_waits_for_its_turn_is_not_acquitted(
    shard: Shard, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "SLICE_S", 0.05)
    monkeypatch.setattr(drain_module, "SLICE_S", 0.05)
    monkeypatch.setattr(sender_module, "SLOW_AFTER_S", 60.0)
    suspect(shard, "0-0", "1-0")
    known: dict[str, int] = {}
    async with drain_losing(config, shard.url) as (drain, answers):
        answers.open.clear()
        sent = asyncio.Event()

        def look(event_id: str) -> None:
            queue = f"crm.{event_id[0]}"
            known.setdefault(queue, int(shard.client.hget(shard.keys("deaths"), queue) or 0))
            sent.set()

        answers.on_send = look
        running = asyncio.ensure_future(drain.run())
        await asyncio.wait_for(sent.wait(), 20)
        await asyncio.sleep(2.0)
        assert len(answers.sent) == 1
        answers.open.set()
        await asyncio.wait_for(running, 20)
    assert known == {"crm.0": 2, "crm.1": 2}


@pytest.mark.usefixtures("crm")
async def test_an_event_that_killed_often_enough_is_given_up(shard: Shard, config: Config) -> None:
    put_with_deaths(shard, 5)
    shard.client.hset(shard.keys("suspect"), "crm.1", "3 3 1-0")
    async with drain_losing(config, shard.url) as (drain, answers):
        await asyncio.wait_for(drain.run(), 20)
    assert shard.dead() == [("1-0", "poison")]
    assert len(answers.sent) == 9
