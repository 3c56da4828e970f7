"""Run scenarios: `python -m tests.torture [NAME ...]`; without names all but the nightly one."""

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tests.torture.scenarios  # noqa: F401 - registers them
from tests.torture.scenario import SCENARIOS, Outcome, Run, Scenario, Skipped

NIGHTLY = ("million",)


def main() -> int:
    options = _options()
    names = options.scenario or [name for name in SCENARIOS if name not in NIGHTLY]
    results = []
    for name in names:
        with _progress(name) as say:
            results.append(_run(SCENARIOS[name], options.scale, options.seed, say))
        _show(results[-1])
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    skipped = [str(result["scenario"]) for result in results if "skipped" in result]
    broken = [str(result["scenario"]) for result in results if result["complaints"]]
    run = len(results) - len(skipped)
    kept = f"{run - len(broken)} of {run} scenarios kept the promise{': not ' + ', '.join(broken) if broken else ''}"
    without = f"; not run: {', '.join(skipped)}" if skipped else ""
    sys.stdout.write(f"\n{kept}{without} (seed {options.seed}).\n")
    return int(bool(broken))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description="Lose something, if you can.")
    parser.add_argument("scenario", nargs="*", choices=[*SCENARIOS, []], help="default: all but " + ", ".join(NIGHTLY))
    parser.add_argument("--scale", type=float, default=1.0, help="of events and kills; 1 is a full run")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    parser.add_argument("--json", type=Path, help="write the counts to this file")
    return parser.parse_args()


def _run(chosen: Scenario, scale: float, seed: int, say: object) -> dict[str, object]:
    began = time.monotonic()
    size = {"events": max(1000, int(chosen.events * scale)), "kills": max(1, int(chosen.kills * scale))}
    try:
        outcome = chosen.run(Run(**size, seed=seed, say=say))  # type: ignore[arg-type]
    except Skipped as reason:
        return {"scenario": chosen.name, "claim": chosen.claim, "skipped": str(reason), "complaints": []}
    except Exception as error:  # noqa: BLE001 - whatever it is, the other scenarios are run, and this one is reported
        text = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        return {"scenario": chosen.name, "claim": chosen.claim, "complaints": [text]}
    return _row(chosen, outcome) | {"seconds": round(time.monotonic() - began)}


def _row(chosen: Scenario, outcome: Outcome) -> dict[str, object]:
    findings = outcome.findings
    return {
        "scenario": chosen.name,
        "claim": chosen.claim,
        "events": findings.emitted,
        "requests": findings.requests,
        "kills": outcome.kills,
        "lost": len(findings.lost),
        "phantom": len(findings.phantom),
        "corrupt": len(findings.corrupt),
        "early": len(findings.early),
        "over_policy": len(findings.attempts),
        "leaks": len(findings.leaks),
        "duplicates": findings.duplicates,
        "duplicates_allowed": findings.allowed,
        "duplicates_ppm": round(findings.duplicates_ppm),
        "dead": findings.dead,
        "dead_unexplained": len(findings.buried),
        "not_acknowledged": findings.unknown,
        "figures": dict(outcome.figures),
        "complaints": list(outcome.complaints),
    }


def _show(result: dict[str, object]) -> None:
    if "skipped" in result:
        sys.stdout.write(f"{result['scenario']:<22} NOT RUN: {result['skipped']}\n")
        return
    if "events" not in result:
        sys.stdout.write(f"{result['scenario']:<22} FAILED: {result['complaints']}\n")
        return
    counts = (
        f"{result['events']:>9,} events  {result['kills']:>5,} kills  lost {result['lost']}  "
        f"phantom {result['phantom']}  corrupt {result['corrupt']}  early {result['early']}  leaks {result['leaks']}  "
        f"dead {result['dead']:,}  "
        f"duplicates {result['duplicates']:,} of {result['duplicates_allowed']:,} explained "
        f"({result['duplicates_ppm']:,} ppm)"
    )
    sys.stdout.write(f"{result['scenario']:<22} {counts}  {result['seconds']} s\n")
    for name, value in dict(result["figures"]).items():  # type: ignore[call-overload]
        sys.stdout.write(f"{'':<22}   {name}: {value}\n")
    for complaint in list(result["complaints"]):  # type: ignore[call-overload]
        sys.stdout.write(f"{'':<22}   BROKEN: {complaint}\n")
    sys.stdout.flush()


@contextmanager
def _progress(name: str) -> Iterator[object]:
    """A line that is written anew on a terminal; elsewhere nothing."""
    live = sys.stderr.isatty()

    def say(text: str) -> None:
        if live:
            sys.stderr.write(f"\r\x1b[K{name}: {text}")
            sys.stderr.flush()

    try:
        yield say
    finally:
        if live:
            sys.stderr.write("\r\x1b[K")


if __name__ == "__main__":
    sys.exit(main())
