"""What a benchmark finds: a value, the baseline of the same run, and the ratio of the two."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


class BenchmarkError(Exception):
    """A part did not do what it measures; there is no figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: Times that delivering and its baseline take turns; medians are shown.
        backlog: Events delivered in one round.
        turns: Times that emitting and its baseline take turns; many, as they are short.
        emits: Single emits in one turn.
        batches: Batches of 500 in one turn.
        stored: Events queued to weigh them.
        delay: Seconds from emit to delivery where lateness is measured.
        paced_s: Seconds for which 20 events/s are emitted there.
    """

    rounds: int
    backlog: int
    turns: int
    emits: int
    batches: int
    stored: int
    delay: float
    paced_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One row of the table.

    Attributes:
        name: What was measured.
        unit: Of the value and the baseline.
        value: The median.
        baseline: The median of the baseline; None where there is none.
        against: What the baseline is.
        ratio: The median of value / baseline of each round.
        ratios: Of each round.
        note: What else is to be said.
    """

    name: str
    unit: str
    value: float
    baseline: float | None = None
    against: str = ""
    ratio: float | None = None
    ratios: tuple[float, ...] = ()
    note: str = ""


def compared(name: str, unit: str, pairs: Sequence[tuple[float, float]], against: str, *, note: str = "") -> Figure:
    """The figure of (value, baseline) pairs, one of each round."""
    ratios = tuple(value / baseline for value, baseline in pairs)
    return Figure(
        name=name,
        unit=unit,
        value=median(value for value, _ in pairs),
        baseline=median(baseline for _, baseline in pairs),
        against=against,
        ratio=median(ratios),
        ratios=ratios,
        note=note,
    )


def quantile(sorted_values: Sequence[float], part: float) -> float:
    """The value below which `part` of them are; nearest rank."""
    return sorted_values[min(len(sorted_values) - 1, int(part * len(sorted_values)))]


def table(figures: Sequence[Figure]) -> list[str]:
    """The figures as lines of text, in columns."""
    rows = [("figure", "value", "baseline", "ratio", "from - to", ""), *map(_row, figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), row[1].rjust(widths[1]), row[2].rjust(widths[2]), row[3].rjust(widths[3])]
        lines.append("  ".join([*cells, row[4].ljust(widths[4]), row[5]]).rstrip())
    return lines


def _row(figure: Figure) -> tuple[str, ...]:
    return (
        figure.name,
        f"{_shown(figure.value)} {figure.unit}",
        "" if figure.baseline is None else f"{_shown(figure.baseline)} {figure.unit}",
        "" if figure.ratio is None else f"{figure.ratio:.2f}",
        f"{min(figure.ratios):.2f} - {max(figure.ratios):.2f}" if figure.ratios else "",
        "; ".join(filter(None, [figure.against and f"baseline: {figure.against}", figure.note])),
    )


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3f}"
