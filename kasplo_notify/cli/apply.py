"""`endpoint apply`: the registry as a file says it is to be."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import click

from kasplo_notify.cli.ask import ask
from kasplo_notify.cli.errors import FAILED, Refused, shortened
from kasplo_notify.cli.registration import show_secret, warn_of_expiry, written
from kasplo_notify.cli.registry_file import MAX_BYTES, faults_of, generates, read_tables, wanted
from kasplo_notify.cli.removal import sweep
from kasplo_notify.cli.root import Command
from kasplo_notify.cli.session import Session, pass_session
from kasplo_notify.cli.states import changed_rows, record_json, record_rows
from kasplo_notify.cli.text import document, fields
from kasplo_notify.config import Config
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.endpoint_checks import defaults
from kasplo_notify.errors import quoted
from kasplo_notify.quantities import counted
from kasplo_notify.status import redis_ms

if TYPE_CHECKING:
    from kasplo_notify.registry import Registry

_MOST_FAULTS: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is to be done.

    Attributes:
        tables: What the file says, by endpoint.
        now_s: Unix seconds by Redis' clock.
        added: New, or in place of a record that is not readable.
        changed: Before and after.
        removed: Names, each with its events that become dead letters.
        unchanged: How many are as the file says.
        left: Why records that are not readable, and not in the file, are left alone.
    """

    tables: Mapping[str, Any]
    now_s: float
    added: list[Endpoint]
    changed: list[tuple[Endpoint, Endpoint]]
    removed: dict[str, int]
    unchanged: int
    left: list[str]


@click.command(cls=Command)
@click.argument("file")
@click.option("--prune", is_flag=True, help="Remove what is not in FILE; backlogs become dead letters.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document, the secrets of new endpoints in it.")
@pass_session
def apply(session: Session, file: str, *, prune: bool, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Make the registry what a TOML file says.

    FILE is as `endpoint export` writes it, - is standard input. All of it is checked first; when anything is wrong,
    nothing is changed. What an endpoint's table does not say is at its default, but for a secret, which stays. A new
    endpoint without one gets one that is shown once, here. --prune asks before it removes.

    Example: kasplo-notify endpoint apply registry.toml --prune --dry-run
    """
    tables = read_tables(_content(file), "The file" if file == "-" else quoted(file))
    config = session.config
    with session.registry() as registry:
        plan = _plan(registry, config, tables, prune=prune)
        if plan.removed and not dry_run:
            fate = f"{counted(sum(plan.removed.values()), 'event')} of theirs become dead letters"
            if not yes:
                click.echo(f"Not in the file: {', '.join(plan.removed)}; {fate}.", err=True)
            ask(f"Remove {counted(len(plan.removed), 'endpoint')}?", yes=yes)
        for endpoint in [*plan.added, *(after for _, after in plan.changed)]:
            warn_of_expiry(endpoint, plan.now_s)
        if as_json:
            _as_json(registry, config, plan, dry_run=dry_run)
        else:
            _in_lines(registry, config, plan, dry_run=dry_run)
    for reason in plan.left:
        click.echo(shortened(f"Left alone: {reason}."), err=True)
    if plan.left:
        click.get_current_context().exit(FAILED)


def _content(file: str) -> bytes:
    try:
        with click.open_file(file, "rb") as opened:
            content: bytes = opened.read(MAX_BYTES + 1)
            return content
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "that is no path"
        raise Refused(f"{quoted(file)} cannot be read: {reason}.") from None


def _plan(registry: "Registry", config: Config, tables: Mapping[str, Any], *, prune: bool) -> _Plan:
    """Compare the file with the registry.

    Raises:
        Refused: Something in the file is wrong; each fault has been told.
    """
    _, endpoints, broken = registry.read()
    faults = [each for name, table in tables.items() for each in faults_of(config, name, table, endpoints.get(name))]
    if faults:
        for each in faults[:_MOST_FAULTS]:
            click.echo(shortened(each if each.endswith("?") else f"{each}."), err=True)
        raise Refused(f"The file has {counted(len(faults), 'fault')}; nothing was changed.")
    added, changed, unchanged = [], [], 0
    for name in sorted(tables):
        before = endpoints.get(name)
        after = wanted(config, name, tables[name], before, created_at=int(time.time()))
        if before is None:
            added.append(after)
        elif before == after:
            unchanged += 1
        else:
            changed.append((before, after))
    gone = [name for name, each in endpoints.items() if prune and name not in tables and not each.removing]
    backlog = registry.backlog(gone) if gone else {}
    return _Plan(
        tables=tables,
        now_s=redis_ms(registry.store) / 1000,
        added=added,
        changed=changed,
        removed={name: held.waiting + held.retrying for name, held in backlog.items()},
        unchanged=unchanged,
        left=[each.reason for each in broken if prune and each.name not in tables],
    )


def _in_lines(registry: "Registry", config: Config, plan: _Plan, *, dry_run: bool) -> None:
    usual = record_rows(defaults(config), config, plan.now_s)
    for endpoint in plan.added:
        new = endpoint if dry_run else _add(registry, endpoint)
        generated = generates(plan.tables[new.name], None)
        with written(f"Endpoint {new.name} is registered", unseen=[new] if generated else []):
            click.echo(f"add {new.name}")
            fields([row for row in record_rows(replace(new, created_at=0), config, plan.now_s) if row not in usual])
            if generated and dry_run:
                click.echo("  A secret will be generated, and shown once.")
            elif generated:
                show_secret(new)
    for before, wished in plan.changed:
        after = wished if dry_run else _change(registry, config, plan, wished.name)
        with written(f"Endpoint {after.name} is changed", unseen=[]):
            click.echo(f"change {after.name}")
            fields(changed_rows(before, after, config, plan.now_s))
    for name, held in plan.removed.items():
        click.echo(f"remove {name}")
        fields([("backlog", f"{counted(held, 'event')} to become dead letters" if held else "empty")])
        left = 0 if dry_run else sweep(registry, name, drop=False)[1]
        if left:
            click.echo(f"  Workers hold {counted(left, 'queue')} of it and finish the removal.")
    numbers = (len(plan.added), "to add"), (len(plan.changed), "to change"), (len(plan.removed), "to remove")
    done = {"to add": "added", "to change": "changed", "to remove": "removed"}
    click.echo(
        ", ".join(f"{number:,} {what if dry_run else done[what]}" for number, what in numbers)
        + f", {plan.unchanged:,} unchanged."
        + (" Nothing was done." if dry_run else "")
    )


def _as_json(registry: "Registry", config: Config, plan: _Plan, *, dry_run: bool) -> None:
    added: list[Endpoint] = []
    changed: dict[str, dict[str, str]] = {}
    removed: dict[str, int] = {}
    unseen: list[Endpoint] = []
    try:
        for endpoint in plan.added:
            added.append(endpoint if dry_run else _add(registry, endpoint))
            if not dry_run and generates(plan.tables[endpoint.name], None):
                unseen.append(endpoint)
        for before, wished in plan.changed:
            after = wished if dry_run else _change(registry, config, plan, wished.name)
            changed[after.name] = dict(changed_rows(before, after, config, plan.now_s))
        for name, held in plan.removed.items():
            removed[name] = held if dry_run else sweep(registry, name, drop=False)[0]
    finally:
        # Where one of them fails, the secrets of those before it are seen all the same.
        with written(f"{counted(len(added), 'endpoint is', 'endpoints are')} registered", unseen=unseen):
            document(
                {
                    "dry_run": dry_run,
                    "added": [record_json(each, secret=each.secret if each in unseen else None) for each in added],
                    "changed": changed,
                    "removed": removed,
                    "unchanged": plan.unchanged,
                }
            )


def _add(registry: "Registry", endpoint: Endpoint) -> Endpoint:
    registry.add(endpoint)
    return endpoint


def _change(registry: "Registry", config: Config, plan: _Plan, name: str) -> Endpoint:
    """What is kept is kept of the record as it is at that moment."""
    return registry.update(
        name, lambda current: wanted(config, name, plan.tables[name], current, created_at=current.created_at)
    )
