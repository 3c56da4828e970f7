"""A Redis that answers, but not as it should: full, read-only, busy, forgetful of scripts, without RQ's keys."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import redis

from tests.torture.arena import Arena
from tests.torture.ledger import read_emitted
from tests.torture.scenario import Outcome, Run, endpoints, lateness, promise, scenario

_TROUBLE_S = 1.5
_CALM_S = 1.0
# With fewer, what Redis needs for its clients and logs would be more than what it has room for.
_TO_FILL = 100_000


@scenario("A full Redis refuses events, delivers those it has, and takes events again as soon as there is room.")
def full_memory(run: Run) -> Outcome:
    events = max(run.events, _TO_FILL)
    with run.arena() as arena:
        healthy = endpoints(arena)
        down = [arena.endpoint(f"down-{number}", "status 500") for number in range(len(healthy))]
        used = int(arena.server.client.info("memory")["used_memory"])
        # Room for about half of what is emitted. It stays so to the end: nobody comes and helps.
        arena.server.client.config_set("maxmemory", used + 50 * events)
        arena.work(3)
        # What waits for those that are down keeps its room, and so do for an hour the ids by which a refused call is
        # completed; the two must not have all of it.
        arena.emit(events // 20, {name: [name] for name in down}, batch=100)
        arena.fleet.join("producer", 600)
        arena.emit(events * 2 // 5, healthy, batch=100, processes=2)
        _until_full(arena, run)
        full = time.time()
        # A refused call gives up before that.
        arena.fleet.join("producer", 120)
        deadline = time.monotonic() + 60
        while arena.waiting(*healthy):
            assert time.monotonic() < deadline, "the healthy endpoints get nothing while Redis is full"
            time.sleep(0.2)
        stuck = arena.waiting()
        arena.script(**dict.fromkeys(down, "ok"))
        arena.until_drained(90)
        findings = arena.audit(
            promise(may_bury=lambda kept: kept.endpoint in down and kept.reason == "attempts_used_up")
        )
        again = sum(each.stored and each.ended > full for each in read_emitted(arena.emitted))
        figures = {
            "refused calls": str(arena.refusals()["QueueFull"]),
            "events that it took after it had refused some": f"{again:,}",
            "events that waited in it for those that were down": f"{stuck:,}",
        }
        broken = []
        if not again:
            broken.append("a Redis that was full takes nothing any more")
        if findings.unknown:
            broken.append(f"{findings.unknown} events were not acknowledged")
        return Outcome(findings=findings, kills=0, figures=figures, broken=tuple(broken))


def _until_full(arena: Arena, run: Run) -> None:
    began = time.monotonic()
    while not arena.refusals()["QueueFull"]:
        run.say(f"{arena.waiting()} events wait")
        assert time.monotonic() - began < 120, "Redis does not become full"
        time.sleep(0.2)


@scenario("Read-only, busy, without its scripts, without its clients, without RQ's keys: Redis gets everything back.")
def redis_troubles(run: Run) -> Outcome:
    with run.arena() as arena:
        routes = endpoints(arena)
        arena.work(3)
        rounds = 4
        arena.emit(
            run.events, routes, rate=run.events / (rounds * len(_TROUBLES) * (_TROUBLE_S + _CALM_S)), processes=2
        )
        felt: Counter[str] = Counter()
        for number in range(rounds):
            for name, trouble in _TROUBLES.items():
                client = arena.server.client
                errors = trouble.errors(client)
                felt[name] += trouble.make(client)
                time.sleep(_CALM_S)
                felt[name] += trouble.errors(client) - errors
                run.say(f"{name}, round {number + 1} of {rounds}")
        arena.fleet.join("producer", 600)
        arena.until_drained(60)
        findings = arena.audit(promise())
        figures = {name: f"{rounds} times, {felt[name]:,} {trouble.what}" for name, trouble in _TROUBLES.items()}
        figures |= {"refused calls": str(arena.refusals().total()), **lateness(findings)}
        broken = tuple(f"nobody felt {name}" for name in _TROUBLES if not felt[name])
        return Outcome(findings=findings, kills=rounds * len(_TROUBLES), figures=figures, broken=broken)


@dataclass(frozen=True, slots=True)
class _Trouble:
    """A trouble, and how it is told that it was one.

    Attributes:
        make: Makes it for a while; returns how many things it took away.
        what: These things, or the errors.
        error: What the server counts the errors by with which it answers; empty where it does not.
    """

    make: Callable[[redis.Redis], int]
    what: str
    error: str = ""

    def errors(self, client: redis.Redis) -> int:
        """How often the server has answered so since it was started."""
        return int(client.info("errorstats").get(f"errorstat_{self.error}", {"count": 0})["count"])


def _read_only(client: redis.Redis) -> int:
    # A replica of nobody: it keeps its data and takes no writes.
    client.replicaof("127.0.0.1", 1)
    time.sleep(_TROUBLE_S)
    client.replicaof("NO", "ONE")
    return 0


def _busy(client: redis.Redis) -> int:
    """A script of somebody else that runs for too long."""
    client.config_set("busy-reply-threshold", 100)
    with suppress(redis.ResponseError):
        client.eval(f"local s = redis.call('TIME')[1] while redis.call('TIME')[1] - s < {_TROUBLE_S + 0.5} do end", 0)
    return 0


def _no_snapshot(client: redis.Redis) -> int:
    """A snapshot that fails makes Redis refuse writes (MISCONF)."""
    folder = str(client.config_get("dir")["dir"])
    client.config_set("save", "3600 1")
    client.config_set("dir", "/proc/self")
    with suppress(redis.ResponseError):
        client.bgsave()
    time.sleep(_TROUBLE_S)
    client.config_set("dir", folder)
    client.config_set("save", "")
    return 0


def _script_flush(client: redis.Redis) -> int:
    client.script_flush()
    return 0


def _client_kill(client: redis.Redis) -> int:
    return int(client.client_kill_filter(_type="normal", skipme=True))


def _no_rq(client: redis.Redis) -> int:
    gone = 0
    for _ in range(10):
        if keys := client.keys("rq:*"):
            gone += int(client.delete(*keys))
        time.sleep(_TROUBLE_S / 10)
    return gone


_TROUBLES = {
    "READONLY": _Trouble(_read_only, "commands refused", "READONLY"),
    "BUSY": _Trouble(_busy, "commands refused", "BUSY"),
    "MISCONF": _Trouble(_no_snapshot, "commands refused", "MISCONF"),
    "SCRIPT FLUSH": _Trouble(_script_flush, "scripts that were not known", "NOSCRIPT"),
    "CLIENT KILL": _Trouble(_client_kill, "connections cut"),
    "no keys of RQ": _Trouble(_no_rq, "keys deleted"),
}
