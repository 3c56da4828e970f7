"""Values of Python made of bytes, so that a fuzzer of bytes can make up what a caller of the library gives."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TypeVar

T = TypeVar("T")

_DEPTH = 6
_TIMES = (0, 1, 1_317_305_252, 253_402_300_799, 253_402_300_800, -1, 2**63, 10**40)
_FLOATS = (0.0, -0.0, 0.5, 1317305252.08338, 1e308, -1e-308, float("inf"), float("-inf"), float("nan"))
_TEXTS = ("", "\x00", "\r\n", "é", "\u202e", "\ud800", "\U0001f600", "customer@example.com", "1.2.3.4", "::1", "٣")


class Source:
    """Reads decisions from bytes; when they are used up every further one is the first of its kind."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def one_of(self, choices: Sequence[T]) -> T:
        return choices[self.byte() % len(choices)]

    def blob(self) -> bytes:
        """Up to 255 bytes."""
        length = self.byte()
        self._at += length
        return self._data[self._at - length : self._at]

    def rest(self) -> bytes:
        at, self._at = self._at, len(self._data)
        return self._data[at:]

    def text(self) -> str:
        kind = self.byte() % 4
        if kind == 0:
            return self.one_of(_TEXTS)
        if kind == 1:
            return self.blob().decode("latin-1")
        return self.blob().decode("utf-8", "surrogateescape" if kind == 2 else "replace")

    def value(self, depth: int = 0) -> object:
        """Anything that a caller may hand over, of JSON or not."""
        kinds: list[Callable[[], object]] = [
            self.text,
            lambda: self.one_of(_TIMES),
            lambda: self.one_of((True, False, None)),
            lambda: self.one_of(_FLOATS),
            lambda: int.from_bytes(self.blob(), "big", signed=True),
            self.blob,
            lambda: self.one_of((datetime(2020, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC), datetime.min)),  # noqa: DTZ901
            lambda: self.one_of((Decimal("NaN"), 1j, object(), timedelta(1), range(3), int)),
        ]
        if depth < _DEPTH:
            kinds += [
                lambda: [self.value(depth + 1) for _ in range(self.byte() % 5)],
                lambda: tuple(self.value(depth + 1) for _ in range(self.byte() % 5)),
                lambda: {self.text(): self.value(depth + 1) for _ in range(self.byte() % 5)},
                lambda: {self.one_of((1, None, "a", b"a")): self.value(depth + 1) for _ in range(self.byte() % 5)},
                self._ring,
                self._deep,
            ]
        return self.one_of(kinds)()

    @staticmethod
    def _ring() -> object:
        ring: list[object] = []
        ring.append(ring)
        return ring

    def _deep(self) -> object:
        deep: object = 1
        for _ in range(self.byte() * 8):
            deep = [deep]
        return deep
