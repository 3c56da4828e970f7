"""What a worker process does once, before its first drain."""

import gc
import logging
import resource
import sys
from functools import cache
from typing import TYPE_CHECKING

from kasplo_notify.config import Config
from kasplo_notify.doctor import file_fault, files_needed, server_faults
from kasplo_notify.errors import ConfigError, NotifyError
from kasplo_notify.store import Store, connect_like, load_scripts

if TYPE_CHECKING:
    from redis import Redis

log = logging.getLogger(__name__)

# The exit code of a wrong configuration, as in cli/errors.py.
_CONFIGURATION = 3


def configured() -> Config:
    """The configuration; a wrong one ends the process as it ends a command of ours: `rq worker` has no other way."""
    try:
        return Config.load()
    except ConfigError as error:
        sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(_CONFIGURATION) from None


def check_redis(client: "Redis", prefix: str) -> bool:
    """Log what of Redis endangers what is stored there, as `doctor` says it. Returns whether it could be looked at."""
    try:
        store = Store(connect_like(client, timeout=2.0, connections=1), prefix)
        try:
            for fault in server_faults(store):
                log.warning("redis_settings: %s", fault)
        finally:
            store.close()
    except NotifyError as error:
        log.debug("the settings of Redis are not checked: %s", error)
        return False
    return True


def hide_repetitions() -> None:
    """Our own lines say once that Redis is away, and when it is back; RQ says it every second or two."""
    logging.getLogger("rq.worker").addFilter(_is_no_repetition)


def _is_no_repetition(record: logging.LogRecord) -> bool:
    return "could not connect to Redis instance" not in str(record.msg)


@cache
def raise_file_limit(config: Config) -> None:
    """As many open files as a worker needs, if the kernel lets us have them. Reads what needs one later.

    Where it lets us, twice as many: what is dialled at several addresses at once has a file for each.
    """
    load_scripts()
    wanted = 2 * files_needed(config)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    if fault := file_fault(None if soft == resource.RLIM_INFINITY else soft, config):
        log.warning("open_files: %s", fault)


@cache
def collect_less() -> None:
    """What the imports made stays; of what a delivery makes hardly anything is a cycle.

    Collecting as often as a general program does costs 10 of 95 microseconds an event.
    """
    gc.freeze()
    gc.set_threshold(10_000, 50, 100)
