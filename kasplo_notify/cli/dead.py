"""`dead ...`: the events that were given up on."""

import time
from collections.abc import Iterator
from itertools import islice
from typing import Final

import click
import orjson

from kasplo_notify.cli.ask import ask, progress
from kasplo_notify.cli.errors import FAILED, Refused
from kasplo_notify.cli.moments import local
from kasplo_notify.cli.numbers import MOST, Whole
from kasplo_notify.cli.root import Group
from kasplo_notify.cli.selection import fail_if_missing, letter_for_emit, letter_json, selection_options
from kasplo_notify.cli.session import Session, pass_session
from kasplo_notify.cli.text import Cell, clipped, document, fields, json_text, printable, table
from kasplo_notify.dead import DeadLetter, DeadLetters, Selection
from kasplo_notify.errors import quoted
from kasplo_notify.quantities import counted
from kasplo_notify.registry import Registry
from kasplo_notify.status import dead_count

_SHOWN: Final = 60
_WRITE_BYTES: Final = 65_536


@click.group(cls=Group)
def dead() -> None:
    """List, replay, export or purge dead letters.

    These are the events that were given up on. Every command takes an ENDPOINT, --since, --until, --event-type
    and --id to say which; none means all. A time is ISO 8601, or how long ago: 30m, 2h, 3d.

    Example: kasplo-notify dead replay crm --since 2h
    """


