"""The users of docs/operations.md can do what they are for, and nothing else."""

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result
from redis.exceptions import NoPermissionError, ResponseError

from kasplo_notify import AsyncNotifier, Notifier
from kasplo_notify.cli import root
from kasplo_notify.config import Config, RedisConfig
from kasplo_notify.config_sections import DeadConfig, DeliveryConfig
from kasplo_notify.errors import StorageRefused
from kasplo_notify.store import Call
from tests.acceptance.subscriber import Answer
from tests.acceptance.users import documented, make_users, url_for
from tests.acceptance.world import ROOT, World, scomp, until

PRODUCER, WORKER, OPERATOR = "kasplo-producer", "kasplo-worker", "kasplo-operator"
SCRIPTS = {
    PRODUCER: ["push"],
    WORKER: ["claim", "read", "settle", "renew", "release", "alone", "peek", "pause", "remove", "repair"],
    OPERATOR: ["register", "pause", "resume", "hasten", "remove", "backlog", "replay", "purge"],
}

BESIDE_SCRIPTS: dict[str, set[str]] = {
    PRODUCER: set(),
    WORKER: {"hkeys", "info", "client|setname", "client|info", "subscribe", "unsubscribe"},
    OPERATOR: {"hgetall", "hkeys", "hlen", "zcount", "xrevrange", "exists", "info"},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """An installation whose Redis has the users of the document."""
    with World(tmp_path_factory.mktemp("users"), delivery__delay=0.1, delivery__retry_delays=[0.1, 60]) as world:
        make_users(world.redis)
        yield world


@contextlib.contextmanager
def nothing_refused(world: World, *refused: str) -> Iterator[None]:
    """The server's own log of what its ACL refuses stays empty, but for these objects."""
    world.redis.acl_log_reset()
    yield
    log = world.redis.acl_log()
    assert {(entry["username"], entry["object"]) for entry in log if entry["object"] not in refused} == set()


def command(world: World, user: str, *args: str, given: str | None = None) -> Result:
    environ = {name: value for name, value in world.environ.items() if name.startswith("KASPLO_")}
    environ |= {"KASPLO_REDIS__URL": url_for(world, user), "COLUMNS": "200"}
    return CliRunner().invoke(root, list(args), env=environ, input=given)


def ok(world: World, user: str, *args: str, given: str | None = None) -> str:
    done = command(world, user, *args, given=given)
    assert done.exit_code == 0, done.output
    return done.output


def acl(world: World, *words: str) -> Any:
    return world.redis.execute_command("ACL", *words)  # type: ignore[no-untyped-call]


def configured(world: World, user: str, **more: object) -> Config:
    return replace(world.config, redis=RedisConfig(url=url_for(world, user)), **more)  # type: ignore[arg-type]


# --- what they are for ---------------------------------------------------------------------------------------------


def test_a_producer_emits_whatever_becomes_of_the_events(world: World) -> None:
    world.endpoint("crm")
    world.endpoint("full", queues=1)
    world.endpoint("shattered", queues=1)
    keys, event = world.registry.store.keys, {**scomp(1), "mail_class": "crm"}
    later = f"{int(world.now() * 1000) + 60_000}-0"
    with nothing_refused(world):
        assert "1 emitted" in ok(world, PRODUCER, "emit", given=json.dumps(event))
        with Notifier(config=configured(world, PRODUCER)) as notifier:
            for _ in range(2):
                receipt = notifier.emit(scomp(2), mail_class="crm", event_id="one")
            assert receipt.repeated
            assert notifier.emit(scomp(3), mail_class="nobody").endpoints == ()
            # The clock has stepped back, and a key is not what it should be.
            world.redis.xadd(keys("new:crm.0"), {"e": "x"}, id=later)
            world.redis.set(keys("new:shattered.0"), "junk")
            notifier.emit_many([{**scomp(number), "mail_class": "crm"} for number in range(20)])
            notifier.emit(scomp(4), mail_class="shattered")
        bounds = {"delivery": DeliveryConfig(delay=60, max_backlog=2), "dead": DeadConfig(max_bytes=300)}
        with Notifier(config=configured(world, PRODUCER, **bounds)) as notifier:
            notifier.emit_many([{**scomp(number), "mail_class": "full"} for number in range(40)])
        bounds["dead"] = DeadConfig(max_bytes=0)
        with Notifier(config=configured(world, PRODUCER, **bounds)) as notifier:
            notifier.emit_many([{**scomp(number), "mail_class": "full"} for number in range(40)])
        assert asyncio.run(_emit_async(configured(world, PRODUCER))) == ("crm",)
    assert world.dead("full") == []
    assert [letter.reason for letter in world.dead("shattered")] == ["broken_queue"]
    world.redis.flushdb()


async def _emit_async(config: Config) -> tuple[str, ...]:
    async with AsyncNotifier(config=config) as notifier:
        return (await notifier.emit(scomp(5), mail_class="crm")).endpoints


def test_a_worker_delivers_requeues_and_finishes_removals_as_rq_or_we_start_it(world: World) -> None:
    good, bad = world.endpoint("good"), world.endpoint("bad")
    world.subscriber.answers(bad, Answer(status=500))
    world.endpoint("gone")
    world.emit("gone", 3)
    world.registry._change(lambda known: (replace(known["gone"], removing="keep"), "removing"))
    # INFO tells most of what CONFIG GET would.
    with nothing_refused(world, "config|get"):
        world.environ["KASPLO_REDIS__URL"] = url_for(world, WORKER)
        worker = world.start([sys.executable, "-m", "kasplo_notify", "worker"])
        ids = world.emit("good", 30)
        world.emit("bad", 12)
        world.wait_for(good, ids)
        until(lambda: world.registry.health(["bad"])["bad"].open, what="the opening of the breaker")
        until(lambda: "gone" not in world.registry.endpoints(), what="the end of the removal")
        worker.terminate()
        assert worker.wait() == 0
        ids = world.emit("good", 5)
        until(lambda: world.registry.backlog(["good"])["good"].late_ms, what="the moment when they are due")
        rq = [sys.executable, "-m", "rq.cli", "worker", "-w", "workers.NotifyWorker", "--burst"]
        assert world.start([*rq, "-u", url_for(world, WORKER), "kasplo"]).wait() == 0
        world.wait_for(good, ids)
    assert len(world.dead("gone")) == 3
    assert "rq_ended" not in worker.output
    world.environ["KASPLO_REDIS__URL"] = world.config.redis.url
    world.redis.flushdb()


def test_an_operator_registers_looks_replays_and_removes(world: World) -> None:
    url = world.subscriber.url("/op")
    with nothing_refused(world, "config|get"):
        ok(world, OPERATOR, "endpoint", "add", "op", url, "--mail-class", "op")
        assert "op" in ok(world, OPERATOR, "endpoint", "list")
        ok(world, OPERATOR, "endpoint", "test", "op")
        ok(world, OPERATOR, "endpoint", "update", "op", "--timeout", "5")
        ok(world, OPERATOR, "endpoint", "rotate-secret", "op", "--yes")
        world.emit("op", 3)
        assert "3 events" in ok(world, OPERATOR, "endpoint", "pause", "op")
        ok(world, OPERATOR, "endpoint", "show", "op")
        ok(world, OPERATOR, "endpoint", "resume", "op")
        ok(world, OPERATOR, "route", "--mail-class", "op", "--event-type", "scomp")
        ok(world, OPERATOR, "status")
        ok(world, OPERATOR, "attempts", "op")
        ok(world, OPERATOR, "endpoint", "remove", "op", "--yes")
        ok(world, OPERATOR, "endpoint", "add", "op", url, "--mail-class", "op")
        assert ok(world, OPERATOR, "dead", "list", "op").count("endpoint_removed") == 3
        ok(world, OPERATOR, "dead", "show", "op")
        ok(world, OPERATOR, "dead", "export", "op")
        (first, *_) = json.loads(ok(world, OPERATOR, "dead", "list", "op", "--json"))
        ok(world, OPERATOR, "dead", "purge", "op", "--id", first["event_id"], "--yes")
        assert "2 dead letters are" in ok(world, OPERATOR, "dead", "replay", "op", "--yes")
        findings = json.loads(command(world, OPERATOR, "doctor", "--json").output)["findings"]
    unread = [each["text"] for each in findings if each["name"] == "unread"]
    assert len(unread) == 1
    assert unread[0].startswith("CONFIG GET could not be looked at, and nothing of it is judged")
    assert {"workers"} == {each["name"] for each in findings if each["level"] == "fault"}
    world.redis.flushdb()


# --- and nothing else ------------------------------------------------------------------------------------------------

FORBIDDEN = {
    PRODUCER: """
        HGETALL kasplo:endpoints | HGET kasplo:endpoints crm | HKEYS kasplo:endpoints | DEL kasplo:endpoints
        HSET kasplo:endpoints crm {} | HDEL kasplo:endpoints crm | SET kasplo:routes [] | INCR kasplo:{0}:version
        SET kasplo:{0}:version 7 | HSET kasplo:{0}:health:crm paused x | HDEL kasplo:{0}:health:crm paused
        DEL kasplo:{0}:health:crm | DEL kasplo:{0}:new:crm.0 | DEL kasplo:{0}:retry:crm.0 | DEL kasplo:{0}:schedule
        HSET kasplo:{0}:owner crm.0 me | ZREM kasplo:{0}:schedule crm.0 | XRANGE kasplo:{0}:attempts:crm - +
        RPUSH rq:queue:kasplo x | HSET rq:job:x data y | PUBLISH rq:pubsub:x {} | SUBSCRIBE rq:pubsub:x | INFO
        SET kasplo:{0}:pushed:x 1 GET | HSET kasplo:{0}:counters emitted 1 | HDEL kasplo:{0}:counters emitted
        HSET kasplo:{0}:stats:crm:h1 delivered 1 | EXPIRE kasplo:{0}:counters 1 | EXPIRE kasplo:{0}:dead 1
        HGET kasplo:{0}:counters emitted | HMGET kasplo:{0}:owner crm.0 | DEL kasplo:{0}:pushed:x | DEL kasplo:{0}:dead
        XREAD STREAMS kasplo:{0}:new:crm.0 0 | XTRIM kasplo:{0}:new:crm.0 MAXLEN 0 | SCRIPT LOAD x | SCRIPT KILL
        GET else | SET else x
    """,
    WORKER: """
        HSET kasplo:endpoints crm {} | DEL kasplo:endpoints | RENAME kasplo:endpoints kasplo:{0}:x
        HSETNX kasplo:endpoints x {} | SET kasplo:routes [] | DEL kasplo:routes | GET kasplo:routes
        PUBLISH kasplo x | SUBSCRIBE other | GET else | SET else x | SCAN 0 | DBSIZE
    """,
    OPERATOR: """
        RPUSH rq:queue:kasplo x | LPUSH rq:queue:kasplo x | HSET rq:job:x data y | PUBLISH rq:pubsub:x {}
        SUBSCRIBE rq:pubsub:x | GET rq:job:x | SET rq:suspended 1 | DEL rq:suspended | GET else | SET else x
    """,
}
NOBODY = """
    KEYS * | FLUSHALL | FLUSHDB | SWAPDB 0 1 | CONFIG GET requirepass | CONFIG SET appendonly no | ACL LIST
    ACL WHOAMI | ACL SETUSER me on nopass ~* +@all | SHUTDOWN NOSAVE | DEBUG SLEEP 0 | MONITOR
    CLIENT LIST | CLIENT KILL TYPE normal | SCRIPT FLUSH | FUNCTION FLUSH | REPLICAOF 127.0.0.1 1 | SAVE | BGREWRITEAOF
    MODULE LIST | SLOWLOG GET
    SELECT 1
"""


def lines_of(text: str) -> list[str]:
    return [line.strip() for row in text.strip().splitlines() for line in row.split("|")]


@pytest.mark.parametrize("user", FORBIDDEN)
def test_what_they_are_not_for_is_refused(world: World, user: str) -> None:
    with redis.Redis.from_url(url_for(world, user)) as client:
        for line in lines_of(FORBIDDEN[user]):
            try:
                client.execute_command(*line.split())
            except NoPermissionError:
                continue
            pytest.fail(f"{user} may {line}")
    for line in lines_of(NOBODY):
        said = acl(world, "DRYRUN", user, *line.split())
        assert b"has no permissions to run" in said, line


def test_what_a_producer_may_beside_emitting_is_what_the_document_says(world: World) -> None:
    keys = world.registry.store.keys
    world.endpoint("crm", queues=1)
    world.emit("crm", 1)
    with redis.Redis.from_url(url_for(world, PRODUCER)) as client:
        ref = client.xadd(keys("new:crm.0"), {"e": b"1\nmade-up\n\n{}"})
        assert ref in {entry for entry, _ in client.xrange(keys("new:crm.0"))}
        letter = client.xadd(keys("dead:crm"), {"e": b"1\nx\n\n{}", "q": "crm.0"})
        assert client.xdel(keys("dead:crm"), letter) == 1
        assert client.set(keys("pushed:somebody-elses-id"), 1, px=60_000)
        assert client.zadd(keys("schedule"), {"crm.0": 1e15}) == 0
        assert client.eval("return 1", 1, keys.stem) == 1
        with Notifier(config=configured(world, PRODUCER)) as notifier:
            assert notifier.emit(scomp(1), mail_class="crm", event_id="somebody-elses-id").repeated
    # A queue that was parked so waits for the next repair, no longer.
    world.registry.store.run(Call("repair", [100, 10**9, 10**12, 30_000, "crm"]))
    assert (world.redis.zscore(keys("schedule"), "crm.0") or 0) < (world.now() + 60) * 1000
    world.redis.flushdb()


@pytest.mark.parametrize("user", [PRODUCER, WORKER])
def test_a_script_of_their_own_gets_them_no_further(world: World, user: str) -> None:
    world.endpoint("kept")
    with redis.Redis.from_url(url_for(world, user)) as client:
        for call in (
            "'HSET', 'kasplo:endpoints', 'kept', '{}'",
            "'SET', 'kasplo:routes', '[]'",
            "'CONFIG', 'GET', '*'",
        ):
            with pytest.raises(ResponseError):
                client.eval(f"return redis.call({call})", 1, "kasplo:{0}:")
        if user == PRODUCER:
            with pytest.raises(ResponseError, match="ACL failure"):
                client.eval("return redis.call('HGETALL', 'kasplo:endpoints')", 1, "kasplo:{0}:")
    assert world.registry.endpoints()["kept"].url == world.subscriber.url("/kept")
    world.redis.flushdb()


@pytest.mark.parametrize(
    ("user", "args", "given", "told"),
    [
        (
            PRODUCER,
            ["endpoint", "list"],
            None,
            "HGETALL: User kasplo-producer has no permissions to run the 'hgetall' command",
        ),
        (PRODUCER, ["worker"], None, "HGETALL: User kasplo-producer has no permissions to run the 'hgetall' command"),
        (
            WORKER,
            ["endpoint", "add", "x", "https://x.example.com/"],
            None,
            "the script register: No permissions to access a key (user kasplo-worker)",
        ),
        (WORKER, ["emit"], json.dumps(scomp(1)), "GET: No permissions to access a key (user kasplo-worker)"),
    ],
)
def test_the_command_line_says_in_one_sentence_what_the_acl_forbids(
    world: World, user: str, args: list[str], given: str | None, told: str
) -> None:
    done = command(world, user, *args, given=given)
    assert done.exit_code == 4
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"Error: the ACL of Redis forbids {told}. ")
    assert "docs/operations.md, section Users of Redis" in line
    assert "Traceback" not in done.output


