"""The checker can fail: each fault that is planted in a worker or a producer turns the run red."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.torture.arena import DELAY_S, Arena
from tests.torture.checker import Findings, Promise
from tests.torture.proxy import Harm
from tests.torture.sabotage import PLANTED
from tests.torture.scenario import promise

EVENTS, KILLS = 2_000, 7


def _endpoints(arena: Arena, behaviour: str) -> dict[str, list[str]]:
    names = [arena.endpoint(f"crm-{number}", behaviour) for number in range(4)]
    return {name: [name] for name in names}


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
    "settle before deliver": (_killed, "lost"),
    "move in two calls": (_killed, "lost"),
    "lease shorter than the timeout": (_outlived, "duplicates"),
    "emit without its token": (_cut, "duplicates"),
    "claim by a pop": (_killed, "lost"),
    "a request made twice": (_killed, "duplicates"),
}


def test_every_fault_that_can_be_planted_is_looked_for() -> None:
    assert set(FOUND) == set(PLANTED)


@pytest.mark.parametrize("planted", FOUND)
def test_a_planted_fault_is_found(planted: str, tmp_path: Path) -> None:
    do, found = FOUND[planted]
    assert found in do(planted, tmp_path).complaints


def test_without_a_fault_the_same_run_is_clean(tmp_path: Path) -> None:
    assert _cut("", tmp_path).complaints == {}


def test_the_delay_of_the_arena_is_that_of_the_promise() -> None:
    assert promise() == Promise(delay=DELAY_S)
