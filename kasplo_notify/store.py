"""The only module that knows Redis: connections, scripts, the names of keys, and what its errors mean.

The data model stands at the top of ``scripts/shared.lua``. Every change to it is one Lua script, run by name
through :class:`Store` (or :class:`AsyncStore`, its awaited twin: both only carry a :class:`Call` to the server
and its reply back). Scripts need Redis 7.0 or Valkey 7.2.
"""

import asyncio
import hashlib
import re
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoScriptError, OutOfMemoryError, RedisError
from redis.retry import Retry

from kasplo_notify.errors import ConfigError, NotifyError, QueueFull, StorageUnavailable

SHARD = "0"
_SCRIPTS = Path(__file__).parent / "scripts"
_READS = {"claim", "read"}
Arg = str | bytes | int | float
Command = tuple[Arg, ...]
Reply = TypeVar("Reply")


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of keys, for one prefix.

    Attributes:
        stem: What every key of the shard starts with; scripts build the rest from it.
        endpoints: Hash of the registry: name -> record.
        routes: What producers need of the registry.
    """

    stem: str
    endpoints: str
    routes: str

    @classmethod
    def of(cls, prefix: str) -> "Keys":
        return cls(f"{prefix}{{{SHARD}}}:", f"{prefix}endpoints", f"{prefix}routes")

    def __call__(self, name: str) -> str:
        """The name of one key of the shard, e.g. ``keys("dead:crm")``."""
        return self.stem + name


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the digest that Redis knows it by."""

    text: str
    digest: str


@cache
def script(name: str) -> Script:
    """Load ``scripts/<name>.lua``. All but push may run in a full Redis: they free memory, or move what is there."""
    flags = "#!lua\n" if name == "push" else "#!lua flags=allow-oom\n"
    parts = ["shared", *(["read_queue"] if name in _READS else []), name]
    text = flags + "".join((_SCRIPTS / f"{part}.lua").read_text() for part in parts)
    return Script(text, hashlib.sha1(text.encode()).hexdigest())  # noqa: S324 - the name Redis gives it


@dataclass(frozen=True, slots=True)
class Call:
    """One script to run: its name and arguments, and the keys beside the shard's stem."""

    script: str
    args: Sequence[Arg]
    keys: Sequence[str] = ()


def explain(error: RedisError | OSError) -> NotifyError:
    """The error of ours that stands for one of Redis' errors."""
    text = (str(error) or type(error).__name__).rstrip(".")
    if isinstance(error, OutOfMemoryError):
        return QueueFull("Redis is full (maxmemory): give it more memory, or let the backlog drain, then try again")
    if text == "No connection available":
        return StorageUnavailable("all connections to Redis are busy: emit fewer at once, or many with emit_many")
    if isinstance(error, AuthenticationError):
        return StorageUnavailable(f"Redis refuses the login: {text}. Check redis.url")
    return StorageUnavailable(f"Redis is not available: {text}. Check redis.url and that the server runs")


def mask_url(url: str) -> str:
    """A Redis URL without its password."""
    return re.sub(r"(://[^:/@]*:)[^@]*@", r"\1***@", url)


def _check_url(url: str) -> str:
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ConfigError(f"redis.url is {mask_url(url)!r}: use redis://, rediss://, unix:// or embedded")
    return url


def connect(url: str, *, timeout: float = 5.0, connections: int = 8) -> "redis.Redis":
    """A client that retries nothing by itself: redis-py would repeat writes whose reply was lost.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        timeout: Seconds for connecting, and for each reply.
        connections: Most connections; a thread waits for a free one.

    Raises:
        ConfigError: The URL is not one.
    """
    try:
        pool = redis.BlockingConnectionPool.from_url(
            _check_url(url),
            max_connections=connections,
            timeout=timeout,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
        )
    except ValueError as error:
        raise ConfigError(f"redis.url is not usable: {error}") from error
    return redis.Redis(connection_pool=pool)


