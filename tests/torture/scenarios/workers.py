"""Workers that are killed at random and at exact places, replaced in a hurry, and told the wrong time."""

import time

from kasplo_notify.held import POISON_AFTER, SINGLE_AFTER
from tests.torture.arena import LEASE_S, Arena
from tests.torture.ledger import digest
from tests.torture.producer import body, event
from tests.torture.sabotage import BOUNDARIES
from tests.torture.scan import scan
from tests.torture.scenario import Outcome, Run, costs, endpoints, lateness, promise, scenario

HOUR_S = 3600.0
# What waits for somebody's clock waits for an hour; what is only busy does not wait so long.
_AWHILE_S = 5.0
# Until a worker comes to the place where it is to die.
_DEATH_S = 120.0
# What a dead worker held waits for the end of its lease, and may come into the hands of another that is killed.
_LEASES = 5


@scenario("Workers killed with -9 at random lose nothing.", kills=200)
def random_kills(run: Run) -> Outcome:
    with run.arena() as arena:
        routes = endpoints(arena)
        arena.work(4)
        # Some that are slow: what is in flight for long is there at many a death.
        arena.emit(
            run.events // 200,
            {arena.endpoint("slow", "slow 0.3"): ["slow"]},
            batch=1,
            rate=run.events / (140 * run.kills),
        )
        # As long as the kills last: one every 0.65 s.
        arena.emit(run.events, routes, rate=run.events / (0.7 * run.kills), processes=2)
        while arena.fleet.kills < run.kills:
            time.sleep(arena.rng.uniform(0.3, 1.0))
            arena.fleet.kill_one("worker", arena.rng)
            arena.work(1)
            run.say(f"{arena.fleet.kills} of {run.kills} kills")
        arena.fleet.join("producer", 600)
        arena.until_drained(60)
        findings = arena.audit(promise())
        figures = {**costs(arena, findings), **lateness(findings)}
        late = findings.late(0.99)
        broken = (f"one in a hundred events is {late:.0f} s late",) if late > _LEASES * LEASE_S else ()
        return Outcome(findings=findings, kills=arena.fleet.kills, figures=figures, broken=broken)


