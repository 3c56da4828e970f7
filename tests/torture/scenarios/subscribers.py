"""Subscribers of every kind at once, and one that was down for long."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from tests.torture.arena import DELAY_S, Arena
from tests.torture.checker import Findings
from tests.torture.ledger import read_emitted, read_received
from tests.torture.scenario import Outcome, Run, promise, scenario

# Those that are not well, each in its own way.
UNWELL = {
    "error": "status 500",
    "flaky": "flaky 50",
    "throttles-seconds": "throttle 1",
    "throttles-until-a-date": "throttle date",
    "throttles-for-ever": "throttle 1000000000",
    "throttles-in-words": "throttle soon",
    "unavailable": "status 503",
    "gone": "status 410",
    "not-found": "status 404",
    "redirect": "status 302",
    "hang": "hang",
    "hang-after-headers": "hang-after-headers",
    "reset": "reset",
    "reset-in-body": "reset-in-body",
    "endless-body": "endless-body",
    "gzip-bomb": "gzip-bomb",
    "trickle": "trickle",
    "insecure": "insecure",
    "no-name": "ok",
    "slow": "slow 5",
}
_RATE = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What the healthy subscribers get: seconds that 99% of their events are late at most, events per second."""

    late_p99: float
    speed: float


@scenario("Subscribers that fail in twenty ways do not slow eight healthy ones.", events=20_000)
def many_subscribers(run: Run) -> Outcome:
    alone, _ = _serve(run, {})
    among, findings = _serve(run, UNWELL)
    worse, ratio = among.late_p99 - alone.late_p99, among.speed / alone.speed
    figures = {
        "late p99 alone": f"{1000 * alone.late_p99:.0f} ms",
        "late p99 among the unwell": f"{1000 * among.late_p99:.0f} ms",
        "throughput among the unwell": f"{ratio:.2f} of alone",
    }
    broken = []
    if worse > 1.0:
        broken.append(f"p99 of the healthy is {worse:.1f} s worse")
    if ratio < 0.9:
        broken.append(f"throughput of the healthy is {ratio:.2f} of what it is alone")
    return Outcome(findings=findings, kills=0, figures=figures, broken=tuple(broken))


def _serve(run: Run, unwell: Mapping[str, str]) -> tuple[Service, Findings]:
    """A steady load for everybody and then a backlog for the healthy, which are looked at."""
    with run.arena(worker__lease=13.0, delivery__timeout=8.0) as arena:
        healthy = {arena.endpoint(name): [name] for name in (f"well-{number}" for number in range(8))}
        others = {arena.endpoint(name, behaviour): [name] for name, behaviour in unwell.items() if name != "no-name"}
        if "no-name" in unwell:
            arena.endpoint("no-name", url="http://subscriber.example/no-name")
            others["no-name"] = ["no-name"]
        arena.work(2, no_names=True)
        if others:
            arena.emit(40 * len(others), others)
            time.sleep(3)
        arena.emit(run.events // 2, healthy, batch=1, rate=_RATE)
        arena.fleet.join("producer", 600)
        run.say("the steady load is over")
        _until_empty(arena, healthy)
        burst = time.time()
        arena.emit(run.events // 2, healthy, batch=100)
        arena.fleet.join("producer", 600)
        _until_empty(arena, healthy)
        run.say("the backlog is delivered")
        service = _service(arena, healthy, burst)
        _make_well(arena, others)
        # A connection that was kept and is cut before a byte of an answer came is replaced at once, by design.
        cut = sum(each.endpoint == "reset" for each in read_received(arena.received))
        return service, arena.audit(promise(duplicates=cut))


def _until_empty(arena: Arena, names: Mapping[str, object]) -> None:
    deadline = time.monotonic() + 120
    while arena.waiting(*names):
        assert time.monotonic() < deadline, "the healthy endpoints are not served"
        time.sleep(0.05)


def _service(arena: Arena, healthy: Mapping[str, object], burst: float) -> Service:
    emitted = {each.id: each.ended for each in read_emitted(arena.emitted)}
    arrived = [each for each in read_received(arena.received) if each.endpoint in healthy]
    late = sorted(each.at - emitted[each.id] - DELAY_S for each in arrived if emitted[each.id] < burst)
    times = [each.at for each in arrived if emitted[each.id] >= burst]
    return Service(late_p99=late[int(0.99 * len(late))], speed=len(times) / (max(times) - min(times)))


def _make_well(arena: Arena, names: Mapping[str, object]) -> None:
    """Everybody gets well and is resumed, or is removed, and then nothing may be left but dead letters."""
    hopeless = {"insecure", "no-name"} & names.keys()
    arena.script(**dict.fromkeys(names.keys() - hopeless, "ok"))
    for name in names.keys() - hopeless:
        arena.registry.resume(name)
    for name in hopeless:
        for _ in arena.registry.remove(name, drop=False):
            time.sleep(0.1)
    arena.until_drained(60)


@scenario("A subscriber that was down for long gets everything, at its own pace, and costs nobody else anything.")
def recovery(run: Run) -> Outcome:
    with run.arena() as arena:
        arena.endpoint("back", "status 503", max_in_flight=32)
        arena.endpoint("other")
        arena.work(2)
        arena.emit(run.events, {"back": ["back"]}, batch=100)
        arena.fleet.join("producer", 600)
        run.say("it is down")
        time.sleep(15)
        before = arena.peaks()["back"]
        came_back = time.time()
        arena.script(back="slow 0.02")
        arena.emit(run.events // 20, {"other": ["other"], "back": ["back"]}, batch=1, rate=run.events / 400)
        arena.fleet.join("producer", 600)
        arena.until_drained(90)
        peak = arena.peaks()["back"]
        findings = arena.audit(promise())
        emitted = {each.id: each.ended for each in read_emitted(arena.emitted)}
        late = sorted(
            each.at - emitted[each.id] - DELAY_S for each in read_received(arena.received) if each.endpoint == "other"
        )
        figures = {
            "most requests at once": f"{peak} of 32 allowed ({before} while it was down)",
            "p99 lateness of another subscriber meanwhile": f"{1000 * late[int(0.99 * len(late))]:.0f} ms",
            "back after": f"{came_back - min(emitted.values()):.0f} s",
        }
        broken = (f"{peak} requests at once",) if peak > 32 else ()
        return Outcome(findings=findings, kills=0, figures=figures, broken=broken)
