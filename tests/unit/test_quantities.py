"""Durations, sizes and counts as sentences have them."""

import pytest

from kasplo_notify.quantities import counted, listed, span, storage


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (-3, "0 s"),
        (45.4, "45 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (12_000, "3 h 20 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_a_span_is_told_in_its_two_largest_units(seconds: float, words: str) -> None:
    assert span(seconds) == words


def test_numbers_are_counted_in_english() -> None:
    assert [counted(number, "event") for number in (0, 1, 1204)] == ["0 events", "1 event", "1,204 events"]
    assert counted(2, "is", "are") == "2 are"


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (1023, "1,023 B"),
        (1024, "1.0 KiB"),
        (1_119_632, "1.1 MiB"),
        (25_276_502_016, "23.5 GiB"),
        (1 << 50, "1,048,576.0 GiB"),
    ],
)
def test_a_size_is_told_in_the_unit_that_fits(size: int, words: str) -> None:
    assert storage(size) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "none"),
        (1, "a"),
        (2, "a and b"),
        (6, "a, b, c, d, e and f"),
        (7, "a, b, c, d, e and 2 more"),
    ],
)
def test_a_long_list_ends_with_how_many_more(count: int, words: str) -> None:
    assert listed(list("abcdefg"[:count])) == words
