"""The checker can fail: each fault that is planted in a worker or a producer turns the run red."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kasplo_notify.verdict import FREE_ATTEMPTS
from tests.torture.arena import ATTEMPTS, DELAY_S, Arena
from tests.torture.checker import Findings, Promise
from tests.torture.proxy import Harm
from tests.torture.sabotage import PLANTED
from tests.torture.scenario import promise

EVENTS, KILLS = 2_000, 4
# So few that they are sent long before their queues are handed over; and its death comes amid them.
FEW, DIES_AT = 400, 20
# What the dead held comes back soon.
SHORT_LEASE = {"DELIVERY__TIMEOUT": 0.5, "DELIVERY__CONNECT_TIMEOUT": 0.5, "WORKER__LEASE": 5.5}


def _endpoints(arena: Arena, behaviour: str) -> dict[str, list[str]]:
    names = [arena.endpoint(f"crm-{number}", behaviour) for number in range(4)]
    return {name: [name] for name in names}


def _died(planted: str, folder: Path, *, death: bool = True) -> Findings:
    """A worker with a fault dies before a request, and another one goes on.

    Whatever is sent is taken, so that only a death can lose it.
    """
    with Arena(folder, seed=1, settings=SHORT_LEASE) as arena:
        arena.emit(FEW, _endpoints(arena, "ok"), batch=FEW)
        arena.fleet.join("producer")
        if death:
            arena.work(1, planted=planted, die="before the request", after=DIES_AT)
            arena.fleet.join("worker")
        arena.work(1, planted=planted)
        arena.until_drained(30)
        return arena.audit(promise())


def _killed(planted: str, folder: Path) -> Findings:
    """Workers with a fault, killed one after another while events flow."""
    with Arena(folder, seed=1) as arena:
        routes = _endpoints(arena, "flaky 60")
        arena.work(3, planted=planted)
        arena.emit(EVENTS, routes, rate=EVENTS / 3)
        while arena.fleet.alive("producer") or arena.fleet.kills < KILLS:
            time.sleep(0.4)
            _until_something_arrives(arena)
            arena.fleet.kill_one("worker", arena.rng)
            arena.work(1, planted=planted)
        return arena.audit(promise(drained=False))


def _until_something_arrives(arena: Arena) -> None:
    """On a busy machine workers that are killed too soon do nothing at all."""
    before, deadline = arena.received.stat().st_size, time.monotonic() + 5
    while arena.received.stat().st_size < before + 10_000 and arena.waiting() and time.monotonic() < deadline:
        time.sleep(0.02)


def _outlived(planted: str, folder: Path) -> Findings:
    """Requests that take longer than the lease, and nobody is killed."""
    with Arena(folder, seed=1) as arena:
        routes = _endpoints(arena, "slow 1")
        arena.work(2, planted=planted)
        arena.emit(EVENTS, routes)
        arena.fleet.join("producer")
        time.sleep(2.5)
        return arena.audit(promise(drained=False))


def _cut(planted: str, folder: Path) -> Findings:
    """Replies to a producer are lost."""
    with Arena(folder, seed=1) as arena:
        routes = _endpoints(arena, "ok")
        arena.work(2)
        arena.producers.harm = Harm(cut=0.1)
        arena.emit(EVENTS, routes, sabotage={"planted": planted})
        arena.fleet.join("producer")
        arena.until_drained(30)
        return arena.audit(promise())


FOUND: dict[str, tuple[Callable[[str, Path], Findings], str]] = {
    "settle before deliver": (_died, "lost"),
    "move in two calls": (_killed, "lost"),
    "lease shorter than the timeout": (_outlived, "duplicates"),
    "emit without its token": (_cut, "duplicates"),
    "claim by a pop": (_died, "lost"),
    "a request made twice": (_killed, "duplicates"),
}


def test_every_fault_that_can_be_planted_is_looked_for() -> None:
    assert set(FOUND) == set(PLANTED)


@pytest.mark.parametrize("planted", FOUND)
def test_a_planted_fault_is_found(planted: str, tmp_path: Path) -> None:
    do, found = FOUND[planted]
    assert found in do(planted, tmp_path).complaints


@pytest.mark.parametrize("do", [_died, _killed, _outlived, _cut], ids=lambda do: do.__name__)
def test_without_a_fault_the_same_run_is_clean(do: Callable[[str, Path], Findings], tmp_path: Path) -> None:
    assert do("", tmp_path).complaints == {}


@pytest.mark.parametrize("planted", [name for name, (do, _) in FOUND.items() if do is _died])
def test_it_is_the_death_that_loses_and_not_the_fault_alone(planted: str, tmp_path: Path) -> None:
    assert _died(planted, tmp_path, death=False).complaints == {}


def test_the_promise_is_made_with_what_the_arena_is_set_to() -> None:
    assert promise() == Promise(delay=DELAY_S, attempts=ATTEMPTS, free=FREE_ATTEMPTS)
