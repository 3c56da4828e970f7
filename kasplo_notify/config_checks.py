"""What a value of the configuration may be: small checks from which `config` composes its table.

A check takes a value as TOML gives it and returns the value to use; `ValueError` says what is wrong, as the
rest of a sentence that begins with the key. `read` turns the text of an environment variable into such a
value; what it cannot read it leaves to the check, or refuses as the check does. Values that may hold a password
are never quoted.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import parse_qsl, urlsplit

from kasplo_notify.errors import shown

T = TypeVar("T")

_WORDS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


@dataclass(frozen=True, slots=True)
class Check(Generic[T]):
    """One kind of value: `of` checks a value, `read` reads the text of an environment variable."""

    of: Callable[[object], T]
    read: Callable[[str], object] = str


def _as_number(given: str) -> object:
    for kind in (int, float):
        try:
            return kind(given)
        except ValueError:
            continue
    return given


def _as_list(given: str) -> object:
    import json  # noqa: PLC0415 - only a list in the environment pays for the import

    try:
        return json.loads(given)
    except (ValueError, RecursionError):
        raise ValueError(f"must be a list, written as JSON, not {shown(given)}") from None


def number(low: float, high: float) -> Check[float]:
    """An int or float from `low` to `high`."""

    def of(value: object) -> float:
        # A NaN is in no range; an int may be too large to become a float.
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"must be a number from {low:g} to {high:.15g}, not {shown(value)}")
        return float(value)

    return Check(of, _as_number)


def integer(low: int, high: int) -> Check[int]:
    """An int from `low` to `high`."""

    def of(value: object) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}, not {shown(value)}")
        return value

    return Check(of, _as_number)


def boolean() -> Check[bool]:
    """A bool; in the environment also yes, no, on, off, 1 and 0."""

    def of(value: object) -> bool:
        if type(value) is not bool:
            raise ValueError(f"must be true or false, not {shown(value)}")
        return value

    return Check(of, lambda given: _WORDS.get(given.strip().lower(), given))


def text(pattern: str, expected: str, *, secret: bool = False) -> Check[str]:
    """A string that matches `pattern`, which `expected` says in words."""
    matches = re.compile(pattern).fullmatch

    def of(value: object) -> str:
        if type(value) is not str or not matches(value):
            raise ValueError(f"must be {expected}" + ("" if secret else f", not {shown(value)}"))
        return value

    return Check(of)


def choice(*words: str) -> Check[str]:
    """One of the words."""
    return text("|".join(words), f"one of {', '.join(words)}")


def optional(check: Check[T]) -> Check[T | None]:
    """None, for which the empty string stands (TOML has no null), or what `check` takes."""

    def of(value: object) -> T | None:
        return None if value is None or value == "" else check.of(value)

    return Check(of, lambda given: check.read(given) if given else given)


def many(check: Check[T], most: int) -> Check[tuple[T, ...]]:
    """A list of at most `most` values, each as `check` takes it; JSON in the environment."""

    def of(value: object) -> tuple[T, ...]:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"must be a list, not {shown(value)}")  # noqa: TRY004 - as all checks
        if len(value) > most:
            raise ValueError(f"has {len(value)} items; at most {most} are taken")
        checked = []
        for position, item in enumerate(value, 1):
            try:
                checked.append(check.of(item))
            except ValueError as error:
                raise ValueError(f"(item {position}) {error}") from None
        return tuple(checked)

    return Check(of, _as_list)


def path() -> Check[Path]:
    """A path; a leading ~ is the home folder."""

    def of(value: object) -> Path:
        if not isinstance(value, (str, Path)) or not str(value) or "\0" in str(value):
            raise ValueError(f"must be a path, not {shown(value)}")
        try:
            return Path(value).expanduser()
        except RuntimeError:
            raise ValueError("begins with ~, and there is no home folder; give the whole path") from None

    return Check(of)


def network() -> Check[str]:
    """An IPv4 or IPv6 network in CIDR notation; a single address is the network of itself."""

    def of(value: object) -> str:
        try:
            return str(ipaddress.ip_network(str(value) if isinstance(value, str) else ""))
        except ValueError:
            pass
        try:
            meant = ipaddress.ip_network(str(value), strict=False)
        except ValueError:
            raise ValueError(f"must be a network such as 10.0.0.0/8 or fd00::/8, not {shown(value)}") from None
        raise ValueError(f"must be a network, and {shown(value)} is an address in one; did you mean {meant}?")

    return Check(of)


def url(*schemes: str, words: tuple[str, ...] = ()) -> Check[str]:
    """A URL of one of the schemes with a host (`unix`: a path), or one of the words."""
    expected = " or ".join([*(f'"{word}"' for word in words), f"a URL that begins {', '.join(schemes)}"])

    def of(value: object) -> str:
        if type(value) is not str:
            raise ValueError(f"must be {expected}, not {shown(value)}")
        if value in words:
            return value
        if len(value) > 2048 or not value.isascii() or not value.isprintable() or " " in value:
            raise ValueError(f"must be {expected}, of at most 2048 ASCII characters without spaces")
        if not value.startswith(schemes):
            raise ValueError(f"must be {expected}")
        try:
            parts = urlsplit(value)
            whole = bool(parts.path if parts.scheme == "unix" else parts.hostname) and parts.port != 0
        except ValueError:
            whole = False
        if not whole:
            raise ValueError("must have a host and a valid port; percent-encode special characters of a password")
        return value

    return Check(of)


# What may stand behind the ? of a Redis URL; the client takes the other settings from us, or does not know them.
_REDIS_OPTIONS = {
    "db": r"[0-9]{1,5}",
    "username": r".+",
    "password": r".+",
    "protocol": r"[23]",
    "client_name": r"[!-~]+",
}
_TLS_OPTIONS = {
    "ssl_ca_certs": r".+",
    "ssl_ca_path": r".+",
    "ssl_certfile": r".+",
    "ssl_keyfile": r".+",
    "ssl_password": r".+",
    "ssl_cert_reqs": r"none|optional|required",
    "ssl_check_hostname": r"(?i:true|false)",
}
_SECRET_OPTIONS = ("username", "password", "ssl_password")

_MASK = "***"
_WORD = re.compile(r"[A-Za-z0-9_./-]*")
_PLACE = re.compile(r"(?:[A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")


def redis_url() -> Check[str]:
    """A URL of a Redis server, with nothing in it that the client would misread; or the word `embedded`."""
    whole = url("redis://", "rediss://", "unix://", words=("embedded",))

    def of(value: object) -> str:
        given = whole.of(value)
        if given == "embedded":
            return given
        parts = urlsplit(given)
        if parts.fragment or (parts.scheme != "unix" and not re.fullmatch(r"/?|/[0-9]{1,5}", parts.path)):
            raise ValueError("must end with the number of the database, as in redis://HOST:6379/0")
        known = _REDIS_OPTIONS | (_TLS_OPTIONS if parts.scheme == "rediss" else {})
        seen: set[str] = set()
        for name, option in parse_qsl(parts.query, keep_blank_values=True):
            if name not in known:
                raise ValueError(f"has the option {shown(name)}; known are {', '.join(known)}")
            if name in seen or not re.fullmatch(known[name], option):
                raise ValueError(f"has a value for {name} that cannot be used")
            seen.add(name)
        return given

    return Check(of)


def masked_url(given: str, *, path: bool = False) -> str:
    """The URL as it may be shown, whoever gave it: without user and password; `path`: without path and query as well.

    Of one that cannot be read, as a character of its password is not percent-encoded, only the scheme is shown.
    """
    scheme, separator, _ = given.partition("://")
    if not separator:
        return given if _WORD.fullmatch(given) else _MASK
    try:
        parts = urlsplit(given)
        readable = bool(_PLACE.fullmatch(parts.netloc.rpartition("@")[2])) and "@" not in parts.path + parts.fragment
    except ValueError:
        readable = False
    if not readable:
        return f"{scheme}://{_MASK}" if _WORD.fullmatch(scheme) else _MASK
    login, at, place = parts.netloc.rpartition("@")
    place = f"{_MASK}@{place}" if login or at else place
    if path and (parts.path not in ("", "/") or parts.query):
        return f"{parts.scheme}://{place}/{_MASK}"
    query = "&".join(map(_masked_option, filter(None, parts.query.split("&"))))
    return f"{parts.scheme}://{place}{parts.path}" + (f"?{query}" if query else "")


def _masked_option(option: str) -> str:
    name, _, value = option.partition("=")
    if name not in _REDIS_OPTIONS | _TLS_OPTIONS:
        return _MASK
    return f"{name}={_MASK if name in _SECRET_OPTIONS else value}"
