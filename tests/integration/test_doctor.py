"""What `doctor` reads from a real server of its own, and that it changes nothing there."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
import redis

from kasplo_notify.config import Config, RedisConfig, SpoolConfig
from kasplo_notify.doctor import Finding, examine, read_all, server_faults
from kasplo_notify.embedded import EmbeddedServer
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.notifier import Notifier
from kasplo_notify.registry import Registry
from tests.acceptance.world import scomp


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    data_dir = tmp_path_factory.mktemp("doctor")
    with EmbeddedServer(Config(redis=RedisConfig(url="embedded", data_dir=data_dir))) as server:
        yield server


@pytest.fixture
def client(own_server: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own_server.url) as client:
        client.flushall()
        yield client


@pytest.fixture
def config(own_server: EmbeddedServer) -> Config:
    return Config(redis=RedisConfig(url=own_server.url))


@pytest.fixture
def registry(config: Config) -> Iterator[Registry]:
    registry = Registry.open(config)
    yield registry
    registry.close()


def bad(config: Config) -> dict[str, Finding]:
    """What is not in order."""
    return {each.name: each for each in examine(read_all(config)) if each.level != "ok"}


@contextmanager
def setting(client: redis.Redis, name: str, value: str) -> Iterator[None]:
    before = str(client.config_get(name)[name])
    client.config_set(name, value)
    try:
        yield
    finally:
        client.config_set(name, before)


@contextmanager
def login(client: redis.Redis, config: Config, *rules: str) -> Iterator[Config]:
    """The configuration of somebody who may not do everything."""
    client.execute_command("ACL", "SETUSER", "narrow", "reset", "on", ">pw", "~*", "+@all", *rules)  # type: ignore[no-untyped-call]
    path = config.redis.url.removeprefix("unix://")
    try:
        yield Config(redis=RedisConfig(url=f"unix://narrow:pw@{path}"))
    finally:
        client.execute_command("ACL", "DELUSER", "narrow")  # type: ignore[no-untyped-call]


def test_of_an_embedded_server_only_the_absence_of_workers_is_a_fault(client: redis.Redis, config: Config) -> None:
    reading = read_all(config)
    assert {each.name for each in examine(reading) if each.level in ("fault", "warning")} == {"workers"}
    assert reading.away == ""
    assert list(reading.unread) == []
    assert reading.clock is not None
    assert abs(reading.clock.ahead_s) < 1


@pytest.mark.parametrize(
    ("name", "value", "finding"),
    [
        ("appendonly", "no", ("appendonly", "fault")),
        ("appendfsync", "no", ("appendfsync", "fault")),
        ("maxmemory-policy", "allkeys-lru", ("maxmemory_policy", "fault")),
        ("maxmemory", "0", ("maxmemory", "warning")),
        ("maxmemory", "1000000", ("maxmemory", "fault")),
        ("min-replicas-to-write", "1", ("replicas", "fault")),
        ("maxclients", "2", ("clients", "warning")),
    ],
)
def test_each_setting_that_endangers_events_is_found(
    client: redis.Redis, config: Config, name: str, value: str, finding: tuple[str, str]
) -> None:
    with setting(client, name, value):
        assert finding in {(each.name, each.level) for each in examine(read_all(config))}
    assert finding not in {(each.name, each.level) for each in examine(read_all(config))}


def test_a_worker_is_told_the_faults_of_its_server_and_nothing_else(
    client: redis.Redis, config: Config, registry: Registry
) -> None:
    assert server_faults(registry.store) == []
    with setting(client, "appendonly", "no"), setting(client, "maxmemory", "0"):
        (told,) = server_faults(registry.store)
    assert told.startswith("appendonly is no: ")


def test_evictions_are_found_after_the_fact(client: redis.Redis, config: Config) -> None:
    with setting(client, "maxmemory-policy", "allkeys-lru"), setting(client, "maxmemory", "3mb"):
        for number in range(300):
            client.set(f"filler{number}", b"x" * 10_000)
    client.flushall()
    assert "keys since its start" in bad(config)["evicted_keys"].text
    client.config_resetstat()
    assert "evicted_keys" not in bad(config)


def test_on_a_replica_everything_is_read_and_its_role_is_the_fault(
    client: redis.Redis, config: Config, registry: Registry
) -> None:
    registry.add(Endpoint(name="crm", url="https://crm.example.com/"))
    with Notifier(config=config) as notifier:
        notifier.emit(scomp(1), mail_class="promo")
    client.replicaof("127.0.0.1", "1")
    try:
        found = bad(config)
    finally:
        client.replicaof("NO", "ONE")
    assert "a replica of 127.0.0.1:1" in found["role"].text
    assert "1 event held" in found["workers"].text
    assert "unread" not in found


def test_a_login_without_info_and_config_is_a_note_and_the_rest_is_judged(client: redis.Redis, config: Config) -> None:
    with login(client, config, "-info", "-config") as narrow:
        found = examine(read_all(narrow))
    unread = [each for each in found if each.name == "unread"]
    assert [each.level for each in unread] == ["note", "note"]
    assert unread[0].text.startswith(
        "INFO could not be looked at, and nothing of it is judged: the ACL of Redis forbids"
    )
    assert {"clock", "workers", "endpoints"} <= {each.name for each in found}


def test_what_config_hides_is_taken_from_info(client: redis.Redis, config: Config) -> None:
    with login(client, config, "-config") as narrow, setting(client, "appendonly", "no"):
        found = bad(narrow)
    assert found["appendonly"].level == "fault"
    assert found["unread"].level == "note"


@pytest.mark.parametrize(
    ("rules", "what"),
    [
        (("-evalsha",), "the backlogs"),
        (("-hgetall",), "the registry"),
        (("-exists",), "rq:suspended"),
        (("resetkeys", "~rq:*"), "the registry"),
    ],
)
def test_a_login_that_may_not_do_what_workers_do_is_a_fault(
    client: redis.Redis, config: Config, registry: Registry, rules: tuple[str, ...], what: str
) -> None:
    for name in ("a", "b"):
        registry.add(Endpoint(name=name, url="https://crm.example.com/"))
    with login(client, config, *rules) as narrow:
        found = examine(read_all(narrow))
    (needed,) = (each for each in found if each.name == "unread" and what in each.text)
    assert needed.level == "fault"
    assert "could not be looked at, and workers need that: the ACL of Redis forbids" in needed.text


def test_a_wrong_password_is_a_redis_that_cannot_be_used(client: redis.Redis, config: Config) -> None:
    path = quote(config.redis.url.removeprefix("unix://"))
    reading = read_all(Config(redis=RedisConfig(url=f"unix://nobody:wrong@{path}")))
    assert "refuses the login" in reading.away
    assert {each.name: each.level for each in examine(reading)}["redis"] == "fault"


def test_broken_records_and_keys_are_named_and_the_others_are_judged(
    client: redis.Redis, config: Config, registry: Registry
) -> None:
    for name in ("whole", "shattered"):
        registry.add(Endpoint(name=name, url="https://crm.example.com/"))
    registry.add(Endpoint(name="slow", url="https://crm.example.com/", timeout=40.0))
    client.hset(registry.store.keys.endpoints, "record", b"\x1b[31m")
    client.set(registry.store.keys("new:shattered.0"), "not a stream")
    client.hset(registry.store.keys("counters"), mapping={"unrouted": "many", "dropped": "7"})
    found = bad(config)
    assert "record of record cannot be read" in found["broken_records"].text
    assert "keys of shattered are not" in found["broken_queues"].text
    assert "slow has a timeout over 25 s" in found["lease"].text
    assert "7 dead letters" in found["dropped"].text


@pytest.mark.parametrize("key", ["idle", "counters", "deaths", "ahead", "schedule", "dead", "version", "health:crm"])
def test_a_key_of_the_wrong_type_is_told_and_stops_nothing(
    client: redis.Redis, config: Config, registry: Registry, key: str
) -> None:
    registry.add(Endpoint(name="crm", url="https://crm.example.com/"))
    client.delete(registry.store.keys(key))
    if key == "version":
        client.hset(registry.store.keys(key), "x", "x")
    else:
        client.set(registry.store.keys(key), "x")
    found = bad(config)
    assert {"unread", "broken_queues"} & set(found)


def test_events_of_a_name_that_nobody_registered_are_found(
    client: redis.Redis, config: Config, registry: Registry
) -> None:
    registry.add(Endpoint(name="lost", url="https://crm.example.com/"))
    with Notifier(config=config) as notifier:
        notifier.emit_many([{"mail_class": "promo", **scomp(number)} for number in range(3)])
    client.hdel(registry.store.keys.endpoints, "lost")
    assert "3 events wait for lost" in bad(config)["unregistered"].text
    # As a worker leaves it: paused, and off the schedule. Producers still route to it.
    client.delete(registry.store.keys("schedule"))
    assert "3 events wait for lost" in bad(config)["unregistered"].text


def test_a_suspended_rq_and_dying_drains_are_found(client: redis.Redis, config: Config, registry: Registry) -> None:
    client.set("rq:suspended", 1)
    client.hset(registry.store.keys("deaths"), "crm.0", "3")
    client.hset(registry.store.keys("ahead"), "crm.0", "1")
    found = bad(config)
    assert found["rq_suspended"].level == "fault"
    assert found["deaths"].level == found["clock_stepped"].level == "warning"


def test_it_changes_nothing(client: redis.Redis, config: Config, registry: Registry) -> None:
    registry.add(Endpoint(name="crm", url="https://crm.example.com/"))
    with Notifier(config=config) as notifier:
        notifier.emit_many([{"mail_class": "promo", **scomp(number)} for number in range(20)])
    keys = registry.store.keys
    # What a clock that was set back leaves: an event from the future, whose first sight a writer would note.
    client.xadd(keys("new:crm.0"), {"e": "x"}, id="99999999999999-0")
    client.delete(keys("ahead"))

    def everything() -> tuple[int, dict[bytes, bytes | None]]:
        kept = {key: client.dump(key) for key in client.scan_iter()}
        return client.info("persistence")["rdb_changes_since_last_save"], kept

    before = everything()
    read_all(config)
    assert everything() == before


def test_it_is_read_in_a_redis_that_is_full(client: redis.Redis, config: Config, registry: Registry) -> None:
    registry.add(Endpoint(name="crm", url="https://crm.example.com/"))
    with setting(client, "maxmemory", "1"):
        found = bad(config)
    assert "is full" in found["maxmemory"].text
    assert "unread" not in found


def test_of_a_redis_that_is_away_what_this_machine_knows_is_told(tmp_path: Path) -> None:
    reading = read_all(Config(redis=RedisConfig(url=f"unix://{tmp_path}/nowhere")))
    assert "not available" in reading.away
    assert {each.name for each in examine(reading)} >= {"redis", "open_files", "configuration", "lease"}


def test_what_waits_in_the_spool_is_found_without_a_change(config: Config, tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    spooling = replace(config, spool=SpoolConfig(path=folder))
    assert {each.name: each.level for each in examine(read_all(spooling))}["spool"] == "ok"
    assert not folder.exists()
    away = replace(spooling, redis=RedisConfig(url=f"unix://{tmp_path}/nowhere"))
    with Notifier(config=away) as notifier:
        assert notifier.emit(scomp(1), mail_class="promo").spooled
        assert bad(spooling)["spool"].level == "note"
    (segment,) = folder.iterdir()
    segment.rename(folder / f"{1:020d}-{segment.name.partition('-')[2]}")
    assert "nobody sends them" in bad(spooling)["spool"].text
    folder.joinpath("file").touch()
    assert bad(replace(config, spool=SpoolConfig(path=folder / "file")))["unread"].level == "note"
