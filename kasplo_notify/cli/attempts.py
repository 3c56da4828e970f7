"""`attempts`: the last requests to an endpoint, and what was answered."""

from itertools import islice
from typing import Any, Final

import click

from kasplo_notify.cli.moments import iso, local
from kasplo_notify.cli.numbers import MOST, Whole
from kasplo_notify.cli.root import Command
from kasplo_notify.cli.session import Session, pass_session
from kasplo_notify.cli.text import Cell, Painted, clipped, document, printable, table
from kasplo_notify.status import Attempt, read_attempts

_SHOWN: Final = 60


@click.command(cls=Command)
@click.argument("endpoint")
@click.option("--failed", is_flag=True, help="Only those that were not answered with 2xx.")
@click.option("-n", "limit", type=Whole(1, MOST), default=20, show_default=True, metavar="N", help="At most N.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@pass_session
def attempts(session: Session, endpoint: str, *, failed: bool, limit: int, as_json: bool) -> None:
    """Show the last requests to an endpoint.

    The latest first, with what came of them. Failures are all kept, up to attempts.keep; of successes a sample.

    Example: kasplo-notify attempts crm --failed -n 5
    """
    with session.registry() as registry:
        registry.get(endpoint)
        every = read_attempts(registry.store, endpoint)
        found = list(islice((each for each in every if not failed or each.result != "delivered"), limit))
    if as_json:
        document([_json(each) for each in found])
    elif found:
        table(["AT", "EVENT", "ATTEMPT", "STATUS", "MS", "RESULT", "ANSWER"], [_row(each) for each in found])
    else:
        click.echo(f"No {'failed ' if failed else ''}attempt is recorded for endpoint {endpoint}.")


def _row(each: Attempt) -> list[Cell]:
    return [
        local(each.at_ms),
        each.event_id,
        each.number,
        "-" if each.status is None else str(each.status),
        each.ms,
        each.result if each.result == "delivered" else Painted(f"{each.result} ({each.reason})", "red"),
        # Our own words say at their end what to do.
        each.detail or clipped(printable(each.excerpt), _SHOWN),
    ]


def _json(each: Attempt) -> dict[str, Any]:
    return {
        "at": iso(each.at_ms),
        "event_id": each.event_id,
        "attempt": each.number,
        "status": each.status,
        "duration_ms": each.ms,
        "result": each.result,
        "reason": each.reason,
        "detail": each.detail or None,
        "excerpt": each.excerpt.decode(errors="replace"),
    }
