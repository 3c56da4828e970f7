"""The call of the settle script: the settings that it goes by, and when it is time for one."""

import pytest

from kasplo_notify.config import AttemptsConfig, Config, DeadConfig, DeliveryConfig, HealthConfig
from kasplo_notify.outcome import Outcome
from kasplo_notify.settlement import BATCH, LAG_S, STRIKES, Result, Settlement
from kasplo_notify.store import script
from kasplo_notify.verdict import Verdict
from tests.unit.queues import fresh, hold

DELIVERED = Verdict(action="delivered", reason="delivered")


def settlement_of(*verdicts: Verdict, now: float = 0.0) -> Settlement:
    settlement, held = Settlement(Config(), "drain1"), hold()
    for item, verdict in zip(held.add(fresh(*range(1, len(verdicts) + 1)), 1000), verdicts, strict=True):
        settlement.add(Result(held, item, verdict, Outcome(status=200, duration_ms=7)), now)
    return settlement


def test_a_batch_is_settled_by_the_configured_settings() -> None:
    config = Config(
        delivery=DeliveryConfig(delay=1.5),
        dead=DeadConfig(keep_days=2, max_bytes=12_345),
        attempts=AttemptsConfig(keep=17),
        health=HealthConfig(pause_after=90),
    )
    hour = 3_600_000
    assert Settlement(config, "drain1").call().args == ["drain1", 1500, 12_345, 48 * hour, 17, 90_000, hour]


def test_failures_that_may_open_a_breaker_are_settled_as_soon_as_they_are_enough() -> None:
    assert f"FAILURES_TO_OPEN, WINS_TO_CLOSE, FIRST_PROBE, LAST_PROBE = {STRIKES}, " in script("settle").text


def test_a_delivered_event_waits_for_others_for_a_moment() -> None:
    settlement = settlement_of(DELIVERED, now=100.0)
    assert (settlement.due(100.0), settlement.due(100.0 + LAG_S)) == (False, True)
    assert settlement.wait(100.0) == pytest.approx(LAG_S)
    assert settlement_of().wait(100.0) == float("inf")


def test_a_full_batch_and_what_concerns_a_whole_endpoint_wait_for_nothing() -> None:
    strike = Verdict(action="retry", reason="http_500", delay=30.0, strikes=True)
    assert not settlement_of(*[DELIVERED] * (BATCH - 1)).due(0.0)
    assert settlement_of(*[DELIVERED] * BATCH).due(0.0)
    assert not settlement_of(*[strike] * (STRIKES - 1)).due(0.0)
    assert settlement_of(*[strike] * STRIKES).due(0.0)
    assert settlement_of(Verdict(action="pause", reason="gone")).due(0.0)
    assert settlement_of(Verdict(action="retry", reason="http_429", endpoint_wait=2.0)).due(0.0)
