"""The endpoint: a subscriber's HTTP server as the registry knows it, and how it is stored.

The record holds values that `endpoint_checks` has accepted. What comes back from Redis is read as if a
stranger had written it: `Endpoint.from_json` accepts nothing that could change the shape of a request.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import orjson

from kasplo_notify.errors import EndpointError, shown
from kasplo_notify.headers import check_basic, check_headers
from kasplo_notify.signature import check_secret
from kasplo_notify.tls import Tls, check_authorities, check_certificate, check_key, check_pair

_Reader = Callable[[Any], Any]

METHODS = ("POST", "GET")
FORMATS = ("json", "form")
MAX_DELAY_S = 86_400
MAX_TIMEOUT_S = 3_600
MAX_IN_FLIGHT = 10_000
MAX_QUEUES = 64
MAX_RETRY_DELAY_S = 2_592_000
MAX_RETRIES = 100

_VERSION = 1
_LATEST_S = 1 << 40
_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_MAIL_CLASS = re.compile(r"[ -~]{1,128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A subscriber.

    Attributes:
        name: Unique, `[a-z0-9_-]{1,64}`.
        url: Where its events go, as `EgressGuard.check_url` wrote it.
        method: POST or GET.
        format: json (the body is the event, with GET too) or form (POST: urlencoded body; GET: query string).
        mail_classes: The mail classes that it takes; `*` is every class, `default` what nobody else takes.
        event_types: The event types that it takes; empty means all.
        headers: Its own request headers, in order. They may hold credentials and are not shown in `repr`.
        secret: Signs each request (Standard Webhooks); None means that requests are not signed.
        old_secret: The secret before the last rotation; signs as well until `old_secret_until`.
        old_secret_until: Unix seconds.
        basic: `user:password` of HTTP Basic authentication.
        ca: Authorities, as PEM, that its certificate is verified by, instead of the system's.
        client_cert: Certificate, as PEM, that it is shown in the TLS handshake.
        client_key: The private key of `client_cert`, as PEM, not encrypted.
        delay: Seconds from emit to the first attempt; None means `delivery.delay`.
        timeout: Seconds for one whole exchange; None means `delivery.timeout`.
        max_in_flight: Concurrent requests over the whole fleet; None means `delivery.max_in_flight`.
        queues: Partitions of its backlog.
        retry_delays: Its own backoff schedule, in seconds; None means `delivery.retry_delays`.
        created_at: Unix seconds.
        removing: Empty; or, while its backlog is swept, `keep` (into dead letters) or `drop`.
    """

    name: str
    url: str
    method: str = "POST"
    format: str = "json"
    mail_classes: tuple[str, ...] = ("*",)
    event_types: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    secret: str | None = field(default=None, repr=False)
    old_secret: str | None = field(default=None, repr=False)
    old_secret_until: int = 0
    basic: str | None = field(default=None, repr=False)
    ca: str | None = field(default=None, repr=False)
    client_cert: str | None = field(default=None, repr=False)
    client_key: str | None = field(default=None, repr=False)
    delay: float | None = None
    timeout: float | None = None
    max_in_flight: int | None = None
    queues: int = 4
    retry_delays: tuple[float, ...] | None = None
    created_at: int = 0
    removing: str = ""

    def signing_secrets(self, now_s: float) -> tuple[str, ...]:
        """The secrets that sign a request at `now_s` (Unix seconds): the current one first."""
        if self.secret is None:
            return ()
        if self.old_secret is not None and now_s < self.old_secret_until:
            return (self.secret, self.old_secret)
        return (self.secret,)

    @property
    def tls(self) -> Tls | None:
        """What it brings along for TLS; None when that is nothing."""
        return Tls(self.ca, self.client_cert, self.client_key) if self.ca or self.client_cert else None

    def to_json(self) -> bytes:
        record = {"v": _VERSION} | {each.name: getattr(self, each.name) for each in fields(self)}
        return orjson.dumps(record)

    @classmethod
    def from_json(cls, stored: bytes, known_as: str | None = None) -> "Endpoint":
        """Read a stored record. Keys that are not known are left to the later version that wrote them.

        Args:
            stored: The record.
            known_as: The name that it is stored under.

        Raises:
            EndpointError: The record is not one that `to_json` could have written, or is another endpoint's.
        """
        try:
            record = orjson.loads(stored)
        except orjson.JSONDecodeError as error:
            raise EndpointError("a stored endpoint is not JSON") from error
        if type(record) is not dict or record.get("v") != _VERSION:
            raise EndpointError("a stored endpoint has a format that this version does not know; upgrade the workers")
        name = record.get("name")
        values: dict[str, Any] = {}
        for key, read in _READERS.items():
            if key not in record:
                continue
            try:
                values[key] = read(record[key])
            except (EndpointError, TypeError, ValueError) as error:
                raise EndpointError(f"the stored endpoint {shown(name)} has a broken {key}: {error}") from error
        if not {"name", "url"} <= values.keys():
            raise EndpointError(f"the stored endpoint {shown(name)} lacks its name or its url")
        if known_as is not None and name != known_as:
            raise EndpointError(f"the stored endpoint {shown(known_as)} says that it is {shown(name)}")
        endpoint = cls(**values)
        try:
            check_pair(endpoint.client_cert, endpoint.client_key)
        except EndpointError as error:
            raise EndpointError(f"the stored endpoint {shown(name)} has a broken client_key: {error}") from error
        except OSError:
            # This process is out of file descriptors: no fault of the record. Its requests will tell.
            pass
        return endpoint


