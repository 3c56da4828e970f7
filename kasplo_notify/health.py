"""How an endpoint is: what the scripts keep of it in Redis, and what it has waiting."""

from dataclasses import dataclass

# What a script writes as a reason has fewer letters, and as a number fewer digits.
MAX_WORD = 60
_DIGITS = 16
_NUMBERS = tuple(
    b"paused_at resumed_at not_before fails open probe_at probe_wait probe_until wins failing_since blocked_since delay"
    b" partitions".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What the scripts keep of an endpoint. Times are Unix milliseconds by Redis' clock, 0 for never.

    Attributes:
        paused: Why it is paused: operator, gone (410), blocked, failing, broken, unregistered, removing; or empty.
        paused_at: Since when.
        not_before: The endpoint asked for no attempt before this time (Retry-After).
        open: Whether its breaker is open, and probes are sent instead of events.
        probe_at: When the next probe is due.
        fails: Failed attempts in a row.
        failing_since: Time of the first failure since the last success.
        blocked_since: Since when every attempt was refused by the workers' egress guard.
        nonsense: Fields that are no numbers, as something else wrote to them; they count as never written.
    """

    paused: str = ""
    paused_at: int = 0
    not_before: int = 0
    open: bool = False
    probe_at: int = 0
    fails: int = 0
    failing_since: int = 0
    blocked_since: int = 0
    nonsense: tuple[str, ...] = ()

    @classmethod
    def read(cls, stored: dict[bytes, bytes]) -> "Health":
        def number(name: str) -> int:
            value = stored.get(name.encode(), b"")
            return int(value) if _is_number(value) else 0

        return cls(
            paused=stored.get(b"paused", b"")[:MAX_WORD].decode(errors="replace"),
            paused_at=number("paused_at"),
            not_before=number("not_before"),
            open=number("open") > 0,
            probe_at=number("probe_at"),
            fails=number("fails"),
            failing_since=number("failing_since"),
            blocked_since=number("blocked_since"),
            nonsense=tuple(
                name.decode(errors="replace") for name in _NUMBERS if name in stored and not _is_number(stored[name])
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """How many events an endpoint has where, and how far the oldest of them is behind.

    Attributes:
        waiting: Never attempted.
        retrying: Attempted, and requeued.
        dead: Dead letters.
        late_ms: Milliseconds since the oldest event that should have been sent came due; 0 when none is.
    """

    waiting: int
    retrying: int
    dead: int
    late_ms: int


def _is_number(value: bytes) -> bool:
    return value.isdigit() and len(value) <= _DIGITS
