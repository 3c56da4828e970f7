"""Whether events wait in the spool of this machine, and whether they are sent."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from kasplo_notify.config import Config
from kasplo_notify.doctor.finding import Finding, note, ok, warning
from kasplo_notify.quantities import counted, span, storage

_NEARLY_FULL_PERCENT: Final = 80
# Whoever sends looks after five seconds at last; what is older by much is nobody's, or Redis is away.
_FORGOTTEN_S: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Spooled:
    """What is in the spool.

    Attributes:
        size: Bytes of all segments.
        waiting: Segments with events that are not in Redis yet.
        oldest_s: Seconds since the oldest of these was begun; 0 when there is none.
        aside: Segments that are kept because something in them is damaged.
    """

    size: int = 0
    waiting: int = 0
    oldest_s: float = 0.0
    aside: int = 0


def spool(spooled: Spooled, config: Config) -> Iterator[Finding]:
    """The finding of the spool: the gravest that there is."""
    most = config.spool.max_bytes
    if spooled.size * 100 >= most * _NEARLY_FULL_PERCENT:
        yield warning(
            "spool",
            f"the spool is {spooled.size * 100 // most} % full ({storage(spooled.size)} of {storage(most)}): beyond it "
            "emit() raises; bring Redis back, or raise spool.max_bytes (`kasplo-notify spool`)",
        )
    elif spooled.waiting and spooled.oldest_s > _FORGOTTEN_S:
        yield warning(
            "spool",
            f"events wait in the spool for {span(spooled.oldest_s)}; if Redis is up nobody sends them: kasplo-notify "
            "spool flush",
        )
    elif spooled.aside:
        yield warning(
            "spool",
            f"{counted(spooled.aside, 'segment')} of the spool are kept aside, as something in them is damaged; look "
            "at them (`kasplo-notify spool`), then delete them",
        )
    elif spooled.waiting:
        yield note("spool", f"{counted(spooled.waiting, 'segment')} of the spool wait to be sent to Redis")
    else:
        yield ok("spool", "the spool is empty")
