"""What `doctor` says of the workers and the endpoints."""

from dataclasses import replace
from typing import Any

import pytest

from kasplo_notify.config import Config, DeliveryConfig
from kasplo_notify.doctor.finding import Finding
from kasplo_notify.doctor.fleet import Fleet, deliveries, endpoints
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.health import Backlog, Health
from kasplo_notify.status import EndpointStatus

NOW = 1_795_430_000_000
EMPTY = Backlog(waiting=0, retrying=0, dead=0, late_ms=0)


def one(name: str = "crm", *, health: Health | None = None, broken: str = "", **more: Any) -> EndpointStatus:
    backlog = {key: more.pop(key) for key in ("waiting", "retrying", "dead", "late_ms") if key in more}
    record = None if broken or more.pop("removed", False) else Endpoint(name=name, url="https://a.example/", **more)
    return EndpointStatus(
        name=name,
        endpoint=record,
        broken=broken,
        health=health or Health(),
        backlog=replace(EMPTY, **backlog),
        now_ms=NOW,
    )


def fleet(*statuses: EndpointStatus, **more: Any) -> Fleet:
    delivering = Fleet(idle=1, busy=1, suspended=False, endpoints=statuses or (one(),))
    return replace(delivering, **more)


def judged(given: Fleet, config: Config | None = None) -> dict[str, Finding]:
    found = [*deliveries(given), *endpoints(given, config or Config())]
    by_name = {each.name: each for each in found}
    assert len(by_name) == len(found)
    return by_name


def bad(given: Fleet, config: Config | None = None) -> dict[str, Finding]:
    return {name: each for name, each in judged(given, config).items() if each.level != "ok"}


def test_of_a_fleet_that_delivers_everything_is_ok() -> None:
    assert bad(fleet()) == {}
    assert set(judged(fleet())) == {"workers", "late", "endpoints", "lease"}


@pytest.mark.parametrize(
    ("given", "name", "level", "told"),
    [
        (fleet(one(waiting=7), idle=0, busy=0), "workers", "fault", "nothing is delivered (7 events held)"),
        (fleet(suspended=True), "rq_suspended", "fault", "rq resume"),
        (fleet(one(late_ms=61_000), idle=0, busy=3), "late", "warning", "every worker is busy; start more"),
        (fleet(one(late_ms=61_000), idle=2), "late", "warning", "while 2 workers idle"),
        (
            fleet(one("a", late_ms=70_000), one("b", late_ms=7_200_000)),
            "late",
            "warning",
            "of b is 2 h late, and 1 other",
        ),
        (fleet(deaths={"crm.0": 2, "crm.1": 1}), "deaths", "warning", "delivered crm.0, which"),
        (fleet(one(broken="not JSON")), "broken_records", "fault", "record of crm cannot be read"),
        (fleet(unreadable={"crm": "WRONGTYPE"}), "broken_queues", "fault", "keys of crm are not what they should be"),
        (fleet(unregistered={"crn": 5}), "unregistered", "fault", "5 events wait for crn, which nobody registered"),
        (fleet(one(timeout=25.1)), "lease", "fault", "crm has a timeout over 25 s"),
        (fleet(one("a", timeout=40), one("b", timeout=60)), "lease", "fault", "a and b have timeouts over 25 s"),
        (fleet(one(waiting=400_000, retrying=400_000)), "backlog", "warning", "backlog of crm is at 80 %"),
        (fleet(one(health=Health(paused="gone"), waiting=3)), "paused", "note", "crm (gone (it answered 410)), with 3"),
        (fleet(one(health=Health(open=True), retrying=1)), "breaker_open", "note", "failed at crm, with 1 event kept"),
        (fleet(one(health=Health(paused="removing"))), "removing", "note", "being removed: crm"),
        (fleet(one(dead=4)), "dead_letters", "note", "4 events given up on"),
        (fleet(counters={"dropped": 2}), "dropped", "note", "2 dead letters deleted"),
        (fleet(counters={"unrouted": 1}), "unrouted", "note", "1 event so far matched no endpoint"),
    ],
)
def test_each_judgement_can_fail_and_says_what_to_do(given: Fleet, name: str, level: str, told: str) -> None:
    found = bad(given)
    assert list(found) == [name]
    assert found[name].level == level
    assert told in found[name].text


@pytest.mark.parametrize(
    "health", [Health(paused="operator"), Health(open=True), Health(not_before=NOW + 1), Health(paused="removing")]
)
def test_what_waits_for_something_else_than_workers_is_not_late(health: Health) -> None:
    assert judged(fleet(one(health=health, late_ms=10**9)))["late"].level == "ok"


def test_an_endpoint_that_fails_now_and_then_can_be_late() -> None:
    assert bad(fleet(one(health=Health(fails=3), late_ms=61_000)))["late"].level == "warning"


def test_without_workers_it_is_not_said_that_there_are_too_few() -> None:
    assert "late" not in judged(fleet(one(late_ms=10**9), idle=0, busy=0))


def test_a_removed_endpoint_counts_with_its_dead_letters_alone() -> None:
    found = judged(fleet(one(), one("old", removed=True, dead=2)))
    assert found["endpoints"].text == "1 endpoint registered"
    assert "2 events" in found["dead_letters"].text


def test_no_endpoint_at_all_is_worth_a_note() -> None:
    found = judged(fleet(endpoints=()))
    assert (found["endpoints"].level, "endpoint add" in found["endpoints"].text) == ("note", True)


def test_a_timeout_that_the_lease_just_outlasts_is_ok() -> None:
    assert judged(fleet(one(timeout=25.0)))["lease"].level == "ok"


def test_a_backlog_is_deep_by_the_configuration() -> None:
    small = Config(delivery=DeliveryConfig(max_backlog=10))
    assert "backlog" in bad(fleet(one(waiting=8)), small)
    assert "backlog" not in bad(fleet(one(waiting=7)), small)


def test_what_could_not_be_read_is_not_judged() -> None:
    assert judged(Fleet()) == {}
