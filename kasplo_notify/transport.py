"""One request over HTTP/1.1 and what came of it.

aiohttp connects, does TLS, pools connections and parses answers. Its session layer stays out: a request takes
three times the CPU with it, it re-sends a GET unseen when a kept connection drops, and where there is no
session no cookies, redirects, proxies or .netrc can leak in. Nothing here raises because of what a subscriber's
server does: it becomes an `Outcome`.
"""

import asyncio
import errno
import functools
import itertools
import re
import ssl
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from aiohttp import ClientRequest, ClientTimeout, TCPConnector
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from yarl import URL

from kasplo_notify.config import Config
from kasplo_notify.errors import EndpointError
from kasplo_notify.exchange import Clock, Exchange, Kept, Peer
from kasplo_notify.failures import NO_FILES, connect_failure
from kasplo_notify.guard import EgressGuard
from kasplo_notify.outcome import Outcome
from kasplo_notify.request import Request
from kasplo_notify.resolver import PooledResolver
from kasplo_notify.tls import Tls, context_of

__all__ = ["Outcome", "Transport"]

KEEPALIVE_SECONDS = 30.0
DNS_CACHE_SECONDS = 10

_CACHED = 4096
# Of endpoints with an SSL context of their own: with the system's authorities it takes 850 kB, with others 9 kB.
_CACHED_SYSTEM, _CACHED_OWN = 256, 1024
# Connections that are closed for one that gets no file: for it, and for what looks its name up.
_SPARED = 8
_QUERY = re.compile(r"[!-~]*")
_COMMON_HEADERS = ("Accept: */*", "Accept-Encoding: identity")


class _Connector(TCPConnector):
    """aiohttp's, which has no bound for the connections that have no request.

    Args:
        max_idle: So many are kept.
    """

    def __init__(self, max_idle: int, **options: Any) -> None:
        super().__init__(**options)
        self._max_idle = max_idle
        self._kept: Kept = {}
        factory = functools.partial(Peer, loop=self._loop, kept=self._kept)
        self._factory = factory  # type: ignore[assignment]  # aiohttp's own parser

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        super()._release(key, protocol, should_close=should_close)
        if isinstance(protocol, Peer) and protocol.transport is not None:
            self._kept[protocol] = key
            if len(self._kept) > self._max_idle:
                self.close_idle(1)

    def close_idle(self, count: int) -> int:
        """Close up to `count` connections that have no request, those first that are idle for longest.

        Returns how many. Their files are closed in the next turn of the event loop.
        """
        oldest = [*itertools.islice(self._kept.items(), count)]
        for peer, key in oldest:
            pool = self._conns[key]
            # A pool is in the order of release, too: what stands before the peer has been closed by the other side.
            while pool.popleft()[0] is not peer:
                pass
            if not pool:
                del self._conns[key]
            peer.close()
        return len(oldest)

    def close_pool(self, key: ConnectionKey) -> None:
        """Close the connections to one server that have no request."""
        for peer, _ in self._conns.pop(key, ()):
            peer.close()


@dataclass(frozen=True, slots=True)
class _Target:
    """What is the same for all requests to a URL: `key` finds a connection, the rest begins the request."""

    key: ClientRequest
    path: str
    host: str


