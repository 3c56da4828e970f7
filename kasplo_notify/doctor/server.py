"""What a Redis server says of itself: INFO and CONFIG GET, read as if a stranger had written them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

# What is judged of CONFIG GET. Most of it is in INFO as well, for servers that keep CONFIG to themselves.
SETTINGS: Final = (
    "appendonly",
    "appendfsync",
    "maxmemory",
    "maxmemory-policy",
    "min-replicas-to-write",
    "save",
    "stop-writes-on-bgsave-error",
)
_MOST_CHARACTERS: Final = 60
_MOST_LINES: Final = 2000
_NUMBER: Final = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What is known of a server; what its login may not read, or what is not readable, is not known.

    Attributes:
        info: The fields of INFO.
        settings: The values of CONFIG GET.
    """

    info: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, info: object, settings: Mapping[object, object]) -> "Server":
        """Read the reply of INFO, undecoded, and values of CONFIG GET. Nothing of them is a reason to fail."""
        text = info.decode(errors="replace") if isinstance(info, bytes) else ""
        pairs = (line.partition(":") for line in text.splitlines()[:_MOST_LINES])
        return cls(
            info={name: _harmless(value) for name, colon, value in pairs if colon},
            settings={
                name: _harmless(value)
                for name, value in settings.items()
                if isinstance(name, str) and isinstance(value, str)
            },
        )

    def word(self, name: str) -> str | None:
        """A field of INFO; None where it is not known, or empty."""
        return self.info.get(name) or None

    def number(self, name: str) -> int | None:
        """A field of INFO that is a whole number; None where it is not."""
        return _number(self.info.get(name))

    def setting(self, name: str, in_info: str = "") -> str | None:
        """A value of CONFIG GET, else the field of INFO that says the same."""
        return self.settings.get(name, self.info.get(in_info))

    def size(self, name: str, in_info: str = "") -> int | None:
        """As setting, a whole number."""
        return _number(self.setting(name, in_info))

    @property
    def appendonly(self) -> str | None:
        """`yes`, `no`, or whatever else it says."""
        in_info = {"0": "no", "1": "yes"}.get(self.info.get("aof_enabled", ""))
        return self.settings.get("appendonly", in_info)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and _NUMBER.fullmatch(text) else None


def _harmless(text: str) -> str:
    """What a sentence may quote: short, on one line, nothing that a terminal obeys."""
    head = text.strip()[:_MOST_CHARACTERS]
    return "".join(each if each.isprintable() else "?" for each in head)
