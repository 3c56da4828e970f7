"""Quantities as sentences have them: durations, sizes, counts."""


def span(seconds: float) -> str:
    """A duration in its two largest units: `45 s`, `3 h 20 min`."""
    rest = max(0, round(seconds))
    for unit, size, below, below_size in (("d", 86_400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if rest >= size:
            more = rest % size // below_size
            return f"{rest // size} {unit}" + (f" {more} {below}" if more else "")
    return f"{rest} s"


def counted(number: int, one: str, many: str = "") -> str:
    """`1 event`, `1,204 events`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def storage(size: int) -> str:
    """Bytes in the unit that fits: `812 B`, `1.1 MiB`, `23.5 GiB`."""
    amount, units = float(size), iter(("B", "KiB", "MiB", "GiB"))
    unit = next(units)
    while amount >= 1024 and (larger := next(units, "")):
        amount, unit = amount / 1024, larger
    return f"{amount:,.0f} B" if unit == "B" else f"{amount:,.1f} {unit}"


def listed(names: list[str], most: int = 5) -> str:
    """`a, b and c`, or `a, b, c and 12 more`."""
    shown = names if len(names) <= most + 1 else names[:most]
    words = [*shown, f"{len(names) - most:,} more"] if len(shown) < len(names) else shown
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else "none"
