"""What a scenario is: a function that does something to an arena and says what came of it."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kasplo_notify.verdict import FREE_ATTEMPTS
from tests.torture.arena import ATTEMPTS, DELAY_S, Arena
from tests.torture.checker import Findings, Promise


class Skipped(Exception):
    """A scenario cannot be done here; its text says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a scenario.

    Attributes:
        findings: The checker's.
        kills: Processes and servers that were killed, and whatever else was done to them as often.
        figures: What else is worth knowing, by name.
        broken: Claims of the scenario that do not hold, beside those that the checker looks at.
    """

    findings: Findings
    kills: int
    figures: Mapping[str, str] = field(default_factory=dict)
    broken: tuple[str, ...] = ()

    @property
    def complaints(self) -> tuple[str, ...]:
        return (*(f"{name.upper()} {text}" for name, text in self.findings.complaints.items()), *self.broken)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a scenario.

    Attributes:
        events: How many events to emit.
        kills: How often to kill.
        seed: For whatever is drawn.
        say: Shows progress.
    """

    events: int
    kills: int
    seed: int
    say: Callable[[str], object] = lambda _: None

    @contextmanager
    def arena(
        self, *, fsync: str = "everysec", rewrite: bool = True, sync_s: float = 0.0, **settings: float
    ) -> Iterator[Arena]:
        with tempfile.TemporaryDirectory(prefix="kasplo-torture-") as name:
            given = {key.upper(): value for key, value in settings.items()}
            made = Arena(Path(name), seed=self.seed, fsync=fsync, rewrite=rewrite, sync_s=sync_s, settings=given)
            with made as arena:
                yield arena


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A scenario by name.

    Attributes:
        name: As it is chosen on the command line.
        claim: What it proves, in a sentence.
        run: Does it.
        events, kills: How many in a full run.
    """

    name: str
    claim: str
    run: Callable[[Run], Outcome]
    events: int = 100_000
    kills: int = 0


SCENARIOS: dict[str, Scenario] = {}


def scenario(claim: str, *, events: int = 100_000, kills: int = 0) -> Callable[[Callable[[Run], Outcome]], Scenario]:
    """Make a function a scenario; its name is that of the function."""

    def register(run: Callable[[Run], Outcome]) -> Scenario:
        name = run.__name__.replace("_", "-")
        SCENARIOS[name] = made = Scenario(name=name, claim=claim, run=run, events=events, kills=kills)
        return made

    return register


def promise(**values: object) -> Promise:
    """A promise with the delay and the schedule of the arena."""
    given = {"delay": DELAY_S, "attempts": ATTEMPTS, "free": FREE_ATTEMPTS} | values
    return Promise(**given)  # type: ignore[arg-type]


def endpoints(arena: Arena, count: int = 8, *, flaky: int = 30) -> dict[str, list[str]]:
    """Endpoints for the mail class of their own name, one of four flaky, one of four by GET; the routes to them."""
    routes = {}
    for number in range(count):
        behaviour = f"flaky {flaky}" if number % 4 == 2 and flaky else "ok"
        method = "GET" if number % 4 == 3 else "POST"
        name = arena.endpoint(f"crm-{number}", behaviour, method=method)
        routes[name] = [name]
    return routes


def costs(arena: Arena, findings: Findings) -> dict[str, str]:
    """What deaths of workers cost, beside what they could have."""
    deaths = arena.fleet.unsettled or [0]
    return {
        "duplicates a kill": f"{findings.duplicates / len(deaths):.1f}",
        "open at a death": f"{sum(deaths) / len(deaths):.1f}, at most {max(deaths):,}",
    }


def lateness(findings: Findings) -> dict[str, str]:
    return {"late p50": f"{1000 * findings.late(0.5):.0f} ms", "late p99": f"{1000 * findings.late(0.99):.0f} ms"}


def every(seconds: float) -> Iterator[None]:
    """Ticks, at most one every so many seconds."""
    at = time.monotonic()
    while True:
        at += seconds
        time.sleep(max(0.0, at - time.monotonic()))
        yield
