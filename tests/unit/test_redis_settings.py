"""The settings of Redis that the guarantee rests on."""

import pytest

from kasplo_notify.redis_settings import faults

GOOD = {"appendonly": "yes", "maxmemory-policy": "noeviction"}


@pytest.mark.parametrize("version", ["7.0.0", "7.2.4", "8.0", "255.255.255", "unstable", None])
def test_a_server_as_it_should_be_has_no_faults(version: str | None) -> None:
    assert list(faults(version, GOOD)) == []


def test_what_the_login_may_not_read_is_not_judged() -> None:
    assert list(faults(None, {"appendonly": None, "maxmemory-policy": None})) == []


@pytest.mark.parametrize(
    ("version", "setting", "told"),
    [
        ("6.2.14", {}, "this is Redis 6.2.14; install Redis 7.0"),
        ("7.0.0", {"appendonly": "no"}, "appendonly is no: a restart of Redis loses"),
        ("7.0.0", {"maxmemory-policy": "allkeys-lru"}, "maxmemory-policy is allkeys-lru: Redis deletes queued events"),
    ],
)
def test_each_fault_says_what_to_do(version: str, setting: dict[str, str], told: str) -> None:
    (fault,) = faults(version, GOOD | setting)
    assert fault.startswith(told)
    assert "set it to" in fault or "install" in fault
