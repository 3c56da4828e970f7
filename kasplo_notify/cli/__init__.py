"""The command line: `kasplo-notify`. The only place that knows click.

`root` has the commands in the order of an operator's tasks, `errors` what becomes of an error; each family of
commands has its module.
"""

import contextlib
import os
import sys

from kasplo_notify.cli.root import root

__all__ = ["main", "root"]


def main() -> None:
    """Run the command that `sys.argv` names, and exit with its code."""
    _open_outputs()
    try:
        root()
    finally:
        _let_go_of_outputs()


def _open_outputs() -> None:
    """What a shell closed (`>&-`) is None to Python, and its number would go to the next file that is opened.

    A missing stdin stays missing: commands that read it say so.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            os.set_inheritable(number, True)  # noqa: FBT003 - it takes no name
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))


def _let_go_of_outputs() -> None:
    """What cannot be written (a full disk, a pipe that nobody reads) must not be tried again by Python's own end,
    which would end with its own code, 120.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
