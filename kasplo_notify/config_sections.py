"""The sections of the configuration: every key with its default, its check and one line that explains it.

These dataclasses are the table of keys. A section checks its values however it is made, and its repr shows no
secrets. `config` puts the sections together.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar, cast

from kasplo_notify.config_checks import (
    Check,
    boolean,
    choice,
    integer,
    many,
    masked_url,
    network,
    number,
    optional,
    path,
    redis_url,
    text,
    url,
)
from kasplo_notify.errors import ConfigError

T = TypeVar("T")

_DAY: Final = 86400
# Where servers listen that would take an HTTP request for commands of theirs, or obey it: the ports that
# browsers refuse (https://fetch.spec.whatwg.org/#port-blocking), databases, queues, caches, control planes.
# fmt: off
_DENIED_PORTS: Final = (
    1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 88, 95, 101, 102,
    103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 138, 139, 143, 161, 162, 179, 389, 427,
    445, 465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 623, 631, 636,
    853, 873, 989, 990, 993, 995, 1099, 1433, 1434, 1521, 1719, 1720, 1723, 1883, 2049, 2181, 2375,
    2376, 2379, 2380, 3260, 3268, 3306, 3389, 3659, 3690, 4045, 4190, 4369, 5060, 5061, 5432, 5671,
    5672, 5900, 5901, 5984, 5985, 5986, 6000, 6379, 6380, 6443, 6566, 6665, 6666, 6667, 6668, 6669,
    6679, 6697, 8883, 9042, 9092, 9160, 9200, 9300, 9418, 10080, 10250, 10255, 10257, 10259, 11211,
    15672, 25672, 26379, 27017, 27018, 27019, 50070, 61613, 61616,
)
# fmt: on


def _setting(default: T, check: Check[T], comment: str, mask: Callable[[str], str] | None = None) -> T:
    """One key; `mask` makes of a value what may be shown of it."""
    item: Any = field(default=default, metadata={"check": check, "comment": comment, "mask": mask})
    return cast("T", item)


def _data_dir() -> Path:
    from platformdirs import user_data_path  # noqa: PLC0415 - 8 ms that a process with a Redis URL need not pay

    return user_data_path("kasplo-notify", appauthor=False)


class Section:
    """What all sections do."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @classmethod
    def title(cls) -> str:
        """The name of the section in the file: `redis` for `RedisConfig`."""
        return cls.__name__.removesuffix("Config").lower()

    def showable(self, name: str) -> object:
        """The value of a key as it may be shown; of a secret, that there is one."""
        value = getattr(self, name)
        mask = self.__dataclass_fields__[name].metadata["mask"]
        return value if mask is None or value is None else mask(value)

    def __post_init__(self) -> None:
        for item in fields(self):
            try:
                value = item.metadata["check"].of(getattr(self, item.name))
            except ValueError as error:
                raise ConfigError(f"{self.title()}.{item.name} {error}.") from None
            object.__setattr__(self, item.name, value)

    def __repr__(self) -> str:
        values = (f"{item.name}={self.showable(item.name)!r}" for item in fields(self))
        return f"{type(self).__name__}({', '.join(values)})"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RedisConfig(Section):
    url: str = _setting(
        "embedded",
        redis_url(),
        "redis://, rediss:// or unix:// URL, or embedded: a private server that `kasplo-notify up` starts",
        masked_url,
    )
    data_dir: Path = field(
        default_factory=_data_dir,
        metadata={
            "check": path(),
            "comment": "folder of the embedded server; without it the platform's user data folder",
            "mask": None,
        },
    )
    prefix: str = _setting(
        "kasplo:",
        text(r"[!-z|~]{1,64}", "1 to 64 printable ASCII characters without spaces and braces"),
        "what all keys in Redis begin with; no braces",
    )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DeliveryConfig(Section):
    delay: float = _setting(30.0, number(0, _DAY), "seconds from emit to the first attempt")
    use_json_for_http_post: bool = _setting(
        default=True,
        check=boolean(),
        comment="format of new endpoints: true = JSON, false = form fields (GET: query string)",
    )
    timeout: float = _setting(10.0, number(0.1, 3600), "seconds for a whole request; at most worker.lease - 5")
    connect_timeout: float = _setting(3.0, number(0.1, 3600), "seconds to connect, within timeout")
    retry_delays: tuple[float, ...] = _setting(
        (30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 2400.0, 3600.0, 7200.0, 14400.0, 28800.0, 28800.0),
        many(number(0, 30 * _DAY), most=100),
        "seconds between attempts; after the last one an event becomes a dead letter",
    )
    jitter: float = _setting(0.5, number(0, 1), "each retry delay is multiplied by a random 1 - jitter to 1 + jitter")
    max_age: float = _setting(259200.0, number(1, 3650 * _DAY), "seconds from first due to dead letter")
    max_backlog: int = _setting(
        1_000_000, integer(1, 10**9), "events per endpoint; beyond it the oldest become dead letters"
    )
    max_in_flight: int = _setting(128, integer(1, 10_000), "requests at once per endpoint, over all workers")
    queues: int = _setting(4, integer(1, 64), "queues per endpoint; that many workers can serve it at once")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WorkerConfig(Section):
    lease: float = _setting(30.0, number(5, 3600), "seconds after which the queues of a dead worker are taken over")
    max_in_flight: int = _setting(256, integer(1, 10_000), "requests at once per worker process")
    max_slow: int = _setting(1024, integer(0, 100_000), "requests older than a second, per worker process, besides")
    queue: str = _setting(
        "kasplo",
        text(r"[A-Za-z0-9_.-]{1,64}", "1 to 64 of the characters A-Z a-z 0-9 _ . -"),
        "name of the RQ queue of the drains",
    )

    @property
    def max_idle(self) -> int:
        """Connections that a worker process keeps while they have no request: with TLS each takes 0.3 MiB."""
        return 2 * self.max_in_flight


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class EgressConfig(Section):
    allow: tuple[str, ...] = _setting(
        (), many(network(), most=1000), 'special networks that may be called: ["10.1.0.0/16"]'
    )
    deny: tuple[str, ...] = _setting((), many(network(), most=1000), "public networks that must not be called")
    deny_ports: tuple[int, ...] = _setting(
        _DENIED_PORTS,
        many(integer(1, 65535), most=65535),
        "ports that are never called; these are no web servers",
    )
    https_only: bool = _setting(default=False, check=boolean(), comment="true: refuse http:// URLs")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DeadConfig(Section):
    keep_days: float = _setting(30.0, number(0, 3650), "days that dead letters are kept")
    max_bytes: int = _setting(268_435_456, integer(0, 2**40), "bytes of dead letters kept per endpoint")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AttemptsConfig(Section):
    keep: int = _setting(100, integer(0, 100_000), "recent attempts kept per endpoint")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ReportConfig(Section):
    keep: int = _setting(
        100_000, integer(0, 10**9), "delivery_attempt events kept for `report`; 0 = none (no effect in this version)"
    )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SpoolConfig(Section):
    path: Path | None = _setting(  # noqa: RUF009 - a Path is immutable
        None,
        optional(path()),
        'folder where emit keeps events while Redis is away or full; "" = none',
    )
    max_bytes: int = _setting(1_073_741_824, integer(1, 2**50), "bytes that the spool may have")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class HealthConfig(Section):
    pause_after: float = _setting(
        432_000.0, number(1, 3650 * _DAY), "seconds of nothing but failures before an endpoint is paused"
    )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AlertsConfig(Section):
    url: str | None = _setting(
        None,
        optional(url("http://", "https://")),
        'URL that is told when an endpoint is paused or loses events; "" = none (no effect in this version)',
        lambda given: masked_url(given, path=True),
    )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class LogConfig(Section):
    format: str = _setting(
        "auto", choice("auto", "human", "json"), "auto (human on a terminal, else json), human or json"
    )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WebConfig(Section):
    token: str | None = _setting(
        None,
        optional(text(r"[!-~]{16,256}", "16 to 256 printable ASCII characters without spaces", secret=True)),
        'token that the web page and its API ask for; "" = one is generated (no effect in this version)',
        lambda _: "***",
    )
