"""What is stored was tampered with: the others are served, the fault is told, and every command has a sentence."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import orjson
import pytest
import trustme
from click.testing import CliRunner, Result

from kasplo_notify import Notifier
from kasplo_notify.cli import root
from kasplo_notify.config import Config
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.registry import Registry
from tests.integration.shard import Shard, packed, scomp
from tests.integration.test_drain import drain_losing

pytestmark = pytest.mark.parametrize("wire", ["server"], indirect=True)

HUGE = b"x" * 10_000_000
DEEP = b"[" * 100_000
NO_TEXT = b"\xff\xfe"
NUMBERS = (
    *("not_before", "open", "probe_at", "probe_until", "delay", "resumed_at", "fails", "wins", "probe_wait"),
    *("failing_since", "blocked_since", "partitions", "paused_at"),
)

_AUTHORITY = trustme.CA()
_LEAF = _AUTHORITY.issue_cert("client.example")
PEMS = {
    "ca": _AUTHORITY.cert_pem.bytes().decode(),
    "client_cert": _LEAF.cert_chain_pems[0].bytes().decode(),
    "client_key": _LEAF.private_key_pem.bytes().decode(),
}

Tamper = Callable[[Shard], object]


def record(value: bytes, name: bytes = b"bad") -> Tamper:
    return lambda shard: shard.client.hset("kasplo:endpoints", name, value)


def changed(**values: object) -> Tamper:
    def tamper(shard: Shard) -> None:
        stored = orjson.loads(shard.client.hget("kasplo:endpoints", "bad"))
        shard.client.hset("kasplo:endpoints", "bad", orjson.dumps(stored | values))

    return tamper


def pem(key: str, change: Callable[[str], str]) -> Tamper:
    """A record with authorities, certificate and key, one of which is changed."""
    return changed(url="https://127.0.0.1:9/", **(PEMS | {key: change(PEMS[key])}))


def inside(put: str) -> Callable[[str], str]:
    """A PEM with something in the middle of its second line."""
    return lambda pem: f"{pem[:50]}{put}{pem[50:]}"


def health(**values: Any) -> Tamper:
    return lambda shard: shard.client.hset(shard.keys("health:bad"), mapping=values)


def retry(member: bytes, score: float = 1.0) -> Tamper:
    return lambda shard: shard.client.zadd(shard.keys("retry:bad.0"), {member: score})


def entry(**fields: Any) -> Tamper:
    return lambda shard: shard.client.xadd(shard.keys("new:bad.0"), fields, id=f"{shard.now() - 30_500}-7")


def scheduled(member: bytes, score: float = 1.0) -> Tamper:
    return lambda shard: shard.client.zadd(shard.keys("schedule"), {member: score})


def field(key: str, name: bytes, value: bytes, *, dead: bool = False) -> Tamper:
    """A field of a hash; `dead`: a drain died that held the queue."""

    def tamper(shard: Shard) -> None:
        shard.client.hset(shard.keys(key), name, value)
        if dead:
            shard.client.hset(shard.keys("owner"), "bad.0", "a drain that died")

    return tamper


def stream(key: str, **fields: Any) -> Tamper:
    return lambda shard: shard.client.xadd(shard.keys(key), fields)


def other_type(key: str) -> Tamper:
    def tamper(shard: Shard) -> None:
        shard.client.delete(shard.keys(key))
        shard.client.set(shard.keys(key), "junk")

    return tamper


def stats_of_another_type(shard: Shard) -> None:
    for name in (f"h{shard.now() // 3_600_000}", f"m{shard.now() // 60_000}"):
        shard.client.set(shard.keys(f"stats:bad:{name}"), "junk")


def routes_of_another_type(shard: Shard) -> None:
    shard.client.delete("kasplo:routes")
    shard.client.rpush("kasplo:routes", "junk")


# What is tampered with, and where it is told: a finding of `doctor`, the reason of a dead letter, a word of the log.
# Where nothing is told the value is as if it had never been written, or the record is one that could be there.
TAMPERED: dict[str, tuple[Tamper, str]] = {
    "a record that is not JSON": (record(b"{"), "broken_records"),
    "a record of another kind": (record(b'[{"name":"bad"}]'), "broken_records"),
    "a record that is no text": (record(NO_TEXT), "broken_records"),
    "a record of huge JSON": (record(b'{"v":1,"name":"bad","url":"' + HUGE + b'"}'), "broken_records"),
    "a deep record": (record(DEEP), "broken_records"),
    "a record of another endpoint": (changed(name="crm"), "broken_records"),
    "a record with other types": (changed(queues="4", timeout=[]), "broken_records"),
    "a record with an infinite number": (
        record(b'{"v":1,"name":"bad","url":"http://h/","delay":1e999}'),
        "broken_records",
    ),
    "a record of a name that is none": (record(b"{}", b"Bad\nName"), "broken_records"),
    "a record of a name that is no text": (record(b"{}", NO_TEXT), "broken_records"),
    "a record of a huge name": (record(b"{}", HUGE), "broken_records"),
    **{f"{key} that is not ASCII": (pem(key, inside("é")), "broken_records") for key in PEMS},
    **{f"{key} with a NUL": (pem(key, inside("\0")), "broken_records") for key in PEMS},
    **{f"{key} of nothing": (pem(key, lambda _: "\n"), "broken_records") for key in PEMS},
    **{f"{key} that ends early": (pem(key, lambda pem: pem[:90]), "broken_records") for key in PEMS},
    **{f"huge {key}": (pem(key, inside("A" * 100_000)), "broken_records") for key in PEMS},
    "a client_key as long as may be": (pem("client_key", inside("A" * 60_000)), "broken_records"),
    "health of infinite numbers": (health(**dict.fromkeys(NUMBERS, "inf")), "broken_health"),
    "health of negative numbers": (health(**dict.fromkeys(NUMBERS, "-1")), "broken_health"),
    "health of long numbers": (health(**dict.fromkeys(NUMBERS, "9" * 400)), "broken_health"),
    "health of words": (health(**dict.fromkeys(NUMBERS, "soon")), "broken_health"),
    "a thousand million partitions": (health(partitions="1000000000"), ""),
    "a pause for a reason that is no text": (health(paused=NO_TEXT), "paused"),
    "a pause for a huge reason": (health(paused=HUGE), "paused"),
    "a huge probe": (health(probe=HUGE, open="1", probe_until="1"), "breaker_open"),
    "health of another type": (other_type("health:bad"), "broken_queues"),
    "a retry that is none": (retry(b"junk"), "broken_record"),
    "a retry that is no text": (retry(NO_TEXT + b"\n" + NO_TEXT), "broken_record"),
    "a retry of endless numbers": (retry(b"9" * 100_000 + b",0,0\n" + packed("x")), "broken_record"),
    "a retry at no time": (retry(b"1,0,1\n" + packed("x"), float("-inf")), "too_old"),
    "retries of another type": (other_type("retry:bad.0"), "broken_queues"),
    "an entry without an event": (entry(x="y"), "broken_record"),
    "an entry with an empty event": (entry(e=""), "broken_record"),
    "an entry that is no text": (entry(e=NO_TEXT), "broken_record"),
    "an entry with an id that is none": (entry(e=b"1\na b\r\nX: y\nclass\n{}"), "unbuildable"),
    "an entry with other fields": (entry(e=b"1\nid\n\n{}", t="soon", q=HUGE), ""),
    "a huge entry": (entry(e=b"1\nid\n\n" + HUGE), "unbuildable"),
    "a deep entry": (entry(e=b"1\nid\n\n" + DEEP), "unbuildable"),
    "an entry that arrives at no time": (entry(e=packed("x"), t="inf"), ""),
    "events of another type": (other_type("new:bad.0"), "broken_queues"),
    "no name on the schedule": (scheduled(b"Bad\nQueue"), "queue_broken"),
    "no text on the schedule": (scheduled(NO_TEXT), "queue_broken"),
    "a huge name on the schedule": (scheduled(HUGE), "queue_broken"),
    "a queue that nobody has on the schedule": (scheduled(b"bad.4000000000"), ""),
    "a queue of nobody on the schedule": (scheduled(b"nobody.0"), "endpoint_paused"),
    "a queue at no time": (scheduled(b"bad.0", float("-inf")), ""),
    "a huge owner": (field("owner", b"bad.0", HUGE), ""),
    "an owner that is no text": (field("owner", b"bad.0", NO_TEXT), ""),
    "a note of deaths that is none": (field("deaths", b"bad.0", b"many", dead=True), "queue_broken"),
    "a note of a suspect that is no text": (field("suspect", b"bad.0", NO_TEXT, dead=True), ""),
    "a note of a clock that is none": (field("ahead", b"bad.0", b"soon"), ""),
    "a counter that is no number": (field("counters", b"emitted", b"many"), ""),
    "a counter that is no text": (field("counters", NO_TEXT, NO_TEXT), ""),
    "bytes of dead letters that are no number": (field("dead", b"bad", b"many"), ""),
    "dead letters of no name": (field("dead", NO_TEXT, b"1"), ""),
    "stats of another type": (stats_of_another_type, ""),
    "an attempt that is none": (stream("attempts:bad", x="y"), ""),
    "an attempt that is no text": (stream("attempts:bad", id=NO_TEXT, attempt=NO_TEXT, ms="9" * 400), ""),
    "a huge attempt": (stream("attempts:bad", id="x", detail=HUGE, excerpt=HUGE), ""),
    "attempts of another type": (other_type("attempts:bad"), "endpoint_paused"),
    "a dead letter that is none": (stream("dead:bad", x="y"), "dead_letters"),
    "a dead letter that is no text": (stream("dead:bad", e=NO_TEXT, q=NO_TEXT, r=NO_TEXT, d=NO_TEXT, p=NO_TEXT), ""),
    "a huge dead letter": (stream("dead:bad", e=b"1\nid\n\n" + HUGE, q="bad.0", r="x", d=HUGE), "dead_letters"),
    "dead letters of another type": (other_type("dead:bad"), "broken_queues"),
    "routes that are not JSON": (lambda shard: shard.client.set("kasplo:routes", "{"), "unread"),
    "deep routes": (lambda shard: shard.client.set("kasplo:routes", DEEP), "unread"),
    "routes of another type": (routes_of_another_type, "unread"),
    "a version that is no number": (lambda shard: shard.client.set(shard.keys("version"), "junk"), ""),
}

# What an operator asks about, or does to, the endpoint that nobody tampered with; in this order.
OTHERS = """
    status | endpoint list | endpoint show crm | attempts crm | dead list | dead list crm | dead show crm
    endpoint update crm --timeout 4 | endpoint pause crm | endpoint resume crm | endpoint remove crm --yes
