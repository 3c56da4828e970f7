"""What is in the spool, for an operator: counted, without a change and without Redis."""

import os
from dataclasses import dataclass
from pathlib import Path

from kasplo_notify.spool.record import read
from kasplo_notify.spool.segments import Segment, is_in_use, segments


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A segment, and what is known of it.

    Attributes:
        segment: The file.
        events: The events in it; None when this user may not read it.
        broken: Bytes that are damaged.
        in_use: Somebody writes or pushes it.
        writer_lives: There is a process of its writer's pid.
    """

    segment: Segment
    events: int | None
    broken: int
    in_use: bool
    writer_lives: bool


def take_inventory(folder: Path) -> list[Item]:
    """Everything that is in the folder, the oldest first.

    Raises:
        OSError: The folder cannot be read.
    """
    return [_item(segment) for segment in segments(folder)]


def _item(segment: Segment) -> Item:
    events, broken = None, 0
    try:
        reading = read(segment.path.read_bytes())
        events, broken = len(reading.events), reading.broken
    except FileNotFoundError:
        # Pushed just now.
        events = 0
    except OSError:
        pass
    return Item(
        segment=segment, events=events, broken=broken, in_use=is_in_use(segment), writer_lives=_lives(segment.pid)
    )


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
