"""Events on the command line: routed, emitted, dead and alive again; nothing lost, nothing doubled."""

import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.commands import Cli, installation, lines
from tests.acceptance.world import scomp, until


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    with installation(tmp_path_factory.mktemp("cli")) as cli:
        yield cli


def dead_letters(cli: Cli, name: str, count: int) -> None:
    """An endpoint with dead letters: removed, with a backlog, and registered again."""
    cli.world.endpoint(name)
    cli.world.emit(name, count)
    for _ in cli.world.registry.remove(name, drop=False):
        pass
    cli.world.endpoint(name)


def test_route_tells_every_endpoint_and_why(cli: Cli) -> None:
    cli.world.endpoint("routed", mail_classes=("Routing",), event_types=("scomp",))
    answer = cli.ok("route", "--mail-class", "routing", "--event-type", "scomp", "--json").json
    reasons = {each["name"]: (each["matched"], each["reason"]) for each in answer["endpoints"]}
    assert reasons["routed"] == (True, "names the mail class routing")
    shown = cli.ok("route", "--mail-class", "routing", "--event-type", "engine_open").out
    assert "does not take engine_open" in shown


def test_emit_sends_the_good_lines_in_order_and_names_the_bad_ones(cli: Cli) -> None:
    cli.world.endpoint("emitting", queues=1)
    content = b"\n".join(
        [
            b"",
            json.dumps({"mail_class": "emitting", "event_id": "first"} | scomp(1)).encode(),
            b"nonsense",
            b'{"event_type": "scomp"}',
            b"\xff",
            b"x" * 3_000_000,
            b"[]",
            json.dumps({"event_id": "second"} | scomp(2)).encode(),
            json.dumps({"event_id": "third", "mail_class": "emitting"} | scomp(3)).encode(),
        ]
    )
    ran = cli.run("emit", "-", "--mail-class", "emitting", given=content)
    assert ran.code == 1
    *refused, summary = ran.err.splitlines()
    assert [line.partition(":")[0] for line in refused] == [f"line {number}" for number in (3, 4, 5, 6, 7)]
    assert summary == "3 emitted, 5 refused."
    key = cli.world.registry.store.keys("new:emitting.0")
    entries: Any = cli.world.redis.xrange(key)
    stored = [fields[b"e"].split(b"\n")[1].decode() for _, fields in entries]
    assert stored == ["first", "second", "third"]


def test_what_a_person_types_is_not_written_into(cli: Cli) -> None:
    cli.world.endpoint("typed")
    event = lines(1)
    code, shown = cli.typed(event, b"nonsense\n", b"\x04", args=("emit", "--mail-class", "typed"))
    assert code == 1
    assert "line 2: it is not JSON" in shown
    assert shown.endswith("1 emitted, 1 refused.\r\n")
    assert shown.count("emitted") == 1
    assert "\x1b" not in shown


def test_emit_refuses_a_line_that_says_something_twice(cli: Cli) -> None:
    line = json.dumps(scomp(1))[:-1].encode()
    ran = cli.run("emit", given=line + b', "email": "other@example.com"}\n')
    assert (ran.code, "has the name 'email' twice" in ran.err) == (1, True)
    assert ran.err.endswith("0 emitted, 1 refused.\n")


def test_dead_letters_are_exported_as_json_lines_with_or_without_json(cli: Cli) -> None:
    dead_letters(cli, "jsonned", 2)
    assert cli.ok("dead", "export", "jsonned", "--json").out == cli.ok("dead", "export", "jsonned").out


def test_emit_reads_files_and_counts_what_matches_no_endpoint(cli: Cli) -> None:
    (cli.world.folder / "events.jsonl").write_bytes(lines(1203))
    before = cli.ok("status", "--json").json
    ran = cli.ok("emit", "events.jsonl", "--mail-class", "nobody-takes-this")
    assert ran.err == "1,203 emitted, 1,203 of them matched no endpoint, 0 refused.\n"
    after = cli.ok("status", "--json").json
    assert after["unrouted"] - before["unrouted"] == 1203


