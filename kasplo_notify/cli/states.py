"""An endpoint's state in words, and its record without its secrets; for lists and for JSON."""

from typing import Any, Final

from kasplo_notify.cli.certificates import tls_json, tls_rows
from kasplo_notify.cli.moments import iso, local
from kasplo_notify.cli.text import Cell, Painted, masked_basic, masked_header, masked_secret
from kasplo_notify.config import Config
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.quantities import span
from kasplo_notify.status import EndpointStatus

_COLOURS: Final = {
    "active": "green",
    "failing": "yellow",
    "waiting": "yellow",
    "removing": "yellow",
    "removed": "yellow",
    "breaker_open": "red",
    "paused": "red",
    "broken": "red",
}


def state_cell(status: EndpointStatus) -> Painted:
    """The state for a table."""
    return Painted(in_words(status), _COLOURS[status.state])


def in_words(status: EndpointStatus) -> str:
    """The state as a sentence has it."""
    health, now = status.health, status.now_ms
    blocked = "; the workers' egress settings refuse it" if health.blocked_since else ""
    match status.state:
        case "broken":
            return f"broken: {'its record is' if status.broken else 'its keys are'} not readable"
        case "removing":
            return "being removed"
        case "removed":
            return "removed; its dead letters are kept"
        case "paused":
            since = f" since {local(health.paused_at)}" if health.paused_at else ""
            return f"paused: {status.pause_reason}{since}"
        case "breaker_open":
            wait = (health.probe_at - now) / 1000
            return f"breaker open, next probe {f'in {span(wait)}' if wait > 0 else 'now'}{blocked}"
        case "waiting":
            return f"waiting until {local(health.not_before)}, as it asked"
        case "failing":
            return f"active, {health.fails} failed in a row{blocked}"
        case state:
            return state


def state_json(status: EndpointStatus) -> dict[str, Any]:
    """The state for programs."""
    health = status.health
    return {
        "state": status.state,
        "paused_reason": health.paused or None,
        "paused_at": iso(health.paused_at),
        "next_probe_at": iso(health.probe_at) if health.open else None,
        "not_before": iso(health.not_before) if health.not_before > status.now_ms else None,
        "failures_in_a_row": health.fails,
        "failing_since": iso(health.failing_since),
        "blocked_since": iso(health.blocked_since),
        "broken": status.fault or None,
    }


def record_json(endpoint: Endpoint, *, secret: str | None = None) -> dict[str, Any]:
    """The record for programs; `secret` is what may be shown of the secret this once."""
    return {
        "name": endpoint.name,
        "url": endpoint.url,
        "method": endpoint.method,
        "format": endpoint.format,
        "mail_classes": list(endpoint.mail_classes),
        "event_types": list(endpoint.event_types),
        "headers": {name: masked_header(name, value) for name, value in endpoint.headers},
        "secret": secret or (masked_secret(endpoint.secret) if endpoint.secret else None),
        "old_secret_until": iso(endpoint.old_secret_until * 1000),
        "basic": masked_basic(endpoint.basic) if endpoint.basic is not None else None,
        **tls_json(endpoint),
        "delay": endpoint.delay,
        "timeout": endpoint.timeout,
        "max_in_flight": endpoint.max_in_flight,
        "queues": endpoint.queues,
        "retry_delays": None if endpoint.retry_delays is None else list(endpoint.retry_delays),
        "created_at": iso(endpoint.created_at * 1000),
    }


def record_rows(endpoint: Endpoint, config: Config, now_s: float) -> list[tuple[str, Cell]]:
    """The record for people, its defaults filled in; `now_s` is Unix seconds by Redis' clock, which ends rotations."""
    delivery = config.delivery

    def number(own: float | None, default: float, unit: str = "") -> str:
        return f"{default:g}{unit} (default)" if own is None else f"{own:g}{unit}"

    rows: list[tuple[str, Cell]] = [
        ("url", endpoint.url),
        ("method", endpoint.method),
        ("format", endpoint.format),
        ("mail classes", ", ".join(endpoint.mail_classes)),
        ("event types", ", ".join(endpoint.event_types) or "all"),
        *((f"header {name}", masked_header(name, value)) for name, value in endpoint.headers),
        ("secret", _secret(endpoint, now_s)),
        *([("basic", masked_basic(endpoint.basic))] if endpoint.basic is not None else []),
        *tls_rows(endpoint, now_s),
        ("delay", number(endpoint.delay, delivery.delay, " s")),
        ("timeout", number(endpoint.timeout, delivery.timeout, " s")),
        ("max in flight", number(endpoint.max_in_flight, delivery.max_in_flight)),
        ("queues", str(endpoint.queues)),
    ]
    if endpoint.retry_delays is not None:
        rows.append(("retry delays", ", ".join(f"{each:g}" for each in endpoint.retry_delays) + " s"))
    if endpoint.created_at:
        rows.append(("registered", local(endpoint.created_at * 1000)))
    return rows


def changed_rows(before: Endpoint, after: Endpoint, config: Config, now_s: float) -> list[tuple[str, str]]:
    """What differs between two records of an endpoint, as `old -> new`; of what is never shown, that it differs."""
    old, new = dict(record_rows(before, config, now_s)), dict(record_rows(after, config, now_s))
    rows = {
        key: f"{old.get(key, 'none')} -> {new.get(key, 'none')}"
        for key in (*new, *sorted(old.keys() - new.keys()))
        if old.get(key) != new.get(key)
    }
    hidden, hidden_before = _hidden(after), _hidden(before)
    for key in hidden.keys() & hidden_before.keys():
        if hidden[key] != hidden_before[key]:
            rows.setdefault(key, "another value, which is not shown")
    if not rows and before != after:
        rows["changed"] = "a value that is not shown"
    return list(rows.items())


def _hidden(endpoint: Endpoint) -> dict[str, object]:
    """What is masked in the rows of a record, or may be, by the name that it has there."""
    named = {f"header {name}": value for name, value in endpoint.headers}
    return named | {
        "secret": endpoint.secret,
        "basic": endpoint.basic,
        "authorities": endpoint.ca,
        "client key": endpoint.client_key,
    }


def _secret(endpoint: Endpoint, now_s: float) -> str:
    if endpoint.secret is None:
        return "none: requests are not signed"
    if len(endpoint.signing_secrets(now_s)) == 1:
        return masked_secret(endpoint.secret)
    return f"{masked_secret(endpoint.secret)}, and the one before until {local(endpoint.old_secret_until * 1000)}"
