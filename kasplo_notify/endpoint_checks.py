"""Registering and changing an endpoint: every value is checked here, before the registry sees it.

`make_endpoint` and `change_endpoint` run the same checks, so that no sequence of updates leads to a record that
could not have been registered. All raise `EndpointError`: one sentence that names the value and says what to do.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from kasplo_notify.config import Config
from kasplo_notify.endpoint import (
    FORMATS,
    MAX_DELAY_S,
    MAX_IN_FLIGHT,
    MAX_QUEUES,
    MAX_RETRIES,
    MAX_RETRY_DELAY_S,
    MAX_TIMEOUT_S,
    METHODS,
    Endpoint,
    check_mail_class,
    check_name,
)
from kasplo_notify.errors import EndpointError, nearest, shown
from kasplo_notify.events import EVENT_TYPES
from kasplo_notify.guard import EgressGuard
from kasplo_notify.headers import check_basic, check_headers
from kasplo_notify.signature import check_secret, generate_secret
from kasplo_notify.tls import check_authorities, check_certificate, check_key, check_pair

GENERATE = "generate"
UNSIGNED = "none"
# Before a lease ends its owner must have settled what it sent last.
_SETTLE_SECONDS = 5
_MIN_TIMEOUT_S = 0.1

_OPTIONAL = frozenset({"basic", "ca", "client_cert", "client_key", "delay", "timeout", "max_in_flight", "retry_delays"})


def make_endpoint(config: Config, *, name: object, url: object, created_at: int = 0, **values: object) -> Endpoint:
    """A new endpoint.

    Args:
        config: For the defaults, and for what the egress guard allows.
        name: `[a-z0-9_-]{1,64}`.
        url: Where events go.
        created_at: Unix seconds.
        **values: Fields of `Endpoint`; what is missing or None takes its default. `secret` is a secret of your
            own, `generate` (the default) or `none`.

    Raises:
        EndpointError: A value is refused.
        OSError: A client certificate is given, and no file could be opened to check it.
    """
    given = {key: value for key, value in values.items() if value is not None}
    blank = replace(defaults(config), name=check_name(name), created_at=created_at)
    return change_endpoint(config, blank, url=url, **({"secret": GENERATE} | given))


def defaults(config: Config) -> Endpoint:
    """What an endpoint is where nothing else is said, without a name, a URL and a secret."""
    delivery = config.delivery
    return Endpoint(
        name="", url="", format="json" if delivery.use_json_for_http_post else "form", queues=delivery.queues
    )


def change_endpoint(config: Config, endpoint: Endpoint, **changes: object) -> Endpoint:
    """`endpoint` with other values; None puts a value back to its default.

    Its name cannot be changed so; another secret counts at once, and ends a rotation.

    Raises:
        EndpointError: A value is refused, or there is no such value.
        OSError: The endpoint has a client certificate, and no file could be opened to check it.
    """
    checked: dict[str, Any] = {}
    for key, value in changes.items():
        if key not in _CHECKS:
            near = nearest(key, _CHECKS)
            hint = f"; did you mean {near}?" if near else ""
            raise EndpointError(f"an endpoint has no value {shown(key)} that could be changed{hint}")
        checked[key] = check_value(config, key, value)
    if "secret" in checked:
        # At once: the end of a rotation that is under way, too.
        checked |= {"old_secret": None, "old_secret_until": 0}
    changed = replace(endpoint, **checked)
    _check_together(config, changed)
    return changed


def check_value(config: Config, key: str, value: object) -> Any:
    """One value of an endpoint, by itself, as its record has it; None stands for its default.

    Raises:
        EndpointError: It is refused.
        KeyError: There is no such key.
    """
    if value is None and key in _OPTIONAL:
        return None
    return _CHECKS[key](config, value)


def check_mail_classes(names: Iterable[object]) -> tuple[str, ...]:
    """The mail classes of an endpoint, each once; none given means `*`.

    Raises:
        EndpointError: One is not 1 to 128 printable ASCII characters, or `*` stands beside others.
    """
    # Matching ignores case, so Promo and promo are one.
    unique: dict[str, str] = {}
    for name in map(check_mail_class, _listed("mail_classes", names)):
        unique.setdefault(name.lower(), name)
    classes = tuple(unique.values())
    if "*" in classes and len(classes) > 1:
        raise EndpointError("the mail class * stands for all of them; leave the others out, or leave it out")
    return classes or ("*",)


def check_event_types(names: Iterable[object]) -> tuple[str, ...]:
    """The event types of an endpoint, each once; none given means all.

    Raises:
        EndpointError: One is not in the catalogue.
    """
    unique: dict[str, None] = {}
    for name in _listed("event_types", names):
        if type(name) is not str or name not in EVENT_TYPES:
            near = nearest(name, EVENT_TYPES) if type(name) is str else None
            hint = f"did you mean {near}?" if near else f"there are {', '.join(EVENT_TYPES)}"
            raise EndpointError(f"no event type is called {shown(name)}; {hint}")
        unique[name] = None
    return tuple(unique)


def check_delay(seconds: object) -> float:
    """Seconds from emit to the first attempt.

    Raises:
        EndpointError: It is not a number of seconds up to a day.
    """
    return _number("delay", seconds, 0, MAX_DELAY_S)


def check_timeout(seconds: object, lease: float) -> float:
    """Seconds for one exchange; `lease` is `worker.lease`.

    Raises:
        EndpointError: It is under 0.1 s, or ends less than 5 s before the lease.
    """
    value = _number("timeout", seconds, _MIN_TIMEOUT_S, MAX_TIMEOUT_S)
    if value > lease - _SETTLE_SECONDS:
        raise EndpointError(
            f"timeout is {value:g} s; worker.lease is {lease:g} s, so it may be {lease - _SETTLE_SECONDS:g} s at most"
        )
    return value


def check_max_in_flight(requests: object) -> int:
    """Concurrent requests over the whole fleet.

    Raises:
        EndpointError: It is not a whole number from 1 to 10,000.
    """
    return _whole("max_in_flight", requests, 1, MAX_IN_FLIGHT)


def check_queues(count: object) -> int:
    """Partitions of the backlog.

    Raises:
        EndpointError: It is not a whole number from 1 to 64.
    """
    return _whole("queues", count, 1, MAX_QUEUES)


def check_retry_delays(delays: Iterable[object]) -> tuple[float, ...]:
    """A backoff schedule in seconds; an empty one means a single attempt.

    Raises:
        EndpointError: There are over 100, or one is not a number of seconds up to 30 days.
    """
    listed = _listed("retry_delays", delays)
    if len(listed) > MAX_RETRIES:
        raise EndpointError(f"retry_delays has {len(listed)} entries; {MAX_RETRIES} are allowed")
    return tuple(_number("a retry delay", each, 0, MAX_RETRY_DELAY_S) for each in listed)


def _check_together(config: Config, endpoint: Endpoint) -> None:
    if endpoint.basic is not None and any(name.lower() == "authorization" for name, _ in endpoint.headers):
        raise EndpointError("the endpoint has HTTP Basic credentials and an Authorization header; give one of them")
    if endpoint.tls is not None and not endpoint.url.startswith("https://"):
        raise EndpointError("an endpoint with a CA file or a client certificate needs a URL that begins with https://")
    check_pair(endpoint.client_cert, endpoint.client_key)
    in_flight = config.delivery.max_in_flight if endpoint.max_in_flight is None else endpoint.max_in_flight
    if in_flight < endpoint.queues:
        raise EndpointError(
            f"max_in_flight is {in_flight}, and there are {endpoint.queues} queues: each needs one request; "
            "raise the one or lower the other"
        )


def _secret(value: object) -> str | None:
    if value is None or value == UNSIGNED:
        return None
    return generate_secret() if value == GENERATE else check_secret(value)


def _choice(key: str, value: object, known: tuple[str, ...]) -> str:
    """One of a few words, whatever its case."""
    value = next((word for word in known if isinstance(value, str) and word.lower() == value.lower()), value)
    if type(value) is not str or value not in known:
        raise EndpointError(f"{key} is {' or '.join(known)}, not {shown(value)}")
    return value


def _listed(key: str, values: object) -> tuple[object, ...]:
    # A single string is an iterable of its letters; nobody means that.
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise EndpointError(f"{key} is a list, not {shown(values)}")
    return tuple(values)


def _pairs(values: object) -> list[tuple[object, object]]:
    pairs: list[tuple[object, object]] = []
    for each in values.items() if isinstance(values, Mapping) else _listed("headers", values):
        pair = _listed("a header", each)
        if len(pair) != 2:
            raise EndpointError("a header is a name and a value")
        pairs.append((pair[0], pair[1]))
    return pairs


def _number(what: str, value: object, lowest: float, highest: float) -> float:
    if type(value) is not int and type(value) is not float:
        raise EndpointError(f"{what} is a number of seconds, not {shown(value)}")
    if not lowest <= value <= highest:  # NaN is not
        raise EndpointError(f"{what} has to be from {lowest:,.15g} s to {highest:,.15g} s, not {shown(value)}")
    return float(value)


def _whole(what: str, value: object, lowest: int, highest: int) -> int:
    if type(value) is not int or not lowest <= value <= highest:
        raise EndpointError(f"{what} is a whole number from {lowest} to {highest}, not {shown(value)}")
    return value


_CHECKS: Mapping[str, Callable[[Config, Any], Any]] = {
    "url": lambda config, value: EgressGuard(config.egress).check_url(value),
    "method": lambda _, value: _choice("method", value, METHODS),
    "format": lambda _, value: _choice("format", value, FORMATS),
    "mail_classes": lambda _, value: check_mail_classes(() if value is None else value),
    "event_types": lambda _, value: check_event_types(() if value is None else value),
    "headers": lambda _, value: check_headers(() if value is None else _pairs(value)),
    "secret": lambda _, value: _secret(value),
    "basic": lambda _, value: check_basic(value),
    "ca": lambda _, value: check_authorities(value),
    "client_cert": lambda _, value: check_certificate(value),
    "client_key": lambda _, value: check_key(value),
    "delay": lambda _, value: check_delay(value),
    "timeout": lambda config, value: check_timeout(value, config.worker.lease),
    "max_in_flight": lambda _, value: check_max_in_flight(value),
    "queues": lambda config, value: config.delivery.queues if value is None else check_queues(value),
    "retry_delays": lambda _, value: check_retry_delays(value),
}
