"""The registry: what one operator changes every producer and worker knows, and no other operator undoes."""

import threading
from dataclasses import replace
from typing import Any

import pytest

from kasplo_notify.config import Config, RedisConfig
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.errors import EndpointError, EndpointExists, StorageUnavailable, UnknownEndpoint
from kasplo_notify.health import Backlog, Health
from kasplo_notify.registry import Registry
from kasplo_notify.routing import RouteTable
from kasplo_notify.store import Call, Store
from tests.integration.emitter import ThreadsEmitter
from tests.integration.shard import DELAY, HOUR, Shard, scomp

on_the_server = pytest.mark.parametrize("wire", ["server"], indirect=True)

CRM = Endpoint(
    name="crm",
    url="https://crm.example/hook?a=b",
    method="GET",
    format="form",
    mail_classes=("Promo", "alerts"),
    event_types=("scomp", "engine_click"),
    headers=(("X-Own", "yes"), ("X-Other", "too")),
    secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    basic="user:pass",
    delay=5.0,
    timeout=2.5,
    max_in_flight=16,
    queues=2,
    retry_delays=(1.0, 2.0),
    created_at=1_800_000_000,
)


def plain(name: str, queues: int = 1) -> Endpoint:
    return Endpoint(name=name, url=f"https://{name}.example/hook", queues=queues)


def version(shard: Shard) -> int:
    return int(shard.client.get(shard.keys("version")) or 0)


def test_an_endpoint_is_read_back_as_it_was_added(registry: Registry) -> None:
    registry.add(CRM)
    assert registry.get("crm") == CRM
    assert registry.endpoints() == {"crm": CRM}


def test_endpoints_are_listed_by_name(registry: Registry) -> None:
    for name in ("b", "c", "a"):
        registry.add(plain(name))
    assert list(registry.endpoints()) == ["a", "b", "c"]


def test_every_change_counts_the_version_up(registry: Registry, shard: Shard) -> None:
    assert registry.read()[0] == "0"
    registry.add(CRM)
    registry.update("crm", lambda known: replace(known, queues=3))
    list(registry.remove("crm", drop=False))
    assert version(shard) == 4  # its removal begins and ends


def test_a_name_that_is_taken_is_refused_and_nothing_changes(registry: Registry, shard: Shard) -> None:
    registry.add(CRM)
    before = shard.dump()
    with pytest.raises(EndpointExists, match="endpoint 'crm' exists: use `endpoint update crm`"):
        registry.add(plain("crm"))
    assert shard.dump() == before


@pytest.mark.parametrize("name", ["crmm", "nothing-like-it"])
def test_an_unknown_name_is_refused_everywhere(registry: Registry, shard: Shard, name: str) -> None:
    registry.add(CRM)
    before = shard.dump()
    match = "no endpoint is named.*" + ("did you mean 'crm'" if name == "crmm" else "endpoint list")
    with pytest.raises(UnknownEndpoint, match=match):
        registry.get(name)
    with pytest.raises(UnknownEndpoint, match=match):
        registry.update(name, lambda known: known)
    with pytest.raises(UnknownEndpoint, match=match):
        registry.pause(name)
    with pytest.raises(UnknownEndpoint, match=match):
        registry.resume(name)
    with pytest.raises(UnknownEndpoint, match=match):
        list(registry.remove(name, drop=True))
    assert shard.dump() == before


def test_a_change_that_is_refused_changes_nothing(registry: Registry, shard: Shard) -> None:
    registry.add(CRM)
    before = shard.dump()

    def refuse(_: Endpoint) -> Endpoint:
        raise EndpointError("the url is refused")

    with pytest.raises(EndpointError, match="the url is refused"):
        registry.update("crm", refuse)
    assert shard.dump() == before


def test_of_two_operators_neither_undoes_the_others_change(registry: Registry) -> None:
    registry.add(plain("crm"))
    seen: list[int] = []

    def change(known: Endpoint) -> Endpoint:
        seen.append(known.queues)
        if len(seen) == 1:
            registry.update("crm", lambda other: replace(other, queues=7))
            registry.add(plain("other"))
        return replace(known, timeout=1.5)

    registry.update("crm", change)
    assert seen == [1, 7]
    assert registry.get("crm") == replace(plain("crm"), queues=7, timeout=1.5)
    assert "other" in registry.endpoints()


