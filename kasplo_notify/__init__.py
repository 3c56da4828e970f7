"""kasplo-notify: a webhook sender for mail engines.

``emit()`` queues an event; thirty seconds later every subscriber that wants it has it, as a POST or a GET with a
JSON body, and whatever is not answered with 2xx is requeued with backoff until it is.
"""

from collections.abc import Iterable, Mapping

from kasplo_notify.config import Config
from kasplo_notify.emission import Receipt
from kasplo_notify.errors import ConfigError, InvalidEvent, NotifyError, QueueFull, StorageUnavailable
from kasplo_notify.forking import starting
from kasplo_notify.notifier import AsyncNotifier, Notifier

__version__ = "0.1.0"

__all__ = [
    "AsyncNotifier",
    "Config",
    "ConfigError",
    "InvalidEvent",
    "Notifier",
    "NotifyError",
    "QueueFull",
    "Receipt",
    "StorageUnavailable",
    "__version__",
    "emit",
    "emit_many",
]

_default: Notifier | None = None


def _notifier() -> Notifier:
    global _default  # noqa: PLW0603 - the one default notifier of the process, as logging has one root
    if _default is None:
        with starting():
            if _default is None:
                _default = Notifier()
    return _default


def emit(
    event: str | Mapping[str, object],
    *,
    mail_class: str | None = None,
    event_id: str | None = None,
    **fields: object,
) -> Receipt:
    """Emit one event through the default notifier, which is configured by file and environment at its first use.

    Arguments and errors are those of :meth:`Notifier.emit`.
    """
    return _notifier().emit(event, mail_class=mail_class, event_id=event_id, **fields)


def emit_many(events: Iterable[Mapping[str, object]]) -> list[Receipt]:
    """Emit many events through the default notifier; as :meth:`Notifier.emit_many`."""
    return _notifier().emit_many(events)
