"""The registry on the command line, as operators use it: real processes, a real server, a real subscriber."""

import json
import socket
import time
from collections.abc import Iterator

import pytest

from kasplo_notify.catalogue import EVENT_TYPES
from kasplo_notify.signature import verify
from tests.acceptance.commands import Cli, installation
from tests.acceptance.subscriber import Answer


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    with installation(tmp_path_factory.mktemp("cli")) as cli:
        yield cli


def test_add_shows_the_secret_once_and_no_other_command_shows_it(cli: Cli) -> None:
    url = cli.world.subscriber.url("/secretive")
    options = ("--basic", "joe:hunter2", "--header", "X-Api-Key: sesame", "--mail-class", "secretive")
    added = cli.ok("endpoint", "add", "secretive", url, *options)
    (secret,) = (word for word in added.out.split() if word.startswith("whsec_") and len(word) > 30)
    assert added.out.count(secret) == 1
    assert "kasplo-notify endpoint test secretive" in added.out
    rotated = cli.ok("endpoint", "rotate-secret", "secretive", "--json").json["secret"]
    for args in (
        ("endpoint", "list"),
        ("endpoint", "list", "--json"),
        ("endpoint", "show", "secretive"),
        ("endpoint", "show", "secretive", "--json"),
        ("endpoint", "update", "secretive", "--timeout", "7"),
        ("endpoint", "test", "secretive"),
        ("endpoint", "test", "secretive", "--json"),
        ("status", "--json"),
        ("config", "show"),
    ):
        ran = cli.ok(*args)
        for hidden in (secret, rotated, "hunter2", "am9lOmh1bnRlcjI", "sesame"):
            assert hidden not in ran.out + ran.err, args


def test_an_endpoint_is_registered_changed_and_shown_as_it_was_asked_for(cli: Cli) -> None:
    options = ("--method", "get", "--format", "form", "--mail-class", "a", "--mail-class", "b", "--event-type", "scomp")
    limits = ("--delay", "2.5", "--timeout", "5", "--max-in-flight", "8", "--queues", "2", "--secret", "none")
    cli.ok("endpoint", "add", "asked", "https://asked.example.com", *options, *limits, "--header", "X-Tenant: 42")
    shown = cli.ok("endpoint", "show", "asked", "--json").json
    expected = {
        "name": "asked",
        "url": "https://asked.example.com/",
        "method": "GET",
        "format": "form",
        "mail_classes": ["a", "b"],
        "event_types": ["scomp"],
        "headers": {"X-Tenant": "42"},
        "secret": None,
        "basic": None,
        "delay": 2.5,
        "timeout": 5.0,
        "max_in_flight": 8,
        "queues": 2,
        "state": "active",
        "waiting": 0,
    }
    assert {key: shown[key] for key in expected} == expected

    changed = cli.ok("endpoint", "update", "asked", "--timeout", "default", "--no-headers", "--mail-class", "c")
    assert "5 s -> 10 s (default)" in changed.out
    after = cli.ok("endpoint", "show", "asked", "--json").json
    assert (after["timeout"], after["headers"], after["mail_classes"]) == (None, {}, ["c"])
    assert (after["delay"], after["event_types"]) == (2.5, ["scomp"])
    assert cli.ok("endpoint", "update", "asked", "--all-event-types").code == 0
    assert cli.ok("endpoint", "show", "asked", "--json").json["event_types"] == []
    assert "already" in cli.ok("endpoint", "update", "asked", "--delay", "2.5").out


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (("status",), 1),
        (("attempts",), 1),
        *((("endpoint", command), 1) for command in ("show", "pause", "resume", "test", "rotate-secret")),
        (("endpoint", "remove", "--yes"), 1),
        (("endpoint", "update", "--delay", "1"), 1),
        *((("dead", command), 1) for command in ("list", "show", "export")),
        (("dead", "replay", "--yes"), 1),
        (("dead", "purge", "--yes"), 4),
    ],
    ids=str,
)
def test_an_unknown_name_never_reaches_redis(cli: Cli, args: tuple[str, ...], names: int) -> None:
    for name in ("\udcff\udcfe", "", "\u202e\x1b[2J", "x" * 100_000)[:names]:
        ran = cli.run(*args, "--", name)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith("Error: no endpoint is named '")
        assert len(ran.err) < 300


