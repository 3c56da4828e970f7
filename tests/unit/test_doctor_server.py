"""What `doctor` and a starting worker say of a Redis server, from what it says of itself."""

import re
from collections.abc import Mapping

import pytest

from kasplo_notify.doctor import judge_server
from kasplo_notify.doctor.finding import Finding
from kasplo_notify.doctor.server import Server

GIB = 1 << 30
INFO = {
    "redis_version": "7.0.15",
    "uptime_in_seconds": "86400",
    "loading": "0",
    "role": "master",
    "connected_slaves": "0",
    "cluster_enabled": "0",
    "connected_clients": "12",
    "maxclients": "10000",
    "rejected_connections": "0",
    "aof_enabled": "1",
    "aof_last_write_status": "ok",
    "aof_last_bgrewrite_status": "ok",
    "aof_delayed_fsync": "0",
    "rdb_last_bgsave_status": "ok",
    "used_memory": str(GIB),
    "maxmemory": str(4 * GIB),
    "maxmemory_policy": "noeviction",
    "total_system_memory": str(8 * GIB),
    "evicted_keys": "0",
}
SETTINGS = {
    "appendonly": "yes",
    "appendfsync": "always",
    "maxmemory": str(4 * GIB),
    "maxmemory-policy": "noeviction",
    "min-replicas-to-write": "0",
    "save": "3600 1",
    "stop-writes-on-bgsave-error": "yes",
}


def judged(info: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, Finding]:
    found = list(judge_server(Server(info=info, settings=settings)))
    by_name = {each.name: each for each in found}
    assert len(by_name) == len(found)
    return by_name


def bad(info: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, Finding]:
    return {name: each for name, each in judged(info, settings).items() if each.level != "ok"}


def test_of_a_server_as_it_should_be_everything_is_ok() -> None:
    assert bad(INFO, SETTINGS) == {}
    assert {"version", "role", "appendonly", "appendfsync", "aof_write", "maxmemory", "evicted_keys"} <= set(
        judged(INFO, SETTINGS)
    )