class _Recent:
    """Targets of endpoints with an SSL context of their own: as many as there may be, those that were used last.

    Args:
        most: So many.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._targets: dict[tuple[str, Tls], _Target] = {}

    def get(self, base: str, tls: Tls) -> _Target | None:
        target = self._targets.pop((base, tls), None)
        if target is not None:
            self._targets[base, tls] = target
        return target

    def put(self, base: str, tls: Tls, target: _Target) -> _Target | None:
        """Returns the one that had to go for it."""
        self._targets[base, tls] = target
        return self._targets.pop(next(iter(self._targets))) if len(self._targets) > self._most else None

    def clear(self) -> None:
        self._targets.clear()


class Transport:
    """Sends requests; one per event loop. How many at once is the caller's business: nothing here limits it."""

    def __init__(self, config: Config, guard: EgressGuard) -> None:
        self._guard = guard
        self._connect_timeout = config.delivery.connect_timeout
        self._max_idle = config.worker.max_idle
        self._targets: dict[str, _Target] = {}
        self._with_system, self._with_own = _Recent(_CACHED_SYSTEM), _Recent(_CACHED_OWN)
        # There as long as a target has them.
        self._contexts = WeakValueDictionary[Tls, ssl.SSLContext]()
        self._making_context = asyncio.Lock()
        self._limits: dict[float, ClientTimeout] = {}
        self._loop: asyncio.AbstractEventLoop
        self._clock: Clock
        self._connector: _Connector | None = None
        self._resolver: PooledResolver | None = None

    async def start(self) -> None:
        """Load the certificates and open the pool; to be called on the event loop that will send."""
        self._loop = asyncio.get_running_loop()
        self._clock = Clock(self._loop)
        self._resolver = PooledResolver()
        self._connector = _Connector(
            self._max_idle,
            limit=0,
            limit_per_host=0,
            keepalive_timeout=KEEPALIVE_SECONDS,
            ttl_dns_cache=DNS_CACHE_SECONDS,
            ssl=context_of(),
            resolver=self._resolver,
            socket_factory=self._guard.socket_factory,
        )

    async def close(self) -> None:
        """Close all connections; a request that is still in flight ends with an `Outcome`."""
        connector, self._connector = self._connector, None
        resolver, self._resolver = self._resolver, None
        self._targets.clear()
        self._with_system.clear()
        self._with_own.clear()
        if connector is not None:
            self._clock.close()
            await connector.close()
        if resolver is not None:
            await resolver.close()

    async def send(self, request: Request, *, timeout: float) -> Outcome:  # noqa: ASYNC109 - a value of the endpoint
        """Send one request.

        `timeout` is in seconds and for the whole exchange, connecting included. Once the headers of an answer
        are in, its body gets 2 s of what is left.
        """
        exchange = Exchange(self._loop, self._clock, timeout)
        try:
            if request.tls is None:
                target = self._target(request.url)
            else:
                target = await self._own_target(request.url, request.tls, exchange.deadline)
            wire = _wire(request, target)
        except EndpointError as error:
            return exchange.failed("blocked", str(error))
        except ValueError as error:
            return exchange.failed("other", f"the request cannot be sent: {error}")
        except TimeoutError:
            return exchange.failed("worker", f"this worker could not load the certificates within {timeout:g} s")
        except OSError as error:  # of reading the client certificate
            return exchange.failed(*connect_failure(error, timeout))
        del request  # it may be large, and is there once more, as it is written
        limits = self._limits.get(timeout) or self._make_limits(timeout)
        fresh = False
        while True:
            try:
                connection = await self._connect(target, limits, fresh=fresh)
            except Exception as error:  # noqa: BLE001 - ValueError and AssertionError come out of it, too
                return exchange.failed(*connect_failure(error, limits.connect or timeout))
            if (outcome := await exchange.run(connection, wire)) is not None:
                return outcome
            # The server had closed the connection that was kept: once more at once, on one made for it.
            left = exchange.deadline - self._loop.time()
            if left <= 0:
                return exchange.failed("reset", "the connection that was kept had been closed, and the time is over")
            limits, fresh = self._within(left), True

    async def _connect(self, target: _Target, limits: ClientTimeout, *, fresh: bool) -> Connection:
        spared = False
        while True:
            if self._connector is None:
                raise ConnectionAbortedError
            try:
                connection = await self._connector.connect(target.key, [], limits)
            except OSError as error:
                if spared or not await self._spare(error):
                    raise
                spared = True
                continue
            if not fresh or not Peer.of(connection).exchanges:
                return connection
            # The others that are kept for this server are most likely as dead.
            connection.close()

    async def _spare(self, error: OSError) -> bool:
        """Close idle connections for what has got no file. Returns whether to try again."""
        if connect_failure(error, 0) not in NO_FILES or self._connector is None:
            return False
        if not self._connector.close_idle(_SPARED):
            return False
        await asyncio.sleep(0)
        return True

    def _target(self, url: str) -> _Target:
        base = url.partition("?")[0]
        return self._targets.get(base) or self._make_target(base)

    def _make_target(self, base: str) -> _Target:
        if len(self._targets) >= _CACHED:
            self._targets.clear()
        target = self._targets[base] = self._target_of(base, context=True)
        return target

    async def _own_target(self, url: str, tls: Tls, deadline: float) -> _Target:
        """That of an endpoint with an SSL context of its own."""
        base = url.partition("?")[0]
        recent = self._with_system if tls.ca is None else self._with_own
        target = recent.get(base, tls)
        if target is not None:
            return target
        # The context is a part of the key that finds a connection, so what one endpoint's authorities have verified,
        # or its certificate has opened, serves no other.
        async with asyncio.timeout_at(deadline):
            context = await self._context(tls)
        target = self._target_of(base, context=context)
        gone = recent.put(base, tls, target)
        if gone is not None and self._connector is not None:
            # Nobody would find the connections that are kept for it, and they would keep the context.
            self._connector.close_pool(gone.key.connection_key)
        return target

    def _target_of(self, base: str, *, context: ssl.SSLContext | bool) -> _Target:
        # A registered URL has passed this check; a record that was written past the registry has not.
        normal = URL(self._guard.check_url(base), encoded=True)
        key = ClientRequest("POST", normal, loop=self._loop, ssl=context)
        return _Target(key, normal.raw_path, normal.host_port_subcomponent or "")

    async def _context(self, tls: Tls) -> ssl.SSLContext:
        """On a thread: with the system's authorities it takes 24 ms, in which others want to send."""
        async with self._making_context:  # several at a time would only take the CPU from these others
            context = self._contexts.get(tls)
            if context is None:
                context = self._contexts[tls] = await self._load_context(tls)
            return context

    async def _load_context(self, tls: Tls) -> ssl.SSLContext:
        try:
            return await asyncio.to_thread(context_of, tls)
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, f"no thread could be started for it: {error}") from error
        except OSError as error:
            if not await self._spare(error):
                raise
        return await asyncio.to_thread(context_of, tls)

    def _make_limits(self, timeout: float) -> ClientTimeout:  # per endpoint, not per request
        limits = self._within(timeout)
        if len(self._limits) >= _CACHED:
            self._limits.clear()
        self._limits[timeout] = limits
        return limits

    def _within(self, seconds: float) -> ClientTimeout:
        # aiohttp rounds timeouts up to whole seconds from ceil_threshold on.
        return ClientTimeout(connect=min(self._connect_timeout, seconds), ceil_threshold=1e9)


def _wire(request: Request, target: _Target) -> bytes:
    _, mark, query = request.url.partition("?")
    if not _QUERY.fullmatch(query):
        raise EndpointError("the URL has characters in its query that must be percent-encoded")
    lines = [f"{request.method} {target.path}{mark}{query} HTTP/1.1", f"Host: {target.host}", *_COMMON_HEADERS]
    lines += [f"{name}: {value}" for name, value in request.headers]
    if request.body or request.method == "POST":
        lines.append(f"Content-Length: {len(request.body)}")
    head = "\r\n".join(lines) + "\r\n\r\n"
    # The registry and the request builder let no line break through; should one ever pass them, it ends here.
    if not head.count("\r") == head.count("\n") == len(lines) + 1:
        raise ValueError("a header has a line break in it")
    return head.encode("ascii") + request.body