def test_other_arguments_that_are_no_text_are_told_of_in_one_sentence(cli: Cli) -> None:
    bad = "\udcff\udcfe"
    cli.world.endpoint("texts")
    for code, *args in (
        (1, "dead", "show", "texts", "--id", bad),
        (2, "route", "--event-type", "scomp", "--mail-class", bad),
        (2, "emit", bad),
        (2, "emit", "--mail-class", bad),
        (2, "endpoint", "add", bad, "https://example.com"),
        (2, "endpoint", "add", "new", f"https://example.com/{bad}"),
        (2, "endpoint", "update", "texts", "--mail-class", bad),
        (2, "endpoint", "update", "texts", "--header", f"X: {bad}"),
        (2, "endpoint", "update", "texts", "--basic", f"{bad}:x"),
        (2, "endpoint", "update", "texts", "--secret", bad),
        (3, "--config", bad, "status"),
        (3, "--redis-url", f"redis://{bad}", "status"),
    ):
        ran = cli.run(*map(str, args))
        assert ran.code == code, (args, ran.err)
        assert "fault in kasplo-notify" not in ran.err
        assert len(ran.err.splitlines()) == 1


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_secret_that_could_not_be_written_is_said_to_be_lost(cli: Cli, form: tuple[str, ...]) -> None:
    name = f"lost{len(form)}"
    url = cli.world.subscriber.url(f"/{name}")
    add = cli.full("endpoint", "add", name, url, *form)
    told = "but that could not be written (No space left on device)."
    remedy = f"Nobody has seen its secret: kasplo-notify endpoint rotate-secret {name} gives another."
    assert (add.code, add.err) == (1, f"Error: Endpoint {name} is registered, {told} {remedy}\n")
    rotate = cli.full("endpoint", "rotate-secret", name, *form)
    assert (rotate.code, rotate.err) == (1, f"Error: Endpoint {name} has a new secret, {told} {remedy}\n")
    own = cli.full("endpoint", "add", f"{name}own", url, "--secret", "none", *form)
    assert (own.code, own.err) == (1, f"Error: Endpoint {name}own is registered, {told}\n")
    assert cli.ok("endpoint", "show", name, "--json").json["state"] == "active"


def test_a_name_that_is_taken_or_unknown_is_refused(cli: Cli) -> None:
    cli.world.endpoint("taken")
    again = cli.run("endpoint", "add", "taken", "https://example.com")
    assert (again.code, "endpoint update taken" in again.err) == (2, True)
    for args in (("endpoint", "show"), ("endpoint", "pause"), ("attempts",), ("status",), ("endpoint", "test")):
        ran = cli.run(*args, "takn")
        assert (ran.code, "did you mean 'taken'?" in ran.err) == (2, True), args


def test_pause_keeps_and_resume_lets_go(cli: Cli) -> None:
    cli.world.endpoint("pausing")
    cli.world.emit("pausing", 3)
    assert "it keeps 3 events" in cli.ok("endpoint", "pause", "pausing").out
    status = cli.ok("status", "pausing", "--json").json["endpoints"][0]
    assert (status["state"], status["paused_reason"], status["waiting"]) == ("paused", "operator", 3)
    assert "paused: by an operator since" in cli.ok("status").out
    assert "it has 3 events to send" in cli.ok("endpoint", "resume", "pausing").out
    assert "neither paused" in cli.ok("endpoint", "resume", "pausing").out


def test_remove_counts_asks_and_keeps_the_backlog_as_dead_letters(cli: Cli) -> None:
    cli.world.endpoint("leaving")
    cli.world.emit("leaving", 1200)
    refused = cli.run("endpoint", "remove", "leaving")
    assert (refused.code, "pass --yes" in refused.err) == (2, True)
    declined = cli.answer(b"n\n", "endpoint", "remove", "leaving")
    assert (declined.code, "Nothing was changed." in declined.err) == (1, True)
    assert cli.world.backlog("leaving") == 1200
    agreed = cli.answer(b"y\n", "endpoint", "remove", "leaving")
    assert agreed.code == 0
    assert "1,200 events not delivered yet will become dead letters." in agreed.err
    assert "1,200 events kept as dead letters" in agreed.out
    assert len(cli.world.dead("leaving")) == 1200
    assert cli.run("endpoint", "show", "leaving").code == 2


def test_remove_drops_the_backlog_only_when_told_in_so_many_words(cli: Cli) -> None:
    cli.world.endpoint("dropping")
    cli.world.emit("dropping", 30)
    assert "30 events deleted" in cli.ok("endpoint", "remove", "dropping", "--drop-backlog", "--yes").out
    assert cli.run("dead", "list", "dropping").code == 2


