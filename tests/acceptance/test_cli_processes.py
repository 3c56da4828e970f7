"""Workers started from the command line, and what operators see when something is away, full or broken."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.commands import COMMAND, Cli, installation
from tests.acceptance.subscriber import Answer
from tests.acceptance.world import until


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    with installation(tmp_path_factory.mktemp("cli")) as cli:
        yield cli


def test_a_burst_of_workers_delivers_and_attempts_and_status_tell(cli: Cli) -> None:
    path = cli.world.endpoint("worked", retry_delays=())
    cli.world.endpoint("failing", retry_delays=())
    cli.world.subscriber.answers("/failing", Answer(status=500))
    ids = cli.world.emit("worked", 20)
    (failed,) = cli.world.emit("failing")
    time.sleep(0.2)
    cli.ok("worker", "-n", "2", "--burst")
    assert sorted(cli.world.subscriber.taken(path)) == sorted(ids)
    attempts = cli.ok("attempts", "failing", "--failed", "--json").json
    assert [(each["event_id"], each["attempt"], each["status"]) for each in attempts] == [(failed, 1, 500)]
    assert "500" in cli.ok("attempts", "failing").out
    assert "No failed attempt" in cli.ok("attempts", "worked", "--failed").out
    status = cli.ok("status", "failing", "--json").json
    (endpoint,) = status["endpoints"]
    assert (endpoint["name"], endpoint["waiting"], endpoint["retrying"], endpoint["dead"]) == ("failing", 0, 0, 1)
    assert status["workers"] == {"idle": 0, "busy": 0}
    assert "none: nothing is delivered" in cli.ok("status").out


def test_workers_with_other_egress_settings_say_that_it_is_theirs(cli: Cli) -> None:
    cli.world.endpoint("inner", retry_delays=(60,))
    cli.world.emit("inner")
    time.sleep(0.2)
    assert cli.run("worker", "--burst", environ={"KASPLO_EGRESS__ALLOW": "[]"}).code == 0
    shown = cli.ok("attempts", "inner").out
    assert "refused by the worker's egress settings: 127.0.0.1 is loopback" in shown
    assert "KASPLO_EGRESS__ALLOW" in shown
    assert shown.rstrip().endswith("where `up` or `worker` runs, and start that again")
    assert "active, 1 failed in a row; the workers' egress settings refuse it" in cli.ok("status", "inner").out
    (status,) = cli.ok("status", "inner", "--json").json["endpoints"]
    assert (status["state"], bool(status["blocked_since"])) == ("failing", True)


def test_status_counts_the_workers_and_sigterm_ends_them(cli: Cli) -> None:
    with cli.start("worker", "-n", "2", stderr=subprocess.DEVNULL) as process:
        until(lambda: cli.ok("status", "--json").json["workers"]["idle"] == 2)
        process.terminate()
        assert process.wait(20) == 0
    until(lambda: cli.ok("status", "--json").json["workers"] == {"idle": 0, "busy": 0})


def test_worker_starts_the_embedded_server_that_other_commands_join(cli: Cli, tmp_path: Path) -> None:
    own = {"KASPLO_REDIS__URL": "embedded", "KASPLO_REDIS__DATA_DIR": str(tmp_path / "data")}
    environ = cli.world.environ | own
    assert cli.run("status", environ=own).code == 4
    with subprocess.Popen([*COMMAND, "worker"], env=environ, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        until(lambda: cli.run("status", environ=own).code == 0)
        assert cli.run("worker", "--burst", environ=own).code == 0
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert cli.run("status", environ=own).code == 4


@pytest.mark.parametrize("args", [("status",), ("endpoint", "list"), ("dead", "list"), ("worker", "-n", "2")])
def test_redis_away_is_exit_code_4_at_once(cli: Cli, args: tuple[str, ...]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"redis://joe:hunter2@127.0.0.1:{unused.getsockname()[1]}/0"
        began = time.monotonic()
        ran = cli.run(*args, "--redis-url", url)
    assert ran.code == 4
    assert time.monotonic() - began < 3
    assert "hunter2" not in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_redis_that_does_not_answer_is_given_up_on(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        ran = cli.run("--redis-url", f"redis://127.0.0.1:{silent.getsockname()[1]}/0", "status")
    assert ran.code == 4
    assert time.monotonic() - began < 20


def test_a_full_disk_or_a_closed_stdout_is_no_traceback(cli: Cli) -> None:
    for redirection in (">&-", "2>&-", ">/dev/full", "2>/dev/full", "<&-"):
        for command in ("status", "emit", "nonsense"):
            line = f"{sys.executable} -m kasplo_notify {command} {redirection}"
            done = subprocess.run(
                ["sh", "-c", line], env=cli.world.environ, capture_output=True, stdin=subprocess.DEVNULL, check=False
            )
            assert b"Traceback" not in done.stderr, line
            assert b"Exception" not in done.stderr, line
            assert done.returncode in (0, 1, 2), line


def test_a_broken_record_is_shown_and_can_be_registered_again(cli: Cli) -> None:
    cli.world.redis.hset(cli.world.registry.store.keys.endpoints, "shattered", b"\x1b[31m")
    assert "broken" in cli.ok("endpoint", "list").out
    assert cli.ok("status", "shattered", "--json").json["endpoints"][0]["state"] == "broken"
    assert "endpoint add" in cli.ok("endpoint", "show", "shattered").out
    cli.ok("endpoint", "add", "shattered", "https://example.com", "--mail-class", "x")
    assert cli.ok("endpoint", "show", "shattered", "--json").json["state"] == "active"