def milliseconds(seconds: float) -> int:
    """A delay in the whole milliseconds that Redis counts in: never early, so rounded up.

    What is less than a nanosecond over is the error of binary fractions: 32.3 s are 32,300 ms.
    """
    return math.ceil(round(seconds * 1000, 6))


def check_name(name: object) -> str:
    """An endpoint's name.

    Raises:
        EndpointError: It is not `[a-z0-9_-]{1,64}`.
    """
    if type(name) is not str or not _NAME.fullmatch(name):
        raise EndpointError(f"an endpoint's name has 1 to 64 lower-case letters, digits, '-' or '_', not {shown(name)}")
    return name


def check_mail_class(name: object) -> str:
    """One mail class of an endpoint, or `*`, or `default`.

    Raises:
        EndpointError: It is not 1 to 128 printable ASCII characters.
    """
    if type(name) is not str or not _MAIL_CLASS.fullmatch(name):
        raise EndpointError(f"a mail class has 1 to 128 printable ASCII characters, not {shown(name)}")
    return name


def _text(pattern: re.Pattern[str]) -> _Reader:
    def read(value: Any) -> str:
        if type(value) is not str or not pattern.fullmatch(value):
            raise ValueError(f"it is {shown(value)}")
        return value

    return read


def _number(lowest: float, highest: float, *, whole: bool = False) -> _Reader:
    def read(value: Any) -> float:
        if type(value) is not int and (whole or type(value) is not float):
            raise ValueError(f"it is {shown(value)}")
        if not lowest <= value <= highest:
            raise ValueError(f"it is {shown(value)}, not between {lowest} and {highest}")
        return value

    return read


def _tuple_of(read_one: _Reader) -> _Reader:
    def read(value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise ValueError(f"it is {shown(value)}")
        return tuple(read_one(each) for each in value)

    return read


def _optional(read_one: _Reader) -> _Reader:
    return lambda value: None if value is None else read_one(value)


_READERS: dict[str, _Reader] = {
    "name": check_name,
    "url": _text(re.compile(r"https?://[!-~]{1,2040}")),
    "method": _text(re.compile("|".join(METHODS))),
    "format": _text(re.compile("|".join(FORMATS))),
    "mail_classes": _tuple_of(check_mail_class),
    "event_types": _tuple_of(_text(re.compile(r"[a-z_]{1,64}"))),
    "headers": check_headers,
    "secret": _optional(check_secret),
    "old_secret": _optional(check_secret),
    "old_secret_until": _number(0, _LATEST_S, whole=True),
    "basic": _optional(check_basic),
    "ca": _optional(check_authorities),
    "client_cert": _optional(check_certificate),
    "client_key": _optional(check_key),
    "delay": _optional(_number(0, MAX_DELAY_S)),
    "timeout": _optional(_number(0.001, MAX_TIMEOUT_S)),
    "max_in_flight": _optional(_number(1, MAX_IN_FLIGHT, whole=True)),
    "queues": _number(1, MAX_QUEUES, whole=True),
    "retry_delays": _optional(_tuple_of(_number(0, MAX_RETRY_DELAY_S))),
    "created_at": _number(0, _LATEST_S, whole=True),
    "removing": _text(re.compile("|keep|drop")),
}
