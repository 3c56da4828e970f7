"""The command line: `kasplo-notify`. The only place that knows click.

`root` has the commands in the order of an operator's tasks, `errors` what becomes of an error; each family of
commands has its module.
"""

from kasplo_notify.cli.root import root

__all__ = ["main", "root"]


def main() -> None:
    """Run the command that `sys.argv` names, and exit with its code."""
    root()
