"""Output for people: columns line up, a stranger's text is harmless, secrets are masked."""

import json

import pytest

from kasplo_notify.cli.text import (
    Painted,
    clipped,
    fields,
    json_text,
    masked_basic,
    masked_header,
    masked_secret,
    paint,
    printable,
    table,
)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("plain", "plain"),
        ("Grüße, 世界", "Grüße, 世界"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("two\r\nlines", "two\\r\\nlines"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        (b"\xff{}", "\N{REPLACEMENT CHARACTER}{}"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
    ],
)
def test_nothing_that_a_terminal_obeys_is_printed(given: str | bytes, shown: str) -> None:
    assert printable(given) == shown


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("Grüße, 世界 😀", '"Grüße, 世界 😀"'),
        ('"\\\n\x1b', r'"\"\\\n\u001b"'),
        ("\x7f\x85\x9b\u2028\u202e", r'"\u007f\u0085\u009b\u2028\u202e"'),
        ("\U000e0041ü\ue000", r'"\udb40\udc41ü\ue000"'),
        ({"\x9b": ["\u200b"]}, r'{"\u009b":["\u200b"]}'),
    ],
)
def test_json_is_escaped_where_a_terminal_obeys_and_says_the_same(given: object, shown: str) -> None:
    assert json_text(given) == shown
    assert json.loads(shown) == given


def test_columns_are_as_wide_as_their_content_and_numbers_stand_on_the_right(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table(["NAME", "WAITING", "NOTE"], [["crm", 1204, "x"], ["a-longer-name", Painted(7, "red"), ""]])
    assert capsys.readouterr().out.splitlines() == [
        "NAME           WAITING  NOTE",
        "crm              1,204  x",
        "a-longer-name        7",
    ]


def test_wide_characters_count_twice(capsys: pytest.CaptureFixture[str]) -> None:
    table(["A", "B"], [["世界", "x"], ["abcd", "y"]])
    assert capsys.readouterr().out.splitlines() == ["A     B", "世界  x", "abcd  y"]


def test_a_cell_cannot_break_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    table(["A"], [["one\ntwo"]])
    fields([("name", "one\ntwo")])
    assert capsys.readouterr().out.splitlines() == ["A", "one\\ntwo", "  name  one\\ntwo"]


def test_long_texts_are_cut_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert clipped("x" * 100, 60) == "x" * 100
    monkeypatch.setattr("kasplo_notify.cli.text.sys.stdout.isatty", lambda: True)
    assert clipped("x" * 100, 60) == "x" * 60 + "..."
    assert clipped("x" * 60, 60) == "x" * 60


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert paint("x", "red") == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("x", "red") == "x"


@pytest.mark.parametrize(
    ("name", "value", "is_shown"),
    [
        ("X-Tenant", "42", True),
        ("Accept-Language", "en", True),
        ("Authorization", "x", False),
        ("X-Api-Key", "x", False),
        ("Cookie", "a=b", False),
        ("X-Custom", "Bearer abc", False),
        ("X-Custom", "9f86d081884c7d659a2feaa0c55ad015", False),
    ],
)
def test_a_header_that_looks_like_a_credential_is_masked(name: str, value: str, is_shown: bool) -> None:  # noqa: FBT001
    assert masked_header(name, value) == (value if is_shown else "***")


def test_of_secrets_only_their_kind_is_shown() -> None:
    assert masked_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw") == "whsec_***"
    assert masked_basic("joe:hunter2:x") == "joe:***"
