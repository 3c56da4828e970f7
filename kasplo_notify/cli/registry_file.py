"""The registry as a file: TOML with one `[endpoints.NAME]` table each, whose keys are the fields of `Endpoint`.

A key that is not there has its default, but for the secret: without one, what is registered stays. What is not to be
in the file is `<kept>` there, and stays as it is registered, too.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from kasplo_notify.cli.errors import Refused
from kasplo_notify.cli.text import MASK, masked_header
from kasplo_notify.config import Config
from kasplo_notify.endpoint import Endpoint, check_name
from kasplo_notify.endpoint_checks import GENERATE, UNSIGNED, check_value, defaults, make_endpoint
from kasplo_notify.errors import EndpointError, nearest, quoted, shown
from kasplo_notify.headers import parse_header
from kasplo_notify.signature import check_secret

KEPT: Final = "<kept>"
# A thousand endpoints have 80 KiB and more; tomllib reads 2.7 MB a second.
MAX_BYTES: Final = 16 * 1024 * 1024

_ROOT: Final = "endpoints"
# In the order in which they are written.
_KEYS: Final = (
    *("url", "method", "format", "mail_classes", "event_types", "headers", "secret", "old_secret", "old_secret_until"),
    *("basic", "ca", "client_cert", "client_key", "delay", "timeout", "max_in_flight", "queues", "retry_delays"),
)
_WHOLLY_HIDDEN: Final = ("basic", "client_key")
_ROTATION: Final = ("old_secret", "old_secret_until")

Table = dict[str, Any]


def table_of(endpoint: Endpoint, config: Config, now_s: float, *, with_secrets: bool) -> Table:
    """An endpoint as its table: the URL, how it is signed, and what is not the default.

    Args:
        endpoint: Whose.
        config: For the defaults.
        now_s: Unix seconds by Redis' clock: an old secret is written until its rotation ends.
        with_secrets: Write what is confidential, too.
    """
    default = defaults(config)
    table: Table = {}
    for key in _KEYS:
        value = getattr(endpoint, key)
        if key in _ROTATION or (key != "secret" and value == getattr(default, key)):
            continue
        if key == "headers":
            value = [_header_line(*header, with_secrets=with_secrets) for header in value]
        elif key == "secret" and value is None:
            value = UNSIGNED
        elif key == "secret" or key in _WHOLLY_HIDDEN:
            value = value if with_secrets else KEPT
        table[key] = list(value) if isinstance(value, tuple) else value
        if key == "secret" and with_secrets and len(endpoint.signing_secrets(now_s)) > 1:
            table["old_secret"] = endpoint.old_secret
            table["old_secret_until"] = datetime.fromtimestamp(endpoint.old_secret_until, UTC)
    return table


def read_tables(content: bytes, file: str) -> dict[str, Any]:
    """What stands for each endpoint in a file; nothing of it is checked.

    Args:
        content: The file.
        file: Its name, for messages.

    Raises:
        Refused: It is too large, no TOML, or about something else.
    """
    if len(content) > MAX_BYTES:
        raise Refused(f"{file} is over {MAX_BYTES // 1024 // 1024} MiB.")
    try:
        document = tomllib.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)[:200]
        raise Refused(f"{file} is not TOML: {reason}.") from None
    for key in document:
        if key != _ROOT:
            hint = _meant(key, (_ROOT,)) or f"; an endpoint is a table [{_ROOT}.NAME]"
            raise Refused(f"{file} has a key {quoted(key)} that is not known{hint}.")
    tables = document.get(_ROOT)
    if type(tables) is not dict:
        # An empty file, or another one, must not empty the registry.
        raise Refused(f"{file} has no table [{_ROOT}.NAME]; a registry without endpoints is written [{_ROOT}].")
    return tables


def faults_of(config: Config, name: str, table: object, current: Endpoint | None) -> Iterator[str]:
    """Everything that is wrong with the table of one endpoint, each fault with its key.

    Raises:
        OSError: A client certificate is given, and no file could be opened to check it.
    """
    try:
        check_name(name)
    except EndpointError as error:
        yield str(error)
        return
    if not isinstance(table, dict):
        yield f"{name}: an endpoint is a table [{_ROOT}.{name}], not {shown(table)}"
        return
    if current is not None and current.removing:
        yield f"{name}: it is still being removed; try again when `endpoint list` has lost it"
        return
    faults = [] if "url" in table else [f"{name}.url: it is missing"]
    for key, value in table.items():
        try:
            _checked(config, key, value, current)
        except EndpointError as error:
            where = f"{name}.{key}" if key in _KEYS else name
            faults.append(f"{where}: {error}")
    if not faults:
        try:
            wanted(config, name, table, current, created_at=0)
        except EndpointError as error:
            faults.append(f"{name}: {error}")
    yield from faults


def wanted(
    config: Config, name: str, table: Mapping[str, object], current: Endpoint | None, *, created_at: int
) -> Endpoint:
    """The record that a table asks for.

    Args:
        config: For the defaults, and for what the egress guard allows.
        name: The endpoint.
        table: What the file says of it.
        current: Its record; None when it is new, or its record is not readable.
        created_at: Unix seconds, for a new one.

    Raises:
        EndpointError: A value is refused.
        OSError: A client certificate is given, and no file could be opened to check it.
    """
    values = {key: _checked(config, key, value, current) for key, value in table.items() if key not in _ROTATION}
    values["secret"] = values.get("secret") or _kept("secret", current)
    since = created_at if current is None else current.created_at
    endpoint = make_endpoint(config, name=name, created_at=since, **({"url": None} | values))
    if not table.keys().isdisjoint(_ROTATION):
        if not table.keys() >= set(_ROTATION) or endpoint.secret is None:
            raise EndpointError(
                "old_secret, old_secret_until and a secret go together; give all of them or only secret"
            )
        old, until = (_checked(config, key, table[key], current) for key in _ROTATION)
        return replace(endpoint, old_secret=old, old_secret_until=until)
    if current is not None and endpoint.secret == current.secret:
        return replace(endpoint, old_secret=current.old_secret, old_secret_until=current.old_secret_until)
    return endpoint


def generates(table: Mapping[str, object], current: Endpoint | None) -> bool:
    """Whether `wanted` makes up a secret."""
    return current is None and table.get("secret", KEPT) == KEPT


def _checked(config: Config, key: str, value: object, current: Endpoint | None) -> Any:
    """A value of a table as `make_endpoint` takes it; a rotation's as the record has it."""
    if key not in _KEYS:
        raise EndpointError(f"there is no key {quoted(key)}{_meant(key, _KEYS)}")
    if key == "old_secret":
        return check_secret(value)
    if key == "old_secret_until":
        if type(value) is not datetime or value.tzinfo is None or value.year < 1970:
            raise EndpointError(f"a time is written like 2027-01-31T12:00:00Z, not {shown(value)}")
        return max(0, int(value.timestamp()))
    if key == "headers":
        value = [_header(line, current) for line in _lines(value)]
    elif value == KEPT and key in ("secret", *_WHOLLY_HIDDEN):
        return _kept(key, current)
    elif value == GENERATE and key == "secret":
        raise EndpointError("leave it out, and a new endpoint gets a secret that is generated")
    check_value(config, key, value)
    return value


def _kept(key: str, current: Endpoint | None) -> str:
    value: str | None = None if current is None else getattr(current, key)
    if key == "secret":
        return GENERATE if current is None else value or UNSIGNED
    if value is None:
        raise EndpointError(f"{KEPT} stands for what is registered, and nothing is; give the value")
    return value


def _lines(value: object) -> list[object]:
    if type(value) is not list:
        raise EndpointError(f"headers are a list of 'Name: value', not {shown(value)}")
    return value


def _header(line: object, current: Endpoint | None) -> tuple[str, str]:
    if type(line) is not str:
        raise EndpointError(f"a header is a string 'Name: value', not {shown(line)}")
    name, value = parse_header(line)
    if value != KEPT:
        return name, value
    for known, registered in () if current is None else current.headers:
        if known.lower() == name.lower():
            return name, registered
    raise EndpointError(f"{KEPT} stands for what is registered, and no header {name} is; give its value")


def _header_line(name: str, value: str, *, with_secrets: bool) -> str:
    hidden = not with_secrets and masked_header(name, value) == MASK
    return f"{name}: {KEPT if hidden else value}"


def _meant(key: str, known: tuple[str, ...]) -> str:
    near = nearest(key, known)
    return f"; did you mean {near}?" if near else ""
