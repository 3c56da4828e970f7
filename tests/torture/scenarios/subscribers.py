"""Subscribers of every kind at once, and one that was down for long."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kasplo_notify.window import START
from tests.torture.arena import DELAY_S, Arena
from tests.torture.checker import Findings
from tests.torture.ledger import Received, read_emitted, read_received
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
# Events a second, for the healthy ones together and for the others.
_RATE, _UNWELL_RATE = 600.0, 60.0
# What a queue that is handed over, or a worker that is busy, may take.
_AWHILE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What the healthy subscribers get.

    Attributes:
        late_p99: Seconds that 99% of their events are late at most, in the steady load.
        speed: Events per second, of the backlog.
        unwell: Requests that the others had meanwhile; in the steady load, and while the backlog was delivered.
    """

    late_p99: float
    speed: float
    unwell: tuple[int, int]


@scenario("Subscribers that fail in twenty ways do not slow eight healthy ones.", events=20_000)
def many_subscribers(run: Run) -> Outcome:
    alone, _ = _serve(run, {})
    among, findings = _serve(run, UNWELL)
    worse, ratio = among.late_p99 - alone.late_p99, among.speed / alone.speed
    figures = {
        "late p99 alone": f"{1000 * alone.late_p99:.0f} ms",
        "late p99 among the unwell": f"{1000 * among.late_p99:.0f} ms",
        "throughput among the unwell": f"{ratio:.2f} of alone",
        "requests of the unwell meanwhile": "{:,} in the steady load, {:,} beside the backlog".format(*among.unwell),
    }
    broken = []
    if not all(among.unwell):
        broken.append("the unwell had no requests meanwhile")
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
            # And they go on getting events as long as the healthy ones are looked at.
            arena.emit(int(_UNWELL_RATE * (run.events / 2 / _RATE + 6)), others, batch=1, rate=_UNWELL_RATE)
        began = time.time()
        arena.fleet.join("producer", 600, only=arena.emit(run.events // 2, healthy, batch=1, rate=_RATE))
        run.say("the steady load is over")
        _until_empty(arena, healthy)
        burst = time.time()
        arena.fleet.join("producer", 600, only=arena.emit(run.events // 2, healthy, batch=100))
        _until_empty(arena, healthy)
        run.say("the backlog is delivered")
        service = _service(arena, healthy, began, burst)
        arena.fleet.join("producer", 600)
        _make_well(arena, others)
        # A connection that was kept and is cut before a byte of an answer came is replaced at once, by design.
        cut = sum(each.endpoint == "reset" for each in read_received(arena.received))
        throttle = {name for name in others if name.startswith("throttles")}
        return service, arena.audit(
            promise(
                duplicates=cut,
                throttle=throttle,
                may_bury=lambda kept: (
                    kept.endpoint in others and kept.reason in ("attempts_used_up", "endpoint_removed")
                ),
            )
        )


def _until_empty(arena: Arena, names: Mapping[str, object]) -> None:
    deadline = time.monotonic() + 120
    while arena.waiting(*names):
        assert time.monotonic() < deadline, "the healthy endpoints are not served"
        time.sleep(0.05)


def _service(arena: Arena, healthy: Mapping[str, object], began: float, burst: float) -> Service:
    emitted = {each.id: each.ended for each in read_emitted(arena.emitted)}
    received = list(read_received(arena.received))
    arrived = [each for each in received if each.endpoint in healthy]
    late = sorted(each.at - emitted[each.id] - DELAY_S for each in arrived if emitted[each.id] < burst)
    times = [each.at for each in arrived if emitted[each.id] >= burst]
    others = [each.at for each in received if each.endpoint not in healthy]
    unwell = sum(began <= at < burst for at in others), sum(burst <= at <= max(times) for at in others)
    speed = len(times) / (max(times) - min(times))
    return Service(late_p99=late[int(0.99 * len(late))], speed=speed, unwell=unwell)


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


# What "back" may have open, in four queues of which each begins with four, and how long it takes for an answer.
_CAP, _SMALL, _ANSWER = 64, 4 * START, "slow 0.02"
_PROBES = 3


@scenario("A subscriber that was down for long gets everything, at its own pace, and costs nobody else anything.")
def recovery(run: Run) -> Outcome:
    with run.arena() as arena:
        arena.endpoint("back", _ANSWER, max_in_flight=_CAP)
        arena.endpoint("other")
        arena.work(2)
        # Its windows are as large as they may be.
        arena.emit(run.events // 20, {"back": ["back"]}, batch=100)
        arena.fleet.join("producer", 600)
        arena.until_drained(60)
        went_down = time.time()
        arena.script(back="status 503")
        arena.emit(run.events, {"back": ["back"]}, batch=100)
        arena.fleet.join("producer", 600)
        run.say("it is down")
        time.sleep(15)
        came_back = time.time()
        arena.script(back=_ANSWER)
        arena.emit(run.events // 20, {"other": ["other"], "back": ["back"]}, batch=1, rate=run.events / 400)
        arena.fleet.join("producer", 600)
        arena.until_drained(90)
        findings = arena.audit(promise())
        emitted = {each.id: each.ended for each in read_emitted(arena.emitted)}
        received = list(read_received(arena.received))
        late = sorted(each.at - emitted[each.id] - DELAY_S for each in received if each.endpoint == "other")
        again = sorted(
            (each for each in received if each.taken and each.endpoint == "back" and each.at > came_back), key=_at
        )
        peak = arena.peaks()["back"]
        figures = {
            "most requests at once": f"{peak} of {_CAP} allowed",
            "at its first requests": ", ".join(str(each.open) for each in again[:8]),
            "p99 lateness of another subscriber meanwhile": f"{1000 * late[int(0.99 * len(late))]:.0f} ms",
            "back after": f"{came_back - went_down:.0f} s",
        }
        broken = [f"{peak} requests at once"] if peak > _CAP else []
        if late[int(0.99 * len(late))] > _AWHILE_S:
            broken.append(f"p99 of another subscriber is {late[int(0.99 * len(late))]:.1f} s")
        return Outcome(findings=findings, kills=0, figures=figures, broken=(*broken, *_jumps(again)))


def _at(each: Received) -> float:
    return each.at


def _jumps(taken: list[Received]) -> Iterator[str]:
    """Where a subscriber that came back got more at once than a breaker and windows that begin small would send.

    The breaker's probes come one by one; then each queue has a window of :data:`START`, and each answer adds one.
    """
    for number, each in enumerate(taken, 1):
        answered = number - each.open
        most = 1 if number <= _PROBES else _SMALL + answered
        if each.open > most:
            yield f"{each.open} requests at once after {answered} answers, which is more than {most:.0f}"
            return


@scenario("Fresh events of a subscriber that came back do not wait behind its retries.", events=50_000)
def fresh_among_retries(run: Run) -> Outcome:
    with run.arena() as arena:
        # An hour until the next attempt; and too few failures in a row for its breaker, as one worker sees them.
        arena.endpoint("back", "turns 5", max_in_flight=32, retry_delays=(3600.0,) * 4)
        arena.work(1)
        arena.emit(run.events, {"back": ["back"]}, batch=100)
        arena.fleet.join("producer", 600)
        _until_attempted(arena, run)
        retries = arena.waiting()
        arena.script(back=_ANSWER)
        came_back = time.time()
        arena.work(1)
        arena.registry.resume("back")
        arena.emit(run.events // 20, {"back": ["back"]}, batch=1, rate=run.events / 400)
        arena.fleet.join("producer", 600)
        arena.until_drained(90)
        findings = arena.audit(promise())
        emitted = {each.id: each.ended for each in read_emitted(arena.emitted)}
        taken = [each for each in read_received(arena.received) if each.taken and each.at > came_back]
        needed = max(each.at for each in taken if emitted[each.id] < came_back) - came_back
        late = sorted(each.at - emitted[each.id] - DELAY_S for each in taken if emitted[each.id] >= came_back)
        worst = late[int(0.99 * len(late))]
        figures = {
            "retries that were due at once": f"{retries:,}, for {needed:.0f} s",
            "p99 lateness of fresh events meanwhile": f"{1000 * worst:.0f} ms",
        }
        broken = () if worst <= max(_AWHILE_S, needed / 8) else (f"fresh events wait {worst:.1f} s of {needed:.1f} s",)
        return Outcome(findings=findings, kills=0, figures=figures, broken=broken)


def _until_attempted(arena: Arena, run: Run) -> None:
    """Wait until each event was attempted once."""
    deadline = time.monotonic() + 300
    while fresh := arena.registry.backlog(["back"])["back"].waiting:
        assert time.monotonic() < deadline, f"{fresh} events are not attempted"
        run.say(f"{fresh:,} events were not attempted yet")
        time.sleep(0.2)