@dead.command("list")
@pass_session
@selection_options
@click.option("-n", "limit", type=Whole(1, MOST), default=50, show_default=True, metavar="N", help="At most N.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def list_dead(session: Session, *, selection: Selection, limit: int, as_json: bool) -> None:
    """List dead letters.

    The oldest of each endpoint come first.

    Example: kasplo-notify dead list crm --since 3d
    """
    with session.registry() as registry:
        letters = DeadLetters(registry.store, registry)
        found = list(islice(letters.select(selection), limit))
        more = _count(registry, letters, selection) - len(found) if len(found) == limit else 0
    if as_json:
        document([letter_json(letter) for letter in found])
        return
    if found:
        table(
            ["DIED", "ENDPOINT", "EVENT", "TYPE", "ATTEMPTS", "REASON", "LAST FAILURE"], [_row(each) for each in found]
        )
    elif not more:
        click.echo("No dead letters.")
    if more > 0:
        click.echo(f"\n{counted(more, 'more', 'more')}; -n shows more of them, `dead export` writes them all.")


@dead.command()
@pass_session
@selection_options
@click.option("-n", "limit", type=Whole(1, MOST), default=10, show_default=True, metavar="N", help="At most N.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def show(session: Session, *, selection: Selection, limit: int, as_json: bool) -> None:
    """Show all about dead letters.

    Everything that is known of them, the event included.

    Example: kasplo-notify dead show crm --id msg_0123456789abcdef01234567
    """
    with session.registry() as registry:
        found = list(islice(DeadLetters(registry.store, registry).select(selection), limit))
    if as_json:
        document([letter_json(letter) for letter in found])
    else:
        for letter in found:
            _show(letter)
        if not found:
            click.echo("No dead letters.")
    fail_if_missing(selection, len(found))


@dead.command()
@pass_session
@selection_options
@click.option(
    "--pace",
    metavar="N/s",
    help="Send N a second into the queue, a tenth of a second's worth at a time; else all at once.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def replay(session: Session, *, selection: Selection, pace: str | None, yes: bool) -> None:
    """Send dead letters again.

    With the same event ids and a new set of attempts. Asks first, unless it is only one.

    Example: kasplo-notify dead replay crm --since 2h --pace 100/s
    """
    per_second = _per_second(pace)
    with session.registry() as registry:
        letters = DeadLetters(registry.store, registry)
        number = _count(registry, letters, selection)
        if number > 1:
            ask(f"Send {_dead_letters(number, selection)} again?", yes=yes)
        # A tenth of a second's worth at a time: a subscriber that has just recovered gets no bursts.
        step = 100 if per_second is None else max(1, min(100, int(per_second / 10)))
        done = _run(letters.replay(selection, step=step), number, "sent again", per_second)
    click.echo(f"{counted(done, 'dead letter is', 'dead letters are')} on the way again.")
    fail_if_missing(selection, done)


@dead.command()
@pass_session
@selection_options
@click.option("--yes", is_flag=True, help="Do not ask.")
def purge(session: Session, *, selection: Selection, yes: bool) -> None:
    """Delete dead letters for good.

    Asks first.

    Example: kasplo-notify dead purge crm --until 30d
    """
    with session.registry() as registry:
        letters = DeadLetters(registry.store, registry)
        number = _count(registry, letters, selection)
        if number:
            ask(f"Delete {_dead_letters(number, selection)} for good?", yes=yes)
        done = _run(letters.purge(selection), number, "deleted", None)
    click.echo(f"{counted(done, 'dead letter is', 'dead letters are')} deleted.")
    fail_if_missing(selection, done)


@dead.command()
@pass_session
@selection_options
@click.option("--for-emit", is_flag=True, help="Write what `kasplo-notify emit` takes: the events, to be routed anew.")
@click.option("--json", is_flag=True, expose_value=False, help="As without it: JSON lines.")
def export(session: Session, *, selection: Selection, for_emit: bool) -> None:
    """Write dead letters as JSON lines.

    They stay where they are. With --for-emit each line is an event with its mail class, as `emit` takes it: into
    another installation, or to be routed anew. It gets a new id then. `dead replay` is the way back into the
    endpoint that it died in, with the same id.

    Example: kasplo-notify dead export crm > crm.jsonl
             kasplo-notify dead export crm --for-emit | kasplo-notify --redis-url redis://other emit
    """
    written = unreadable = 0
    block = bytearray()
    with session.registry() as registry:
        for letter in DeadLetters(registry.store, registry).select(selection):
            line = letter_for_emit(letter) if for_emit else letter_json(letter)
            if line is None:
                unreadable += 1
                continue
            block += json_text(line, orjson.OPT_APPEND_NEWLINE).encode()
            written += 1
            if len(block) >= _WRITE_BYTES:
                click.echo(bytes(block), nl=False)
                block.clear()
    click.echo(bytes(block), nl=False)
    click.echo(f"{counted(written, 'dead letter')} exported.", err=True)
    if unreadable:
        click.echo(f"{counted(unreadable, 'of them is', 'of them are')} not readable and left out.", err=True)
        click.get_current_context().exit(FAILED)
    fail_if_missing(selection, written)


def _count(registry: Registry, letters: DeadLetters, selection: Selection) -> int:
    """How many are meant; all of an endpoint, or of all, are counted without being read."""
    if selection == Selection(endpoint=selection.endpoint):
        return dead_count(registry.store, letters.holders(selection))
    return letters.count(selection)


def _run(steps: Iterator[int], number: int, what: str, per_second: float | None) -> int:
    out, done, began = progress(), 0, time.monotonic()
    try:
        for done in steps:
            out.status(f"{done:,} of {number:,} {what}")
            if per_second is not None and done < number:
                time.sleep(max(0.0, began + done / per_second - time.monotonic()))
    except BaseException:
        out.done()
        if done:
            click.echo(f"{done:,} of {number:,} {what}; the same command goes on with the others.", err=True)
        raise
    out.done()
    return done


def _per_second(pace: str | None) -> float | None:
    if pace is None:
        return None
    try:
        value = float(pace.removesuffix("/s"))
    except ValueError:
        value = 0.0
    if not 0.001 <= value <= 1e9:
        raise Refused(f"--pace is a number of events a second, such as 100/s, not {quoted(pace)}.")
    return value


def _dead_letters(number: int, selection: Selection) -> str:
    where = f"of endpoint {selection.endpoint}" if selection.endpoint else "of all endpoints"
    return f"{counted(number, 'dead letter')} {where}"


def _row(letter: DeadLetter) -> list[Cell]:
    detail = clipped(letter.detail, _SHOWN)
    event_id = letter.event.id if letter.event else "(not readable)"
    return [local(letter.died_ms), letter.endpoint, event_id, letter.event_type, letter.attempts, letter.reason, detail]


def _show(letter: DeadLetter) -> None:
    event = letter.event
    click.echo(printable(event.id) if event else "(not readable)")
    fields(
        [
            ("endpoint", letter.endpoint),
            ("died", local(letter.died_ms)),
            ("reason", letter.reason),
            ("last failure", letter.detail or "none"),
            ("attempts", f"{letter.attempts:,}"),
            ("mail class", (event.mail_class if event else "") or "none"),
            ("event", event.body.decode(errors="replace") if event else letter.packed[:200].decode(errors="replace")),
        ]
    )
