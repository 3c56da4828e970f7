"""Notifier and AsyncNotifier: what a mail engine calls. ``carrier.py`` carries the events to Redis.

With a spool (`spool.path`) they are kept in local files while Redis does not take them: ``spool/keeper.py``.
"""

import asyncio
import weakref
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from kasplo_notify.carrier import AsyncCarrier, Carrier
from kasplo_notify.config import Config, RedisConfig
from kasplo_notify.emission import Prepared, Receipt, prepare_many, prepare_one
from kasplo_notify.errors import ConfigError, PushError
from kasplo_notify.forking import disown_after_fork, starting

if TYPE_CHECKING:
    from kasplo_notify.spool.keeper import Keeper


class _Base:
    """What both notifiers share: the configuration, and the spool if there is one."""

    def __init__(self, url: str | None = None, *, config: Config | None = None) -> None:
        if config is not None and (url is not None or not isinstance(config, Config)):
            raise ConfigError("a notifier takes a Redis URL, or config=Config(...), not both and nothing else")
        with starting():
            self.config = _load(url) if config is None else config
            self._keeper = self._spool()

    def disown(self) -> None:
        """Begin anew in a forked child. It is called by itself; the connections stay the parent's."""
        raise NotImplementedError

    def _spool(self) -> "Keeper | None":
        if self.config.spool.path is None:
            return None
        from kasplo_notify.spool.keeper import Keeper

        keeper = Keeper(self.config)
        # Also of a notifier that nobody closed: its thread ends with it, and at the end of the interpreter.
        weakref.finalize(self, keeper.close)
        return keeper


class Notifier(_Base):
    """Emits events from any number of threads; usable after a fork.

    With a spool, an event that Redis does not take within a second (or refuses, being full) is kept in a local file,
    and its receipt says `spooled`. From then on events go there at once, without a try, until a thread of this
    notifier has reached Redis again: it looks after a second, then in intervals that grow to five.

    Args:
        url: A Redis URL; the configuration's when None.
        config: A whole configuration, instead of the one that is loaded from file and environment.

    Raises:
        ConfigError: The configuration is wrong, or the spool's folder cannot be used.
    """

    def __init__(self, url: str | None = None, *, config: Config | None = None) -> None:
        super().__init__(url, config=config)
        self._carrier = Carrier(self.config)
        disown_after_fork(self)

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
            StorageUnavailable: Redis did not answer within a second, and there is no spool, or it failed as well;
                `event_ids` completes the call later.
            QueueFull: Redis has no memory left, and there is no spool, or it failed as well.
        """
        prepared = prepare_one(event, {**fields, "mail_class": mail_class, "event_id": event_id})
        return self._push([prepared])[0]

    def emit_many(self, events: Iterable[Mapping[str, object]]) -> list[Receipt]:
        """Queue many events; each a mapping that may hold `mail_class` and `event_id` beside its fields.

        All are validated before the first is pushed. They are pushed in order, in chunks of at most 500 events
        and 2,000 copies (one for each endpoint), each as one.

        Raises:
            InvalidEvent: One of them is not as EVENTS.md says; nothing was queued.
            StorageUnavailable, QueueFull: Not all were pushed or kept; `event_ids` holds the ids of all and `pushed`
                how many are certainly queued. The same call with these ids completes it without duplicates.
        """
        return self._push(prepare_many(events))

    def close(self) -> None:
        """Close the connections. The next emit opens them again. What is in the spool stays there meanwhile."""
        if self._keeper is not None:
            self._keeper.close()
        self._carrier.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def disown(self) -> None:
        self._carrier.disown()
        if self._keeper is not None:
            self._keeper.disown()

    def _push(self, prepared: Sequence[Prepared]) -> list[Receipt]:
        keeper = self._keeper
        if keeper is None:
            return self._carrier.push(prepared)
        if keeper.away and prepared:
            prepared, kept = keeper.try_to_keep(prepared)
            if kept is not None:
                return kept
        emission = self._carrier.emission(prepared)
        try:
            receipts = self._carrier.carry(emission)
        except PushError as error:
            return keeper.keep_rest(prepared, emission.receipts, error)
        keeper.start()
        return receipts


class AsyncNotifier(_Base):
    """As :class:`Notifier`, awaited. It may be used from one event loop after another.

    Cancelling an emit stops the waiting, not the emit: it may have been, or still be, pushed or kept.
    """

    def __init__(self, url: str | None = None, *, config: Config | None = None) -> None:
        super().__init__(url, config=config)
        self._carrier = AsyncCarrier(self.config)
        disown_after_fork(self)

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
        return (await self._push([prepared]))[0]

    async def emit_many(self, events: Iterable[Mapping[str, object]]) -> list[Receipt]:
        """As :meth:`Notifier.emit_many`."""
        return await self._push(prepare_many(events))

    async def close(self) -> None:
        """As :meth:`Notifier.close`."""
        if self._keeper is not None:
            await asyncio.to_thread(self._keeper.close)
        await self._carrier.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def disown(self) -> None:
        self._carrier.disown()
        if self._keeper is not None:
            self._keeper.disown()

    async def _push(self, prepared: Sequence[Prepared]) -> list[Receipt]:
        keeper = self._keeper
        if keeper is None:
            return await self._carrier.push(prepared)
        # A disk may take its time: the loop does not wait for it.
        if keeper.away and prepared:
            prepared, kept = await asyncio.to_thread(keeper.try_to_keep, prepared)
            if kept is not None:
                return kept
        emission = self._carrier.emission(prepared)
        try:
            receipts = await self._carrier.carry(emission)
        except PushError as error:
            return await asyncio.to_thread(keeper.keep_rest, prepared, emission.receipts, error)
        keeper.start()
        return receipts


def _load(url: str | None) -> Config:
    if url is not None:
        try:
            RedisConfig(url=url)
        except ConfigError as error:
            # Before `load`, which takes whatever was given for an option of the command line.
            message = str(error).removesuffix(".")
            raise ConfigError(f"{message} (the url given to the notifier).") from None
    return Config.load(overrides={"redis.url": url})