def test_emit_sends_a_line_of_a_pipe_when_it_comes(cli: Cli) -> None:
    cli.world.endpoint("piped")
    with cli.start("emit", "--mail-class", "piped", stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(lines(1))
        process.stdin.flush()
        until(lambda: cli.world.backlog("piped") == 1)
        process.stdin.write(lines(2))
        process.stdin.close()
        assert process.wait(20) == 0
    assert cli.world.backlog("piped") == 3


def test_emit_stops_when_redis_is_away_and_names_the_line_to_go_on_with(cli: Cli) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{unused.getsockname()[1]}/0"
        ran = cli.run("--redis-url", url, "emit", given=lines(3))
    assert ran.code == 4
    assert ran.err.startswith("0 emitted")
    assert "begin again with line 1" in ran.err


def test_emit_stops_when_redis_is_full_and_nothing_is_lost_or_doubled(cli: Cli) -> None:
    cli.world.endpoint("full")
    (cli.world.folder / "full.jsonl").write_bytes(lines(2000))
    try:
        with cli.start("emit", "--mail-class", "full", stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stderr is not None
            process.stdin.write(lines(500))
            process.stdin.flush()
            until(lambda: cli.world.backlog("full") == 500)
            cli.world.redis.config_set("maxmemory", 1)
            process.stdin.write(lines(10))
            process.stdin.close()
            assert process.wait(20) == 4
            told = process.stderr.read().decode()
    finally:
        cli.world.redis.config_set("maxmemory", 0)
    assert "500 emitted" in told
    assert "Redis is full" in told
    assert "Go on with line 501" in told
    assert cli.world.backlog("full") == 500


def test_ctrl_c_ends_emit_with_130_and_says_how_far_it_came(cli: Cli) -> None:
    cli.world.endpoint("interrupted")
    with cli.start("emit", "--mail-class", "interrupted", stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(lines(7))
        process.stdin.flush()
        until(lambda: cli.world.backlog("interrupted") == 7)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        told = process.stderr.read().decode()
    assert "7 emitted" in told
    assert "line 8 is the first" in told
    assert "Traceback" not in told


def test_dead_letters_are_listed_in_part_and_counted_in_whole(cli: Cli) -> None:
    dead_letters(cli, "mourned", 60)
    shown = cli.ok("dead", "list", "mourned").out
    assert shown.count("endpoint_removed") == 50
    assert "\n10 more;" in shown
    assert cli.ok("dead", "list", "mourned", "-n", "60").out.count("endpoint_removed") == 60
    answer = cli.ok("dead", "list", "mourned", "--json", "-n", "1").json
    assert list(answer[0]) == [
        *("endpoint", "event_id", "event_type", "mail_class", "reason", "detail", "attempts", "died_at", "event")
    ]
    assert cli.ok("dead", "list", "mourned", "--until", "1h").out == "No dead letters.\n"
    assert len(cli.ok("dead", "list", "mourned", "--since", "1h", "-n", "99", "--json").json) == 60
    assert cli.ok("dead", "list", "mourned", "--event-type", "engine_open", "--json").json == []
    one = cli.ok("dead", "show", "mourned", "--id", answer[0]["event_id"], "--json").json
    assert one == answer
    missing = cli.run("dead", "show", "mourned", "--id", "nope")
    assert missing.code == 1


def test_replay_asks_before_many_and_not_before_one(cli: Cli) -> None:
    dead_letters(cli, "replayed", 150)
    assert cli.run("dead", "replay", "replayed").code == 2
    letter = cli.world.dead("replayed")[0]
    assert letter.event is not None
    assert "1 dead letter is on the way" in cli.ok("dead", "replay", "replayed", "--id", letter.event.id).out
    agreed = cli.answer(b"yes\n", "dead", "replay", "replayed")
    assert (agreed.code, "Send 149 dead letters of endpoint replayed again?" in agreed.err) == (0, True)
    assert cli.world.backlog("replayed") == 150
    assert cli.world.dead("replayed") == []


def test_replay_keeps_its_pace(cli: Cli) -> None:
    dead_letters(cli, "paced", 250)
    began = time.monotonic()
    cli.ok("dead", "replay", "paced", "--yes", "--pace", "200/s")
    # 20 at a time, every tenth of a second; after the last ones it does not wait.
    assert 1.2 <= time.monotonic() - began < 10


def test_purge_asks_always(cli: Cli) -> None:
    dead_letters(cli, "purged", 2)
    assert cli.run("dead", "purge", "purged", "--until", "0s").code == 2
    assert cli.answer(b"\n", "dead", "purge", "purged").code == 1
    assert len(cli.world.dead("purged")) == 2
    assert "2 dead letters are deleted." in cli.ok("dead", "purge", "purged", "--yes").out
    assert cli.world.dead("purged") == []


def test_what_is_exported_for_emit_can_be_emitted(cli: Cli) -> None:
    dead_letters(cli, "exported", 5)
    exported = [json.loads(line) for line in cli.ok("dead", "export", "exported").out.splitlines()]
    emitted = sorted(each["event"]["email"] for each in exported)
    assert emitted == [f"reader-{number}@example.com" for number in range(5)]
    assert sorted(exported[0]["event"]) == sorted(scomp(0))
    for_emit = cli.ok("dead", "export", "exported", "--for-emit").out.encode()
    assert cli.ok("emit", given=for_emit).err == "5 emitted, 0 refused.\n"
    assert cli.world.backlog("exported") == 5


def test_events_that_are_known_by_their_id_are_counted_apart(cli: Cli) -> None:
    cli.world.endpoint("known")
    given = [json.dumps({**scomp(number), "mail_class": "known", "event_id": f"id-{number}"}) for number in range(4)]
    assert cli.ok("emit", given="\n".join(given[:3]).encode()).err == "3 emitted, 0 refused.\n"
    told = "1 emitted, 3 known by their event_id and left alone, 0 refused.\n"
    assert cli.ok("emit", given="\n".join(given).encode()).err == told
    assert cli.world.backlog("known") == 4


def test_the_dead_letters_of_a_removed_endpoint_are_seen(cli: Cli) -> None:
    dead_letters(cli, "bygone", 2)
    cli.ok("endpoint", "remove", "bygone", "--yes")
    (row,) = [each for each in cli.ok("status", "--json").json["endpoints"] if each["name"] == "bygone"]
    assert (row["state"], row["dead"], row["waiting"]) == ("removed", 2, 0)
    assert "removed; its dead letters are kept" in cli.ok("status", "bygone").out
    assert "bygone" not in cli.ok("endpoint", "list").out
    assert cli.run("endpoint", "show", "bygone").code == 2
    cli.ok("dead", "purge", "bygone", "--yes")
    assert "bygone" not in cli.ok("status").out


def test_a_reader_that_goes_away_is_no_error(cli: Cli) -> None:
    dead_letters(cli, "piping", 1500)
    with cli.start("dead", "export", "piping", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        process.wait(20)
        told = process.stderr.read().decode()
    assert "Error" not in told
    assert "Traceback" not in told
    assert "Exception" not in told
