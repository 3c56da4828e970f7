"""How the command is written where this process was started: for lines that somebody pastes into a shell."""

import os
import shlex
import shutil
import sys
from pathlib import Path

NAME = "kasplo-notify"


def invocation() -> str:
    """`kasplo-notify` when that is on the PATH and of this installation, else a path, relative inside this folder."""
    program = Path(sys.argv[0])
    if program.name != NAME:
        # `python -m kasplo_notify`: pip puts the program beside its Python.
        program = Path(sys.executable).with_name(NAME)
    found = shutil.which(NAME)
    if found is not None and program.exists() and Path(found).samefile(program):
        return NAME
    return _written(program) if program.exists() else f"{_written(Path(sys.executable))} -m kasplo_notify"


def _written(program: Path) -> str:
    inside = os.path.relpath(program)
    path = str(program.absolute()) if inside.startswith(os.pardir) else inside
    return shlex.quote(path if os.sep in path else os.path.join(os.curdir, path))  # noqa: PTH118 - Path drops the dot
