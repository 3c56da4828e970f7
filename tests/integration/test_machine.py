"""Whatever is done, in whatever order: every event is where it must be, once, and is looked at when it is due.

Hypothesis makes up the steps; the scripts run on a real server, and after each of them all that it holds is
compared with a model. ``make test`` runs the same examples each time. More, and others each time:

    MACHINE_EXAMPLES=5000 make test ARGS="-k machine"

A failure prints the fewest steps that lead to it, and how to run just them again.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from kasplo_notify import Config, StorageUnavailable, emission
from kasplo_notify import registry as registry_module
from kasplo_notify.config import DeadConfig, DeliveryConfig, RedisConfig
from kasplo_notify.dead import DeadLetters, Selection
from kasplo_notify.emission import Emission, Receipt, prepare_many
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.errors import EndpointError, UnknownEndpoint
from kasplo_notify.registry import Registry, removal
from kasplo_notify.store import Call
from tests.integration.claims import check
from tests.integration.model import (
    CLASSES,
    DEAD_BYTES,
    DEAD_KEEP,
    FAILURES_TO_OPEN,
    FIRST_PROBE,
    WINS_TO_CLOSE,
    Health,
    Model,
    Registered,
)
from tests.integration.seen import ENDPOINTS, QUEUES, Key, Seen, endpoint_of, pass_time
from tests.integration.shard import DAY, DELAY, Shard, scomp
from tests.integration.steps import (
    DRAINS,
    LEASE_AND_DELAY,
    MOMENT,
    Answer,
    Breaks,
    Drain,
    Shift,
    Told,
    breaks,
    chosen_outcomes,
    drains,
    events,
    few,
    operations,
    shifts,
    times,
    which,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from kasplo_notify.routing import RouteTable

LEASE = 20_000
MAX_BACKLOG, SWEEP, CHUNK = 8, 2, 2


class Machine(RuleBasedStateMachine):
    """Producers, drains, operators and the clock, in any order."""

    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.client = redis.Redis.from_url(self.url)
        self.client.flushall()
        self.shard = Shard(self.client, self.url)
        self.config = Config(
            redis=RedisConfig(url=self.url),
            delivery=DeliveryConfig(max_backlog=MAX_BACKLOG),
            dead=DeadConfig(max_bytes=DEAD_BYTES, keep_days=DEAD_KEEP / DAY),
        )
        self.registry = Registry(self.shard.store, self.config)
        self.letters = DeadLetters(self.shard.store, self.registry)
        self.model = Model()
        self.routes: RouteTable | None = None
        self.emissions: list[list[dict[str, object]]] = []
        self.tokens = (f"drain{number}" for number in range(1000))
        self.drains = [Drain(next(self.tokens)) for _ in range(DRAINS)]
        self.zombies: list[Drain] = []
        self.seen = Seen.of(self.shard)
        for endpoint in ENDPOINTS:
            self._register(endpoint, 1)
        self.look()

    def teardown(self) -> None:
        self.client.close()

    def look(self) -> None:
        """See what the step has done, and compare."""
        before, self.seen = self.seen, Seen.of(self.shard)
        check(self.model, before, self.seen)

    # --- producers -----------------------------------------------------------------------------------------------

    @rule(events=events, lost=st.booleans(), breaks=breaks)
    def emit(self, *, events: list[Told], lost: bool, breaks: Breaks) -> None:
        self._emit([self._event(each) for each in events], lost=lost, breaks=breaks)

    @rule(one=which, breaks=breaks)
    def emit_again(self, one: int, breaks: Breaks) -> None:
        """The same call with the same ids: it completes what was pushed in part, and changes nothing else."""
        if not self.emissions:
            return
        events = self.emissions[one % len(self.emissions)]
        if all(self.model.may_emit(str(event["event_id"])) for event in events):
            self._emit(events, breaks=breaks)

    def _event(self, told: Told) -> dict[str, object]:
        event = scomp(f"customer{told.recipient}@example.com", mail_class=told.mail_class)
        own = f"own{told.own}"
        return {**event, "event_id": own} if told.own is not None and self.model.may_emit(own) else event

    def _emit(self, events: list[dict[str, object]], *, lost: bool = False, breaks: Breaks = None) -> None:
        emission = Emission(self.config, self.routes, prepare_many(events))
        try:
            receipts = self._carry(emission, lost=lost, breaks=breaks)
        except StorageUnavailable as error:
            ids = error.event_ids
        else:
            ids = tuple(receipt.id for receipt in receipts)
            takers = [tuple(self.model.takers(str(event["mail_class"]))) for event in events]
            assert [receipt.endpoints for receipt in receipts] == takers
        self.routes = emission.routes
        again = [{**event, "event_id": event_id} for event, event_id in zip(events, ids, strict=True)]
        self.emissions = [*self.emissions[-3:], again]

    def _carry(self, emission: Emission, *, lost: bool, breaks: Breaks) -> list[Receipt]:
        """As a notifier does it; `lost`: each push is sent twice, as its first reply is lost."""
        steps, chunk = emission.steps(), 0
        try:
            step = next(steps)
            while True:
                if not isinstance(step, Call):
                    keys = self.shard.keys
                    step = steps.send(self.shard.store.read(("GET", keys("version")), ("GET", keys.routes)))
                    continue
                if breaks is not None and breaks.chunk == chunk:
                    if breaks.applied:
                        self._push(step)
                    steps.throw(StorageUnavailable("no answer"))
                reply = self._push(step)
                reply = self._push(step) if lost else reply
                chunk += reply[0] != b"stale"
                step = steps.send(reply)
        except StopIteration as done:
            receipts: list[Receipt] = done.value
            return receipts

    def _push(self, call: Call) -> list[Any]:
        version = self.registry.read()[0]
        reply: list[Any] = self.shard.store.run(call)
        if call.args[0] == version:
            assert reply == self.model.pushed(call, self.seen)
        else:
            assert reply == [b"stale", version.encode()]
        self.look()
        return reply

    # --- drains --------------------------------------------------------------------------------------------------

    @rule(shift=shifts)
    def work_at_once(self, shift: Shift) -> None:
        self._work(shift)

    @rule(shift=shifts)
    def work_in_a_moment(self, shift: Shift) -> None:
        self.let_time_pass(MOMENT)
        self._work(shift)

    @rule(shift=shifts)
    def work_later(self, shift: Shift) -> None:
        self.let_time_pass(LEASE_AND_DELAY)
        self._work(shift)

    def _work(self, shift: Shift) -> None:
        """The ordinary course of things: a drain claims what is due, settles some of it, and events come in.

        Each example does without some of the rules. If these steps were rules of their own, few would have them all.
        """
        who = self.drains[shift.drain]
        self._claim(who, shift.limits)
        self._settle(who, [(*place, answer) for place, answer in zip(who.reads, shift.answers, strict=False)])
        if shift.leaves:
            self.release(shift.drain, {*QUEUES})
        for endpoint in sorted(set(ENDPOINTS) - self.model.registered.keys()):
            self._register(endpoint, 1)
            self.look()
        self._emit([self._event(each) for each in shift.events])

    def _claim(self, who: Drain, limits: tuple[int, int, int]) -> None:
        queues, per_queue, events = limits
        reply = self.shard.claim(who.token, lease=LEASE, most=queues, per_queue=per_queue, events=events)
        self.model.claimed(who.token, self.seen, reply, limits, LEASE)
        for claimed in reply.queues:
            who.read(claimed.queue, claimed.events)
        self.look()
        for endpoint in sorted({endpoint_of(queue) for queue in reply.removing}):
            self._go_on_removing(endpoint)
            self.look()

    @rule(drain=which, queue=st.sampled_from(QUEUES), fresh=few, again=few)
    def read(self, drain: int, queue: str, fresh: int, again: int) -> None:
        who = self._one(drain, self.drains + self.zombies)
        (events,) = self.shard.read(who.token, (queue, "", fresh, "-inf", again))
        assert (events is not None) == (self.model.owners.get(queue) == who.token)
        if events is not None:
            assert [each.id for each in events] == self.model.due(queue, self.seen, self.shard.now(), fresh, again)
            who.read(queue, events)
        self.look()

    @rule(drain=which, outcomes=chosen_outcomes, again=st.booleans())
    def settle(self, *, drain: int, outcomes: list[tuple[int, Answer]], again: bool) -> None:
        """`again`: its reply was lost."""
        readers = [each for each in self.drains + self.zombies if each.reads]
        if readers:
            who = self._one(drain, readers)
            reads = list(who.reads)
            chosen = {reads[one % len(reads)]: answer for one, answer in outcomes}
            self._settle(who, [(queue, ref, answer) for (queue, ref), answer in chosen.items()], again=again)

    def _settle(self, who: Drain, outcomes: list[tuple[str, bytes, Answer]], *, again: bool = False) -> None:
        items = [who.item(queue, ref, answer) for queue, ref, answer in outcomes]
        keys = [(item.event_id, endpoint_of(item.queue)) for item in items]
        effects = self.model.settled(who.token, list(zip(keys, items, strict=True)), self.seen)
        for expected in (effects, 0) if again else (effects,):
            assert self.shard.settle(who.token, *items, dead_bytes=DEAD_BYTES, dead_keep=DEAD_KEEP).applied == expected
            self.look()

    @rule(drain=which, one=which)
    def go_alone(self, drain: int, one: int) -> None:
        """Say which event is about to be in flight alone."""
        readers = [each for each in self.drains + self.zombies if each.reads]
        if not readers:
            return
        who = self._one(drain, readers)
        (queue, _), read = list(who.reads.items())[one % len(who.reads)]
        now, _, held = self.shard.run("alone", who.token, queue, read.id)
        assert bool(held) == self.model.went_alone(who.token, queue, read.id, int(now))
        self.look()

    @rule(drain=which)
    def renew(self, drain: int) -> None:
        who = self._one(drain, self.drains + self.zombies)
        now, _, replies = self.shard.run("renew", who.token, LEASE, *QUEUES)
        assert [bool(held) for held, _, _ in replies] == self.model.renewed(who.token, int(now), LEASE)
        self.look()

    @rule(drain=which, queues=st.sets(st.sampled_from(QUEUES), min_size=1), served=st.booleans())
    def release(self, drain: int, queues: set[str], *, served: bool = True) -> None:
        """Of these queues, some may be another's."""
        who = self._one(drain, self.drains + self.zombies)
        given = {"unserved": ()} if served else {"unserved": sorted(queues)}
        released, _, _ = self.shard.release(who.token, *(sorted(queues) if served else ()), **given)
        assert released == sum(self.model.released(who.token, queue, served=served) for queue in sorted(queues))
        self.look()

    @rule(drain=drains)
    def crash(self, drain: int) -> None:
        """A drain forgets what it held. Or it is only believed dead, and comes back as a zombie."""
        self.zombies = [*self.zombies[-1:], self.drains[drain]]
        self.drains[drain] = Drain(next(self.tokens))

    def _one(self, one: int, those: list[Drain]) -> Drain:
        return those[one % len(those)]

    # --- operators -----------------------------------------------------------------------------------------------

    @rule(operations=operations)
    def operate(self, operations: list[tuple[str, str, int]]) -> None:
        """What operators do to endpoints, as the command line does it."""
        for operation, endpoint, one in operations:
            act: Callable[[str, int], None] = getattr(self, f"_{operation}")
            act(endpoint, one)
            self.look()

    def _register(self, endpoint: str, one: int) -> None:
        """Change how many queues an endpoint has and what its delay is. One that was removed is registered again."""
        queues, delay = 1 + one % 3, 5.0 if one > 8 else None
        if endpoint not in self.model.registered:
            url, classes = f"https://{endpoint}.example/hook", CLASSES[endpoint]
            self.registry.add(Endpoint(name=endpoint, url=url, mail_classes=classes, queues=queues, delay=delay))
            self.model.health[endpoint] = Health()
        elif self.model.serves(endpoint):
            self.registry.update(endpoint, lambda old: replace(old, queues=queues, delay=delay))
        else:
            self._go_on_removing(endpoint)
            return
        self.model.registered[endpoint] = Registered(queues=queues, delay=DELAY if delay is None else int(delay * 1000))

    def _remove(self, endpoint: str, one: int) -> None:
        """The command dies after its first step."""
        if endpoint not in self.model.registered:
            return
        swept, held = next(self.registry.remove(endpoint, drop=one % 2 == 0))
        removing = "keep" if one % 2 else "drop"
        self.model.registered[endpoint] = replace(self.model.registered[endpoint], removing=removing)
        self.model.health[endpoint].paused = "removing"
        assert (swept, held) == self.model.swept(endpoint, self.seen, SWEEP)[1:]

    def _go_on_removing(self, endpoint: str) -> None:
        """One more step, as a drain does it that was told of it."""
        drop = self.model.registered[endpoint].removing == "drop"
        status, swept, held = self.shard.store.run(removal(self.shard.keys, self.config, endpoint, drop=drop))
        assert (status.decode(), swept, held) == self.model.swept(endpoint, self.seen, SWEEP)

    def _pause(self, endpoint: str, _: int) -> None:
        if endpoint in self.model.registered:
            health = self.model.health[endpoint]
            health.paused = health.paused or "operator"
            assert self.registry.pause(endpoint) == health.paused

    def _resume(self, endpoint: str, _: int) -> None:
        if self.model.serves(endpoint):
            held_up = self.model.resumed(endpoint, self.seen, self.shard.now())
            assert self.registry.resume(endpoint) == held_up
        elif endpoint in self.model.registered:
            with pytest.raises(EndpointError):
                self.registry.resume(endpoint)

    def _replay(self, endpoint: str, one: int) -> None:
        keys, selection = self._select(endpoint, one)
        if keys and self.model.serves(endpoint):
            assert list(self.letters.replay(selection))[-1] == len(keys)
            self.model.replayed(endpoint, keys, self.seen)
        elif keys:
            with pytest.raises(UnknownEndpoint):
                list(self.letters.replay(selection))

    def _purge(self, endpoint: str, one: int) -> None:
        keys, selection = self._select(endpoint, one)
        if keys:
            assert list(self.letters.purge(selection))[-1] == len(keys)
            self.model.purged(keys)

    def _fail_for_long(self, endpoint: str, one: int) -> None:
        """Not an operator's doing. One more failure opens the breaker; or it is open, and some probes succeeded."""
        health = self.model.health[endpoint]
        if not self.model.serves(endpoint) or health.open:
            return
        health.fails, health.open = FAILURES_TO_OPEN - one % 2, one % 2 == 0
        self.shard.set_health(endpoint, fails=health.fails)
        if health.open:
            health.wins, health.wait = one // 2 % WINS_TO_CLOSE, FIRST_PROBE
            self.shard.set_health(endpoint, open=1, wins=health.wins, probe_wait=FIRST_PROBE, probe_at=self.seen.now)

    def _select(self, endpoint: str, one: int) -> tuple[list[Key], Selection]:
        """One dead letter, or all of an endpoint's."""
        keys = self.model.dead(endpoint)
        if one % 2 or not keys:
            return keys, Selection(endpoint=endpoint)
        key = keys[one // 2 % len(keys)]
        return [key], Selection(endpoint=endpoint, event_id=key[0])

    @rule(queue=st.sampled_from(QUEUES))
    def repair(self, queue: str) -> None:
        """Repair after a queue was forgotten, which no script does; what is right is left as it is."""
        forgotten = self.model.waits_for_its_time(queue, self.seen)
        if forgotten:
            self.client.zrem(self.shard.keys("schedule"), queue)
        mended = self.shard.repair(*self.model.registered, dead_bytes=DEAD_BYTES, dead_keep=DEAD_KEEP)
        assert mended == ([queue] if forgotten else [])
        self.model.repaired(self.seen)
        self.look()

    # --- time, and what it brings --------------------------------------------------------------------------------

    @rule(ms=times)
    def let_time_pass(self, ms: int) -> None:
        pass_time(self.shard, self.seen, ms)
        for drain in (*self.drains, *self.zombies):
            drain.grow_older(ms)
        self.model.passed(ms)
        self.look()


def test_in_whatever_order_things_happen_every_event_is_where_it_must_be(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Hypothesis would leave a folder of its own beside the tests.
    set_hypothesis_home_dir(tmp_path)
    monkeypatch.setattr(Machine, "url", redis_url, raising=False)
    monkeypatch.setattr(emission, "CHUNK_EVENTS", CHUNK)
    monkeypatch.setattr(registry_module, "_SWEEP", SWEEP)
    examples = os.environ.get("MACHINE_EXAMPLES")
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=int(examples or 160),
            stateful_step_count=60,
            derandomize=examples is None,
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
