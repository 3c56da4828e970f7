"""How far this machine's clock and Redis' clock are apart."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from kasplo_notify.doctor.finding import Finding, fault, note, ok, warning
from kasplo_notify.quantities import counted, span

# Subscribers take a webhook-timestamp that is five minutes off (Standard Webhooks); their own clocks are off as well.
_FAULT_S: Final = 60.0
_WARNING_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """One comparison of the clocks.

    Attributes:
        ahead_s: Seconds that Redis' clock is ahead of this machine's; negative: behind.
        uncertainty_s: By how many seconds that can be wrong: half of the round trip.
    """

    ahead_s: float
    uncertainty_s: float

    @property
    def apart_s(self) -> float:
        """Seconds that they are apart at least."""
        return max(0.0, abs(self.ahead_s) - self.uncertainty_s)


def clocks(clock: Clock) -> Iterator[Finding]:
    """The finding of one comparison."""
    side = "ahead of" if clock.ahead_s > 0 else "behind"
    what = f"Redis' clock is {_seconds(abs(clock.ahead_s))} {side} this machine's"
    if clock.apart_s > _FAULT_S:
        yield fault(
            "clock",
            f"{what}: subscribers refuse requests whose webhook-timestamp, which is Redis' time, is five minutes off; "
            "set the one that is wrong by NTP",
        )
    elif clock.apart_s > _WARNING_S:
        yield warning(
            "clock",
            f"{what}: deliveries are on time, as only Redis' clock counts, but times in logs and of --since "
            "and --until are off by that; set the one that is wrong by NTP",
        )
    elif clock.uncertainty_s > _WARNING_S:
        yield note(
            "clock", f"Redis answers so slowly that its clock can be compared to {_seconds(clock.uncertainty_s)} only"
        )
    else:
        most_ms = (abs(clock.ahead_s) + clock.uncertainty_s) * 1000
        yield ok("clock", f"Redis' clock and this machine's are at most {max(1.0, most_ms):,.0f} ms apart")


def stepped_back(queues: int) -> Iterator[Finding]:
    """The finding of queues whose first event came, as it says, in the future."""
    if queues:
        yield warning(
            "clock_stepped",
            f"Redis' clock was set back: the first events of {counted(queues, 'queue')} have times in the future and "
            "count from when they were first seen; nothing is lost, and NTP keeps it from happening again",
        )


def _seconds(seconds: float) -> str:
    return span(seconds) if seconds >= 60 else f"{seconds:.1f} s"
