"""`status`: how things stand."""

from typing import Any

import click

from kasplo_notify.cli.moments import iso
from kasplo_notify.cli.root import Command
from kasplo_notify.cli.session import Session, pass_session
from kasplo_notify.cli.states import state_cell, state_json
from kasplo_notify.cli.text import Cell, Painted, document, fields, table
from kasplo_notify.quantities import counted, span
from kasplo_notify.status import EndpointStatus, Overview, read_overview


@click.command(cls=Command)
@click.argument("endpoint", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@pass_session
def status(session: Session, endpoint: str | None, *, as_json: bool) -> None:
    """Show what waits, retries and died, and how late.

    LATE is for how long the oldest event that should have been sent is overdue. Removed endpoints are shown while
    there are dead letters of them.

    Example: kasplo-notify status crm
    """
    with session.registry() as registry:
        overview = read_overview(registry, endpoint, removed=True)
    if as_json:
        document(_json(overview))
        return
    if overview.endpoints:
        rows = [_row(each) for each in overview.endpoints]
        table(["ENDPOINT", "STATE", "WAITING", "RETRYING", "DEAD", "LATE"], rows)
    else:
        click.echo("No endpoint is registered. The first: kasplo-notify endpoint add NAME URL")
    click.echo()
    counters = overview.counters
    unrouted = counters.get("unrouted", 0)
    dropped = counters.get("dropped", 0)
    summary: list[tuple[str, Cell]] = [
        ("workers", _workers(overview)),
        ("emitted", f"{counters.get('emitted', 0):,}"),
        ("unrouted", Painted(f"{unrouted:,} (matched no endpoint)", "yellow") if unrouted else "0"),
    ]
    if dropped:
        summary.append(("dropped", Painted(f"{dropped:,} dead letters over the bounds of dead.*", "yellow")))
    fields(summary, indent="")


def _row(each: EndpointStatus) -> list[Cell]:
    backlog = each.backlog
    late = backlog.late_ms // 1000
    return [
        each.name,
        state_cell(each),
        backlog.waiting,
        backlog.retrying,
        Painted(backlog.dead, "red") if backlog.dead else 0,
        span(late) if late else "-",
    ]


def _workers(overview: Overview) -> Cell:
    if overview.idle + overview.busy:
        return f"{counted(overview.busy, 'busy', 'busy')}, {counted(overview.idle, 'idle', 'idle')}"
    return Painted("none: nothing is delivered until `kasplo-notify worker` runs", "red")


def _json(overview: Overview) -> dict[str, Any]:
    return {
        "at": iso(overview.now_ms),
        "endpoints": [
            {"name": each.name}
            | state_json(each)
            | {
                "waiting": each.backlog.waiting,
                "retrying": each.backlog.retrying,
                "dead": each.backlog.dead,
                "late_seconds": each.backlog.late_ms / 1000,
            }
            for each in overview.endpoints
        ],
        "workers": {"idle": overview.idle, "busy": overview.busy},
        "emitted": overview.counters.get("emitted", 0),
        "unrouted": overview.counters.get("unrouted", 0),
        "dropped": overview.counters.get("dropped", 0),
    }
