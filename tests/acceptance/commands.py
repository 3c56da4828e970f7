"""The command line for tests: each command is a process of its own, in an installation of the test's."""

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.acceptance.world import World, scomp

COMMAND = (sys.executable, "-m", "kasplo_notify")


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Cli:
    """Runs commands in an installation."""

    def __init__(self, world: World) -> None:
        self.world = world

    def run(self, *args: str, given: bytes = b"", environ: Mapping[str, str] | None = None) -> Ran:
        """Run a command to its end; `given` is its standard input, which is no terminal."""
        done = subprocess.run(
            [*COMMAND, *args],
            input=given,
            capture_output=True,
            env={**self.world.environ, **(environ or {})},
            cwd=self.world.folder,
            timeout=60,
            check=False,
        )
        assert b"Traceback" not in done.stderr
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    def ok(self, *args: str, given: bytes = b"") -> Ran:
        ran = self.run(*args, given=given)
        assert ran.code == 0, ran.err
        return ran

    def answer(self, reply: bytes, *args: str) -> Ran:
        """Run a command whose standard input is a terminal with somebody who types `reply`."""
        master, slave = pty.openpty()
        try:
            with subprocess.Popen(
                [*COMMAND, *args],
                stdin=slave,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self.world.environ,
                cwd=self.world.folder,
            ) as process:
                os.write(master, reply)
                out, err = process.communicate(timeout=60)
        finally:
            os.close(master)
            os.close(slave)
        return Ran(process.returncode, out.decode(), err.decode())

    def typed(self, *parts: bytes, args: tuple[str, ...]) -> tuple[int, str]:
        """Run a command at a terminal where somebody types these parts, pauses between them.

        Returns:
            The exit code, and all that the terminal showed, what was typed included.
        """
        master, slave = pty.openpty()
        shown = b""
        try:
            with subprocess.Popen(
                [*COMMAND, *args], stdin=slave, stdout=slave, stderr=slave, env=self.world.environ
            ) as process:
                os.close(slave)
                for part in parts:
                    shown += _until_quiet(master)
                    os.write(master, part)
                shown += _until_quiet(master)
                code = process.wait(timeout=60)
        finally:
            os.close(master)
        return code, shown.decode()

    def full(self, *args: str) -> Ran:
        """Run a command whose standard output is a full disk."""
        with Path("/dev/full").open("wb") as disk:
            done = subprocess.run(
                [*COMMAND, *args],
                stdin=subprocess.DEVNULL,
                stdout=disk,
                stderr=subprocess.PIPE,
                env=self.world.environ,
                timeout=60,
                check=False,
            )
        return Ran(done.returncode, "", done.stderr.decode())

    def start(self, *args: str, **options: Any) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([*COMMAND, *args], env=self.world.environ, cwd=self.world.folder, **options)


@contextmanager
def installation(folder: Path) -> Iterator[Cli]:
    """An installation without workers: nothing is delivered but by a test's own burst."""
    with World(folder, delivery__delay=0.1, delivery__retry_delays=[0.1]) as world:
        yield Cli(world)


def _until_quiet(terminal: int, quiet_s: float = 2.0) -> bytes:
    """What a terminal shows until nothing more comes for a while, or its program has ended."""
    shown = b""
    while select.select([terminal], [], [], quiet_s)[0]:
        try:
            shown += os.read(terminal, 65_536)
        except OSError:  # the program has ended
            break
    return shown


def lines(count: int) -> bytes:
    """Events as JSON lines."""
    return b"".join(json.dumps(scomp(number)).encode() + b"\n" for number in range(count))
