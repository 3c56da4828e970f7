"""A double for the tests of those who embed kasplo-notify."""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import orjson

from kasplo_notify.emission import Prepared, Receipt, prepare_many, prepare_one


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event that was emitted to a :class:`RecordingNotifier`.

    Attributes:
        id: Its event id, as in the receipt.
        mail_class: Its mail class; empty when none was given.
        event_type: Its type.
        body: The bytes that would have been delivered.
    """

    id: str
    mail_class: str
    event_type: str
    body: bytes

    @property
    def fields(self) -> dict[str, Any]:
        """The delivered JSON, read back."""
        fields: dict[str, Any] = orjson.loads(self.body)
        return fields


class RecordingNotifier:
    """Validates like :class:`kasplo_notify.Notifier` and routes nothing: it only records.

    Attributes:
        events: What was emitted, in order.
    """

    def __init__(self) -> None:
        self.events: list[Recorded] = []

    def emit(
        self,
        event: str | Mapping[str, object],
        *,
        mail_class: str | None = None,
        event_id: str | None = None,
        **fields: object,
    ) -> Receipt:
        """As :meth:`Notifier.emit`; the receipt names no endpoint.

        Raises:
            InvalidEvent: As the real one.
        """
        return self._record([prepare_one(event, {**fields, "mail_class": mail_class, "event_id": event_id})])[0]

    def emit_many(self, events: Iterable[Mapping[str, object]]) -> list[Receipt]:
        """As :meth:`Notifier.emit_many`: nothing is recorded unless all are valid."""
        return self._record(prepare_many(events))

    def close(self) -> None:
        """There is nothing to close."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _record(self, prepared: Iterable[Prepared]) -> list[Receipt]:
        receipts = []
        known = {event.id for event in self.events}
        for item in prepared:
            event_id = item.own_id or f"msg_{uuid.uuid4().hex[:24]}"
            repeated = event_id in known
            if not repeated:
                known.add(event_id)
                self.events.append(Recorded(event_id, item.mail_class, item.event.event_type, item.event.body))
            receipts.append(Receipt(event_id, (), repeated))
        return receipts
