"""`kasplo-notify up`: the embedded server (or the configured one) and workers, in one process tree.

The order of its end: workers finish what is in flight and end, then the server shuts down. When this process
is killed, the kernel closes the pipes of the workers and signals the server, and both end by themselves.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from kasplo_notify.config_checks import masked_url
from kasplo_notify.datadir import RunLock
from kasplo_notify.embedded import EmbeddedServer, url_of
from kasplo_notify.errors import StorageUnavailable
from kasplo_notify.invocation import invocation
from kasplo_notify.registry import Registry
from kasplo_notify.stopping import Signals
from kasplo_notify.supervisor import Supervisor, worker_command

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kasplo_notify.config import Config
    from kasplo_notify.console import Console

logger = logging.getLogger("kasplo_notify.up")

_SETTLED_S = 10.0  # a server that ends sooner than this after a start would only end again


def run_up(config: Config, *, workers: int = 2, out: Console, worker: Sequence[str] = ()) -> int:
    """Run everything until SIGINT, SIGTERM or SIGHUP, then drain; a second signal kills the workers.

    Args:
        config: the configuration.
        workers: how many worker processes.
        out: where to say what runs.
        worker: the command of a worker process, which gets the URL by environment; by default
            `supervisor.worker_command`.

    Returns:
        0, or 1 when a worker had to be killed.

    Raises:
        AlreadyRunning: another process runs this installation.
        ConfigError: no server program, or a data folder that cannot be used.
        StorageUnavailable: the server does not answer, or has ended and does not start again.
    """
    with ExitStack() as stack:
        server = None
        if config.redis.url == "embedded":
            server = stack.enter_context(EmbeddedServer(config))
            config = with_url(config, server.url)
        else:
            stack.enter_context(RunLock(config.redis.data_dir))
        # Not before: a signal may end a server that takes long to load its data.
        signals = stack.enter_context(Signals())
        endpoints = _count_endpoints(config)
        supervisor = _supervisor(config, workers, worker, burst=False)
        stack.callback(supervisor.end)
        supervisor.start()
        _introduce(out, config, server, supervisor.pids, endpoints)
        _attend(out.line, signals, supervisor, server)
    out.line("Stopped." if supervisor.exit_code == 0 else "Stopped; what was in flight will be sent again.")
    return supervisor.exit_code


def run_workers(config: Config, *, workers: int, burst: bool, worker: Sequence[str] = ()) -> int:
    """Run worker processes until a signal stops them, or with `burst` until nothing is due.

    With the embedded server they join the one that runs, else they run it themselves.

    Args:
        config: the configuration.
        workers: how many processes.
        burst: until nothing is due.
        worker: as for `run_up`.

    Returns:
        0, or 1 when a worker failed.

    Raises:
        AlreadyRunning: the embedded server is being started by another process; soon it can be joined.
        ConfigError, StorageUnavailable: as `run_up`.
    """
    with ExitStack() as stack:
        server = None
        try:
            url = url_of(config)
        except StorageUnavailable:
            server = stack.enter_context(EmbeddedServer(config))
            url = server.url
        signals = stack.enter_context(Signals())
        supervisor = _supervisor(with_url(config, url), workers, worker, burst=burst)
        stack.callback(supervisor.end)
        supervisor.start()
        _attend(logger.info, signals, supervisor, server)
    return supervisor.exit_code


def with_url(config: Config, url: str) -> Config:
    """The same configuration with another redis.url."""
    return replace(config, redis=replace(config.redis, url=url))


def _supervisor(config: Config, count: int, worker: Sequence[str], *, burst: bool) -> Supervisor:
    command = worker or worker_command((), burst=burst)
    environ = {**os.environ, "KASPLO_REDIS__URL": config.redis.url}
    return Supervisor(command, count, burst=burst, environ=environ)


def _attend(
    say: Callable[[str], object], signals: Signals, supervisor: Supervisor, server: EmbeddedServer | None
) -> None:
    """Keep workers and server alive until a signal comes, then until the workers have ended."""
    started = time.monotonic()
    told = False
    while supervisor.poll():
        signals.wait(min(supervisor.pause(), 0.5))
        if server is not None and not server.alive and not signals.stops:
            if time.monotonic() - started < _SETTLED_S:
                raise StorageUnavailable(f"The embedded server keeps ending; its log is {server.log}.")
            logger.error("the embedded server has ended and is started again")
            server.restart()
            started = time.monotonic()
        if signals.stops and not told:
            say("Stopping: the workers finish what is in flight. Once more kills them.")
            supervisor.stop()
            told = True
        elif signals.stops > 1:
            supervisor.kill()


def _count_endpoints(config: Config) -> int:
    registry = Registry.open(config)
    try:
        return len(registry.endpoints())
    finally:
        registry.close()


def _introduce(
    out: Console, config: Config, server: EmbeddedServer | None, workers: Sequence[int], endpoints: int
) -> None:
    where = f"embedded, {config.redis.url}" if server is not None else masked_url(config.redis.url)
    pids = ", ".join(map(str, workers))
    rows = [
        ("server", where),
        *([("data", str(config.redis.data_dir))] if server is not None else []),
        (
            "workers",
            f"{len(workers)} (pid {pids})",
        ),
        ("endpoints", str(endpoints) if endpoints else "none yet"),
    ]
    out.line(f"{out.bold('kasplo-notify is running')} (pid {os.getpid()}); Ctrl+C drains and stops.")
    out.line()
    for name, value in rows:
        out.line(f"  {out.dim(f'{name:<10}')} {value}")
    out.line()
    out.line("Next, in another terminal:")
    program = invocation()
    for arguments, what in (
        ("endpoint add crm https://crm.example.com/hook", "a subscriber"),
        ("emit events.jsonl", "events, one JSON object a line"),
        ("status", "what is waiting, and what arrived"),
    ):
        out.line(f"  {program} {arguments:<45}  {out.dim(what)}")