def test_many_operators_at_once_lose_nothing(registry: Registry) -> None:
    registry.add(plain("crm"))
    threads = [threading.Thread(target=registry.add, args=(plain(f"e{number}"),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(registry.endpoints()) == ["crm", *(f"e{number}" for number in range(8))]
    assert len(registry.routes().explain("promo", "scomp")) == 9


def test_changes_that_never_come_through_end_in_one_sentence(registry: Registry, shard: Shard) -> None:
    def change(known: Endpoint) -> Endpoint:
        shard.client.incr(shard.keys("version"))
        return known

    registry.add(CRM)
    with pytest.raises(StorageUnavailable, match="changed by others all the time: try again"):
        registry.update("crm", change)


def test_producers_see_routes_and_no_secret(registry: Registry, shard: Shard) -> None:
    registry.add(CRM)
    stored = shard.client.get(shard.keys.routes)
    assert stored == b'[["crm",["promo","alerts"],["scomp","engine_click"],2,5.0]]'


def test_a_shorter_delay_counts_for_what_waits_already(registry: Registry, shard: Shard) -> None:
    registry.add(plain("crm"))
    shard.push("a", version="1")
    registry.update("crm", lambda known: replace(known, delay=1.0))
    assert (shard.score() or 0) <= shard.now() + 1001
    registry.update("crm", lambda known: replace(known, delay=None))
    assert shard.now() + 1001 < (shard.score() or 0) <= shard.now() + DELAY + 1


def test_a_record_that_is_broken_is_named_and_hides_no_other(registry: Registry, shard: Shard) -> None:
    registry.add(CRM)
    for name, record in {"bad": b"{", "old": b'{"v":9}', "evil": b'{"v":1,"name":"evil","url":"file:///"}'}.items():
        shard.client.hset(shard.keys.endpoints, name, record)
    _, endpoints, broken = registry.read()
    assert endpoints == {"crm": CRM}
    assert [each.name for each in broken] == ["bad", "evil", "old"]
    assert all(each.reason for each in broken)


# --- pause and resume ------------------------------------------------------------------------------------------------


def test_a_paused_endpoint_says_why_and_since_when(registry: Registry, shard: Shard) -> None:
    registry.add(CRM)
    assert registry.pause("crm") == "operator"
    health = registry.health(["crm"])["crm"]
    assert health.paused == "operator"
    assert shard.now() - HOUR < health.paused_at <= shard.now()
    assert registry.pause("crm", "gone") == "operator"


def test_resuming_makes_what_was_requeued_due_at_once(registry: Registry, shard: Shard) -> None:
    registry.add(replace(CRM, queues=2))
    for number in range(1200):
        shard.put_retry(f"crm.{number % 2}", f"event-{number}", due_in=60_000 + number)
    registry.resume("crm")
    for queue in ("crm.0", "crm.1"):
        waiting = shard.retries(queue)
        assert len(waiting) == len({score for _, score in waiting.values()}) == 600
        assert max(score for _, score in waiting.values()) <= shard.now()
        assert (shard.score(queue) or 0) <= shard.now()
    assert list(shard.retries("crm.0"))[:100] == [f"event-{number}" for number in range(0, 200, 2)]


def test_resuming_says_whether_there_was_anything_to_resume(registry: Registry) -> None:
    registry.add(CRM)
    assert registry.resume("crm") is False
    registry.pause("crm")
    assert registry.resume("crm") is True
    assert registry.health(["crm"])["crm"].paused == ""


def test_a_paused_endpoint_still_takes_events(registry: Registry, shard: Shard, config: Config) -> None:
    registry.add(plain("crm"))
    registry.pause("crm")
    with ThreadsEmitter(config) as emitter:
        assert emitter.emit(scomp()).endpoints == ("crm",)
    assert (len(shard.new()), shard.score()) == (1, None)
    registry.resume("crm")
    assert shard.score() is not None


def test_health_that_somebody_tampered_with_is_still_read() -> None:
    read = Health.read({b"paused": b"\xff", b"fails": b"many", b"paused_at": b"-1", b"open": b"inf"})
    assert read == Health(paused="\ufffd", nonsense=("paused_at", "fails", "open"))
    assert Health.read({b"fails": b"9" * 5000, b"probe_at": b"7"}) == Health(probe_at=7, nonsense=("fails",))


# --- remove ----------------------------------------------------------------------------------------------------------


def test_a_removed_endpoint_is_gone_and_its_backlog_dead_letters(registry: Registry, shard: Shard) -> None:
    registry.add(plain("crm"))
    shard.put("crm.0", *(f"e{number}" for number in range(1200)))
    assert list(registry.remove("crm", drop=False)) == [(500, 0), (1000, 0), (1200, 0)]
    assert registry.endpoints() == {}
    assert len(shard.dead()) == 1200
    assert shard.client.get(shard.keys.routes) == b"[]"


def test_a_removed_endpoints_backlog_is_dropped_only_in_so_many_words(registry: Registry, shard: Shard) -> None:
    registry.add(plain("crm"))
    shard.put("crm.0", "a")
    assert list(registry.remove("crm", drop=True)) == [(1, 0)]
    assert shard.names() == {"version", "routes"}


def test_while_a_worker_holds_a_queue_the_removal_waits_and_the_name_is_refused(
    registry: Registry, shard: Shard
) -> None:
    registry.add(plain("crm"))
    shard.hold("drain1", events=2)
    steps = registry.remove("crm", drop=False)
    assert next(steps) == (0, 1)
    with pytest.raises(EndpointExists, match="still being removed: try again when"):
        registry.add(plain("crm"))
    with pytest.raises(UnknownEndpoint):
        registry.update("crm", lambda known: known)
    with pytest.raises(EndpointError, match="being removed: it cannot be resumed"):
        registry.resume("crm")
    assert registry.get("crm").removing == "keep"
    assert next(steps) == (0, 1)
    shard.release("drain1", "crm.0")
    assert list(steps) == [(2, 0)]
    registry.add(plain("crm"))


def test_a_removal_that_was_left_half_done_is_taken_up_by_the_next(registry: Registry, shard: Shard) -> None:
    registry.add(plain("crm"))
    shard.put("crm.0", *(f"e{number}" for number in range(600)))
    next(registry.remove("crm", drop=False))
    assert list(registry.remove("crm", drop=False)) == [(100, 0)]
    assert (registry.endpoints(), len(shard.dead())) == ({}, 600)


def test_an_endpoint_added_again_starts_with_a_clean_health(registry: Registry, shard: Shard) -> None:
    registry.add(plain("crm"))
    shard.set_health(open=1, probe_at=shard.now() + HOUR, fails=11)
    list(registry.remove("crm", drop=True))
    registry.add(plain("crm"))
    assert registry.health(["crm"]) == {"crm": Health()}


# --- reading ---------------------------------------------------------------------------------------------------------


def test_the_backlog_of_endpoints_is_counted(registry: Registry, shard: Shard) -> None:
    registry.add(plain("crm"))
    shard.put("crm.0", "a", "b", age=DELAY + 60_000)
    shard.put_retry("crm.0", "c", due_in=HOUR)
    found = registry.backlog(["crm", "nobody"])
    assert found["nobody"] == Backlog(waiting=0, retrying=0, dead=0, late_ms=0)
    assert (found["crm"].waiting, found["crm"].retrying, found["crm"].dead) == (2, 1, 0)
    assert 59_000 <= found["crm"].late_ms < HOUR


def test_the_routes_of_a_dry_run_are_those_of_producers(registry: Registry) -> None:
    registry.add(CRM)
    registry.add(plain("all"))
    matched = [match.route.endpoint for match in registry.routes().explain("PROMO", "scomp") if match.matched]
    assert sorted(matched) == ["all", "crm"]


@on_the_server
def test_open_connects_as_configured(config: Config, shard: Shard) -> None:
    opened = Registry.open(config)
    opened.add(CRM)
    opened.close()
    assert version(shard) == 1


def test_two_prefixes_are_two_installations(registry: Registry, shard: Shard, config: Config) -> None:
    registry.add(CRM)
    other = Config(redis=RedisConfig(url=config.redis.url, prefix="other:"))
    assert Registry(Store(shard.client, other.redis.prefix), other).endpoints() == {}


def test_without_a_server_every_command_is_storage_unavailable() -> None:
    config = Config(redis=RedisConfig(url="unix:///nowhere/at/all.sock"))
    registry = Registry.open(config)
    for command in (
        registry.endpoints,
        lambda: registry.get("crm"),
        lambda: registry.add(CRM),
        lambda: registry.pause("crm"),
        lambda: list(registry.remove("crm", drop=True)),
        lambda: registry.health(["crm"]),
        lambda: registry.backlog(["crm"]),
    ):
        with pytest.raises(StorageUnavailable, match="Redis is not available"):
            command()
    registry.close()


def test_a_change_keeps_the_routes_of_a_record_that_is_not_readable(registry: Registry, shard: Shard) -> None:
    registry.add(plain("crm"))
    shard.client.hset(shard.keys.endpoints, "crm", b'{"v":2,"name":"crm"}')
    registry.add(plain("other"))
    table = RouteTable.load(b"0", shard.client.get(shard.keys.routes))
    assert [route.endpoint for route in table.match("", "scomp")] == ["crm", "other"]


def test_a_removal_that_was_only_begun_is_found_by_the_workers_with_a_backlog_or_without(
    registry: Registry, shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add(plain("empty"))
    registry.add(plain("full"))
    shard.put("full.0", "a")
    shard.set_health("full", not_before=shard.now() + HOUR, delay=HOUR)
    run = registry.store.run

    def run_all_but_the_sweep(call: Call) -> Any:
        if call.script == "remove":
            raise StorageUnavailable("killed")
        return run(call)

    with monkeypatch.context() as killed:
        killed.setattr(registry.store, "run", run_all_but_the_sweep)
        for name in ("empty", "full"):
            with pytest.raises(StorageUnavailable):
                next(registry.remove(name, drop=False))
    assert set(shard.claim().removing) == {"empty.0", "full.0"}
