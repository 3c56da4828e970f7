"""Notifier and AsyncNotifier: what a mail engine calls. They carry the steps of ``emission.py`` to Redis."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from kasplo_notify import embedded
from kasplo_notify.config import Config, RedisConfig
from kasplo_notify.emission import Emission, Prepared, Receipt, prepare_many, prepare_one
from kasplo_notify.errors import ConfigError, PushError, StorageUnavailable
from kasplo_notify.forking import disown_after_fork, starting
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
        import tenacity  # noqa: F401

        import kasplo_notify.store  # noqa: F401


class _Base:
    """What both notifiers share: the configuration and the cached routes."""

    def __init__(self, url: str | None = None, *, config: Config | None = None) -> None:
        if config is not None and (url is not None or not isinstance(config, Config)):
            raise ConfigError("a notifier takes a Redis URL, or config=Config(...), not both and nothing else")
        with starting():
            self.config = _load(url) if config is None else config
        self._routes: RouteTable | None = None
        self.disown()
        disown_after_fork(self)

    def disown(self) -> None:
        """Begin anew in a forked child. It is called by itself; the connections stay the parent's."""
        raise NotImplementedError

    def _url(self) -> str:
        url = self.config.redis.url
        return embedded.attached_url(self.config) if url == "embedded" else url


class Notifier(_Base):
    """Emits events from any number of threads; usable after a fork.

    Args:
        url: A Redis URL; the configuration's when None.
        config: A whole configuration, instead of the one that is loaded from file and environment.

    Raises:
        ConfigError: The configuration is wrong.
    """

    _store: "Store | None"

    def emit(
        self,
        event: str | Mapping[str, object],
        *,
        mail_class: str | None = None,
        event_id: str | None = None,
        **fields: object,
    ) -> Receipt:
        """Queue one event for every endpoint that wants it.

        Args:
            event: The event type with the fields as keyword arguments, or a mapping with all of them.
            mail_class: The sender's stream, 1-128 printable ASCII characters; it routes the event and is not sent.
            event_id: The caller's own id, at most 64 printable ASCII characters without a dot. A second emit with
                it within an hour changes nothing. Generated when None.
            **fields: The event's fields, as the document names them.

        Raises:
            InvalidEvent: The event is not as EVENTS.md says; nothing was queued.
            StorageUnavailable: Redis did not answer within a second; `event_ids` completes the call later.
            QueueFull: Redis has no memory left.
        """
        prepared = prepare_one(event, {**fields, "mail_class": mail_class, "event_id": event_id})
        return self._run([prepared])[0]

    def emit_many(self, events: Iterable[Mapping[str, object]]) -> list[Receipt]:
        """Queue many events; each a mapping that may hold `mail_class` and `event_id` beside its fields.

        All are validated before the first is pushed. They are pushed in order, in chunks of at most 500 events
        and 2,000 copies (one for each endpoint), each as one.

        Raises:
            InvalidEvent: One of them is not as EVENTS.md says; nothing was queued.
            StorageUnavailable, QueueFull: Not all were pushed; `event_ids` holds the ids of all and `pushed` how
                many are certainly queued. The same call with these ids completes it without duplicates.
        """
        return self._run(prepare_many(events))

    def close(self) -> None:
        """Close the connections. The next emit opens them again."""
        with starting():
            store, self._store = self._store, None
        if store is not None:
            store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def disown(self) -> None:
        self._store = None
        # One seat for each connection: in the client's queue a thread would wait for longer than it has time. This
        # queue is a semaphore in C, 2 microseconds faster than that of threading.
        self._seats: SimpleQueue[None] = SimpleQueue()
        for _ in range(CONNECTIONS):
            self._seats.put(None)

    def _run(self, prepared: Sequence[Prepared]) -> list[Receipt]:
        if self._store is None:
            _import()
        emission, patience = Emission(self.config, self._routes, prepared), Patience()
        steps = emission.steps()
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
                self._store = Store(client, self.config.redis.prefix)
            return self._store


class AsyncNotifier(_Base):
    """As :class:`Notifier`, awaited. It may be used from one event loop after another.

    Cancelling an emit stops the waiting, not the emit: it may have been, or still be, pushed.
    """

    _store: "AsyncStore | None" = None
    _loop: asyncio.AbstractEventLoop | None

    async def emit(
        self,
        event: str | Mapping[str, object],
        *,
        mail_class: str | None = None,
        event_id: str | None = None,
        **fields: object,
    ) -> Receipt:
        """As :meth:`Notifier.emit`."""
        prepared = prepare_one(event, {**fields, "mail_class": mail_class, "event_id": event_id})
        return (await self._run([prepared]))[0]

    async def emit_many(self, events: Iterable[Mapping[str, object]]) -> list[Receipt]:
        """As :meth:`Notifier.emit_many`."""
        return await self._run(prepare_many(events))

    async def close(self) -> None:
        """Close the connections. The next emit opens them again."""
        store, self._store = self._store, None
        if store is not None and self._loop is asyncio.get_running_loop():
            await store.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def disown(self) -> None:
        # Kept from the garbage collector: closing it would take its sockets out of the epoll set, which a child
        # shares with its parent.
        self._left, self._store, self._loop = self._store, None, None

    async def _run(self, prepared: Sequence[Prepared]) -> list[Receipt]:
        if self._store is None:
            _import()
        emission, patience = Emission(self.config, self._routes, prepared), Patience()
        steps = emission.steps()
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
                self._store, self._loop = AsyncStore(client, self.config.redis.prefix), loop
        return self._store


def _load(url: str | None) -> Config:
    if url is not None:
        try:
            RedisConfig(url=url)
        except ConfigError as error:
            # Before `load`, which takes whatever was given for an option of the command line.
            message = str(error).removesuffix(".")
            raise ConfigError(f"{message} (the url given to the notifier).") from None
    return Config.load(overrides={"redis.url": url})
