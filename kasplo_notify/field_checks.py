"""One check per kind of field: it returns the value for the wire, or raises `WrongValueError`.

Nothing is normalised but for three courtesies to producers: an id given as an int becomes the string that the
wire has, an aware datetime becomes Unix seconds, and a subclass of a JSON type becomes that type. A check
first takes what producers give, as fast as it can; the rest may take its time.
"""

import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from socket import AF_INET, AF_INET6, inet_pton
from typing import Final

from kasplo_notify.catalogue import BOUNCE_TYPES, STATUSES, Kind
from kasplo_notify.errors import nearest, shown

MAX_BODY_BYTES: Final = 256 * 1024
# The id is also an HTTP header, percent-encoded to at most three times this; many servers refuse over 8 KiB.
MAX_TRACKING_ID_BYTES: Final = 2048
MAX_HEADER_NAMES: Final = 1000
MAX_DEPTH: Final = 64
# 9999-12-31T23:59:59Z, where datetime ends too: what is later is milliseconds, or garbage.
MAX_SECONDS: Final = 253_402_300_799

# As plain ints: to convert a member of the enum would take as long as the check.
_IPV4, _IPV6 = int(AF_INET), int(AF_INET6)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_HEADER_NAME = re.compile(r"[!-9;-~]{1,256}")  # RFC 5322, section 3.6.8: printable ASCII without the colon


class WrongValueError(ValueError):
    """What is wrong with a value, as the rest of a sentence that begins with the name of its field."""


def _not(expected: str, value: object, hint: str = "") -> WrongValueError:
    if value is None:
        hint = "; leave out a field that has no value"
    elif isinstance(value, bytes):
        hint = "; decode it"
    return WrongValueError(f"must be {expected}, not {shown(value)}{hint}")


def text(value: object) -> str:
    """Free text: anything that UTF-8 can carry, control characters too."""
    if type(value) is not str:
        if not isinstance(value, str):
            raise _not("a string", value)
        value = str.__str__(value)
    if len(value) > MAX_BODY_BYTES:
        raise WrongValueError(f"has {len(value)} characters; a whole event may have {MAX_BODY_BYTES} bytes of JSON")
    return value


def _url(value: object) -> str:
    if not (value := text(value)):
        raise WrongValueError("must not be empty")
    return value


def _id(value: object) -> str:
    # Nearly every id is printable, and isprintable() is the fastest test that excludes control characters.
    if type(value) is str and value.isprintable() and len(value) <= MAX_BODY_BYTES:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        if value.bit_length() > 128:
            raise _not("a string or a whole number of at most 128 bits", value)
        return str(int.__int__(value))
    if not isinstance(value, str):
        raise _not("a string (or a whole number)", value)
    value = text(value)
    if control := _CONTROL.search(value):
        raise WrongValueError(f"holds the control character {control[0]!r} at position {control.start()}; remove it")
    return value


def _email(value: object) -> str:
    if type(value) is str and value.isprintable() and 0 < len(value) <= MAX_BODY_BYTES:
        return value
    if not isinstance(value, str) or not value:
        raise _not("an address", value)
    return _id(value)


def _tracking_id(value: object) -> str:
    # UTF-8 has at most 4 bytes a character.
    if type(value) is str and value.isprintable() and len(value) <= MAX_TRACKING_ID_BYTES // 4:
        return value
    value = _id(value)
    size = len(value.encode(errors="replace"))
    if size > MAX_TRACKING_ID_BYTES:
        raise WrongValueError(
            f"has {size} bytes; it is sent as an HTTP header too and may have {MAX_TRACKING_ID_BYTES}"
        )
    return value


def _ip(value: object) -> str:
    if type(value) is str:
        try:
            inet_pton(_IPV6 if ":" in value else _IPV4, value)
        except (OSError, ValueError):
            pass
        else:
            return value
    raise _not("an IPv4 or IPv6 address as a string", value)


def _seconds(value: object) -> int:
    if type(value) is int and 0 <= value <= MAX_SECONDS:
        return value
    expected = "a whole number, Unix seconds"
    if isinstance(value, float):
        raise _not(expected, value, "; give whole seconds")
    return math.floor(_any_time(value, expected))


def _number(value: object) -> float:
    """An int stays an int; a datetime becomes a float, as in the document's example of `timestamp`."""
    # A NaN is in no range.
    if (type(value) is float or type(value) is int) and 0 <= value <= MAX_SECONDS:
        return value
    return _any_time(value, "a number, Unix seconds")


def _time(value: object) -> float:
    """As `_number`, but a datetime of a whole second becomes an int, as in the document's `injected_time`."""
    seconds = _number(value)
    return int(seconds) if isinstance(value, datetime) and seconds.is_integer() else seconds


