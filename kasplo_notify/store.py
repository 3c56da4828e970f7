"""The only module that knows Redis: connections, scripts, the names of keys. ``storage_errors`` knows its errors.

The data model stands at the top of ``scripts/shared.lua``. Every change to it is one Lua script, run by name
through :class:`Store` (or :class:`AsyncStore`, its awaited twin: both only carry a :class:`Call` to the server
and its reply back). Scripts need Redis 7.0 or Valkey 7.2.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, urlsplit

import redis
import redis.asyncio
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from kasplo_notify.config_checks import masked_url
from kasplo_notify.errors import ConfigError, shown
from kasplo_notify.storage_errors import explain

SHARD = "0"
_SCRIPTS = Path(__file__).parent / "scripts"
_READS = {"claim", "read"}
_PARTS = {"shared", "read_queue"}
_FLAGS = {"push": "#!lua\n", "backlog": "#!lua flags=no-writes\n"}
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
    """Load ``scripts/<name>.lua``. All but push may run in a full Redis: they free memory, or move what is there.

    What only looks says so to the server, which then runs it on a replica and beside a full disk as well.
    """
    flags = _FLAGS.get(name, "#!lua flags=allow-oom\n")
    parts = ["shared", *(["read_queue"] if name in _READS else []), name]
    text = flags + "".join((_SCRIPTS / f"{part}.lua").read_text() for part in parts)
    return Script(text, hashlib.sha1(text.encode()).hexdigest())  # noqa: S324 - the name Redis gives it


def load_scripts() -> None:
    """Read all scripts now: a process that has no file descriptor left could not."""
    for path in _SCRIPTS.glob("*.lua"):
        if path.stem not in _PARTS:
            script(path.stem)


@dataclass(frozen=True, slots=True)
class Call:
    """One script to run: its name and arguments, and the keys beside the shard's stem."""

    script: str
    args: Sequence[Arg]
    keys: Sequence[str] = ()


def _check_url(url: str) -> str:
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ConfigError(f"redis.url is {masked_url(url)!r}: use redis://, rediss://, unix:// or embedded")
    for name, file in parse_qsl(urlsplit(url).query):
        # The TLS library does not say which file it cannot read.
        if name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile") and not os.access(file, os.R_OK):
            raise ConfigError(f"redis.url: {name} is {shown(file)}, which cannot be read here")
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
    options = _options(Retry(NoBackoff(), 0), timeout, connections)
    return redis.Redis(connection_pool=_pool(redis.BlockingConnectionPool.from_url, url, options))


def connect_async(url: str, *, timeout: float = 5.0, connections: int = 4) -> "redis.asyncio.Redis":
    """As :func:`connect`, for asyncio."""
    options = _options(AsyncRetry(NoBackoff(), 0), timeout, connections)
    return redis.asyncio.Redis(connection_pool=_pool(redis.asyncio.BlockingConnectionPool.from_url, url, options))


def connect_like(client: "redis.Redis", *, timeout: float = 5.0, connections: int = 8) -> "redis.Redis":
    """As :func:`connect`, to the server of `client`, with its login and TLS settings.

    Raises:
        ConfigError: The client is one of Redis Sentinel.
    """
    options = _server_of(client) | _options(Retry(NoBackoff(), 0), timeout, connections)
    kind = client.connection_pool.connection_class
    pool = redis.BlockingConnectionPool(connection_class=kind, **options)  # type: ignore[no-untyped-call]
    return redis.Redis(connection_pool=pool)


def connect_async_like(client: "redis.Redis", *, timeout: float = 5.0, connections: int = 4) -> "redis.asyncio.Redis":
    """As :func:`connect_like`, for asyncio."""
    options = _server_of(client) | _options(AsyncRetry(NoBackoff(), 0), timeout, connections)
    kind: type[redis.asyncio.Connection | redis.asyncio.UnixDomainSocketConnection] = redis.asyncio.Connection
    if issubclass(client.connection_pool.connection_class, redis.UnixDomainSocketConnection):
        kind = redis.asyncio.UnixDomainSocketConnection
    elif issubclass(client.connection_pool.connection_class, redis.SSLConnection):
        kind = redis.asyncio.SSLConnection
        # redis-py checks OCSP answers of a server only without asyncio.
        options = {name: value for name, value in options.items() if "_ocsp" not in name}
    pool = redis.asyncio.BlockingConnectionPool(connection_class=cast("Any", kind), **options)
    return redis.asyncio.Redis(connection_pool=pool)


_SERVER = ("host", "port", "path", "db", "username", "password", "credential_provider", "protocol")


def _server_of(client: "redis.Redis") -> dict[str, Any]:
    """The settings that say which server a client is connected to, and as whom."""
    if isinstance(client.connection_pool, redis.sentinel.SentinelConnectionPool):
        raise ConfigError("a worker cannot be started with Redis Sentinel: give it the URL of the server itself")
    settings = client.connection_pool.connection_kwargs
    return {name: value for name, value in settings.items() if name in _SERVER or name.startswith("ssl_")}


def _options(retry: Retry | AsyncRetry, timeout: float, connections: int) -> dict[str, Any]:
    return {
        "max_connections": connections,
        "timeout": timeout,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": retry,
        "health_check_interval": 0,
    }


def _pool(from_url: Callable[..., Reply], url: str, options: Mapping[str, Any]) -> Reply:
    try:
        return from_url(_check_url(url), **options)
    except ConfigError:
        raise
    except ValueError:
        # What redis-py says quotes the part that it cannot read: a piece of the password, perhaps.
        raise ConfigError(
            "redis.url is not usable: write it as redis://USER:PASSWORD@HOST:PORT/NUMBER, special characters of the "
            "password percent-encoded"
        ) from None


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
            raise explain(error, asked=f"the script {call.script}", login=_login(self.client)) from error

    def read(self, *commands: Command) -> list[Any]:
        """Send commands as one transaction, in one round trip; return their replies."""
        try:
            with self.client.pipeline(transaction=True) as pipeline:
                for command in commands:
                    _queue(pipeline, command)
                return pipeline.execute()
        except (RedisError, OSError) as error:
            raise explain(error, login=_login(self.client)) from error

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

        return await self._uncancelled(send, asked=f"the script {call.script}")

    async def read(self, *commands: Command) -> list[Any]:
        async def send() -> list[Any]:
            async with self.client.pipeline(transaction=True) as pipeline:
                for command in commands:
                    _queue(pipeline, command)
                return await pipeline.execute()

        return await self._uncancelled(send)

    async def close(self) -> None:
        await self.client.aclose()
        await self.client.connection_pool.disconnect()

    async def _uncancelled(self, send: Callable[[], Coroutine[Any, Any, Reply]], *, asked: str = "") -> Reply:
        # A command that is cancelled between its request and its reply leaves the reply on the connection, for the
        # next command to take for its own.
        task = asyncio.ensure_future(send())
        try:
            return await asyncio.shield(task)
        except (RedisError, OSError) as error:
            raise explain(error, asked=asked, login=_login(self.client)) from error
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise


def _queue(pipeline: Any, command: Command) -> None:
    pipeline.execute_command(*command)


def _login(client: "redis.Redis | redis.asyncio.Redis") -> str:
    """The user that a client logs in as; empty where its URL names none."""
    return str(client.connection_pool.connection_kwargs.get("username") or "")
