"""What a worker knows of the endpoints it delivers to: the registry's records, read when first needed."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from kasplo_notify.config import Config
from kasplo_notify.endpoint import Endpoint, milliseconds
from kasplo_notify.errors import EndpointError
from kasplo_notify.request import RequestBuilder
from kasplo_notify.store import AsyncStore
from kasplo_notify.verdict import Policy

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscriber:
    """An endpoint, ready to deliver to.

    Attributes:
        endpoint: Its record.
        builder: Builds its requests.
        policy: Its backoff schedule.
        timeout: Seconds for one whole exchange.
        cap: Requests in flight of one of its queues.
        delay_ms: Milliseconds from emit to the first attempt.
    """

    endpoint: Endpoint
    builder: RequestBuilder
    policy: Policy
    timeout: float
    cap: int
    delay_ms: int

    @classmethod
    def of(cls, endpoint: Endpoint, config: Config) -> "Subscriber":
        delivery = config.delivery
        in_flight = delivery.max_in_flight if endpoint.max_in_flight is None else endpoint.max_in_flight
        delay = delivery.delay if endpoint.delay is None else endpoint.delay
        delays = delivery.retry_delays if endpoint.retry_delays is None else endpoint.retry_delays
        timeout = delivery.timeout if endpoint.timeout is None else endpoint.timeout
        return cls(
            endpoint=endpoint,
            builder=RequestBuilder(endpoint),
            policy=Policy(retry_delays=delays, jitter=delivery.jitter),
            # A record written under another configuration must not outlast the lease of this worker.
            timeout=min(timeout, config.worker.lease - 5),
            cap=max(1, in_flight // endpoint.queues),
            delay_ms=milliseconds(delay),
        )


class Book:
    """Subscribers by name, of one version of the registry.

    Attributes:
        subscribers: Name -> subscriber, or the reason why it cannot be delivered to.
    """

    def __init__(self, store: AsyncStore, config: Config) -> None:
        self._store = store
        self._config = config
        self._version = ""
        self.subscribers: dict[str, Subscriber | str] = {}

    async def load(self, names: Iterable[str], version: str) -> None:
        """Make sure that `names` are there, as they are in `version` of the registry or later.

        Raises:
            StorageUnavailable: Redis did not answer.
        """
        fresh = self.subscribers if version == self._version else {}
        missing = sorted({name for name in names if name not in fresh})
        if missing:
            key = self._store.keys.endpoints
            (records,) = await self._store.read(("HMGET", key, *missing))
            fresh.update((name, self._read(name, record)) for name, record in zip(missing, records, strict=True))
        self.subscribers, self._version = fresh, version

    def _read(self, name: str, record: bytes | None) -> Subscriber | str:
        if record is None:
            return "unregistered"
        try:
            return Subscriber.of(Endpoint.from_json(record, name), self._config)
        except EndpointError:
            return "broken"
        except Exception:
            # A fault of ours with one record must not hold up the others.
            log.exception("endpoint_broken: the record of %s cannot be read", name)
            return "broken"
