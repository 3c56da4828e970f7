"""`events`: the catalogue."""

from collections.abc import Mapping
from typing import Any

import click

from kasplo_notify.catalogue import EVENT_TYPES, EventType
from kasplo_notify.cli.event_types import EVENT_TYPE
from kasplo_notify.cli.root import Command
from kasplo_notify.cli.text import Cell, document, json_text, table


@click.command(cls=Command)
@click.argument("event_type", metavar="[TYPE]", required=False, type=EVENT_TYPE)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def events(event_type: str | None, *, as_json: bool) -> None:
    """Show the event types, or the fields of one.

    Example: kasplo-notify events engine_click
    """
    if event_type is not None:
        if as_json:
            document(_json(EVENT_TYPES[event_type]))
        else:
            _show(EVENT_TYPES[event_type])
        return
    if as_json:
        document([_json(each) for each in EVENT_TYPES.values()])
        return
    rows: list[list[Cell]] = [
        [each.name, each.title, sum(field.required for field in each.fields), len(each.fields)]
        for each in EVENT_TYPES.values()
    ]
    table(["TYPE", "MEANING", "REQUIRED", "FIELDS"], rows)
    click.echo("\nThe fields of one, with an example: kasplo-notify events engine_click")


def _show(event_type: EventType) -> None:
    click.echo(f"{event_type.name}: {event_type.title}\n")
    rows = [
        [field.name, "yes" if field.required else "no", field.type, field.description] for field in event_type.fields
    ]
    table(["FIELD", "REQUIRED", "TYPE", "MEANING"], rows)
    click.echo("\nExample, as a subscriber gets it, and as `kasplo-notify emit` takes it:")
    click.echo(json_text(dict(event_type.example)))


def _json(event_type: EventType) -> Mapping[str, Any]:
    return {
        "event_type": event_type.name,
        "title": event_type.title,
        "fields": [
            {
                "name": field.name,
                "type": field.type,
                "required": field.required,
                "description": field.description,
                "source": field.source,
            }
            for field in event_type.fields
        ],
        "example": dict(event_type.example),
    }