# --- the document ---------------------------------------------------------------------------------------------------


def reachable(script: str) -> set[str]:
    """The commands that a script can call, by way of whatever it shares with others."""
    folder = ROOT / "kasplo_notify/scripts"
    shared = {name: (folder / f"{name}.lua").read_text() for name in ("shared", "read_queue")}
    if script not in ("claim", "read"):
        del shared["read_queue"]
    functions: dict[str, str] = {}
    for text in shared.values():
        for part in re.split(r"^(?=local function )", text, flags=re.MULTILINE)[1:]:
            functions[part.split()[2].partition("(")[0]] = part
    found: set[str] = set()
    seen, waiting = {"clock"}, [(folder / f"{script}.lua").read_text(), functions["clock"]]
    while waiting:
        text = waiting.pop()
        found |= {name.lower() for name in re.findall(r"redis\.p?call[(,] ?'(\w+)'", text)}
        fresh = {name for name in functions if name not in seen and re.search(rf"\b{name}\b", text)}
        seen |= fresh
        waiting += [functions[name] for name in fresh]
    return found


@pytest.mark.parametrize("user", SCRIPTS)
def test_a_user_may_run_each_command_that_its_scripts_can_come_to(user: str) -> None:
    allowed = set().union(*(rule.commands for rule in documented() if rule.user == user))
    needed = set().union(*(reachable(script) for script in SCRIPTS[user]))
    assert needed <= allowed
    # And beside RQ's own keys, which are a worker's own, nothing that no code of ours asks for.
    asked_for = needed | {"evalsha", "eval", "multi", "exec", "client|setinfo"} | BESIDE_SCRIPTS[user]
    ours = [rule for rule in documented() if rule.user == user and "~rq:*" not in " ".join(rule.words)]
    assert set().union(*(rule.commands for rule in ours)) == asked_for


def test_a_login_that_lacks_something_is_no_reason_to_give_up_on_a_queue(world: World) -> None:
    world.endpoint("crm", queues=1)
    rules = [rule for rule in documented() if rule.user == PRODUCER and "xlen" not in rule.commands]
    for rule in rules:
        acl(world, "SETUSER", "narrow", *rule.words)
    url = url_for(world, "kasplo-producer").replace("kasplo-producer", "narrow")
    config = replace(world.config, redis=RedisConfig(url=url))
    with (
        Notifier(config=config) as notifier,
        pytest.raises(StorageRefused, match="the script push: User narrow has no"),
    ):
        notifier.emit(scomp(1), mail_class="crm")
    assert world.dead("crm") == []
    acl(world, "DELUSER", "narrow")
    world.redis.flushdb()
