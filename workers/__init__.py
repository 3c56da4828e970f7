"""The RQ worker that delivers events: ``rq worker -w workers.NotifyWorker`` or ``kasplo-notify worker``.

RQ moves work to workers; the events themselves are in structures of our own. A job is a *drain*: it takes every
queue that has something due and delivers its events on the worker's event loop. Losing every ``rq:*`` key loses no
event: a dispatcher in each worker asks for a new drain.
"""

import logging
import time
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from kasplo_notify.config import Config
from kasplo_notify.embedded import url_of
from kasplo_notify.storage_errors import explain
from kasplo_notify.store import connect
from workers.notify_worker import RESTART_MOST_S, RESTART_S, NotifyWorker
from workers.starting import hide_repetitions

if TYPE_CHECKING:
    from redis import Redis

__all__ = ["NotifyWorker", "drain", "run_worker"]

log = logging.getLogger(__name__)


def drain() -> str:
    """The RQ job: deliver what is due. Returns what it did, for `rq info` and dashboards.

    Raises:
        RuntimeError: The job was taken by an RQ worker of another class.
    """
    worker = NotifyWorker.running
    if worker is None:
        raise RuntimeError("this job needs a NotifyWorker: start RQ with `-w workers.NotifyWorker`")
    return str(worker.deliver())


def run_worker(config: Config, *, burst: bool = False) -> int:
    """Run one worker in this process, on its main thread, until it is told to stop. Returns the exit code.

    Raises:
        StorageUnavailable: The configured Redis is the embedded one and does not run; with `burst`, any Redis.
    """
    logging.getLogger("rq.worker").setLevel(logging.WARNING)
    logging.getLogger("rq.job").setLevel(logging.WARNING)
    if not burst:
        hide_repetitions()
    connection = connect(url_of(config))
    try:
        _made(connection, config, patient=not burst).work(burst, logging_level=None)
    finally:
        connection.close()
    return 0


def _made(connection: "Redis", config: Config, *, patient: bool) -> NotifyWorker:
    """A worker; to make one RQ needs an answer from Redis, and whoever is patient waits for it."""
    pause = RESTART_S
    while True:
        try:
            return NotifyWorker([], connection=connection, config=config)
        except RedisError as error:
            if not patient:
                raise explain(error) from error
            log.warning("redis_away: %s; the worker starts when it answers", explain(error))
        time.sleep(pause)
        pause = min(2 * pause, RESTART_MOST_S)
