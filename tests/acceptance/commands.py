"""The command line for tests: each command is a process of its own, in an installation of the test's."""

import json
import os
import pty
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

    def start(self, *args: str, **options: Any) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([*COMMAND, *args], env=self.world.environ, cwd=self.world.folder, **options)


@contextmanager
def installation(folder: Path) -> Iterator[Cli]:
    """An installation without workers: nothing is delivered but by a test's own burst."""
    with World(folder, delivery__delay=0.1, delivery__retry_delays=[0.1]) as world:
        yield Cli(world)


def lines(count: int) -> bytes:
    """Events as JSON lines."""
    return b"".join(json.dumps(scomp(number)).encode() + b"\n" for number in range(count))
