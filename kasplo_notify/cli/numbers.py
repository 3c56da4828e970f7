"""Whole numbers as an operator gives them."""

from typing import Any, Final

import click

from kasplo_notify.errors import quoted

# Of what is listed: a list has to fit into memory.
MOST: Final = 1_000_000


class Whole(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on
    """A whole number from `lowest` to `highest`."""

    name = "number"

    def __init__(self, lowest: int, highest: int) -> None:
        self._lowest = lowest
        self._highest = highest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(value)
        except ValueError:
            number = self._lowest - 1
        if not self._lowest <= number <= self._highest:
            bounds = f"a whole number from {self._lowest:,} to {self._highest:,}"
            self.fail(f"{quoted(str(value))} is not {bounds}.", param, ctx)
        return number
