"""The question before something that cannot be undone, and the line that shows how far it is."""

import io
import sys

import click

from kasplo_notify.cli.errors import FAILED, Refused
from kasplo_notify.console import Console


def ask(question: str, *, yes: bool) -> None:
    """Ask, unless `--yes` was given. Anything but yes ends the command with exit code 1, and nothing is changed.

    Raises:
        Refused: Nobody is there to be asked.
    """
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise Refused(f"This asks before it goes on ({question}), and nobody is here to answer: pass --yes.")
    click.echo(f"{question} [y/N] ", nl=False, err=True)
    if _answer() not in ("y", "yes"):
        click.echo("Nothing was changed.", err=True)
        click.get_current_context().exit(FAILED)


def _answer() -> str:
    """What is typed, in lower case; what is no text is no answer."""
    try:
        return sys.stdin.readline().strip().lower()
    except UnicodeDecodeError:
        return ""


def progress(*, silent: bool = False) -> Console:
    """Where a long step says how far it is: a line on stderr that changes in place; silent off a terminal."""
    return Console(sys.stderr if sys.stderr is not None else io.StringIO(), live=False if silent else None)