@scenario("A worker that dies at any boundary of its work loses nothing.", kills=100)
def boundary_kills(run: Run) -> Outcome:
    with run.arena() as arena:
        routes = endpoints(arena) | {arena.endpoint("far", "slow 0.05"): ["far"]}
        deaths: dict[str, int] = {}
        for boundary in BOUNDARIES:
            before, wanted = arena.fleet.kills, max(1, run.kills // len(BOUNDARIES))
            last, deadline = before, time.monotonic() + _DEATH_S
            while arena.fleet.kills - before < wanted:
                if arena.fleet.kills > last:
                    last, deadline = arena.fleet.kills, time.monotonic() + _DEATH_S
                assert time.monotonic() < deadline, f"no worker comes so far as to die {boundary}"
                if not arena.fleet.alive("producer"):
                    arena.emit(run.events // len(BOUNDARIES), routes, batch=200, rate=run.events / 40)
                _replace(arena, boundary)
                time.sleep(0.02)
                run.say(f"{boundary}: {arena.fleet.kills - before} of {wanted} deaths")
            deaths[f"deaths {boundary}"] = arena.fleet.kills - before
            arena.fleet.stop("worker")
        arena.work(2)
        arena.fleet.join("producer", 600)
        arena.until_drained(60)
        findings = arena.audit(promise())
        figures = {name: str(count) for name, count in deaths.items()} | costs(arena, findings)
        return Outcome(findings=findings, kills=arena.fleet.kills, figures=figures)


def _replace(arena: Arena, boundary: str) -> None:
    """Keep two workers, each of them going to die."""
    most = 300 if boundary.endswith(("request", "answer")) else 4
    if boundary == "in the dispatcher":
        # It asks for a drain when nobody runs one: once in the life of a worker that has something to do.
        most = 1
    for _ in range(2 - len(arena.fleet.alive("worker"))):
        arena.work(1, die=boundary, after=arena.rng.randint(1, most))


# Deaths with an event in flight, after which it is given up: two until its queue is delivered one event at a time,
# and three of these.
_POISON_DEATHS = SINGLE_AFTER + POISON_AFTER


@scenario("An event that kills each worker that sends it is given up, and no other one is.", events=20_000)
def poison(run: Run) -> Outcome:
    with run.arena() as arena:
        names = [arena.endpoint(f"crm-{number}") for number in range(4)] + [arena.endpoint("far", "slow 1.5")]
        # Of the first endpoint, and not of the first events.
        deadly = event(len(names) * (run.events // 100))
        arena.emit(run.events, {name: [name] for name in names}, rate=run.events / 40)
        deadline = time.monotonic() + 240
        while arena.fleet.alive("producer") or arena.waiting():
            assert time.monotonic() < deadline, f"{arena.waiting()} events wait after {arena.fleet.kills} deaths"
            for _ in range(2 - len(arena.fleet.alive("worker"))):
                arena.work(1, poison=f'"{deadly["email"]}"')
            time.sleep(0.05)
            run.say(f"{arena.fleet.kills} deaths, {arena.waiting():,} events wait")
        findings = arena.audit(
            promise(may_bury=lambda kept: kept.reason == "poison" and kept.body == digest(body(deadly)))
        )
        deaths = arena.fleet.kills
        broken = []
        if findings.dead == len(findings.buried):
            broken.append("the poison is no dead letter")
        if deaths > _POISON_DEATHS:
            broken.append(f"{deaths} workers died of it, not {_POISON_DEATHS}")
        figures = {"deaths until it was given up": str(deaths), **costs(arena, findings), **lateness(findings)}
        return Outcome(findings=findings, kills=deaths, figures=figures, broken=tuple(broken))


@scenario("An event that kills is given up even where the subscriber throttles, one event at a time.", events=8)
def poison_throttled(run: Run) -> Outcome:
    with run.arena() as arena:
        arena.endpoint("busy", "throttle 1", queues=1)
        first = arena.emit(8, {"busy": ["busy"]}, batch=8)
        arena.fleet.join("producer", 60, only=first)
        deadly = event(5)
        deadline = time.monotonic() + 300
        while not _buried(arena, deadly):
            assert time.monotonic() < deadline, f"it is not given up after {arena.fleet.kills} deaths"
            for _ in range(2 - len(arena.fleet.alive("worker"))):
                arena.work(1, poison=f'"{deadly["email"]}"')
            time.sleep(0.1)
            run.say(f"{arena.fleet.kills} deaths")
        deaths = arena.fleet.kills
        arena.script(busy="ok")
        arena.registry.resume("busy")
        arena.until_drained(60)
        # The others burn their attempts meanwhile.
        reasons = {"poison", "attempts_used_up"}
        findings = arena.audit(
            promise(
                throttle={"busy"},
                may_bury=lambda kept: (
                    kept.reason in reasons and (kept.reason == "poison") == (kept.body == digest(body(deadly)))
                ),
            )
        )
        return Outcome(findings=findings, kills=deaths, figures={"deaths until it was given up": str(deaths)})


def _buried(arena: Arena, fields: dict[str, object]) -> bool:
    return any(kept.place == "dead" and kept.body == digest(body(fields)) for kept in scan(arena.server.client).kept)


@scenario("A deploy every five seconds duplicates nothing.", kills=12)
def deploys(run: Run) -> Outcome:
    with run.arena() as arena:
        routes = endpoints(arena)
        arena.work(3)
        arena.emit(run.events, routes, rate=run.events / (5.5 * run.kills), processes=2)
        stops = 0
        for stops in range(1, run.kills + 1):
            time.sleep(5)
            arena.fleet.stop("worker")
            arena.work(3)
            run.say(f"{stops} of {run.kills} deploys")
        arena.fleet.join("producer", 600)
        arena.until_drained(60)
        findings = arena.audit(promise())
        codes = sorted(set(arena.fleet.codes) - {0, -15})
        broken = (f"exit codes {codes}",) if codes else ()
        return Outcome(findings=findings, kills=3 * stops, figures=lateness(findings), broken=broken)


@scenario("Clocks of workers and producers that are an hour off make nothing early, and nothing late.")
def wrong_clocks(run: Run) -> Outcome:
    with run.arena() as arena:
        routes = endpoints(arena)
        for clock in (HOUR_S, -HOUR_S):
            arena.work(1, clock=clock)
            arena.emit(run.events // 2, routes, rate=1000, sabotage={"clock": -clock})
        arena.fleet.join("producer", 900)
        arena.until_drained(60)
        findings = arena.audit(promise())
        late = findings.late(1.0)
        broken = (f"an event was {late:.1f} s late",) if late > _AWHILE_S else ()
        figures = {**lateness(findings), "late at most": f"{1000 * late:.0f} ms"}
        return Outcome(findings=findings, kills=0, figures=figures, broken=broken)
