"""`up`, `worker`, and the hidden `worker-child`: the processes that stay."""

import sys
import time
from typing import Final

import click

from kasplo_notify.cli.logs import start_logging
from kasplo_notify.cli.numbers import Whole
from kasplo_notify.cli.root import Command
from kasplo_notify.cli.session import Session, pass_session
from kasplo_notify.config import Config
from kasplo_notify.console import Console
from kasplo_notify.errors import AlreadyRunning
from kasplo_notify.stopping import watch_parent
from kasplo_notify.supervisor import worker_command
from kasplo_notify.up import run_up, run_workers

_MOST_WORKERS: Final = 256
_STARTING_S: Final = 10.0
_LOOK_S: Final = 0.2


@click.command(cls=Command)
@click.option("--demo", is_flag=True, help="Show the way of all seven events, in about a minute, and end.")
@pass_session
def up(session: Session, *, demo: bool) -> None:
    """Run everything on this machine.

    A server of its own, unless redis.url names one, and workers. It stays until Ctrl+C, which finishes what is
    in flight and stops everything. With --demo it shows instead, with
    data of its own, how events are emitted, delivered to a sample receiver, refused and sent again.

    Example: kasplo-notify up
    """
    config = session.config
    out = Console()
    if demo:
        from kasplo_notify.demo import run_demo  # noqa: PLC0415 - aiohttp's server, for the demo alone

        code = run_demo(config, out=out)
    else:
        start_logging(config.log.format)
        code = run_up(config, out=out, worker=worker_command(session.worker_options(), burst=False))
    click.get_current_context().exit(code)


@click.command(cls=Command)
@click.option(
    "-n",
    "count",
    type=Whole(1, _MOST_WORKERS),
    default=1,
    show_default=True,
    metavar="N",
    help="How many worker processes.",
)
@click.option("--burst", is_flag=True, help="Deliver until nothing is due, then end.")
@pass_session
def worker(session: Session, *, count: int, burst: bool) -> None:
    """Run worker processes, which deliver what is due.

    Any number of them, on any number of machines, share the work.
    SIGTERM or Ctrl+C stops them when what is in flight is done; a second one at once. A worker that dies is
    started again. With redis.url = embedded the server is started, too, unless it runs already.

    Example: kasplo-notify worker -n 4
    """
    config = session.config
    start_logging(config.log.format)
    click.get_current_context().exit(_run_workers(session, config, count, burst=burst))


@click.command("worker-child", cls=Command, hidden=True)
@click.option("--burst", is_flag=True)
@pass_session
def worker_child(session: Session, *, burst: bool) -> None:
    """Run one worker process, for a supervisor that holds its stdin."""
    config = session.config
    start_logging(config.log.format)
    from workers import run_worker  # noqa: PLC0415 - RQ takes 200 ms, in the worker processes only

    if sys.stdin is not None and not sys.stdin.isatty():
        watch_parent()
    click.get_current_context().exit(run_worker(config, burst=burst))


def _run_workers(session: Session, config: Config, count: int, *, burst: bool) -> int:
    if config.redis.url != "embedded":
        # What is wrong with Redis is said in one sentence from here, not by every worker again and again.
        with session.registry() as registry:
            registry.read()
    command = worker_command(session.worker_options(), burst=burst)
    deadline = time.monotonic() + _STARTING_S
    while True:
        try:
            return run_workers(config, workers=count, burst=burst, worker=command)
        except AlreadyRunning:
            # Somebody else's embedded server is only starting: soon it can be joined.
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_S)
