"""One target for libFuzzer: `python -m tests.fuzz.libfuzzer NAME [its own arguments]`. Ends with the process."""

import sys

import atheris

with atheris.instrument_imports(include=["kasplo_notify", "email"]):
    from tests.fuzz.targets import TARGETS


if __name__ == "__main__":
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]].run)
    atheris.Fuzz()