"""
BROKEN = """
    status bad | endpoint show bad | attempts bad | dead list bad | dead show bad | endpoint pause bad
    endpoint resume bad | endpoint update bad --timeout 4 | endpoint remove bad --yes
"""


def command(shard: Shard, *args: str) -> Result:
    environ = {"KASPLO_REDIS__URL": shard.url, "KASPLO_EGRESS__ALLOW": '["127.0.0.0/8"]', "COLUMNS": "200"}
    return CliRunner().invoke(root, list(args), env=environ)


def commands(text: str) -> list[list[str]]:
    return [line.split() for row in text.strip().splitlines() for line in row.split("|")]


def tell(done: Result) -> str:
    """What a command said of an error: nothing, or one sentence."""
    assert "fault in kasplo-notify itself" not in done.stderr, done.stderr
    # An event of any size is shown as it is to who asks for all of it.
    assert len(done.output) < 50_000 or done.output.startswith("id\n  endpoint")
    assert len(done.stderr.splitlines()) <= 1
    return done.stderr


@pytest.fixture
def due(shard: Shard, registry: Registry) -> list[str]:
    """Two endpoints with events that are due; the ids of those of crm."""
    for name in ("bad", "crm"):
        registry.add(Endpoint(name=name, url="http://127.0.0.1:9/", queues=1, mail_classes=(name,)))
    ids = [f"crm-{number}" for number in range(5)]
    shard.put("bad.0", "bad-0", "bad-1")
    shard.put("crm.0", *ids)
    return ids


async def deliver(shard: Shard, config: Config) -> list[str]:
    async with drain_losing(config, shard.url) as (drain, answers):
        await asyncio.wait_for(drain.run(), 20)
        return answers.sent


def told(shard: Shard, log: list[str]) -> set[str]:
    """The words of what is told, wherever that is."""
    done = command(shard, "doctor", "--json")
    assert done.exit_code in (0, 1), tell(done)
    findings = {each["name"] for each in orjson.loads(done.stdout)["findings"] if each["level"] != "ok"}
    letters = [] if "broken_queues" in findings else orjson.loads(command(shard, "dead", "list", "--json").stdout)
    return findings | {each["reason"] for each in letters} | {line.partition(":")[0] for line in log}


@pytest.mark.parametrize("what", TAMPERED)
def test_the_others_are_served_it_is_told_and_every_command_has_a_sentence(
    shard: Shard, config: Config, due: list[str], caplog: pytest.LogCaptureFixture, what: str
) -> None:
    tamper, where = TAMPERED[what]
    tamper(shard)
    caplog.set_level(logging.WARNING)
    assert set(due) <= set(asyncio.run(deliver(shard, config)))
    assert "owner" not in shard.names()
    assert "drain_failed" not in caplog.text
    if "routes" not in what:
        with Notifier(config=config) as notifier:
            assert notifier.emit(scomp(), mail_class="crm").endpoints == ("crm",)
    reported = told(shard, caplog.messages)
    assert not where or where in reported, reported
    for args in commands(OTHERS):
        done = command(shard, *args)
        assert (args, done.exit_code) == (args, 0), done.stderr
        tell(done)
    for args in commands(BROKEN):
        done = command(shard, *args)
        assert (args, done.exit_code in (0, 2, 4)) == (args, True), done.output[:500]
        assert bool(done.exit_code) is bool(tell(done))
    # Whatever was changed meanwhile, the routes and the version are good again.
    if "routes" in what or "version" in what:
        assert command(shard, "endpoint", "add", "new", "https://new.example.com/").exit_code == 0
        with Notifier(config=config) as notifier:
            assert notifier.emit(scomp()).endpoints == ("new",)


def test_a_fault_of_ours_in_reading_one_record_stops_neither_the_others_nor_any_command(
    shard: Shard,
    config: Config,
    due: list[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = Endpoint.from_json

    def faulty(stored: bytes, known_as: str | None = None) -> Endpoint:
        if known_as == "bad":
            raise RecursionError("one that nobody foresaw")
        return read(stored, known_as)

    monkeypatch.setattr(Endpoint, "from_json", faulty)
    assert set(due) <= set(asyncio.run(deliver(shard, config)))
    assert [line for line in caplog.messages if "bad cannot be read" in line] == [
        "endpoint_broken: the record of bad cannot be read"
    ]
    assert "one that nobody foresaw" in caplog.text
    assert "drain_failed" not in caplog.text
    assert "broken_records" in told_by_doctor(shard)
    for args in commands(OTHERS):
        done = command(shard, *args)
        assert (args, done.exit_code) == (args, 0), done.stderr
    for args in commands(BROKEN):
        done = command(shard, *args)
        assert (args, done.exit_code in (0, 2)) == (args, True), done.output[:500]
        assert "Traceback" not in tell(done)


@pytest.mark.parametrize("value", [b"junk", HUGE, NO_TEXT, b"inf"], ids=["junk", "huge", "no text", "infinite"])
def test_a_token_that_is_none_costs_nobody_an_event(shard: Shard, config: Config, due: list[str], value: bytes) -> None:
    shard.client.set(shard.keys("pushed:msg_00."), value)
    shard.client.rpush(shard.keys("pushed:msg_01."), "a list")
    with Notifier(config=config) as notifier:
        for stem in ("msg_00", "msg_01"):
            receipt = notifier.emit(scomp(), mail_class="crm", event_id=f"{stem}-0")
            assert (receipt.endpoints, receipt.repeated) == (("crm",), False)
    assert {"msg_00-0", "msg_01-0"} <= {*shard.new("crm.0")}


@pytest.mark.parametrize("key", ["schedule", "owner", "version", "endpoints", "counters", "dead", "idle"])
def test_a_key_of_all_that_is_of_another_type_is_told_in_one_sentence(shard: Shard, due: list[str], key: str) -> None:
    full = "kasplo:endpoints" if key == "endpoints" else shard.keys(key)
    shard.client.delete(full)
    shard.client.set(full, "junk") if key != "version" else shard.client.rpush(full, "junk")
    for args in commands(OTHERS):
        done = command(shard, *args)
        assert done.exit_code in (0, 2, 4)
        tell(done)
    assert "unread" in told_by_doctor(shard)


def told_by_doctor(shard: Shard) -> set[str]:
    done = command(shard, "doctor", "--json")
    tell(done)
    return {each["name"] for each in orjson.loads(done.stdout)["findings"]}
