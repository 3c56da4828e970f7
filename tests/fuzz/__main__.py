"""Fuzz: `python -m tests.fuzz [NAME ...]`, all targets without a name; with `--input` one of them on one input.

Each target runs in a process of its own, on a corpus in a temporary folder: libFuzzer ends its process with the first
find. What it found is printed as bytes of Python, to be given to `--input` or to become a seed in `targets`.
"""

import argparse
import ast
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.targets import TARGETS

_EXECUTED = re.compile(r"^stat::number_of_executed_units:\s*(\d+)", re.MULTILINE)
_MAX_BYTES, _MAX_SECONDS_EACH, _MAX_MEMORY_MB = 4096, 20, 2048
_TOLD_LINES = 12


@dataclass(frozen=True, kw_only=True)
class Run:
    """What became of a target: how many inputs it got, how many reached something new, what was found."""

    executed: int
    kept: int
    found: list[bytes]
    failed: bool


def main() -> int:
    options = _options()
    if options.input is not None:
        for name in options.target:
            TARGETS[name].run(ast.literal_eval(options.input))
        return 0
    runs = {name: _run(name, options.seconds) for name in options.target or TARGETS}
    sys.stdout.write(f"\n{'target':<12} {'executions':>12} {'kept':>6}\n")
    for name, run in runs.items():
        sys.stdout.write(f"{name:<12} {run.executed:>12,} {run.kept:>6,}{'  found something' if run.failed else ''}\n")
    failed = [name for name, run in runs.items() if run.failed]
    sys.stdout.write(
        f"\n{options.seconds} s each: {'nothing found' if not failed else 'look at ' + ', '.join(failed)}.\n"
    )
    return int(bool(failed))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Find an input that breaks something.")
    parser.add_argument("target", nargs="*", choices=[*TARGETS, []], help="default: all")
    parser.add_argument("--seconds", type=int, default=30, help="for each target")
    parser.add_argument("--input", help="run the named targets once, on these bytes of Python: b'...'")
    return parser.parse_args()


def _run(name: str, seconds: int) -> Run:
    sys.stdout.write(f"{name}: {seconds} s\n")
    sys.stdout.flush()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        corpus, finds = Path(folder, "corpus"), Path(folder, "finds")
        corpus.mkdir()
        finds.mkdir()
        for number, seed in enumerate(TARGETS[name].seeds):
            (corpus / str(number)).write_bytes(seed)
        words = Path(folder, "words")
        # libFuzzer refuses a list without words.
        words.write_text('"\\x00"\n' + "".join(f'"{_escaped(word)}"\n' for word in TARGETS[name].words))
        command = [
            *(sys.executable, "-m", "tests.fuzz.libfuzzer", name, str(corpus)),
            *(f"-max_total_time={seconds}", f"-max_len={_MAX_BYTES}", f"-timeout={_MAX_SECONDS_EACH}"),
            *(f"-rss_limit_mb={_MAX_MEMORY_MB}", f"-dict={words}", f"-artifact_prefix={finds}/"),
            *("-print_final_stats=1", "-verbosity=1"),
        ]
        ended = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
        found = [each.read_bytes() for each in sorted(finds.iterdir())]
        executed = _EXECUTED.search(ended.stderr)
        if ended.returncode:
            # The one has what Python says, the other libFuzzer's progress and, at the end, what it says.
            told = [*ended.stdout.splitlines(), *ended.stderr.splitlines()[-_TOLD_LINES:]]
            told = [line for line in told if not line.startswith(("#", "INFO:", "WARNING:"))]
            told += [f"python -m tests.fuzz {name} --input {shlex.quote(repr(each))}" for each in found]
            sys.stdout.write("\n".join(told) + "\n")
        return Run(
            executed=int(executed[1]) if executed else 0,
            kept=len(list(corpus.iterdir())),
            found=found,
            failed=bool(ended.returncode),
        )


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    sys.exit(main())
