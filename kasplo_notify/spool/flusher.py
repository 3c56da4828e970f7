"""Pushes what is in the spool: the oldest segment first, each in order, and unlinks it when all of it is pushed.

An event is pushed with its id as a caller's own, so it is stored once however often that is tried within an hour,
the try included whose lost reply brought it here.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kasplo_notify.datadir import reason
from kasplo_notify.emission import CHUNK_EVENTS, Prepared
from kasplo_notify.errors import PushError, StorageBroken
from kasplo_notify.events import Event
from kasplo_notify.spool.record import Reading, SpooledEvent, read
from kasplo_notify.spool.segments import Segment, Taken, segments
from kasplo_notify.spool.writer import CannotSpoolError, Writer

log = logging.getLogger("kasplo_notify.spool")

# What cannot be pushed although Redis answers, or cannot be read, is tried again after this long.
_LATER_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one look at the folder came to.

    Attributes:
        pushed: Events that Redis took, or had already.
        left: Segments that are still there: others have them, they are tried later, or Redis is away.
        error: Why the round ended before all was tried.
    """

    pushed: int
    left: int
    error: PushError | None = None


@dataclass(slots=True)
class _Progress:
    """How far a segment is pushed. It is kept in memory only: after a crash Redis knows the ids, for an hour.

    Attributes:
        pushed: Events from the first on that are dealt with.
        refused: Those of them that Redis answered with a fault.
    """

    pushed: int = 0
    refused: list[SpooledEvent] = field(default_factory=list)


class Flusher:
    """Looks at the folder and pushes what nobody else holds.

    Args:
        folder: The spool's.
        push: Pushes events, as :meth:`Carrier.push`.
        writer: Its current segment is taken, too; events that Redis refuses are set apart with it.
        stopped: Whether to end, asked between chunks.
        told: Called with the number of events after each chunk.
    """

    def __init__(
        self,
        folder: Path,
        push: Callable[[Sequence[Prepared]], object],
        writer: Writer,
        *,
        stopped: Callable[[], bool] = lambda: False,
        told: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._folder, self._push, self._writer = folder, push, writer
        self._stopped, self._told = stopped, told
        self._progress: dict[str, _Progress] = {}
        self._not_before: dict[str, float] = {}
        self._pushed = 0

    def round(self) -> Round:
        """Push what can be pushed.

        Raises:
            OSError: The folder cannot be read.
        """
        self._pushed = 0
        error = None
        found = self._found()
        known = {each.name for each in found}
        self._progress = {name: each for name, each in self._progress.items() if name in known}
        self._not_before = {name: each for name, each in self._not_before.items() if name in known}
        try:
            self._flush_all(found)
        except PushError as caught:
            error = caught
        return Round(pushed=self._pushed, left=len(self._found()), error=error)

    def _found(self) -> list[Segment]:
        return [each for each in segments(self._folder) if not each.aside]

    def _flush_all(self, found: Sequence[Segment]) -> None:
        waiting = set()
        for segment in found:
            if self._stopped():
                return
            if segment.producer in waiting or self._not_before.get(segment.name, 0.0) > time.monotonic():
                continue
            try:
                with self._writer.hand_over(segment) or Taken.take(segment) as taken:
                    self._flush(taken)
            except BlockingIOError:
                # Those behind it wait, too: a producer's events stay in order.
                waiting.add(segment.producer)
            except FileNotFoundError:
                continue
            except OSError as error:
                log.error("spool_unreadable: %s (%s); it is kept and tried again", segment.path, reason(error))
                self._later(segment.name)

    def _later(self, name: str) -> None:
        self._not_before[name] = time.monotonic() + _LATER_S

    def _flush(self, taken: Taken) -> None:
        segment, reading = taken.segment, read(taken.read())
        progress = self._progress.setdefault(segment.name, _Progress())
        while progress.pushed < len(reading.events):
            if self._stopped():
                return
            begun = progress.pushed
            chunk = reading.events[begun : begun + CHUNK_EVENTS]
            try:
                self._carry(chunk, progress)
            except StorageBroken as error:
                if not self._one_by_one(chunk[progress.pushed - begun :], progress):
                    # Not an event, but Redis as a whole, perhaps: others are tried before this is tried again.
                    log.error("spool_refused: Redis took no event of %s: %s", segment.path, error)
                    self._later(segment.name)
                    return
        if self._set_apart(segment, progress):
            _finish(taken, reading)

    def _carry(self, events: Sequence[SpooledEvent], progress: _Progress) -> None:
        try:
            self._push([_prepared(event) for event in events])
        except PushError as error:
            self._count(error.pushed, progress)
            raise
        self._count(len(events), progress)

    def _count(self, pushed: int, progress: _Progress) -> None:
        progress.pushed += pushed
        self._pushed += pushed
        self._told(self._pushed)

    def _one_by_one(self, events: Sequence[SpooledEvent], progress: _Progress) -> bool:
        """Push events that are refused together one by one; say whether Redis took any. If not, none is dealt with."""
        begun, pushed = progress.pushed, self._pushed
        for event in events:
            try:
                self._carry([event], progress)
            except StorageBroken:
                progress.pushed += 1
                progress.refused.append(event)
        if self._pushed > pushed:
            return True
        del progress.refused[-len(events) :]
        progress.pushed = begun
        return False

    def _set_apart(self, segment: Segment, progress: _Progress) -> bool:
        """Give what Redis refused segments of its own, which are tried again later; say whether that is done."""
        if not progress.refused:
            return True
        ids = ", ".join(event.id for event in progress.refused[:3])
        try:
            apart = self._writer.set_apart(progress.refused)
        except CannotSpoolError as error:
            log.error("spool_refused: Redis refuses events of %s (%s ...), and %s", segment.path, ids, error)
            self._later(segment.name)
            return False
        for name in apart:
            self._later(name)
        count, kept = len(progress.refused), ", ".join(sorted(apart))
        log.error("spool_refused: Redis refuses %d events (%s ...); they are kept in %s", count, ids, kept)
        return True


def _prepared(event: SpooledEvent) -> Prepared:
    return Prepared(Event(event.event_type, event.body, event.email), event.mail_class, event.id)


def _finish(taken: Taken, reading: Reading) -> None:
    """Everything readable is pushed: remove the segment, or keep it for somebody to look at."""
    if not reading.broken:
        taken.remove()
        return
    aside = taken.keep_aside()
    log.error(
        "spool_broken: %d bytes of a segment cannot be read; its other events (%d) are pushed, and it is kept as %s",
        reading.broken,
        len(reading.events),
        aside,
    )
