"""`doctor` as an operator at night uses it: real processes, a real server, one that lies, and none."""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.acceptance.commands import Cli, Ran, installation
from tests.acceptance.hostile import HostileServer, bulk
from tests.acceptance.world import until

HELLO = b"%1\r\n$5\r\nproto\r\n:3\r\n"


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    with installation(tmp_path_factory.mktemp("cli")) as cli:
        yield cli


def levels(ran: Ran) -> dict[str, str]:
    """The findings by name."""
    return {each["name"]: each["level"] for each in ran.json["findings"]}


def test_with_workers_nothing_is_worse_than_a_note_and_the_last_line_counts(cli: Cli) -> None:
    cli.world.endpoint("healthy")
    with cli.start("worker", "-n", "2", stderr=subprocess.DEVNULL) as process:
        until(lambda: cli.ok("status", "--json").json["workers"]["idle"] == 2)
        told, asked = cli.ok("doctor"), cli.ok("doctor", "--json")
        process.terminate()
        assert process.wait(20) == 0
    head, *rows, empty, last = told.out.splitlines()
    assert head.split() == ["LEVEL", "CHECK", "FINDING"]
    counts = asked.json["counts"]
    assert (counts["fault"], empty) == (0, "")
    assert last.startswith(f"0 faults, {counts['warning']} warning")
    assert last.endswith(f"; {counts['ok']} of {len(rows)} checks in order.")
    assert levels(asked).items() >= {"redis": "ok", "appendonly": "ok", "workers": "ok", "appendfsync": "note"}.items()
    assert "\x1b" not in told.out


def test_a_fault_comes_first_and_is_exit_code_1(cli: Cli) -> None:
    cli.world.redis.config_set("appendonly", "no")
    try:
        told, asked = cli.run("doctor"), cli.run("doctor", "--json")
    finally:
        cli.world.redis.config_set("appendonly", "yes")
    assert (told.code, asked.code, told.err) == (1, 1, "")
    assert told.out.splitlines()[1].startswith("fault")
    assert "appendonly is no: a restart of Redis loses" in told.out
    assert levels(asked)["appendonly"] == "fault"
    ordered = [each["level"] for each in asked.json["findings"]]
    assert ordered == sorted(ordered, key=["fault", "warning", "note", "ok"].index)


def test_a_redis_that_is_away_is_exit_code_4_and_the_rest_is_told(cli: Cli, tmp_path: Path) -> None:
    url = f"unix://joe:hunter2@{tmp_path}/nowhere"
    began = time.monotonic()
    told, asked = cli.run("doctor", "--redis-url", url), cli.run("doctor", "--redis-url", url, "--json")
    assert time.monotonic() - began < 10
    assert (told.code, asked.code) == (4, 4)
    (sentence,) = told.err.splitlines()
    assert sentence.startswith("Error: Redis is not available")
    assert asked.json["error"] in sentence
    assert levels(asked).items() >= {"redis": "fault", "configuration": "ok", "lease": "ok"}.items()
    assert "open_files" in told.out
    assert "hunter2" not in told.out + told.err + asked.out + asked.err


def test_no_embedded_server_is_exit_code_4_and_says_how_to_start_one(cli: Cli, tmp_path: Path) -> None:
    ran = cli.run("doctor", environ={"KASPLO_REDIS__URL": "embedded", "KASPLO_REDIS__DATA_DIR": str(tmp_path / "none")})
    assert (ran.code, "kasplo-notify up" in ran.err) == (4, True)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"KASPLO_DELIVERY__TIMEOUT": "40"}, "must be at most worker.lease - 5 s"),
        ({"KASPLO_REDIS__URL": "http://127.0.0.1"}, "redis.url"),
    ],
)
def test_a_wrong_configuration_is_exit_code_3(cli: Cli, environ: Mapping[str, str], told: str) -> None:
    ran = cli.run("doctor", environ=environ)
    assert (ran.code, ran.out) == (3, "")
    (sentence,) = ran.err.splitlines()
    assert told in sentence


