"""The call of the settle script: the settings that it goes by."""

from kasplo_notify.config import AttemptsConfig, Config, DeadConfig, DeliveryConfig, HealthConfig
from kasplo_notify.settlement import STRIKES, Settlement
from kasplo_notify.store import script


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
