"""Every error that this package raises on purpose.

    NotifyError
    |-- InvalidEvent (ValueError)      an event that is not in the catalogue, or not as the catalogue says
    |-- ConfigError (ValueError)       a key or value of the configuration
    |-- EndpointError (ValueError)     a refused endpoint: its name, URL, headers, limits
    |   |-- UnknownEndpoint            no endpoint has this name
    |   `-- EndpointExists             the name is taken
    |-- PushError                      valid events that are not, or not all, stored
    |   |-- StorageUnavailable         Redis cannot be reached, or did not answer in time
    |   |   |-- StorageRefused           Redis answers, and does not do this for us: an ACL, a command it lacks
    |   |   `-- StorageBroken            Redis answers, and a record in it is not as it should be; do not try again
    |   `-- QueueFull                  Redis has no memory left
    `-- AlreadyRunning                 the embedded server of this data folder belongs to another process

A message is one sentence or two: what was wrong, where, what to do. What a subscriber's server answers, or
fails to answer, is a value (`transport.Outcome`) and never an exception. Messages quote what was given with
`shown`, and guess what was meant with `nearest`.
"""

from collections.abc import Iterable

_SHOWN_CHARACTERS = 60
_DIGITS_PER_BIT = 0.30103
# Nobody who writes JSON or TOML calls them by their names in Python.
_KINDS: dict[type, str] = {list: "a list", tuple: "a list", dict: "an object"}


class NotifyError(Exception):
    """The root: `except NotifyError` catches whatever this package raises on purpose."""


class InvalidEvent(NotifyError, ValueError):
    """An event was refused; nothing of the call was queued.

    `event_type` and `field` say where the fault is. `field` is None where the event as a whole is too large,
    `event_type` where none was given that could be one.
    """

    def __init__(self, message: str, *, event_type: str | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.event_type = event_type
        self.field = field


class ConfigError(NotifyError, ValueError):
    """The configuration is wrong; the message names the key and the file or variable that it came from."""


class EndpointError(NotifyError, ValueError):
    """An endpoint was refused: its name, URL, a header, a secret or a limit."""


class UnknownEndpoint(EndpointError):
    """No endpoint has the given name."""


class EndpointExists(EndpointError):
    """An endpoint of the given name is registered, or still being removed."""


class PushError(NotifyError):
    """Valid events could not be stored, or not all of them.

    `event_ids` are the ids of all events of the call, in its order; `pushed` is how many of them, from the
    first, are known to be stored. The same call with these ids completes it without duplicates.
    """

    def __init__(self, message: str, *, event_ids: Iterable[str] = (), pushed: int = 0) -> None:
        super().__init__(message)
        self.event_ids = tuple(event_ids)
        self.pushed = pushed


class StorageUnavailable(PushError):
    """Redis cannot be reached or did not answer in time: what was sent last may or may not be stored."""


class StorageRefused(StorageUnavailable):
    """Redis answers, but not this: the login may not ask for it, or the server does not know it."""


class StorageBroken(StorageUnavailable):
    """Redis answers, but something in it is not what we stored there: the same call fails again."""


class QueueFull(PushError):
    """Redis has reached its memory limit and takes no more events until workers have delivered some."""


class AlreadyRunning(NotifyError):
    """Another process owns the embedded server of this data folder."""


def shown(value: object) -> str:
    """`value` as a message may quote it: short, on one line, safe to print, whatever it is.

    Only str, int, float, bool and None are quoted, as JSON has them: most values come from JSON lines, TOML and the
    environment. Of anything else the kind is named: its repr may be huge, or run somebody's code.
    """
    if value is None:
        return "null"
    if type(value) is bool:
        return str(value).lower()
    if type(value) is str:
        return quoted(value)
    if type(value) is int:
        # Python refuses to write an int of more than 4300 digits; nobody wants to read one of 30.
        bits = value.bit_length()
        return str(value) if bits <= 64 else f"a number of about {int(bits * _DIGITS_PER_BIT) + 1} digits"
    if type(value) is float:
        return repr(value)
    return _KINDS.get(type(value)) or f"a value of type {type(value).__name__[:_SHOWN_CHARACTERS]}"


def quoted(text: str, most: int = _SHOWN_CHARACTERS) -> str:
    """Text in quotes, at most its first `most` characters; what is no printable character is escaped.

    Python's repr does just that: letters of all scripts stay, control characters and those that turn the direction
    of writing do not.
    """
    more = f"... ({len(text)} characters)" if len(text) > most else ""
    return f"{text[:most]!r}{more}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `name` was most likely meant to be, or None when none is near."""
    from difflib import get_close_matches  # noqa: PLC0415 - only a refused name pays for the import

    by_lower = {candidate.lower(): candidate for candidate in known}
    matches = get_close_matches(name[:_SHOWN_CHARACTERS].lower(), by_lower, n=1, cutoff=0.7)
    return by_lower[matches[0]] if matches else None
