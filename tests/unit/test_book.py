"""What a worker makes of an endpoint's record: its own settings, or the configured ones, within bounds."""

import pytest

from kasplo_notify.book import Subscriber
from kasplo_notify.config import Config, DeliveryConfig, WorkerConfig
from kasplo_notify.endpoint import Endpoint

CONFIG = Config(
    delivery=DeliveryConfig(delay=7, timeout=3, retry_delays=(1, 2), jitter=0.25, max_in_flight=60, queues=4),
    worker=WorkerConfig(lease=20),
)


def subscriber(**own: object) -> Subscriber:
    return Subscriber.of(Endpoint(**{"name": "crm", "url": "https://crm.example/", "queues": 4, **own}), CONFIG)  # type: ignore[arg-type]


def test_what_an_endpoint_does_not_say_is_as_configured() -> None:
    configured = subscriber()
    assert (configured.delay_ms, configured.timeout, configured.cap) == (7000, 3, 15)
    assert (configured.policy.retry_delays, configured.policy.jitter) == ((1, 2), 0.25)


def test_what_an_endpoint_says_counts() -> None:
    own = subscriber(delay=0.5, timeout=9.0, max_in_flight=8, retry_delays=(5.0,))
    assert (own.delay_ms, own.timeout, own.cap, own.policy.retry_delays) == (500, 9.0, 2, (5.0,))


def test_a_setting_of_0_is_said_too() -> None:
    own = subscriber(delay=0, retry_delays=())
    assert (own.delay_ms, own.policy.retry_delays) == (0, ())


def test_no_request_outlasts_the_lease_whatever_a_record_says() -> None:
    assert subscriber(timeout=600.0).timeout == 15


@pytest.mark.parametrize(("in_flight", "queues", "cap"), [(128, 4, 32), (10, 4, 2), (3, 4, 1)])
def test_the_requests_of_an_endpoint_are_shared_by_its_queues(in_flight: int, queues: int, cap: int) -> None:
    assert subscriber(max_in_flight=in_flight, queues=queues).cap == cap
