"""The Redis server itself: killed, and cut off from its power."""

import threading
import time
from dataclasses import replace
from types import TracebackType
from typing import Self

from tests.torture.arena import Arena
from tests.torture.ledger import read_received
from tests.torture.scenario import PER_KILL, Outcome, Run, endpoints, every, lateness, promise, scenario

_EVERY_S = 5.0
# Redis syncs once a second, and holds writes back for up to two while a sync runs.
_WINDOW_S = 2.0
_TAIL_BYTES = 65_536


@scenario("Redis killed with -9 loses nothing with appendfsync always.", kills=12)
def server_kills_always(run: Run) -> Outcome:
    return _killed(run, "always")


@scenario("Redis killed with -9 loses at most what it acknowledged in its last two seconds with everysec.", kills=12)
def server_kills_everysec(run: Run) -> Outcome:
    return _killed(run, "everysec")


def _killed(run: Run, fsync: str) -> Outcome:
    moments: list[float] = []
    with run.arena(fsync=fsync) as arena:
        _flow(arena, run)
        for _, _ in zip(range(run.kills), every(_EVERY_S), strict=False):
            moments.append(time.time())
            arena.server.kill()
            arena.server.start()
            run.say(f"{len(moments)} of {run.kills} kills")
        return _outcome(arena, moments, forgetful=fsync == "everysec")


@scenario("A power cut loses at most what was acknowledged since the last sync.", kills=12)
def power_cuts(run: Run) -> Outcome:
    moments: list[float] = []
    cut = 0
    # Another file would not begin where the last one ended.
    with run.arena(rewrite=False) as arena:
        _flow(arena, run)
        with _Sizes(arena) as sizes:
            for _, _ in zip(range(run.kills), every(_EVERY_S), strict=False):
                moments.append(time.time())
                arena.server.kill()
                size = arena.server.log_size()
                # What was written a second ago is on the disk.
                keep = max(sizes.at(moments[-1] - 1.0), size - arena.rng.randrange(_TAIL_BYTES))
                cut += size - keep
                arena.server.cut_log(keep)
                arena.server.start()
                run.say(f"{len(moments)} of {run.kills} power cuts")
        outcome = _outcome(arena, moments, forgetful=True)
    return replace(outcome, figures={"cut off": f"{cut:,} bytes", **outcome.figures})


class _Sizes:
    """How long the append-only file was, and when; a context manager."""

    def __init__(self, arena: Arena) -> None:
        self._server = arena.server
        self._seen: list[tuple[float, int]] = [(0.0, self._server.log_size())]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="sizes", daemon=True)

    def at(self, moment: float) -> int:
        """Bytes that it had at this Unix time."""
        return max(size for seen, size in self._seen if seen <= moment)

    def _look(self) -> None:
        while not self._ended.wait(0.02):
            self._seen.append((time.time(), self._server.log_size()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()


def _flow(arena: Arena, run: Run) -> None:
    routes = endpoints(arena)
    arena.work(3)
    arena.emit(run.events, routes, rate=run.events / (_EVERY_S * run.kills), processes=2)


def _outcome(arena: Arena, moments: list[float], *, forgetful: bool) -> Outcome:
    """Where the server may forget what it acknowledged last, it may also forget what it settled last."""
    arena.fleet.join("producer", 600)
    arena.until_drained(60)
    window = _WINDOW_S if forgetful else 0.0

    def forgotten(at: float) -> bool:
        # Between the moment and the death of the server it may have acknowledged some more.
        return any(moment - window <= at <= moment + 0.5 for moment in moments)

    settled = sum(forgotten(each.at) for each in read_received(arena.received)) if forgetful else 0
    findings = arena.audit(
        promise(
            duplicates=settled + PER_KILL * len(moments),
            may_lose=lambda event: forgetful and forgotten(event.ended),
        )
    )
    figures = {"forgotten": f"{findings.forgiven}", **lateness(findings)}
    return Outcome(findings=findings, kills=len(moments), figures=figures)
