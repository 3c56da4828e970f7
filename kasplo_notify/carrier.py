"""Carries the steps of an emit (``emission.py``) to Redis and back, for threads and for asyncio."""

import asyncio
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from kasplo_notify import embedded
from kasplo_notify.config import Config
from kasplo_notify.emission import LOAD_ROUTES, Emission, Prepared, Receipt
from kasplo_notify.errors import PushError, StorageUnavailable
from kasplo_notify.forking import starting
from kasplo_notify.patience import Patience, late

if TYPE_CHECKING:
    from kasplo_notify.routing import RouteTable
    from kasplo_notify.store import AsyncStore, Call, Store

# A call gives up within a second: Redis is waited for TIMEOUT at a time, and after `patience.GIVE_UP` no try begins.
TIMEOUT: Final = 0.4
CONNECTIONS: Final = 8


def _import() -> None:
    """What only an emit needs; 0.1 to 0.3 s, which are not counted as waiting for Redis."""
    with starting():
        # The first two are imported with the first connection, by redis-py and for its host. In a child that is forked
        # just then they would stay half-imported for ever.
        import email.parser  # noqa: F401 - for later
        import encodings.idna  # noqa: F401 - for later

        import tenacity  # noqa: F401 - for later

        import kasplo_notify.store  # noqa: F401 - for later


class _Base:
    """What both carriers share: the configuration and the cached routes."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._routes: RouteTable | None = None
        self.disown()

    def disown(self) -> None:
        """Begin anew in a forked child; the connections stay the parent's."""
        raise NotImplementedError

    def emission(self, prepared: Sequence[Prepared]) -> Emission:
        """The steps that push these events, by the routes that are known."""
        return Emission(self._config, self._routes, prepared)

    def _url(self) -> str:
        url = self._config.redis.url
        return embedded.attached_url(self._config) if url == "embedded" else url


class Carrier(_Base):
    """For any number of threads."""

    _store: "Store | None"

    def push(self, prepared: Sequence[Prepared]) -> list[Receipt]:
        """Push events, in order.

        Raises:
            StorageUnavailable, QueueFull: With the ids of all, and how many of them are certainly pushed.
        """
        return self.carry(self.emission(prepared))

    def carry(self, emission: Emission) -> list[Receipt]:
        """As :meth:`push`; the emission has the receipts of what is pushed, after an error as well."""
        if self._store is None:
            _import()
        steps, patience = emission.steps(), Patience()
        try:
            step = next(steps)
            while True:
                try:
                    reply = self._perform(step, patience)
                except PushError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(reply)
                    patience.heed(len(emission.receipts))
        except StopIteration as done:
            self._routes = emission.routes
            receipts: list[Receipt] = done.value
            return receipts

    def reach(self) -> None:
        """Ask Redis for something.

        Raises:
            StorageUnavailable: It did not answer.
        """
        if self._store is None:
            _import()
        self._perform(LOAD_ROUTES, Patience())

    def close(self) -> None:
        """Close the connections. The next push opens them again."""
        with starting():
            store, self._store = self._store, None
        if store is not None:
            store.close()

    def disown(self) -> None:
        self._store = None
        # One seat for each connection: in the client's queue a thread would wait for longer than it has time. This
        # queue is a semaphore in C, 2 microseconds faster than that of threading.
        self._seats: SimpleQueue[None] = SimpleQueue()
        for _ in range(CONNECTIONS):
            self._seats.put(None)

    def _perform(self, step: "Call | str", patience: Patience) -> Any:
        patience.check()
        try:
            return self._ask(step, patience)
        except StorageUnavailable as error:
            if patience.ends_with(error):
                raise
            from tenacity import Retrying

            return Retrying(**patience.tries())(self._ask, step, patience)

    def _ask(self, step: "Call | str", patience: Patience) -> Any:
        seats = self._seats
        try:
            seats.get(timeout=patience.left())
        except Empty:
            raise StorageUnavailable(
                "all connections to Redis are busy, or wait for a server that does not answer: check that it runs, or "
                "emit fewer at once, or many with emit_many"
            ) from None
        try:
            store = self._store or self._connected()
            if isinstance(step, str):
                return store.read(("GET", store.keys("version")), ("GET", store.keys.routes))
            return store.run(step)
        finally:
            seats.put(None)

    def _connected(self) -> "Store":
        url = self._url()
        with starting():
            if self._store is None:
                from kasplo_notify.store import Store, connect

                client = connect(url, timeout=TIMEOUT, connections=CONNECTIONS)
                self._store = Store(client, self._config.redis.prefix)
            return self._store


class AsyncCarrier(_Base):
    """As :class:`Carrier`, for asyncio; it may be used from one event loop after another."""

    _store: "AsyncStore | None" = None
    _loop: asyncio.AbstractEventLoop | None

    async def push(self, prepared: Sequence[Prepared]) -> list[Receipt]:
        """As :meth:`Carrier.push`."""
        return await self.carry(self.emission(prepared))

    async def carry(self, emission: Emission) -> list[Receipt]:
        """As :meth:`Carrier.carry`."""
        if self._store is None:
            _import()
        steps, patience = emission.steps(), Patience()
        try:
            step = next(steps)
            while True:
                try:
                    reply = await self._perform(step, patience)
                except PushError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(reply)
                    patience.heed(len(emission.receipts))
        except StopIteration as done:
            self._routes = emission.routes
            receipts: list[Receipt] = done.value
            return receipts

    async def close(self) -> None:
        """Close the connections. The next push opens them again."""
        store, self._store = self._store, None
        if store is not None and self._loop is asyncio.get_running_loop():
            await store.close()

    def disown(self) -> None:
        # Kept from the garbage collector: closing it would take its sockets out of the epoll set, which a child
        # shares with its parent.
        self._left, self._store, self._loop = self._store, None, None

    async def _perform(self, step: "Call | str", patience: Patience) -> Any:
        patience.check()
        try:
            return await self._ask(step)
        except StorageUnavailable as error:
            if patience.ends_with(error):
                raise
            from tenacity import AsyncRetrying

            return await AsyncRetrying(**patience.tries())(self._ask_in_time, step, patience)

    async def _ask_in_time(self, step: "Call | str", patience: Patience) -> Any:
        """Ask again, for no longer than the time that is left: it would wait for a connection, then for Redis.

        The first try does without: asyncio.timeout costs as much as half an emit.
        """
        try:
            async with asyncio.timeout(patience.left() + TIMEOUT):
                return await self._ask(step)
        except TimeoutError:
            raise late() from None

    async def _ask(self, step: "Call | str") -> Any:
        store = self._connected()
        if isinstance(step, str):
            return await store.read(("GET", store.keys("version")), ("GET", store.keys.routes))
        return await store.run(step)

    def _connected(self) -> "AsyncStore":
        loop = asyncio.get_running_loop()
        if self._store is None or self._loop is not loop:
            url = self._url()
            with starting():
                from kasplo_notify.store import AsyncStore, connect_async

                client = connect_async(url, timeout=TIMEOUT, connections=CONNECTIONS)
                self._store, self._loop = AsyncStore(client, self._config.redis.prefix), loop
        return self._store
