"""The spool, with real processes: whatever is killed whenever, what was acknowledged is in Redis once, and in order."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import orjson
import pytest
import redis

from kasplo_notify.spool.record import SpooledEvent
from kasplo_notify.spool.segments import Taken, prepare, segments
from kasplo_notify.spool.writer import Writer
from kasplo_notify.stored import StoredEvent
from tests.acceptance.commands import Cli, lines
from tests.acceptance.world import PATIENCE_S, World, scomp, until

MakeWorld = Callable[..., World]

# A child begins to emit, and is killed at a random moment. After each emit it notes what was acknowledged.
KILLED = """
import os, random, signal, sys, time
from kasplo_notify import Config, Notifier, NotifyError, carrier, patience
from kasplo_notify.spool import keeper
import kasplo_notify.store, tenacity

# Everything happens soon, so that a kill meets everything.
carrier.TIMEOUT, patience.GIVE_UP, keeper._LOOK_S, keeper._LONGEST_S = 0.05, 0.02, 0.02, 0.05
rounds, seed = int(sys.argv[1]), int(sys.argv[2])
notes = os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
config, rng = Config.load(), random.Random(seed)

def produce(which):
    sizes = random.Random(seed + which)
    notifier, number = Notifier(config=config), 0
    while True:
        events = []
        for _ in range(sizes.choice([1, 1, 1, 4, 30])):
            fields = dict(email=f"r{number}@example.com", listid="1", sendid="2", click_tracking_id=f"{which}-{number}")
            events.append(dict(event_type="scomp", **fields))
            number += 1
        try:
            receipts = notifier.emit_many(events)
        except NotifyError as error:
            sys.exit(f"an emit failed: {error}")
        told = [f"{event['click_tracking_id']} {receipt.id} {int(receipt.spooled)}\\n"
                for event, receipt in zip(events, receipts)]
        os.write(notes, "".join(told).encode())

for which in range(rounds):
    child = os.fork()
    if not child:
        try:
            produce(which)
        finally:
            os._exit(1)
    time.sleep(rng.uniform(0.02, 0.22))
    os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != -signal.SIGKILL:
        sys.exit(f"child {which} ended with {code}")
"""


class Note(NamedTuple):
    """An event that was acknowledged."""

    producer: int
    number: int
    event_id: str
    spooled: bool


def read_notes(path: Path) -> list[Note]:
    notes = []
    for line in path.read_text().splitlines():
        tracking, event_id, spooled = line.split()
        producer, _, number = tracking.partition("-")
        notes.append(Note(int(producer), int(number), event_id, spooled == "1"))
    return notes


def stored(world: World, name: str) -> list[StoredEvent]:
    with redis.Redis.from_url(world.server.url) as client:
        key = world.registry.store.keys(f"new:{name}.0")
        return [StoredEvent.unpack(fields[b"e"]) for _, fields in client.xrange(key)]


def test_whatever_is_killed_while_redis_comes_and_goes_what_was_acknowledged_arrives_once_and_in_order(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    world = make_world(delivery__delay=3600, spool__path=str(tmp_path / "spool"))
    world.endpoint("crm", mail_classes=("*",), queues=1)
    notes = tmp_path / "notes"
    producing = world.start([sys.executable, "-c", KILLED, "40", "7", str(notes)])
    until(notes.exists, what="the first acknowledged event")
    while producing.running:
        world.server.stop()
        time.sleep(0.3)
        world.server.start()
        time.sleep(0.3)
        assert world.server.pid is not None
        # Pushes wait in the sockets, and are applied when their producers have long given up.
        os.kill(world.server.pid, signal.SIGSTOP)
        time.sleep(0.2)
        os.kill(world.server.pid, signal.SIGCONT)
        time.sleep(0.2)
    assert producing.wait() == 0, producing.output
    flushed = Cli(world).ok("spool", "flush")
    assert segments(tmp_path / "spool") == [], flushed.err
    acknowledged = read_notes(notes)
    events = stored(world, "crm")
    assert max(Counter(event.id for event in events).values()) == 1
    place = {orjson.loads(event.body)["click_tracking_id"]: number for number, event in enumerate(events)}
    assert len(place) == len(events)
    lost = {each.event_id for each in acknowledged} - {event.id for event in events}
    assert lost == set()
    assert len({each.spooled for each in acknowledged}) == 2
    for producer in {each.producer for each in acknowledged}:
        places = [
            place[f"{producer}-{each.number}"] for each in acknowledged if each.producer == producer and each.spooled
        ]
        assert places == sorted(places)


# A process that emits while Redis is away, and ends.
ENDED = """
import sys
from kasplo_notify import emit
event = dict(event_type="scomp", email="a@example.com", listid="1", sendid="2", click_tracking_id="")
for number in range(3):
    assert emit(event, event_id=f"{sys.argv[1]}-{number}").spooled
"""


@contextmanager
def no_redis() -> Iterator[str]:
    """The URL of a port where nobody answers."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"redis://127.0.0.1:{unused.getsockname()[1]}/0"


@pytest.fixture
def spooling(make_world: MakeWorld, tmp_path: Path) -> Cli:
    world = make_world(delivery__delay=3600, spool__path=str(tmp_path / "spool"))
    world.endpoint("crm", mail_classes=("*",), queues=1)
    return Cli(world)