def test_a_rotated_secret_signs_beside_the_old_one_until_the_overlap_ends(cli: Cli) -> None:
    url = cli.world.subscriber.url("/rotating")
    old = cli.ok("endpoint", "add", "rotating", url, "--mail-class", "rotating", "--json").json["secret"]
    new = cli.ok("endpoint", "rotate-secret", "rotating", "--overlap", "1h", "--json").json["secret"]
    cli.ok("endpoint", "test", "rotating")
    again = ("endpoint", "rotate-secret", "rotating", "--overlap", "0", "--json")
    refused = cli.run(*again)
    assert (refused.code, refused.out) == (2, "")
    assert "The secret before the current one was to sign until 20" in refused.err
    assert "pass --yes" in refused.err
    assert cli.answer(b"n\n", *again).code == 1
    alone = cli.ok(*again, "--yes").json["secret"]
    cli.ok("endpoint", "test", "rotating")
    both, last = cli.world.subscriber.hits("/rotating")
    for hit, valid, invalid in ((both, (old, new), (alone,)), (last, (alone,), (old, new))):
        headers = {key: value for key, value in hit.headers if key.startswith("webhook-")}
        assert all(verify(secret, headers, hit.body, time.time()) for secret in valid)
        assert not any(verify(secret, headers, hit.body, time.time()) for secret in invalid)


def test_a_sample_goes_the_way_of_deliveries_and_is_not_stored(cli: Cli) -> None:
    cli.world.endpoint("sampled", mail_classes=("promo",), event_types=("engine_open",))
    before = cli.ok("status", "--json").json
    ran = cli.ok("endpoint", "test", "sampled")
    (hit,) = cli.world.subscriber.hits("/sampled")
    assert hit.id.startswith("test_")
    assert json.loads(hit.body) == dict(EVENT_TYPES["engine_open"].example)
    assert hit.header("X-Kasplo-Mail-Class") == "promo"
    for shown in (
        f"POST {cli.world.subscriber.url('/sampled')}",
        hit.id,
        "HTTP 200 after",
        "Accepted",
        '{"status":"OK"}',
    ):
        assert shown in ran.out
    after = cli.ok("status", "--json").json
    backlogs = [[(each["name"], each["waiting"]) for each in status["endpoints"]] for status in (before, after)]
    assert backlogs[0] == backlogs[1]
    assert after["emitted"] == before["emitted"]


@pytest.mark.parametrize(
    ("status", "words"),
    [(500, "sent again in about"), (302, "redirects are not followed"), (410, "would pause this endpoint")],
)
def test_a_refused_sample_is_exit_code_1_and_says_what_it_would_mean(cli: Cli, status: int, words: str) -> None:
    path = cli.world.endpoint(f"refusing{status}")
    cli.world.subscriber.answers(path, Answer(status=status))
    ran = cli.run("endpoint", "test", f"refusing{status}", "--event-type", "scomp")
    assert ran.code == 1
    assert f"HTTP {status} after" in ran.out
    assert words in ran.out
    asked = cli.run("endpoint", "test", f"refusing{status}", "--json")
    assert (asked.code, asked.json["status"], asked.json["accepted"]) == (1, status, False)


def test_a_sample_waits_for_its_answer_as_long_as_the_endpoint_says(cli: Cli) -> None:
    cli.world.endpoint("hanging", timeout=0.5)
    cli.world.subscriber.answers("/hanging", Answer(held=True))
    ran = cli.run("endpoint", "test", "hanging", "--json")
    assert (ran.code, ran.json["error"]) == (1, "timeout")
    # delivery.timeout is 10 s.
    assert 500 <= ran.json["duration_ms"] < 10_000


def test_a_sample_that_finds_no_server_or_is_blocked_says_so(cli: Cli) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        cli.world.endpoint("nobody", url=f"http://127.0.0.1:{unused.getsockname()[1]}/")
        ran = cli.run("endpoint", "test", "nobody")
    assert (ran.code, "connection refused" in ran.out) == (1, True)
    blocked = cli.run("endpoint", "test", "nobody", environ={"KASPLO_EGRESS__ALLOW": "[]"})
    assert (blocked.code, "loopback" in blocked.out) == (1, True)
    assert "KASPLO_EGRESS__ALLOW" in blocked.out
    assert "workers need" not in blocked.out


def test_a_sample_that_only_egress_allow_permits_says_that_workers_need_it_too(cli: Cli) -> None:
    cli.world.endpoint("permitted")
    assert "workers need the same egress.allow" in cli.ok("endpoint", "test", "permitted").out
    assert cli.ok("endpoint", "test", "permitted", "--json").json["relied_on_egress_allow"] is True
