"""`emit`: JSON lines into the queue."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import click

from kasplo_notify.cli.ask import progress
from kasplo_notify.cli.errors import FAILED, STORAGE, Refused, complain, shortened
from kasplo_notify.cli.root import Command
from kasplo_notify.cli.session import Session, pass_session
from kasplo_notify.console import Console
from kasplo_notify.emission import CHUNK_BYTES, CHUNK_EVENTS, prepare_one
from kasplo_notify.errors import InvalidEvent, PushError
from kasplo_notify.events import check_mail_class
from kasplo_notify.json_lines import Line, read_lines
from kasplo_notify.notifier import Notifier

_TOLD_EVERY_S: Final = 0.2


@click.command(cls=Command)
@click.argument("file", metavar="[FILE|-]", default="-")
@click.option("--mail-class", metavar="C", help="Mail class of the lines that name none.")
@pass_session
def emit(session: Session, file: str, *, mail_class: str | None) -> None:
    """Queue events from JSON lines.

    A line is one object: an event's fields, with mail_class and event_id beside them. A bad line is named by
    its number and the reason, and the others are sent; then the exit code is 1. Events keep their
    order. A line is sent when it comes, so `tail -F events.jsonl | kasplo-notify emit` works. With an event_id of
    your own in each line, the same file can be sent again within an hour without duplicates. While Redis is away
    or full, events go to the spool, if there is one.

    Example: kasplo-notify events scomp | tail -1 | kasplo-notify emit --mail-class promo
    """
    check_mail_class(mail_class)
    with ExitStack() as stack:
        stream = stack.enter_context(_open(file)) if file != "-" else _stdin()
        notifier = stack.enter_context(Notifier(config=session.config))
        # What changes in place would write into what a person is typing.
        typed = file == "-" and stream.isatty()
        run = _Run(notifier, mail_class, progress(silent=typed))
        try:
            code = run.all(stream)
        except KeyboardInterrupt:
            run.summarise()
            complain(f"interrupted; line {run.resume_at} is the first that may not have been emitted")
            raise
        except PushError as error:
            run.summarise()
            complain(f"{str(error).removesuffix('.')}. {run.how_to_resume(file)}")
            code = STORAGE
        except OSError as error:
            run.summarise()
            raise Refused(f"{file} cannot be read on: {error.strerror}.") from error
    click.get_current_context().exit(code)


@dataclass(slots=True)
class _Run:
    """One pass over the lines.

    Attributes:
        resume_at: The first line that is not certainly dealt with.
    """

    notifier: Notifier
    mail_class: str | None
    out: Console
    batch: list[Line] = field(default_factory=list)
    batch_bytes: int = 0
    emitted: int = 0
    refused: int = 0
    unrouted: int = 0
    repeated: int = 0
    spooled: int = 0
    resume_at: int = 1
    seen: int = 0
    told_at: float = 0.0

    def all(self, stream: BinaryIO) -> int:
        for line in read_lines(stream):
            if line is None:
                self._push()
            else:
                self._take(line)
        self._push()
        self.summarise()
        return FAILED if self.refused else 0

    def summarise(self) -> None:
        self.out.done()
        unrouted = f", {self.unrouted:,} of them matched no endpoint" if self.unrouted else ""
        repeated = f", {self.repeated:,} known by their event_id and left alone" if self.repeated else ""
        spooled = f", {self.spooled:,} of them into the spool" if self.spooled else ""
        click.echo(f"{self.emitted:,} emitted{unrouted}{spooled}{repeated}, {self.refused:,} refused.", err=True)
        if self.spooled:
            click.echo("When Redis is back, and nothing else emits here: kasplo-notify spool flush", err=True)

    def how_to_resume(self, file: str) -> str:
        """Where to begin next time, as an instruction."""
        if self.resume_at == 1:
            return "Nothing is known to be emitted: begin again with line 1."
        command = "" if file == "-" else f" (tail -n +{self.resume_at} {file} | kasplo-notify emit)"
        return (
            f"Go on with line {self.resume_at}{command}; the first lines from there may be emitted twice unless "
            "each has an event_id."
        )

    def _take(self, line: Line) -> None:
        self.seen = line.number
        reason = line.refused
        if not reason:
            if self.mail_class is not None and line.fields.get("mail_class") is None:
                line.fields["mail_class"] = self.mail_class
            try:
                prepare_one(line.fields, {})
            except InvalidEvent as error:
                reason = str(error)
        if reason:
            self.refused += 1
            self.out.done()
            click.echo(shortened(f"line {line.number}: {reason}"), err=True)
            if not self.batch:
                self.resume_at = line.number + 1
            return
        self.batch.append(line)
        self.batch_bytes += line.size
        if len(self.batch) == CHUNK_EVENTS or self.batch_bytes >= CHUNK_BYTES:
            self._push()

    def _push(self) -> None:
        with _interrupted_after():
            self._push_batch()
        if time.monotonic() - self.told_at > _TOLD_EVERY_S:
            self.told_at = time.monotonic()
            self.out.status(f"{self.emitted:,} emitted, {self.refused:,} refused, at line {self.seen:,}")

    def _push_batch(self) -> None:
        if self.batch:
            try:
                receipts = self.notifier.emit_many([line.fields for line in self.batch])
            except PushError as error:
                self.emitted += error.pushed
                self.resume_at = self.batch[min(error.pushed, len(self.batch) - 1)].number
                raise
            repeated = sum(receipt.repeated for receipt in receipts)
            self.emitted += len(receipts) - repeated
            self.repeated += repeated
            self.spooled += sum(receipt.spooled for receipt in receipts)
            self.unrouted += sum(not (each.endpoints or each.repeated or each.spooled) for each in receipts)
            self.batch, self.batch_bytes = [], 0
        self.resume_at = self.seen + 1


@contextmanager
def _interrupted_after() -> Iterator[None]:
    """Ctrl+C waits for the block's end: what a batch in flight has stored is counted before anybody is told."""
    told: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: told.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if told:
        raise KeyboardInterrupt


def _open(file: str) -> BinaryIO:
    try:
        return Path(file).open("rb")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Refused(f"{file} cannot be read: {reason}.") from error


def _stdin() -> BinaryIO:
    if sys.stdin is None:
        raise Refused("There is no standard input to read from; name a file.")
    if sys.stdin.isatty():
        click.echo("Reading JSON lines from the terminal, one event a line; Ctrl+D ends.", err=True)
    return sys.stdin.buffer
