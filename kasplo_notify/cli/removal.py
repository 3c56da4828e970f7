"""The removal of an endpoint, as long as somebody watches it."""

import time
from typing import TYPE_CHECKING, Final

import click

from kasplo_notify.cli.ask import progress
from kasplo_notify.quantities import counted

if TYPE_CHECKING:
    from kasplo_notify.registry import Registry

# For how long a removal waits for the queues that workers hold: they let go of a removed endpoint within seconds.
_PATIENCE_S: Final = 15.0
_PAUSE_S: Final = 0.2


def sweep(registry: "Registry", name: str, *, drop: bool) -> tuple[int, int]:
    """Remove an endpoint; returns the events that were swept and the queues that workers still hold."""
    out, last = progress(), -1
    swept = held = 0
    patience = time.monotonic() + _PATIENCE_S
    steps = registry.remove(name, drop=drop)
    try:
        for swept, held in steps:
            out.status(f"{swept:,} events swept" + (f", {counted(held, 'queue')} held by workers" if held else ""))
            if swept != last:
                last, patience = swept, time.monotonic() + _PATIENCE_S
            elif held and time.monotonic() > patience:
                return swept, held
            elif held:
                time.sleep(_PAUSE_S)
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted after {counted(swept, 'event')}; workers go on with the removal.", err=True)
        raise
    finally:
        out.done()
    return swept, 0