@pytest.mark.parametrize(
    ("info", "settings", "name", "level", "told"),
    [
        ({"redis_version": "6.2.14"}, {}, "version", "fault", "this is Redis 6.2.14; install Redis 7.0"),
        ({"valkey_version": "7.1.9"}, {}, "version", "fault", "this is Valkey 7.1.9; install"),
        ({"uptime_in_seconds": "70"}, {}, "restarted", "note", "1 min 10 s ago"),
        ({"loading": "1", "loading_eta_seconds": "90"}, {}, "loading", "fault", "in about 1 min 30 s; wait"),
        ({"async_loading": "1"}, {}, "loading", "fault", "loading its data"),
        ({"cluster_enabled": "1"}, {}, "cluster", "fault", "use a single server"),
        ({"connected_slaves": "2"}, {}, "replicas", "note", "2 replicas: one that takes over"),
        ({"min_slaves_good_slaves": "0"}, {"min-replicas-to-write": "1"}, "replicas", "fault", "events are refused"),
        ({"connected_clients": "9000"}, {}, "clients", "warning", "9,000 of 10,000 connections"),
        ({"rejected_connections": "3"}, {}, "clients", "note", "refused 3 connections"),
        ({}, {"appendonly": "no"}, "appendonly", "fault", "appendonly is no: a restart of Redis loses"),
        ({}, {"appendfsync": "no"}, "appendfsync", "fault", "set it to everysec"),
        ({}, {"appendfsync": "everysec"}, "appendfsync", "note", "the last second"),
        ({"aof_last_write_status": "err"}, {}, "aof_write", "fault", "new events are refused; make room"),
        ({"aof_last_bgrewrite_status": "err"}, {}, "aof_rewrite", "warning", "until the disk is full"),
        ({"aof_delayed_fsync": "7"}, {}, "slow_disk", "note", "7 writes waited"),
        ({"rdb_last_bgsave_status": "err"}, {}, "snapshot", "fault", "new events are refused (stop-writes"),
        ({"rdb_last_bgsave_status": "err"}, {"save": ""}, "snapshot", "warning", "the log of Redis says why"),
        (
            {"rdb_last_bgsave_status": "err"},
            {"stop-writes-on-bgsave-error": "no"},
            "snapshot",
            "warning",
            "failed; the",
        ),
        ({}, {"maxmemory-policy": "allkeys-lru"}, "maxmemory_policy", "fault", "set it to noeviction"),
        ({}, {"maxmemory": "0"}, "maxmemory", "warning", "not set: a growing backlog"),
        ({"used_memory": str(7 * GIB // 2)}, {}, "maxmemory", "warning", "87 % full (3.5 GiB of 4.0 GiB used)"),
        ({"used_memory": str(4 * GIB)}, {}, "maxmemory", "fault", "is full (4.0 GiB of 4.0 GiB used)"),
        ({"evicted_keys": "1"}, {}, "evicted_keys", "fault", "deleted 1 key since its start"),
    ],
)
def test_each_judgement_can_fail_and_says_what_to_do(
    info: dict[str, str], settings: dict[str, str], name: str, level: str, told: str
) -> None:
    found = bad(INFO | info, SETTINGS | settings)
    assert list(found) == [name]
    assert found[name].level == level
    assert told in found[name].text


@pytest.mark.parametrize(
    ("read_only", "told"), [("1", "nothing can be stored here"), ("0", "what is stored here is lost")]
)
def test_a_replica_is_a_fault_that_names_its_master(read_only: str, told: str) -> None:
    replica = {"role": "slave", "master_host": "10.0.0.7", "master_port": "6379", "slave_read_only": read_only}
    found = bad(INFO | replica, SETTINGS)
    assert found["role"].level == "fault"
    assert "a replica of 10.0.0.7:6379" in found["role"].text
    assert told in found["role"].text


@pytest.mark.parametrize("version", ["7.0.0", "7.2.4", "8.0", "255.255.255", "unstable", "7", ""])
def test_no_version_from_7_0_on_is_a_fault(version: str) -> None:
    assert "version" not in bad(INFO | {"redis_version": version}, SETTINGS)


def test_valkey_is_judged_by_its_own_version_not_by_the_redis_that_it_is_like() -> None:
    found = judged(INFO | {"redis_version": "7.2.4", "valkey_version": "9.1.2"}, SETTINGS)
    assert found["version"].text == "Valkey 9.1.2"


def test_where_config_is_forbidden_info_says_the_same() -> None:
    for field, value, name in (
        ("aof_enabled", "0", "appendonly"),
        ("maxmemory_policy", "volatile-ttl", "maxmemory_policy"),
        ("maxmemory", "0", "maxmemory"),
    ):
        assert list(bad(INFO | {field: value}, {})) == [name]
    assert bad(INFO, {}) == {}
    snapshot = bad(INFO | {"rdb_last_bgsave_status": "err"}, {})["snapshot"]
    assert (snapshot.level, "with stop-writes-on-bgsave-error" in snapshot.text) == ("warning", True)


def test_where_info_is_forbidden_the_settings_are_judged() -> None:
    assert list(bad({}, SETTINGS | {"appendonly": "no"})) == ["appendonly"]


def test_what_is_not_known_is_not_judged() -> None:
    assert judged({}, {}) == {}


def test_without_an_append_only_file_nothing_is_said_of_how_it_is_written() -> None:
    without = SETTINGS | {"appendonly": "no", "appendfsync": "no"}
    assert list(bad(INFO | {"aof_last_write_status": "err", "aof_last_bgrewrite_status": "err"}, without)) == [
        "appendonly"
    ]


def test_buffers_that_do_not_count_for_maxmemory_do_not_fill_it() -> None:
    found = judged(INFO | {"used_memory": str(4 * GIB), "mem_not_counted_for_evict": str(3 * GIB)}, SETTINGS)
    assert found["maxmemory"].level == "ok"


@pytest.mark.parametrize(
    "info",
    [
        None,
        [b"not", b"text"],
        b"\xff\xfe:\x00:\r\n:::\n\n#\nmaxmemory\n",
        b"modules:1\r\nmodule:x\r\n__raw__:1\r\nunsplittable\r\n",
        b"used_memory:-1\r\nmaxmemory:nan\r\nuptime_in_seconds:" + b"9" * 5000,
        b"maxmemory:0x10\r\nevicted_keys:1e9\r\nconnected_clients:\xd9\xa3\r\nmaxclients:0\r\n",
        b"redis_version:" + b"9" * 5000 + b".1\r\nvalkey_version:\r\nrole:\r\n",
        b"a:b\r\n" * 100_000,
    ],
)
def test_no_info_however_broken_is_an_error(info: object) -> None:
    settings: dict[object, object] = {"appendonly": b"yes", b"maxmemory": "1", "save": None}
    found = list(judge_server(Server.of(info, settings)))
    assert all(each.text.isprintable() for each in found)


def test_what_a_server_says_is_quoted_briefly_and_harmlessly() -> None:
    server = Server.of(b"role:\x1b[2J" + b"x" * 500, {"appendonly": "\x1b]0;title\x07"})
    texts = [each.text for each in judge_server(server)]
    assert texts
    for text in texts:
        assert text.isprintable()
        assert not re.search(r"x{70}", text)
