"""Which dead letters a command of `dead` means, and how they are written as JSON."""

from collections.abc import Callable
from typing import Any

import click
import orjson

from kasplo_notify.cli.errors import FAILED, Refused, shortened
from kasplo_notify.cli.event_types import EVENT_TYPE
from kasplo_notify.cli.moments import Moment, iso
from kasplo_notify.dead import DeadLetter, Selection


def selection_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The argument and options that say which dead letters are meant; they arrive as one `selection`."""

    @click.argument("endpoint", required=False)
    @click.option("--since", type=Moment(), metavar="T", help="Died at or after: ISO 8601, or 30m, 2h, 3d ago.")
    @click.option("--until", type=Moment(), metavar="T", help="Died at or before.")
    @click.option("--event-type", type=EVENT_TYPE, metavar="T", help="Only of this event type.")
    @click.option("--id", "event_id", metavar="ID", help="Only the event with this id.")
    def select(
        *args: Any,
        endpoint: str | None,
        since: int | None,
        until: int | None,
        event_type: str | None,
        event_id: str | None,
        **options: Any,
    ) -> Any:
        if since is not None and until is not None and until < since:
            raise Refused("--until is before --since: nothing died between them.")
        selection = Selection(
            endpoint=endpoint, since_ms=since, until_ms=until, event_type=event_type, event_id=event_id
        )
        return function(*args, selection=selection, **options)

    select.__name__, select.__doc__ = function.__name__, function.__doc__
    # click keeps them in the order in which decorators run, the last line first: these stand in front of the others.
    select.__click_params__[:0] = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]  # click sets it
    return select


def fail_if_missing(selection: Selection, found: int) -> None:
    """An event that was asked for by its id, and is not there: the exit code says so."""
    if selection.event_id is not None and not found:
        click.echo(shortened(f"No dead letter has the event id {selection.event_id}."), err=True)
        click.get_current_context().exit(FAILED)


def letter_json(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter for programs."""
    event = letter.event
    return {
        "endpoint": letter.endpoint,
        "event_id": event.id if event else None,
        "event_type": letter.event_type or None,
        "mail_class": event.mail_class if event else None,
        "reason": letter.reason,
        "detail": letter.detail,
        "attempts": letter.attempts,
        "died_at": iso(letter.died_ms),
        "event": _body(letter),
    }


def _body(letter: DeadLetter) -> Any:
    """The event as it stands; None when it is not JSON."""
    if letter.event is None:
        return None
    try:
        return orjson.loads(letter.event.body)
    except orjson.JSONDecodeError:
        return None


def letter_for_emit(letter: DeadLetter) -> dict[str, Any] | None:
    """The event as a line that `emit` takes; None when it is not readable.

    Without its id: for an hour `emit` would take it for a repetition and leave it alone.
    """
    body, event = _body(letter), letter.event
    if event is None or not isinstance(body, dict):
        return None
    return ({"mail_class": event.mail_class} if event.mail_class else {}) | body
