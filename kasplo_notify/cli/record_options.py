"""The options that `endpoint add` and `endpoint update` share, and the values that were given with them."""

import sys
from collections.abc import Callable
from getpass import getpass
from typing import Any, Final

import click

from kasplo_notify.catalogue import EVENT_TYPES
from kasplo_notify.cli.certificates import FILES, read_pem
from kasplo_notify.cli.errors import Refused
from kasplo_notify.errors import quoted
from kasplo_notify.headers import check_headers, parse_header

_TYPES: Final = ", ".join(EVENT_TYPES)
_DEFAULT: Final = "default"
_RESETTABLE: Final = ("delay", "timeout", "max_in_flight", "retry_delays")
# More than any of the checks lets through.
_MAX_LINE_BYTES: Final = 65_536


class _Limit(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on
    """A number, or the word `default`."""

    name = "number"

    def __init__(self, kind: type[float], *, may_be_default: bool) -> None:
        self._kind = kind
        self._may_be_default = may_be_default

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == _DEFAULT and self._may_be_default:
            return _DEFAULT
        try:
            return self._kind(value)
        except (ValueError, OverflowError):
            what = "a whole number" if self._kind is int else "a number"
            more = " or the word default" if self._may_be_default else ""
            self.fail(f"{quoted(str(value))} is not {what}{more}.", param, ctx)


class _Delays(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on
    """A backoff schedule: seconds, separated by commas; `default` for the configured one."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str) or value == _DEFAULT:
            return value
        try:
            return tuple(float(each) for each in value.split(","))
        except ValueError:
            self.fail(f"{quoted(value)} is not a list of seconds like 30,60,300.", param, ctx)


def confidential(option: str, given: str) -> str:
    """What was given, or what stands where it says: every user of the machine sees what is on a command line.

    As curl has it: `@FILE` is the one line of a file, `@-` the next line of standard input.

    Raises:
        Refused: There is no such line. The message does not repeat what may be a password that begins with an @.
    """
    if not given.startswith("@"):
        return given
    try:
        line = _typed() if given == "@-" else _only_line(given[1:])
        return line.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    raise Refused(f"What the @ of {option} leads to cannot be read: {reason}.")


def _typed() -> bytes:
    """A line of standard input; a person who types it does not see it."""
    if sys.stdin is None:
        raise ValueError("there is no standard input")
    if sys.stdin.isatty():
        return getpass("Value (not shown): ").encode()
    if not (line := sys.stdin.buffer.readline(_MAX_LINE_BYTES)):
        raise ValueError("standard input has ended")
    return line


def _only_line(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123 - a Path would not say what is wrong with one that has a NUL
        lines = file.read(_MAX_LINE_BYTES).splitlines()
    if len(lines) != 1:
        raise ValueError(f"it has {len(lines)} lines, and one is wanted")
    return lines[0]


def record_options(*, update: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options that `add` and `update` share."""
    seconds, whole = _Limit(float, may_be_default=update), _Limit(int, may_be_default=update)
    reset = "; `default` = as configured" if update else ""
    secret = (
        "Another secret at once; see rotate-secret for an overlap."
        if update
        else "Signs the requests; none = unsigned. Else one is generated."
    )
    options = [
        click.option("--method", metavar="POST|GET", help="Request method."),
        click.option(
            "--format",
            metavar="json|form",
            help="json: the event as a JSON body, with GET too. form: POST sends form fields, GET a query string.",
        ),
        click.option(
            "--mail-class",
            "mail_classes",
            metavar="C",
            multiple=True,
            help="Mail class to take; repeatable. '*' = every class; default = what no other endpoint names.",
        ),
        click.option(
            "--event-type", "event_types", metavar="T", multiple=True, help=f"Event type to take; repeatable: {_TYPES}."
        ),
        click.option(
            "--header",
            "headers",
            metavar="'K: V'",
            multiple=True,
            help="Request header; repeatable. Like --secret and --basic it may be @FILE, or @- for standard input.",
        ),
        click.option("--secret", metavar="whsec_...|none", help=secret),
        click.option("--basic", metavar="USER:PASS", help="HTTP Basic authentication."),
        click.option("--ca-file", "ca", metavar="FILE", help="Trust these authorities (PEM), not the system's."),
        click.option("--client-cert", metavar="FILE", help="Certificate (PEM) to show to its server."),
        click.option("--client-key", metavar="FILE", help="The key of that certificate (PEM, not encrypted)."),
        click.option("--delay", type=seconds, metavar="S", help=f"Seconds from emit to the first attempt{reset}."),
        click.option("--timeout", type=seconds, metavar="S", help=f"Seconds for a whole request{reset}."),
        click.option("--max-in-flight", type=whole, metavar="N", help=f"Requests at once, over all workers{reset}."),
        click.option(
            "--retry-delays", type=_Delays(), metavar="S,S,...", help=f"Seconds between attempts, in order{reset}."
        ),
        click.option("--queues", type=_Limit(int, may_be_default=False), metavar="N", help="Parts of its backlog."),
    ]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def given_values(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, as `endpoint_checks` takes them."""
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    given = {name: None if value == _DEFAULT and name in _RESETTABLE else value for name, value in given.items()}
    # In the order of the command line, for that is the order of the lines of standard input.
    for name in given:
        if name in ("secret", "basic"):
            given[name] = confidential(f"--{name}", given[name])
        elif name == "headers":
            given[name] = [confidential("--header", each) for each in given[name]]
    if "headers" in given:
        given["headers"] = check_headers(parse_header(line) for line in given["headers"])
    given |= {name: read_pem(option, given[name]) for name, option in FILES.items() if name in given}
    return given