def test_the_limit_of_open_files_is_that_of_where_it_runs(cli: Cli) -> None:
    line = f"ulimit -n 512; exec {sys.executable} -m kasplo_notify doctor --json"
    done = subprocess.run(["sh", "-c", line], env=cli.world.environ, capture_output=True, text=True, check=False)
    assert levels(Ran(done.returncode, done.stdout, done.stderr))["open_files"] == "warning"


NONSENSE = [
    {b"INFO": bulk(b"\xff\x00:\r\nmodules:1\r\nmodule:x\r\n__raw__:1\r\nunsplittable\r\nmaxmemory:" + b"9" * 5000)},
    {b"INFO": bulk(b"role:\x1b[2J\r\nredis_version:\x1b]0;title\x07\r\nappendonly:\r\n"), b"TIME": b"*0\r\n"},
    {b"INFO": b"*-1\r\n", b"TIME": b"*2\r\n+x\r\n+y\r\n", b"CONFIG": b"*1\r\n+odd\r\n", b"HGETALL": b":7\r\n"},
    {
        b"INFO": b":1\r\n",
        b"TIME": b"$-1\r\n",
        b"HGETALL": b"*2\r\n:1\r\n:2\r\n",
        b"GET": b":3\r\n",
        b"ZCOUNT": b"*0\r\n",
    },
    {b"INFO": b"-ERR unknown command 'INFO'\r\n", b"CONFIG": b"-NOPERM no permissions\r\n", b"TIME": b"-ERR odd\r\n"},
    {b"TIME": b"*2\r\n$16\r\n9999999999999999\r\n$1\r\n0\r\n", b"HLEN": b"$1\r\nx\r\n", b"EXISTS": b"*0\r\n"},
]


@pytest.mark.parametrize("answers", NONSENSE, ids=range(len(NONSENSE)))
def test_whatever_a_server_answers_is_a_finding_and_no_traceback(cli: Cli, answers: dict[bytes, bytes]) -> None:
    with HostileServer({b"HELLO": HELLO} | answers) as server:
        told, asked = (
            cli.run("doctor", "--redis-url", server.url),
            cli.run("doctor", "--redis-url", server.url, "--json"),
        )
    assert (told.code, asked.code) == (1, 1)
    assert asked.json["counts"]["fault"] > 0
    assert told.out.replace("\n", "").isprintable()
    assert "please report" not in told.err + asked.err


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ({b"INFO": b""}, "not available"),
        ({b"INFO": b"HTTP/1.1 400 Bad Request\r\n\r\n"}, "not available"),
        ({b"TIME": b"-LOADING Redis is loading the dataset in memory\r\n"}, "loading the dataset"),
        ({b"INFO": b"-BUSY Redis is busy running a script.\r\n"}, "busy running a script"),
        ({b"INFO": b"-NOAUTH Authentication required.\r\n"}, "refuses the login"),
        ({b"GET": b"-MASTERDOWN Link with MASTER is down\r\n"}, "Link with MASTER is down"),
    ],
)
def test_a_server_that_is_not_ready_is_exit_code_4(cli: Cli, answers: dict[bytes, bytes], told: str) -> None:
    base = {
        b"HELLO": HELLO,
        b"INFO": bulk(b"redis_version:7.2.4\r\nloading:1\r\n"),
        b"TIME": b"*2\r\n$1\r\n1\r\n$1\r\n1\r\n",
    }
    with HostileServer(base | {b"ZCOUNT": b":0\r\n", b"HGETALL": b"%0\r\n"} | answers) as server:
        ran = cli.run("doctor", "--redis-url", server.url)
    assert (ran.code, told in ran.err) == (4, True), ran.err
    if b"INFO" not in answers:
        assert "Redis is loading its data" in ran.out


def test_a_clock_that_is_far_off_is_a_fault(cli: Cli) -> None:
    seconds = str(int(time.time()) - 3600).encode()
    answers = {b"HELLO": HELLO, b"TIME": b"*2\r\n" + bulk(seconds) + bulk(b"0")}
    with HostileServer(answers) as server:
        ran = cli.run("doctor", "--redis-url", server.url)
    assert "Redis' clock is 1 h behind this machine's" in ran.out
