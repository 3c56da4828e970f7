"""`route`: which endpoints would get an event, and why."""

import click

from kasplo_notify.cli.event_types import EVENT_TYPE
from kasplo_notify.cli.root import Command
from kasplo_notify.cli.session import Session, pass_session
from kasplo_notify.cli.text import Cell, Painted, document, table
from kasplo_notify.events import check_mail_class
from kasplo_notify.quantities import counted


@click.command(cls=Command)
@click.option("--mail-class", metavar="C", help="Mail class of the event; without it, an event that has none.")
@click.option("--event-type", metavar="T", type=EVENT_TYPE, required=True, help="Type of the event.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@pass_session
def route(session: Session, *, mail_class: str | None, event_type: str, as_json: bool) -> None:
    """Show which endpoints would get an event, and why.

    Nothing is sent.

    Example: kasplo-notify route --mail-class promo --event-type engine_click
    """
    mail_class = check_mail_class(mail_class)
    with session.registry() as registry:
        matches = registry.routes().explain(mail_class, event_type)
    if as_json:
        document(
            {
                "mail_class": mail_class,
                "event_type": event_type,
                "endpoints": [
                    {"name": match.route.endpoint, "matched": match.matched, "reason": match.reason}
                    for match in matches
                ],
            }
        )
        return
    rows: list[list[Cell]] = [
        [match.route.endpoint, Painted("yes", "green") if match.matched else "no", match.reason] for match in matches
    ]
    if rows:
        table(["ENDPOINT", "GETS IT", "WHY"], rows)
        click.echo()
    matched = sum(match.matched for match in matches)
    if matched:
        click.echo(f"{counted(matched, 'endpoint gets', 'endpoints get')} it, of {len(matches):,}.")
    else:
        click.echo("No endpoint gets it: such an event is counted as unrouted, and kept nowhere.")
