"""What an operator sees of an error: one sentence on stderr, and an exit code.

| code | |
|---|---|
| 0 | done |
| 1 | some of it failed, or was not wanted after all |
| 2 | usage: a refused URL, header or value and an unknown endpoint included |
| 3 | configuration |
| 4 | storage unreachable, or full |
| 130 | interrupted by Ctrl+C |
"""

import os
import sys
from contextlib import suppress
from typing import Final

import click

from kasplo_notify.cli.text import printable
from kasplo_notify.errors import ConfigError, EndpointError, InvalidEvent, NotifyError, PushError

FAILED: Final = 1
USAGE: Final = 2
CONFIGURATION: Final = 3
STORAGE: Final = 4
INTERRUPTED: Final = 130

# The longest sentence of ours, an unknown field of a delivery_attempt, has about 450 characters.
_HEAD, _TAIL = 350, 250


class Refused(click.UsageError):
    """What was given cannot be done as it is; the message stands for itself, no usage is shown."""


def report(error: Exception) -> int:
    """Say on stderr what happened, if there is a stderr, and return the exit code."""
    with suppress(OSError):
        complain(_sentence(error))
    if isinstance(error, OSError):
        let_go_of_stdout()
    return exit_code(error)


def complain(sentence: str) -> None:
    """One line on stderr."""
    click.echo(f"Error: {shortened(sentence)}", err=True)


def shortened(sentence: str) -> str:
    """The sentence on one line. Of a long one the middle is left out: that is something that was given."""
    line = printable(sentence)
    return line if len(line) <= _HEAD + _TAIL else f"{line[:_HEAD]} ... {line[-_TAIL:]}"


def exit_code(error: Exception) -> int:
    match error:
        case EndpointError() | InvalidEvent() | click.ClickException():
            return USAGE
        case ConfigError():
            return CONFIGURATION
        case PushError():
            return STORAGE
        case _:
            return FAILED


def let_go_of_stdout() -> None:
    """Whoever read our output has closed it: nothing that is still buffered is worth an error at exit."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):
        return


def _sentence(error: Exception) -> str:
    match error:
        case Refused():
            return error.message
        case click.UsageError():
            path = error.ctx.command_path if error.ctx is not None else "kasplo-notify"
            return f"{error.format_message()} See: {path} --help"
        case click.ClickException():
            return error.format_message()
        case NotifyError():
            return str(error)
        case OSError():
            where = f" ({error.filename})" if error.filename else ""
            return f"{error.strerror or error}{where}."
        case _:
            return (
                f"a fault in kasplo-notify itself ({type(error).__name__}: {str(error)[:200]}); please report it. "
                "`python -X dev -m kasplo_notify ...` shows where it happened."
            )
