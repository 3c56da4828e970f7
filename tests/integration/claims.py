"""What must be true of a shard after every step: the claims of the machine, each compared with the model."""

from dataclasses import replace

from tests.integration.model import Model
from tests.integration.seen import ENDPOINTS, QUEUES, Seen, endpoint_of
from tests.integration.shard import HOUR

_COMPARED = ("paused", "fails", "open", "wins", "probe_wait", "probe")


def check(model: Model, before: Seen, seen: Seen) -> None:
    """Compare the server with what it must be.

    Args:
        model: What it must be; it learns from this when exactly things arrived, are due, or died.
        before: What was seen before the step.
        seen: What is seen after it.
    """
    _check_places(model, before, seen)
    _check_dead(model, seen)
    _check_counts(model, seen)
    _check_health(model, before, seen)
    for queue in QUEUES:
        _check_score(model, queue, before, seen)
    _check_deaths(model, seen)
    _check_removals(model, seen)
    model.served.clear()


def _check_places(model: Model, before: Seen, seen: Seen) -> None:
    """Each event is in exactly one place for each endpoint, the right one, and due when it must be."""
    places = sorted((copy.key, copy.place, copy.queue, copy.attempts) for copy in seen.copies)
    expected = sorted((key, copy.place, copy.queue, copy.attempts) for key, copy in model.copies.items())
    assert places == expected, f"found {places}, not {expected}"
    for found in seen.copies:
        copy = model.copies[found.key]
        latest = copy.at if copy.exact else copy.at + copy.slack + seen.now - before.now
        assert copy.at <= found.at <= latest, f"{found} is not between {copy.at} and {latest}"
        assert copy.size == found.size
        model.copies[found.key] = replace(copy, at=found.at, exact=True, slack=0)


def _check_dead(model: Model, seen: Seen) -> None:
    for endpoint in ENDPOINTS:
        letters = seen.dead(endpoint)
        assert [letter.key for letter in letters] == model.dead(endpoint)
        assert seen.dead_bytes.get(endpoint, 0) == sum(letter.size for letter in letters)
        assert (endpoint in seen.dead_bytes) == bool(letters), "who has dead letters is not who is said to"


def _check_counts(model: Model, seen: Seen) -> None:
    assert seen.counters == +model.counters
    for endpoint in ENDPOINTS:
        counted = {name: seen.stats[endpoint].get(name, 0) for name in ("delivered", "failed", "dead", "dropped")}
        assert counted == {name: model.stats[endpoint][name] for name in counted}


def _check_health(model: Model, before: Seen, seen: Seen) -> None:
    assert seen.owners == model.owners
    for endpoint in ENDPOINTS:
        expected = model.health[endpoint].stored()
        health = {name: value for name, value in seen.health[endpoint].items() if name in _COMPARED}
        assert health == expected, f"the health of {endpoint} is {health}, not {expected}"
        if seen.gate(endpoint, seen.now) > before.gate(endpoint, before.now):
            model.early |= before.unowned(endpoint)


def _check_deaths(model: Model, seen: Seen) -> None:
    """They are counted until a drain gives the queue back, or somebody finds it empty and without an owner."""
    for queue in {*model.deaths, *model.alone, *model.suspects} - {*seen.deaths, *seen.alone, *seen.suspects}:
        if queue not in model.owners and not seen.waiting(queue):
            model.forget_deaths(queue)
    assert seen.deaths == +model.deaths
    assert seen.alone == {queue: "{} {}".format(*noted) for queue, noted in model.alone.items()}
    assert seen.suspects == {queue: "{} {} {}".format(*noted) for queue, noted in model.suspects.items()}


def _check_removals(model: Model, seen: Seen) -> None:
    """An endpoint that is being removed is found by its first queue, even when that is empty."""
    for endpoint in model.sought:
        first = f"{endpoint}.0"
        score = seen.schedule.get(first)
        assert score is not None, f"nobody finds that {endpoint} is being removed"
        assert first in model.owners or score <= seen.now + 1000
    model.sought.clear()


def _check_score(model: Model, queue: str, before: Seen, seen: Seen) -> None:
    """A queue is looked at when its lease ends, or when its first event may be attempted; or not at all."""
    score, paused = seen.schedule.get(queue), model.health[endpoint_of(queue)].paused
    if queue in model.owners:
        assert score == model.leases[queue], f"{queue} is owned, and its score is not the end of the lease"
        return
    waiting = seen.waiting(queue)
    if paused == "removing":
        assert not waiting or (score or seen.now + HOUR) <= seen.now + 1000, f"{queue} is not swept"
        return
    if paused:
        assert score is None, f"{queue} is paused, and looked at at {score}"
        return
    if not waiting:
        assert score is None or queue in model.early, f"{queue} is empty, and looked at at {score}"
        model.early -= set() if score else {queue}
        return
    assert score is not None, f"{queue} holds {waiting} and is never looked at"
    delay = model.registered[endpoint_of(queue)].delay
    may = max(seen.gate(endpoint_of(queue), seen.now), min(copy.due(delay) for copy in waiting))
    assert score <= max(may, seen.now), f"{queue} is looked at {score - may} ms late"
    assert score >= may or queue in model.early, f"{queue} is looked at {may - score} ms early"
    assert score >= before.now or queue not in model.served, f"{queue} was served and is not behind the others"
    if score >= may:
        model.early.discard(queue)
