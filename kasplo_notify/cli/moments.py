"""Times as an operator gives and reads them."""

import re
import time
from datetime import UTC, datetime
from typing import Any, Final

import click

from kasplo_notify.errors import quoted
from kasplo_notify.quantities import span

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGO = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*([smhdw])", re.ASCII | re.IGNORECASE)


class Moment(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on
    """A point in time, in Unix milliseconds: ISO 8601, or how long ago (`90s`, `30m`, `2h`, `3d`, `1w`)."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        text = str(value).strip()
        if ago := _AGO.fullmatch(text):
            return int((time.time() - float(ago[1]) * _SECONDS[ago[2].lower()]) * 1000)
        try:
            # Without a zone it is local time, as the lists show it.
            return max(0, int(datetime.fromisoformat(text).astimezone().timestamp() * 1000))
        except (ValueError, OverflowError, OSError):
            self.fail(
                f"{quoted(text)} is neither ISO 8601 (2026-01-31T12:00) nor a time ago (30m, 2h, 3d).", param, ctx
            )


class Span(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on
    """A duration, in seconds: `90s`, `30m`, `24h`, `3d`, `1w`, or `0`; at most `most` seconds."""

    name = "duration"

    def __init__(self, most: float) -> None:
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        parts = _AGO.fullmatch(text)
        if parts is None and text != "0":
            self.fail(f"{quoted(text)} is not a duration (90s, 30m, 24h, 3d, or 0).", param, ctx)
        seconds = float(parts[1]) * _SECONDS[parts[2].lower()] if parts else 0.0
        if seconds > self._most:
            self.fail(f"{quoted(text)} is longer than {span(self._most)}.", param, ctx)
        return seconds


def local(ms: float) -> str:
    """Unix milliseconds as local time, for people."""
    try:
        return datetime.fromtimestamp(ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "?"


def iso(ms: float) -> str | None:
    """Unix milliseconds as ISO 8601 in UTC, for programs; None for 0, which stands for never."""
    try:
        moment = datetime.fromtimestamp(ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z") if ms else None
