"""Notifier and AsyncNotifier: what a mail engine calls. They carry the steps of ``emission.py`` to Redis."""

import asyncio
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from kasplo_notify import embedded
from kasplo_notify.config import Config
from kasplo_notify.emission import Emission, Prepared, Receipt, prepare_many, prepare_one
from kasplo_notify.errors import PushError, StorageUnavailable

if TYPE_CHECKING:
    from kasplo_notify.routing import RouteTable
    from kasplo_notify.store import AsyncStore, Call, Store

# A call gives up within a second: a try takes TIMEOUT at most, and none begins after GIVE_UP.
TIMEOUT: Final = 0.4
GIVE_UP: Final = 0.5
CONNECTIONS: Final = 8


class _Base:
    """What both notifiers share: the configuration and the cached routes."""

    def __init__(self, url: str | None = None, *, config: Config | None = None) -> None:
        overrides = {"redis.url": url} if url is not None else None
        self.config = Config.load(overrides=overrides) if config is None else config
        self._routes: RouteTable | None = None

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

    def __init__(self, url: str | None = None, *, config: Config | None = None) -> None:
        super().__init__(url, config=config)
        self._store: Store | None = None
        self._lock = threading.Lock()

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

        All are validated before the first is pushed. They are pushed in chunks of 500, in order, each as one.

        Raises:
            InvalidEvent: One of them is not as EVENTS.md says; nothing was queued.
            StorageUnavailable, QueueFull: Not all were pushed; `event_ids` holds the ids of all and `pushed` how
                many are certainly queued. The same call with these ids completes it without duplicates.
        """
        return self._run(prepare_many(events))

    def close(self) -> None:
        """Close the connections. The next emit opens them again."""
        with self._lock:
            store, self._store = self._store, None
        if store is not None:
            store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, prepared: Sequence[Prepared]) -> list[Receipt]:
        emission = Emission(self.config, self._routes)
        steps = emission.steps(prepared)
        try:
            step = next(steps)
            while True:
                try:
                    reply = self._perform(step)
                except PushError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(reply)
        except StopIteration as done:
            self._routes = emission.routes
            receipts: list[Receipt] = done.value
            return receipts

    def _perform(self, step: "Call | str") -> Any:
        started = time.monotonic()
        try:
            return self._ask(step)
        except StorageUnavailable:
            from tenacity import Retrying

            return Retrying(**_patience(started))(self._ask, step)

    def _ask(self, step: "Call | str") -> Any:
        store = self._connected()
        if isinstance(step, str):
            return store.read(("GET", store.keys("version")), ("GET", store.keys.routes))
        return store.run(step)

    def _connected(self) -> "Store":
        with self._lock:
            if self._store is None:
                from kasplo_notify.store import Store, connect

                client = connect(self._url(), timeout=TIMEOUT, connections=CONNECTIONS)
                self._store = Store(client, self.config.redis.prefix)
            return self._store


class AsyncNotifier(_Base):
    """As :class:`Notifier`, awaited. It may be used from one event loop after another.

    Cancelling an emit stops the waiting, not the emit: it may have been, or still be, pushed.
    """

    def __init__(self, url: str | None = None, *, config: Config | None = None) -> None:
        super().__init__(url, config=config)
        self._store: AsyncStore | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

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

    async def _run(self, prepared: Sequence[Prepared]) -> list[Receipt]:
        emission = Emission(self.config, self._routes)
        steps = emission.steps(prepared)
        try:
            step = next(steps)
            while True:
                try:
                    reply = await self._perform(step)
                except PushError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(reply)
        except StopIteration as done:
            self._routes = emission.routes
            receipts: list[Receipt] = done.value
            return receipts

    async def _perform(self, step: "Call | str") -> Any:
        started = time.monotonic()
        try:
            return await self._ask(step)
        except StorageUnavailable:
            from tenacity import AsyncRetrying

            return await AsyncRetrying(**_patience(started))(self._ask, step)

    async def _ask(self, step: "Call | str") -> Any:
        store = self._connected()
        if isinstance(step, str):
            return await store.read(("GET", store.keys("version")), ("GET", store.keys.routes))
        return await store.run(step)

    def _connected(self) -> "AsyncStore":
        loop = asyncio.get_running_loop()
        if self._store is None or self._loop is not loop:
            from kasplo_notify.store import AsyncStore, connect_async

            client = connect_async(self._url(), timeout=TIMEOUT, connections=CONNECTIONS)
            self._store, self._loop = AsyncStore(client, self.config.redis.prefix), loop
        return self._store


def _patience(started: float) -> dict[str, Any]:
    """How tenacity retries what Redis did not answer: quickly, and never past a second since `started`.

    Each script is idempotent, so a try whose reply was lost may be repeated.
    """
    from tenacity import retry_if_exception_type, stop_before_delay, wait_random_exponential

    return {
        "retry": retry_if_exception_type(StorageUnavailable),
        "stop": stop_before_delay(max(0.0, GIVE_UP - (time.monotonic() - started))),
        "wait": wait_random_exponential(multiplier=0.02, max=0.2),
        "reraise": True,
    }
