"""The Redis server itself: killed, and cut off from its power."""

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from tests.torture.arena import Arena
from tests.torture.scenario import Outcome, Run, Skipped, endpoints, every, lateness, promise, scenario

_EVERY_S = 5.0
# Redis syncs once a second, and holds writes back for up to two while a sync runs.
_WINDOW_S = 2.0
# Replies that were sent are read a little later. A settle is behind its request, and a worker behind the news that its
# queue is somebody else's: the server has forgotten to whom it gave the queue, gives it again, and whoever had it asks
# twice a second.
_REPLY_S, _SETTLE_S, _RENEW_S = 0.5, 0.5, 1.0
_TAIL_BYTES = 65_536
# A sync that is slow; and after so many kills beside it something must have been forgotten.
_SYNC_S, _ENOUGH_KILLS = 1.5, 5


@scenario("Redis killed with -9 loses nothing with appendfsync always.", kills=12)
def server_kills_always(run: Run) -> Outcome:
    return _killed(run, "always")


@scenario("Redis killed with -9 loses at most what it acknowledged in its last two seconds with everysec.", kills=12)
def server_kills_everysec(run: Run) -> Outcome:
    return _killed(run, "everysec")


@scenario(
    "Redis killed with -9 on a disk that syncs slowly loses what it acknowledged in its last two seconds.", kills=12
)
def slow_fsync(run: Run) -> Outcome:
    if sys.platform != "linux" or not shutil.which("cc"):
        raise Skipped("the library that makes syncs slow needs Linux and a C compiler (cc)")
    outcome = _killed(run, "everysec", sync_s=_SYNC_S)
    if outcome.kills >= _ENOUGH_KILLS and not outcome.findings.forgiven:
        return replace(outcome, broken=("Redis forgot nothing: its syncs were not slow",))
    return outcome


def _killed(run: Run, fsync: str, *, sync_s: float = 0.0) -> Outcome:
    blows: list[_Blow] = []
    with run.arena(fsync=fsync, sync_s=sync_s) as arena:
        _flow(arena, run)
        for _ in range(run.kills):
            # Not in step with the syncs, which begin anew with each server.
            time.sleep(_EVERY_S * arena.rng.uniform(0.6, 1.4))
            with _blow(blows):
                arena.server.kill()
                arena.server.start()
            run.say(f"{len(blows)} of {run.kills} kills")
        return _outcome(arena, blows, forgetful=fsync == "everysec")


@scenario("A power cut loses at most what was acknowledged since the last sync.", kills=12)
def power_cuts(run: Run) -> Outcome:
    blows: list[_Blow] = []
    cut = 0
    # Another file would not begin where the last one ended.
    with run.arena(rewrite=False) as arena:
        _flow(arena, run)
        with _Sizes(arena) as sizes:
            for _, _ in zip(range(run.kills), every(_EVERY_S), strict=False):
                began = time.time()
                with _blow(blows):
                    arena.server.kill()
                    size = arena.server.log_size()
                    # What was written a second ago is on the disk.
                    keep = max(sizes.at(began - 1.0), size - arena.rng.randrange(_TAIL_BYTES))
                    cut += size - keep
                    arena.server.cut_log(keep)
                    arena.server.start()
                run.say(f"{len(blows)} of {run.kills} power cuts")
        outcome = _outcome(arena, blows, forgetful=True)
    return replace(outcome, figures={"cut off": f"{cut:,} bytes", **outcome.figures})


@dataclass(frozen=True, slots=True)
class _Blow:
    """When the server was killed, and when it was there again; Unix seconds."""

    killed: float
    back: float

    def forgets(self, at: float) -> bool:
        """Whether the server may have forgotten what it acknowledged before this moment."""
        return self.killed - _WINDOW_S <= at <= self.back + _REPLY_S

    def repeats(self, at: float) -> bool:
        """Whether a request of this moment may be made twice: its settle is forgotten, or whose queue it is."""
        return self.killed - _WINDOW_S - _SETTLE_S <= at <= self.back + _RENEW_S


@contextmanager
def _blow(blows: list[_Blow]) -> Iterator[None]:
    """Note when what is done to the server began and ended."""
    began = time.time()
    yield
    blows.append(_Blow(began, time.time()))


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


def _outcome(arena: Arena, blows: list[_Blow], *, forgetful: bool) -> Outcome:
    """Where the server may forget what it acknowledged last, it may also forget what it settled last."""
    arena.fleet.join("producer", 600)
    arena.until_drained(60)
    # What a server that forgets nothing costs: a settle whose reply is lost is repeated, and finds nothing to do.
    forgetting = blows if forgetful else []
    findings = arena.audit(
        promise(
            may_repeat=lambda request: any(blow.repeats(request.at) for blow in forgetting),
            may_lose=lambda event: any(blow.forgets(event.ended) for blow in forgetting),
        )
    )
    figures = {"forgotten": f"{findings.forgiven:,} of {findings.pairs:,}", **lateness(findings)}
    return Outcome(findings=findings, kills=len(blows), figures=figures)
