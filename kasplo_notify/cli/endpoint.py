"""`endpoint ...`: the registry of subscribers."""

import click

from kasplo_notify.cli.apply import apply
from kasplo_notify.cli.ask import ask
from kasplo_notify.cli.export import export
from kasplo_notify.cli.registration import add, rotate_secret, update
from kasplo_notify.cli.removal import sweep
from kasplo_notify.cli.root import Group
from kasplo_notify.cli.sample import test
from kasplo_notify.cli.session import Session, pass_session
from kasplo_notify.cli.states import record_json, record_rows, state_cell, state_json
from kasplo_notify.cli.text import Cell, document, fields, table
from kasplo_notify.quantities import counted
from kasplo_notify.status import EndpointStatus, read_overview


@click.group(cls=Group)
def endpoint() -> None:
    """Register, change, pause and remove subscribers.

    Example: kasplo-notify endpoint add crm https://crm.example.com/hook --mail-class promo
    """


endpoint.add_command(add)


@endpoint.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@pass_session
def list_endpoints(session: Session, *, as_json: bool) -> None:
    """List the endpoints.

    Example: kasplo-notify endpoint list
    """
    with session.registry() as registry:
        endpoints = read_overview(registry).endpoints
    if as_json:
        document([_json(status) for status in endpoints])
        return
    if not endpoints:
        click.echo("No endpoint is registered. The first: kasplo-notify endpoint add NAME URL")
        return
    rows: list[list[Cell]] = []
    for status in endpoints:
        record = status.endpoint
        if record is None:
            rows.append([status.name, state_cell(status), "", "", "", "register it again with `endpoint add`"])
            continue
        how = f"{record.method} {record.format}"
        types = ", ".join(record.event_types) or "all"
        rows.append([status.name, state_cell(status), how, ", ".join(record.mail_classes), types, record.url])
    table(["NAME", "STATE", "SENDS", "MAIL CLASSES", "EVENT TYPES", "URL"], rows)


@endpoint.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@pass_session
def show(session: Session, name: str, *, as_json: bool) -> None:
    """Show one endpoint.

    Its record without its secrets, its state and its backlog.

    Example: kasplo-notify endpoint show crm
    """
    with session.registry() as registry:
        (status,) = read_overview(registry, name).endpoints
    if as_json:
        document(_json(status))
        return
    click.echo(name)
    rows: list[tuple[str, Cell]] = [("state", state_cell(status))]
    if status.endpoint is None:
        rows.append(("record", f"{status.broken}; register it again with `endpoint add`"))
    else:
        rows += record_rows(status.endpoint, session.config, status.now_ms / 1000)
    backlog = status.backlog
    rows.append(("backlog", f"{backlog.waiting:,} waiting, {backlog.retrying:,} retrying, {backlog.dead:,} dead"))
    fields(rows)


endpoint.add_command(update)


@endpoint.command()
@click.argument("name")
@pass_session
def pause(session: Session, name: str) -> None:
    """Send nothing until resumed; keep the events.

    Example: kasplo-notify endpoint pause crm
    """
    with session.registry() as registry:
        reason = registry.pause(name)
        (status,) = read_overview(registry, name).endpoints
    if reason != "operator":
        click.echo(f"Endpoint {name} sends nothing already: {status.pause_reason or reason}.")
        return
    held = counted(status.backlog.waiting + status.backlog.retrying, "event")
    click.echo(f"Endpoint {name} is paused; it keeps {held}. To go on: kasplo-notify endpoint resume {name}")


@endpoint.command()
@click.argument("name")
@pass_session
def resume(session: Session, name: str) -> None:
    """Send what waits, at once.

    A pause, an open breaker, a Retry-After and the delays of what was requeued are forgotten.

    Example: kasplo-notify endpoint resume crm
    """
    with session.registry() as registry:
        held_up = registry.resume(name)
        (status,) = read_overview(registry, name).endpoints
    held = counted(status.backlog.waiting + status.backlog.retrying, "event")
    if held_up:
        click.echo(f"Endpoint {name} is resumed; it has {held} to send.")
    else:
        click.echo(f"Endpoint {name} was neither paused nor waiting; it has {held} to send.")


@endpoint.command()
@click.argument("name")
@click.option(
    "--drop-backlog", is_flag=True, help="Delete its events for good, instead of keeping them as dead letters."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_session
def remove(session: Session, name: str, *, drop_backlog: bool, yes: bool) -> None:
    """Remove an endpoint.

    It gets nothing more from now on, and its backlog becomes dead letters, unless --drop-backlog is given.

    Example: kasplo-notify endpoint remove crm
    """
    with session.registry() as registry:
        registry.get(name)
        (status,) = read_overview(registry, name).endpoints
        held = status.backlog.waiting + status.backlog.retrying
        if not held:
            fate = "It has no events that are not delivered."
        elif drop_backlog:
            fate = f"{counted(held, 'event')} not delivered yet will be deleted for good."
        else:
            fate = f"{counted(held, 'event')} not delivered yet will become dead letters."
        if not yes:
            click.echo(fate, err=True)
        ask(f"Remove endpoint {name}?", yes=yes)
        swept, left = sweep(registry, name, drop=drop_backlog)
    what = (
        f"{counted(swept, 'event')} {'deleted' if drop_backlog else 'kept as dead letters'}" if swept else "no events"
    )
    if left:
        click.echo(f"Endpoint {name} gets nothing more; so far: {what}.")
        click.echo(f"Workers hold {counted(left, 'queue')} of it and finish the removal; `endpoint list` shows when.")
    else:
        click.echo(f"Endpoint {name} is removed{f'; {what}' if swept else ''}.")
    if swept and not drop_backlog:
        click.echo(f"See them: kasplo-notify dead list {name}")


endpoint.add_command(test)
endpoint.add_command(rotate_secret)
endpoint.add_command(export)
endpoint.add_command(apply)


def _json(status: EndpointStatus) -> dict[str, object]:
    record = {"name": status.name} if status.endpoint is None else record_json(status.endpoint)
    backlog = {"waiting": status.backlog.waiting, "retrying": status.backlog.retrying, "dead": status.backlog.dead}
    return record | state_json(status) | backlog
