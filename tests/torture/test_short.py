"""The short form of the torture: some of its scenarios, in small."""

import pytest

from tests.torture.scenario import Run, Scenario, Skipped
from tests.torture.scenarios import networks, servers, workers

EVENTS, KILLS = 2_000, 5


@pytest.mark.parametrize(
    "scenario", [workers.random_kills, servers.server_kills_always, networks.producers_network], ids=lambda it: it.name
)
def test_the_promise_is_kept(scenario: Scenario) -> None:
    outcome = scenario.run(Run(events=EVENTS, kills=1 if "server" in scenario.name else KILLS, seed=1))
    assert outcome.complaints == ()
    assert outcome.findings.requests >= outcome.findings.pairs >= 0.9 * EVENTS


def test_a_scenario_that_cannot_be_done_here_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Skipped, match="C compiler"):
        servers.slow_fsync.run(Run(events=EVENTS, kills=1, seed=1))
