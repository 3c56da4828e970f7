"""A Redis that answers, but not as it should: full, read-only, busy, forgetful of scripts, without RQ's keys."""

import time
from collections.abc import Callable
from contextlib import suppress

import redis

from tests.torture.arena import Arena
from tests.torture.scenario import Outcome, Run, endpoints, lateness, promise, scenario

_TROUBLE_S = 1.5
_CALM_S = 1.0


@scenario("A full Redis refuses events, delivers those it has, and recovers by itself.")
def full_memory(run: Run) -> Outcome:
    with run.arena() as arena:
        healthy = endpoints(arena)
        down = [arena.endpoint(f"down-{number}", "status 500") for number in range(len(healthy))]
        used = int(arena.server.client.info("memory")["used_memory"])
        # Room for about a tenth of the events.
        arena.server.client.config_set("maxmemory", used + 50 * run.events)
        arena.work(3)
        arena.emit(run.events, healthy | {name: [name] for name in down}, batch=100, processes=2)
        _until_full(arena, run)
        began = time.monotonic()
        while arena.waiting(*healthy):
            assert time.monotonic() - began < 60, "the healthy endpoints get nothing while Redis is full"
            time.sleep(0.2)
        stuck = arena.waiting()
        arena.server.client.config_set("maxmemory", 0)
        arena.script(**dict.fromkeys(down, "ok"))
        arena.fleet.join("producer", 600)
        arena.until_drained(90)
        findings = arena.audit(promise(may_bury=lambda kept: kept.endpoint in down))
        figures = {
            "refused calls": str(arena.refusals()["QueueFull"]),
            "events that waited in the full Redis": str(stuck),
        }
        return Outcome(findings=findings, kills=0, figures=figures)


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
        for number in range(rounds):
            for name, trouble in _TROUBLES.items():
                trouble(arena.server.client)
                time.sleep(_CALM_S)
                run.say(f"{name}, round {number + 1} of {rounds}")
        arena.fleet.join("producer", 600)
        arena.until_drained(60)
        findings = arena.audit(promise())
        figures = dict.fromkeys(_TROUBLES, f"{rounds} times")
        figures |= {"refused calls": str(arena.refusals().total()), **lateness(findings)}
        return Outcome(findings=findings, kills=rounds * len(_TROUBLES), figures=figures)


def _read_only(client: redis.Redis) -> None:
    # A replica of nobody: it keeps its data and takes no writes.
    client.replicaof("127.0.0.1", 1)
    time.sleep(_TROUBLE_S)
    client.replicaof("NO", "ONE")


def _busy(client: redis.Redis) -> None:
    """A script of somebody else that runs for too long."""
    client.config_set("busy-reply-threshold", 100)
    with suppress(redis.ResponseError):
        client.eval(f"local s = redis.call('TIME')[1] while redis.call('TIME')[1] - s < {_TROUBLE_S + 0.5} do end", 0)


def _no_snapshot(client: redis.Redis) -> None:
    """A snapshot that fails makes Redis refuse writes (MISCONF)."""
    folder = str(client.config_get("dir")["dir"])
    client.config_set("save", "3600 1")
    client.config_set("dir", "/proc/self")
    with suppress(redis.ResponseError):
        client.bgsave()
    time.sleep(_TROUBLE_S)
    client.config_set("dir", folder)
    client.config_set("save", "")


def _script_flush(client: redis.Redis) -> None:
    client.script_flush()


def _client_kill(client: redis.Redis) -> None:
    client.client_kill_filter(_type="normal", skipme=True)


def _no_rq(client: redis.Redis) -> None:
    for _ in range(10):
        if keys := client.keys("rq:*"):
            client.delete(*keys)
        time.sleep(_TROUBLE_S / 10)


_TROUBLES: dict[str, Callable[[redis.Redis], None]] = {
    "READONLY": _read_only,
    "BUSY": _busy,
    "MISCONF": _no_snapshot,
    "SCRIPT FLUSH": _script_flush,
    "CLIENT KILL": _client_kill,
    "no keys of RQ": _no_rq,
}
