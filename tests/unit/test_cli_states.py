"""An endpoint's state in words, from what the scripts keep of it."""

import pytest

from kasplo_notify.cli.moments import local
from kasplo_notify.cli.states import in_words, record_json, record_rows, state_json
from kasplo_notify.config import Config
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.health import Backlog, Health
from kasplo_notify.status import EndpointStatus

NOW = 1_795_430_000_000
ENDPOINT = Endpoint(name="crm", url="https://crm.example.com/")


def status(health: Health, endpoint: Endpoint | None = ENDPOINT, broken: str = "") -> EndpointStatus:
    backlog = Backlog(waiting=0, retrying=0, dead=0, late_ms=0)
    return EndpointStatus(name="crm", endpoint=endpoint, broken=broken, health=health, backlog=backlog, now_ms=NOW)


@pytest.mark.parametrize(
    ("health", "state", "words"),
    [
        (Health(), "active", "active"),
        (Health(fails=3), "failing", "active, 3 failed in a row"),
        (
            Health(fails=3, blocked_since=NOW),
            "failing",
            "active, 3 failed in a row; the workers' egress settings refuse it",
        ),
        (
            Health(open=True, probe_at=NOW, fails=10, blocked_since=NOW),
            "breaker_open",
            "breaker open, next probe now; the workers' egress settings refuse it",
        ),
        (Health(not_before=NOW - 1), "active", "active"),
        (Health(not_before=NOW + 60_000), "waiting", f"waiting until {local(NOW + 60_000)}, as it asked"),
        (Health(open=True, probe_at=NOW + 12_000, fails=10), "breaker_open", "breaker open, next probe in 12 s"),
        (Health(open=True, probe_at=NOW - 1), "breaker_open", "breaker open, next probe now"),
        (Health(paused="gone", paused_at=NOW), "paused", f"paused: gone (it answered 410) since {local(NOW)}"),
        (Health(paused="operator", open=True), "paused", "paused: by an operator"),
        (Health(paused="\x1b[2J"), "paused", "paused: \x1b[2J"),
        (Health(paused="removing"), "removing", "being removed"),
    ],
)
def test_the_state_is_what_holds_the_events_back(health: Health, state: str, words: str) -> None:
    each = status(health)
    assert (each.state, in_words(each)) == (state, words)
    assert state_json(each)["state"] == state


def test_a_record_that_is_not_readable_is_a_state_too() -> None:
    each = status(Health(), endpoint=None, broken="not JSON")
    assert (each.state, state_json(each)["broken"]) == ("broken", "not JSON")


def test_what_is_left_of_a_removed_endpoint_is_a_state_too() -> None:
    each = status(Health(), endpoint=None)
    assert (each.state, in_words(each)) == ("removed", "removed; its dead letters are kept")


def test_a_rotation_ends_by_the_clock_of_redis() -> None:
    endpoint = Endpoint(
        name="crm",
        url="https://crm.example.com/",
        secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        old_secret="whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        old_secret_until=1_000,
    )
    for now_s, both in ((999.0, True), (1000.0, False)):
        assert ("and the one before" in str(dict(record_rows(endpoint, Config(), now_s))["secret"])) is both


def test_no_secret_of_a_record_is_shown() -> None:
    endpoint = Endpoint(
        name="crm",
        url="https://crm.example.com/",
        secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        old_secret="whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        old_secret_until=NOW,
        basic="joe:hunter2",
        headers=(("Authorization", "Bearer sesame"), ("X-Tenant", "42")),
    )
    for shown in (str(record_json(endpoint)), str(record_rows(endpoint, Config(), NOW / 1000))):
        for secret in ("MfKQ9", "AAAA", "hunter2", "sesame"):
            assert secret not in shown
        assert "42" in shown
    assert record_json(endpoint, secret=endpoint.secret)["secret"] == endpoint.secret
