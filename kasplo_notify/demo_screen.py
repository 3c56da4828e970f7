"""What the demo shows: the events going out, the countdown, each delivery as it arrives, a summary."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kasplo_notify.invocation import invocation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kasplo_notify.console import Console
    from kasplo_notify.receiver import Delivery

_PIPED_TICKS = (30, 20, 10, 5)  # seconds left at which a line is written when nobody watches
_BAR = 30


@dataclass(slots=True, kw_only=True)
class Sent:
    """One event of the demo, and what became of it."""

    id: str
    event_type: str
    mail_class: str
    method: str  # that it must arrive with
    at: float  # Unix s, when emit returned
    refusals: int  # how often the receiver refuses it
    deliveries: list[Delivery] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return any(delivery.status == 200 for delivery in self.deliveries)

    def fault(self, delay: float) -> str:
        """What is wrong with the way it went; empty when nothing is."""
        if not self.done:
            return "did not arrive" if not self.deliveries else "was refused and not sent again in time"
        if len(self.deliveries) != self.refusals + 1:
            return f"arrived {len(self.deliveries)} times, {self.refusals + 1} expected"
        if not all(delivery.verified for delivery in self.deliveries):
            return "had a signature that cannot be verified"
        if any(delivery.method != self.method for delivery in self.deliveries):
            return f"came by {self.deliveries[0].method}, {self.method} expected"
        if self.after(self.deliveries[0]) < delay - 0.5:  # emit returned, and clocks were read, at other times
            return f"came after {self.after(self.deliveries[0]):.1f} s, before its time"
        return ""

    def after(self, delivery: Delivery) -> float:
        """Seconds from emit to a delivery."""
        return delivery.received_at - self.at


class Screen:
    """The demo's output, in the order of its methods."""

    def __init__(self, out: Console, *, delay: float) -> None:
        self.delay = delay
        self._out = out
        self._started = time.monotonic()
        self._waiting = True
        self._ticks = [tick for tick in _PIPED_TICKS if tick <= delay]

    def begin(self, server: str, workers: Sequence[int], url: str) -> None:
        out = self._out
        out.line(out.bold("kasplo-notify demo: seven events on their way to a subscriber"))
        out.line()
        for name, value in (
            ("server", server),
            ("workers", f"{len(workers)} processes (pid {', '.join(map(str, workers))})"),
            ("receiver", f'{url}, answers {{"status":"OK"}}'),
            ("requeue", "after delays that are shortened for this demo"),
        ):
            out.line(f"  {out.dim(f'{name:<10}')}{value}")
        out.line()
        out.line("emit()")

    def emitted(self, item: Sent, endpoints: Sequence[str]) -> None:
        where = ", ".join(endpoints)
        self._out.line(f"  {item.event_type:<20}{self._out.dim(f'{item.mail_class:<15}-> {where}')}")

    def tick(self, left: float, missing: int) -> None:
        """Call often, with the seconds until the first attempt and how many events have not arrived."""
        out = self._out
        if left <= 0:
            self._begin_deliveries()
            out.status(f"  {missing} more to arrive")
            return
        if self._ticks and left <= self._ticks[0]:
            tick = self._ticks.pop(0)
            if not out.live:
                out.line(f"  {tick} s to wait")
        full = round(_BAR * (1 - left / self.delay)) if self.delay else _BAR
        bar = out.good("━" * full) + out.dim("━" * (_BAR - full))
        out.status(f"  {bar} {math.ceil(left):2d} s until the first attempt")

    def arrived(self, item: Sent, delivery: Delivery) -> None:
        self._begin_deliveries()
        out = self._out
        verified = out.good("signature verified") if delivery.verified else out.bad("SIGNATURE WRONG   ")
        if delivery.status == 200:
            answer = out.good("200 OK")
        else:
            answer = out.notable(f"{delivery.status} refused on purpose: requeued")
        out.line(
            f"  {out.bold(f'{delivery.method:<4}')} {delivery.path}  {delivery.event_type:<18}  "
            f"{verified}  {item.after(delivery):5.1f} s after emit  {answer}"
        )

    def _begin_deliveries(self) -> None:
        if self._waiting:
            self._waiting = False
            self._out.line()
            self._out.line(f"{self.delay:g} s later")

    def show_log(self, log: str) -> None:
        """The last words of the workers, when something went wrong."""
        self._out.line()
        for line in log.splitlines()[-10:]:
            self._out.line(self._out.dim(f"  {line}"))

    def interrupted(self) -> int:
        """As `end`, after a signal."""
        self._out.line()
        self._out.line("Interrupted; nothing is left running.")
        return 130

    def end(self, sent: Sequence[Sent], problem: str) -> int:
        """The summary; returns the exit code."""
        out = self._out
        out.line()
        out.line(out.dim(_row("event type", "mail class", "method", "attempts", "arrived after")))
        faults = []
        for item in sent:
            after = f"{item.after(item.deliveries[-1]):.1f} s" if item.done else "-"
            row = _row(item.event_type, item.mail_class, item.method, str(len(item.deliveries)), after)
            fault = item.fault(self.delay)
            faults += [f"{item.event_type} {fault}"] if fault else []
            out.line(f"{row}  {out.bad(fault)}" if fault else row)
        out.line()
        took = time.monotonic() - self._started
        if problem or faults:
            faults = [*([problem] if problem else []), *faults]
            out.line(out.bad("The demo failed: ") + "; ".join(faults) + ".")
            return 1
        requeued = sum(item.refusals for item in sent)
        out.line(
            out.good(f"All {len(sent)} events arrived")
            + f", {requeued} refusals were requeued, every signature was verified, in {took:.0f} s. "
            "Nothing is left running."
        )
        out.line(f"Next: {out.bold(f'{invocation()} up')} runs it for real; README.md shows emit().")
        return 0


def _row(event_type: str, mail_class: str, method: str, attempts: str, after: str) -> str:
    return f"  {event_type:<20}{mail_class:<15}{method:<8}{attempts:<10}{after:>13}"