def connect_async(url: str, *, timeout: float = 5.0, connections: int = 4) -> "redis.asyncio.Redis":
    """As :func:`connect`, for asyncio."""
    try:
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            _check_url(url),
            max_connections=connections,
            timeout=timeout,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=AsyncRetry(NoBackoff(), 0),
            health_check_interval=0,
        )
    except ValueError as error:
        raise ConfigError(f"redis.url is not usable: {error}") from error
    return redis.asyncio.Redis(connection_pool=pool)


def url_of(client: "redis.Redis") -> str:
    """The URL of the server that a client is connected to, its login included."""
    from urllib.parse import quote, urlencode  # noqa: PLC0415 - one caller, at a worker's start

    settings = client.connection_pool.connection_kwargs
    login = ""
    if settings.get("password"):
        login = f"{quote(settings.get('username') or '', safe='')}:{quote(settings['password'], safe='')}@"
    database = int(settings.get("db") or 0)
    if settings.get("path"):
        return f"unix://{login}{settings['path']}?db={database}"
    secure = issubclass(client.connection_pool.connection_class, redis.SSLConnection)
    tls = {key: settings[key] for key in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile") if settings.get(key)}
    query = f"?{urlencode(tls)}" if tls else ""
    return f"redis{'s' if secure else ''}://{login}{settings['host']}:{settings['port']}/{database}{query}"


class Store:
    """Runs scripts and reads, for threads.

    Every method raises :class:`StorageUnavailable` or :class:`QueueFull` for whatever Redis answers instead.
    """

    def __init__(self, client: "redis.Redis", prefix: str) -> None:
        self.client = client
        self.keys = Keys.of(prefix)

    def run(self, call: Call) -> Any:
        """Run a script and return its reply. A server that forgot it (restart, SCRIPT FLUSH) is given it again."""
        code = script(call.script)
        arguments = (1 + len(call.keys), self.keys.stem, *call.keys, *call.args)
        try:
            try:
                return self.client.evalsha(code.digest, *cast("tuple[Any, ...]", arguments))
            except NoScriptError:
                return self.client.eval(code.text, *cast("tuple[Any, ...]", arguments))
        except (RedisError, OSError) as error:
            raise explain(error) from error

    def read(self, *commands: Command) -> list[Any]:
        """Send commands as one transaction, in one round trip; return their replies."""
        try:
            with self.client.pipeline(transaction=True) as pipeline:
                for command in commands:
                    _queue(pipeline, command)
                return pipeline.execute()
        except (RedisError, OSError) as error:
            raise explain(error) from error

    def close(self) -> None:
        self.client.close()
        self.client.connection_pool.disconnect()


class AsyncStore:
    """As :class:`Store`, for asyncio. A call that has been sent is never cancelled: its caller stops waiting."""

    def __init__(self, client: "redis.asyncio.Redis", prefix: str) -> None:
        self.client = client
        self.keys = Keys.of(prefix)

    async def run(self, call: Call) -> Any:
        code = script(call.script)
        arguments = (1 + len(call.keys), self.keys.stem, *call.keys, *call.args)

        async def send() -> Any:
            try:
                return await self.client.evalsha(code.digest, *cast("Any", arguments))
            except NoScriptError:
                return await self.client.eval(code.text, *cast("Any", arguments))

        return await _uncancelled(send)

    async def read(self, *commands: Command) -> list[Any]:
        async def send() -> list[Any]:
            async with self.client.pipeline(transaction=True) as pipeline:
                for command in commands:
                    _queue(pipeline, command)
                return await pipeline.execute()

        return await _uncancelled(send)

    async def close(self) -> None:
        await self.client.aclose()
        await self.client.connection_pool.disconnect()


def _queue(pipeline: Any, command: Command) -> None:
    pipeline.execute_command(*command)


async def _uncancelled(send: Callable[[], Coroutine[Any, Any, Reply]]) -> Reply:
    # A command that is cancelled between its request and its reply leaves the reply on the connection, for the
    # next command to take for its own.
    task = asyncio.ensure_future(send())
    try:
        return await asyncio.shield(task)
    except (RedisError, OSError) as error:
        raise explain(error) from error
    except asyncio.CancelledError:
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise
