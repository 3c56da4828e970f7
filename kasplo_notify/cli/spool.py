"""`spool` and `spool flush`: the events that wait in local files because Redis did not take them."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from kasplo_notify.carrier import Carrier
from kasplo_notify.cli.ask import progress
from kasplo_notify.cli.errors import FAILED, complain
from kasplo_notify.cli.moments import iso, local
from kasplo_notify.cli.root import Group, global_options
from kasplo_notify.cli.session import Session, pass_session
from kasplo_notify.cli.text import Cell, Painted, document, fields, printable, table
from kasplo_notify.config import Config
from kasplo_notify.errors import ConfigError
from kasplo_notify.quantities import counted, span
from kasplo_notify.spool.flusher import Flusher
from kasplo_notify.spool.inventory import Item, take_inventory
from kasplo_notify.spool.writer import Writer


class _Spool(Group):
    """It does something without a command, too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += global_options(hidden=True)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return click.Group.parse_args(self, ctx, args)


@click.group(cls=_Spool, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@pass_session
@click.pass_context
def spool(ctx: click.Context, session: Session, *, as_json: bool) -> None:
    """Show what waits in the spool, or send it.

    The spool (spool.path) is a folder of this machine where emit keeps events while Redis is away or full. The
    processes that emit send them by themselves when Redis is back.

    Example: kasplo-notify spool
    """
    if ctx.invoked_subcommand is not None:
        return
    folder = _folder(session.config)
    items = take_inventory(folder)
    if as_json:
        document(_json(session.config, items))
    else:
        _show(session.config, items)


@spool.command()
@pass_session
def flush(session: Session) -> None:
    """Send what no living process holds.

    For what is left when no process emits any more: those that do send it by themselves. Interrupted, or repeated
    within an hour, it sends nothing twice. Exit codes: 0 everything is sent, 1 some is left, 4 Redis is away or full.

    Example: kasplo-notify spool flush
    """
    config = session.config
    folder = _folder(config)
    carrier, out = Carrier(config), progress()
    sent = 0

    def told(events: int) -> None:
        nonlocal sent
        sent = events
        out.status(f"{events:,} sent")

    flusher = Flusher(folder, carrier.push, Writer(folder, config.spool.max_bytes), told=told)
    try:
        done = flusher.round()
    except KeyboardInterrupt:
        out.done()
        complain(f"interrupted; {counted(sent, 'event')} sent, the others are still in the spool")
        raise
    finally:
        carrier.close()
    out.done()
    left = f"; {counted(done.left, 'segment')} left" if done.left else ""
    click.echo(f"{counted(done.pushed, 'event')} sent{left}.", err=True)
    if done.error is not None:
        raise done.error
    if done.left:
        click.echo("See who has it, or what is wrong with it: kasplo-notify spool", err=True)
        click.get_current_context().exit(FAILED)


def _folder(config: Config) -> Path:
    if config.spool.path is None:
        raise ConfigError(
            "There is no spool: set spool.path (KASPLO_SPOOL__PATH) to a folder of this machine, for this command and "
            "for the processes that emit."
        )
    return config.spool.path


def _show(config: Config, items: Sequence[Item]) -> None:
    if items:
        table(["SEGMENT", "EVENTS", "BYTES", "SINCE", "IN USE BY"], [_row(item) for item in items])
        click.echo()
    waiting = [item for item in items if not item.segment.aside]
    events = sum(item.events or 0 for item in waiting)
    summary: list[tuple[str, Cell]] = [
        ("folder", str(config.spool.path)),
        ("events", f"{events:,} in {counted(len(waiting), 'segment')}" if waiting else "0"),
        ("bytes", f"{_bytes(items):,} of {config.spool.max_bytes:,}"),
    ]
    if waiting:
        summary.append(("oldest", span(_oldest(waiting))))
    if aside := len(items) - len(waiting):
        summary.append(("broken", Painted(f"{counted(aside, 'segment')} kept aside; all else of it is sent", "red")))
    fields(summary, indent="")


def _row(item: Item) -> list[Cell]:
    events: Cell = "not readable" if item.events is None else item.events
    user = "-"
    if item.segment.aside:
        user = f"nobody: {item.broken:,} bytes are damaged"
    elif item.in_use:
        user = f"process {item.segment.pid}" if item.writer_lives else "a process that sends it"
    return [item.segment.name, events, item.segment.size, local(item.segment.created * 1000), user]


def _json(config: Config, items: Sequence[Item]) -> dict[str, Any]:
    waiting = [item for item in items if not item.segment.aside]
    return {
        # It may have bytes that are no text, which JSON cannot say.
        "path": printable(str(config.spool.path)),
        "bytes": _bytes(items),
        "max_bytes": config.spool.max_bytes,
        "events": sum(item.events or 0 for item in waiting),
        "oldest_seconds": _oldest(waiting) if waiting else None,
        "segments": [
            {
                "name": item.segment.name,
                "events": item.events,
                "bytes": item.segment.size,
                "since": iso(int(item.segment.created * 1000)),
                "pid": item.segment.pid,
                "pid_lives": item.writer_lives,
                "in_use": item.in_use,
                "broken_bytes": item.broken,
                "kept_aside": item.segment.aside,
            }
            for item in items
        ],
    }


def _bytes(items: Sequence[Item]) -> int:
    return sum(item.segment.size for item in items)


def _oldest(items: Sequence[Item]) -> float:
    """Seconds since the oldest segment was begun."""
    return max(0.0, time.time() - min(item.segment.created for item in items))