def test_a_process_that_ends_leaves_what_is_spooled_to_the_next(spooling: Cli, tmp_path: Path) -> None:
    with no_redis() as url:
        run = subprocess.run(
            [sys.executable, "-c", ENDED, "first"],
            env={**spooling.world.environ, "KASPLO_REDIS__URL": url},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert run.returncode == 0, run.stderr
    # One warning, nothing of an interpreter that ends under a thread.
    assert [line.partition(":")[0] for line in run.stderr.splitlines()] == ["spool_used"]
    assert len(segments(tmp_path / "spool")) >= 1
    assert spooling.world.notifier.emit(scomp(0), event_id="next").endpoints == ("crm",)
    until(lambda: not segments(tmp_path / "spool"), what="the end of the spool")
    assert [event.id for event in stored(spooling.world, "crm")] == ["next", "first-0", "first-1", "first-2"]


# --- the command line ------------------------------------------------------------------------------------------------


def test_emit_goes_into_the_spool_and_spool_flush_sends_it(spooling: Cli, tmp_path: Path) -> None:
    with no_redis() as url:
        emitted = spooling.run("--redis-url", url, "emit", given=lines(3))
        assert emitted.code == 0
        assert "3 emitted, 3 of them into the spool, 0 refused." in emitted.err
        assert "kasplo-notify spool flush" in emitted.err
        away = spooling.run("--redis-url", url, "spool", "flush")
    assert away.code == 4
    assert "0 events sent; 1 segment left." in away.err
    shown = spooling.ok("spool").out
    assert "3 in 1 segment" in shown
    report = spooling.ok("spool", "--json").json
    assert (report["events"], report["max_bytes"], len(report["segments"])) == (3, 2**30, 1)
    assert report["path"] == str(tmp_path / "spool")
    (segment,) = report["segments"]
    assert (segment["events"], segment["in_use"], segment["pid_lives"], segment["kept_aside"]) == (
        3,
        False,
        False,
        False,
    )
    assert report["bytes"] == segment["bytes"]
    assert report["oldest_seconds"] >= 0
    flushed = spooling.ok("spool", "flush")
    assert flushed.err == "3 events sent.\n"
    assert len(stored(spooling.world, "crm")) == 3
    assert spooling.ok("spool", "flush").err == "0 events sent.\n"
    empty = spooling.ok("spool", "--json").json
    assert (empty["events"], empty["segments"], empty["oldest_seconds"]) == (0, [], None)


def fill(folder: Path, count: int) -> Writer:
    """Segments of one event each, of which the last is in use."""
    writer = Writer(prepare(folder), 2**40)
    for number in range(count):
        writer.close()
        body = json.dumps(scomp(number)).encode()
        writer.append([SpooledEvent(f"event-{number}", "", "scomp", f"reader-{number}@example.com", body)])
    return writer


def test_what_a_living_process_holds_is_left_to_it(spooling: Cli, tmp_path: Path) -> None:
    writer = fill(tmp_path / "spool", 3)
    shown = spooling.ok("spool").out
    assert f"process {os.getpid()}" in shown
    flushed = spooling.run("spool", "flush")
    assert flushed.code == 1
    assert flushed.err.startswith("2 events sent; 1 segment left.\n")
    assert [each["in_use"] for each in spooling.ok("spool", "--json").json["segments"]] == [True]
    writer.close()
    assert spooling.ok("spool", "flush").err == "1 event sent.\n"
    assert [event.id for event in stored(spooling.world, "crm")] == ["event-0", "event-1", "event-2"]


def test_what_is_damaged_is_kept_aside_and_shown(spooling: Cli, tmp_path: Path) -> None:
    fill(tmp_path / "spool", 2).close()
    first, _ = segments(tmp_path / "spool")
    first.path.write_bytes(b"x" * 100)
    flushed = spooling.ok("spool", "flush")
    assert "spool_broken: 100 bytes" in flushed.err
    assert "1 event sent." in flushed.err
    shown = spooling.ok("spool").out
    assert "100 bytes are damaged" in shown
    assert "1 segment kept aside" in shown
    with Taken.take(segments(tmp_path / "spool")[0]) as taken:
        assert taken.read() == b"x" * 100


def test_ctrl_c_during_a_flush_costs_nothing(spooling: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 3000
    with monkeypatch.context() as patched:
        # Thousands of syncs take a slow disk a minute.
        patched.setattr(os, "fsync", lambda _: None)
        fill(tmp_path / "spool", count).close()
    process = spooling.start("spool", "flush", stderr=subprocess.PIPE)
    with process:
        until(lambda: len(segments(tmp_path / "spool")) < count, what="the first events")
        time.sleep(random.Random().uniform(0, 0.05))
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=PATIENCE_S)
    assert b"Traceback" not in told
    assert process.returncode in (130, 0), told
    assert process.returncode == 0 or b"interrupted; " in told
    spooling.ok("spool", "flush")
    assert [event.id for event in stored(spooling.world, "crm")] == [f"event-{number}" for number in range(count)]


def test_without_a_spool_the_command_says_how_to_have_one(make_world: MakeWorld) -> None:
    cli = Cli(make_world())
    for command in (["spool"], ["spool", "flush"]):
        ran = cli.run(*command)
        assert ran.code == 3
        assert "KASPLO_SPOOL__PATH" in ran.err
