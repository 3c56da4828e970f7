"""What came of attempts, on its way back to Redis: collected, and written in batches by the settle script."""

from dataclasses import dataclass

from kasplo_notify.config import Config
from kasplo_notify.endpoint import milliseconds
from kasplo_notify.held import Held, Item
from kasplo_notify.outcome import Outcome
from kasplo_notify.store import Arg, Call
from kasplo_notify.stored import Progress
from kasplo_notify.verdict import Verdict

BATCH = 200
LAG_S = 0.05
# Failures that may open a breaker, which the whole fleet waits for.
STRIKES = 10
BLOCKED_AFTER_MS = 3_600_000
_DETAIL, _EXCERPT = 300, 256


@dataclass(slots=True)
class Result:
    """One item and its verdict.

    Attributes:
        held: The queue it was read from.
        item: The event.
        verdict: What becomes of it.
        outcome: What came of the request; None when none was made.
        detail: Why none was made, in words.
    """

    held: Held
    item: Item
    verdict: Verdict
    outcome: Outcome | None
    detail: str = ""


class Settlement:
    """Results that are not in Redis yet."""

    def __init__(self, config: Config, token: str) -> None:
        self._config = config
        self._token = token
        self._results: list[Result] = []
        self._sent = 0
        self._oldest = 0.0
        self._strikes = 0
        self._urgent = False

    def __len__(self) -> int:
        return len(self._results)

    def add(self, result: Result, now: float) -> None:
        """Take a result at `now`, in seconds of the monotonic clock."""
        if not self._results:
            self._oldest = now
        self._results.append(result)
        result.held.unsettled += 1
        verdict = result.verdict
        self._strikes += verdict.strikes
        # While an event that goes alone is not settled, the others of its kind wait, and a death is blamed on it.
        urgent = result.held.single or verdict.action == "pause" or bool(verdict.endpoint_wait)
        self._urgent = self._urgent or urgent

    def due(self, now: float) -> bool:
        """Whether it is time to write: a batch is full, the first result has waited, or an endpoint must not."""
        return bool(self._results) and (
            self._urgent or self._strikes >= STRIKES or len(self._results) >= BATCH or now >= self._oldest + LAG_S
        )

    def wait(self, now: float) -> float:
        """Seconds until :meth:`due`; infinite when there is nothing to write."""
        return max(0.0, self._oldest + LAG_S - now) if self._results else float("inf")

    def call(self) -> Call:
        """The settle script's call for the oldest batch. It may be sent again until :meth:`done` forgets it."""
        config = self._config
        args: list[Arg] = [
            self._token,
            milliseconds(config.delivery.delay),
            config.dead.max_bytes,
            int(config.dead.keep_days * 86_400_000),
            config.attempts.keep,
            int(config.health.pause_after * 1000),
            BLOCKED_AFTER_MS,
        ]
        # Results go on arriving while this is on its way.
        self._sent = min(BATCH, len(self._results))
        if self._sent == len(self._results):
            self._urgent, self._strikes = False, 0
        for result in self._results[: self._sent]:
            args += _row(result)
        return Call("settle", args)

    def done(self, now: float) -> None:
        """What the last :meth:`call` was made for is in Redis; the lag of the rest counts from `now`."""
        for result in self._results[: self._sent]:
            result.held.settled(result.item)
        del self._results[: self._sent]
        self._sent = 0
        self._oldest = now


def _detail(result: Result) -> str:
    """What an operator reads beside a verdict's one word."""
    outcome = result.outcome
    if outcome is None:
        return result.detail
    if outcome.detail or result.verdict.action != "dead":
        return outcome.detail
    # The attempts log has status and answer in columns of their own; of a dead letter this is all that is kept.
    return f"the answer was {outcome.status}: {outcome.excerpt.decode(errors='replace')}".rstrip(": \r\n")


def _row(result: Result) -> tuple[Arg, ...]:
    item, verdict, outcome = result.item, result.verdict, result.outcome
    before = item.progress
    made = outcome is not None
    progress = Progress(before.attempts + made, before.free + (made and verdict.free), before.first_due_ms)
    return (
        result.held.queue,
        item.kind,
        item.ref,
        verdict.action,
        progress.pack(),
        milliseconds(verdict.delay),
        verdict.reason,
        _detail(result)[:_DETAIL].encode(errors="replace"),
        int(verdict.strikes),
        milliseconds(verdict.endpoint_wait or 0),
        "" if outcome is None or outcome.status is None else outcome.status,
        outcome.duration_ms if outcome else 0,
        progress.attempts if made else "",
        item.event.id if item.event else "",
        outcome.excerpt[:_EXCERPT] if outcome else b"",
    )
