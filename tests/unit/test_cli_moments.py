"""Times on the command line: ISO 8601 or how long ago; shown in local time, in JSON in UTC."""

import time

import click
import pytest

from kasplo_notify.cli.moments import Moment, iso, local


@pytest.mark.parametrize(
    ("given", "ago_s"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("3d", 259_200), ("1W", 604_800)]
)
def test_a_moment_may_be_a_time_ago(given: str, ago_s: float) -> None:
    moment = Moment().convert(given, None, None)
    assert abs(time.time() - ago_s - moment / 1000) < 2


@pytest.mark.parametrize(
    ("given", "ms"),
    [
        ("2026-01-31T12:00:00Z", 1_769_860_800_000),
        ("2026-01-31T12:00:00+02:00", 1_769_853_600_000),
        ("2026-01-31 12:00:00.250+00:00", 1_769_860_800_250),
    ],
)
def test_a_moment_may_be_iso_8601(given: str, ms: int) -> None:
    assert Moment().convert(given, None, None) == ms


def test_a_moment_without_a_zone_is_local_as_the_lists_show_it() -> None:
    moment = Moment().convert("2026-01-31 12:00:00", None, None)
    assert local(moment) == "2026-01-31 12:00:00"


@pytest.mark.parametrize("given", ["", "never", "2h ago", "-2h", "2026-13-01", "nan", "99999999999h", "9" * 400, "٣h"])
def test_anything_else_is_refused(given: str) -> None:
    with pytest.raises(click.BadParameter, match="ISO 8601"):
        Moment().convert(given, None, None)


def test_a_moment_in_json_is_utc_and_never_is_null() -> None:
    assert iso(1_769_860_800_250) == "2026-01-31T12:00:00.250Z"
    assert iso(0) is None
    assert iso(1e300) is None
    assert local(1e300) == "?"
