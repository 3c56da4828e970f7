"""The short form of the torture: some of its scenarios, in small."""

from queue import Empty

import pytest

from tests.torture.__main__ import _run
from tests.torture.scenario import Outcome, Run, Scenario, Skipped
from tests.torture.scenarios import networks, servers, workers

EVENTS, KILLS = 2_000, 5


@pytest.mark.parametrize(
    "scenario", [workers.random_kills, servers.server_kills_always, networks.producers_network], ids=lambda it: it.name
)
def test_the_promise_is_kept(scenario: Scenario) -> None:
    outcome = scenario.run(Run(events=EVENTS, kills=1 if "server" in scenario.name else KILLS, seed=1))
    assert outcome.complaints == ()
    assert outcome.findings.requests >= outcome.findings.pairs >= 0.9 * EVENTS


@pytest.mark.parametrize("error", [AssertionError("it hangs"), Empty(), ConnectionError("refused")])
def test_a_scenario_that_breaks_off_is_reported_and_ends_no_other(error: Exception) -> None:
    def breaks(_run: Run) -> Outcome:
        raise error

    result = _run(Scenario(name="breaks", claim="it holds", run=breaks), 1.0, 1, lambda _: None)
    (complaint,) = list(result["complaints"])  # type: ignore[call-overload]
    assert str(error) in complaint
    assert complaint.startswith(("it hangs", type(error).__name__))


def test_a_scenario_that_cannot_be_done_here_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Skipped, match="C compiler"):
        servers.slow_fsync.run(Run(events=EVENTS, kills=1, seed=1))
