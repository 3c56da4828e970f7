"""Notifier and AsyncNotifier as one: the tests of `emit` are written once."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Protocol

from kasplo_notify import AsyncNotifier, Config, Notifier, Receipt


class Emitter(Protocol):
    """Either notifier, called as one calls a function."""

    def emit(
        self,
        event: str | Mapping[str, object],
        *,
        mail_class: str | None = None,
        event_id: str | None = None,
        **fields: object,
    ) -> Receipt: ...

    def emit_many(self, events: Iterable[Mapping[str, object]]) -> list[Receipt]: ...

    def close(self) -> None: ...


class ThreadsEmitter(Notifier):
    """The notifier for threads, which needs no adapting."""

    def __init__(self, config: Config) -> None:
        super().__init__(config=config)


class AsyncioEmitter:
    """The notifier for asyncio, on a loop of its own."""

    def __init__(self, config: Config) -> None:
        self._loop = asyncio.new_event_loop()
        self._notifier = AsyncNotifier(config=config)

    def emit(
        self,
        event: str | Mapping[str, object],
        *,
        mail_class: str | None = None,
        event_id: str | None = None,
        **fields: object,
    ) -> Receipt:
        emitted = self._notifier.emit(event, mail_class=mail_class, event_id=event_id, **fields)
        return self._loop.run_until_complete(emitted)

    def emit_many(self, events: Iterable[Mapping[str, object]]) -> list[Receipt]:
        return self._loop.run_until_complete(self._notifier.emit_many(events))

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self._loop.run_until_complete(self._notifier.close())
        self._loop.close()