def _any_time(value: object, expected: str) -> float:
    """A datetime or a subclass of int or float as seconds; a plain number comes here only to be refused."""
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise WrongValueError("must not be a datetime without a time zone: which one it means is anyone's guess")
        seconds: float = value.timestamp()
    elif isinstance(value, float):
        seconds = float.__float__(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        seconds = int.__int__(value)
    else:
        raise _not(expected, value)
    if 0 <= seconds <= MAX_SECONDS:
        return seconds
    late = MAX_SECONDS < seconds <= MAX_SECONDS * 1000
    raise _not(f"{expected}, from 0 to {MAX_SECONDS}", value, "; these look like milliseconds" if late else "")


def _bool(value: object) -> bool:
    if type(value) is not bool:
        raise _not("true or false", value)
    return value


def _int(value: object) -> int:
    if type(value) is not int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise _not("a whole number", value, "; give 1 for true, 0 for false" if isinstance(value, bool) else "")
        value = int.__int__(value)
    if value.bit_length() > 63:
        raise _not("a whole number of at most 64 bits", value)
    return value


def _zero_or_one(value: object) -> int:
    number = _int(value)
    if number not in (0, 1):
        raise _not("0 or 1", value)
    return number


def _bounce_type(value: object) -> str:
    if isinstance(value, str) and value in BOUNCE_TYPES:
        return str.__str__(value)
    given = value.lower() if isinstance(value, str) else ""
    meant = [f'; did you mean "{letter}"?' for letter, word in BOUNCE_TYPES.items() if given in (letter, word)]
    raise _not('"h" (hard), "s" (soft) or "o" (other)', value, "".join(meant))


def _status(value: object) -> str:
    if isinstance(value, str) and value in STATUSES:
        return str.__str__(value)
    meant = nearest(value, STATUSES) if isinstance(value, str) else None
    raise _not(f"one of {', '.join(STATUSES)}", value, f'; did you mean "{meant}"?' if meant else "")


def _headers(value: object) -> dict[str, list[str]]:
    if not isinstance(value, Mapping):
        raise _not("an object, header name -> list of strings", value)
    if len(value) > MAX_HEADER_NAMES:
        raise WrongValueError(f"has {len(value)} names; at most {MAX_HEADER_NAMES} are taken")
    return {_header_name(name): _header_values(name, value[name]) for name in value}


def _header_name(name: object) -> str:
    if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
        raise WrongValueError(
            f"has {shown(name)} for a name; it takes 1 to 256 printable ASCII characters, no space or colon"
        )
    return str.__str__(name)


def _header_values(name: str, values: object) -> list[str]:
    if isinstance(values, str):
        raise WrongValueError(f"has a string for {name[:60]}; a name may repeat, so give a list of strings")
    if not isinstance(values, (list, tuple)):
        raise WrongValueError(f"has {shown(values)} for {name[:60]}; give a list of strings")
    try:
        return [text(item) for item in values]
    except WrongValueError as wrong:
        raise WrongValueError(f"has a value for {name[:60]} that {wrong}") from None


def _json(value: object) -> object:
    """Any value that JSON can say, as it is. No recursion: it may be deeper than any stack, or a ring."""
    if value is None:
        raise _not("a JSON value", value)
    seen = 0
    pending = [(value, 1)]
    while pending:
        item, depth = pending.pop()
        seen += 1
        if _is_scalar(item):
            continue
        inner = _inner(item)
        if depth > MAX_DEPTH:
            raise WrongValueError(f"is nested deeper than {MAX_DEPTH} levels")
        if seen + len(pending) + len(inner) > MAX_BODY_BYTES:
            raise WrongValueError(f"holds more values than {MAX_BODY_BYTES} bytes of JSON can")
        pending += [(each, depth + 1) for each in inner]
    return value


def _is_scalar(item: object) -> bool:
    if isinstance(item, str):
        text(item)
    elif isinstance(item, float):
        if not math.isfinite(item):  # orjson would write null
            raise WrongValueError(f"holds {shown(item)}, which JSON cannot say")
    elif isinstance(item, int):
        if not -(2**63) <= item < 2**64:
            raise WrongValueError(f"holds {shown(item)}; numbers end at 64 bits")
    else:
        return item is None
    return True


def _inner(item: object) -> list[object]:
    if isinstance(item, dict):
        for key in item:
            if not isinstance(key, str):
                raise WrongValueError(f"holds an object with {shown(key)} for a key; JSON has only strings")
        return list(item.values())
    if isinstance(item, (list, tuple)):
        return list(item)
    raise WrongValueError(f"holds {shown(item)}, which JSON cannot say")


CHECKS: Mapping[Kind, Callable[[object], object]] = {
    "email": _email,
    "id": _id,
    "tracking_id": _tracking_id,
    "text": text,
    "url": _url,
    "ip": _ip,
    "seconds": _seconds,
    "number": _number,
    "time": _time,
    "bool": _bool,
    "int": _int,
    "zero_or_one": _zero_or_one,
    "bounce_type": _bounce_type,
    "status": _status,
    "headers": _headers,
    "json": _json,
}
