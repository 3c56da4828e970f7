"""Much of everything, and events that an earlier version stored."""

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.torture.arena import Arena
from tests.torture.ledger import Emitted, Ledger, digest
from tests.torture.producer import body, event
from tests.torture.scenario import Outcome, Run, costs, lateness, promise, scenario

_MEMORY_MB = 120


@scenario(
    "A million events over a thousand endpoints, and a kill every second, in bounded memory.",
    events=1_000_000,
    kills=150,
)
def million(run: Run) -> Outcome:
    with run.arena() as arena:
        routes = {}
        for number in range(1000):
            name = arena.endpoint(f"crm-{number}", queues=1)
            routes[name] = [name]
        arena.work(3)
        arena.emit(run.events, routes, batch=200, processes=2, zipf=True)
        with _Memory(arena) as memory:
            while arena.fleet.kills < run.kills:
                time.sleep(1)
                arena.fleet.kill_one("worker", arena.rng)
                arena.work(1)
                run.say(f"{arena.fleet.kills} of {run.kills} kills, {arena.waiting():,} events wait")
            arena.fleet.join("producer", 1800)
            while left := arena.waiting():
                run.say(f"{left:,} events wait")
                time.sleep(1)
        findings = arena.audit(promise())
        figures = {
            "most memory of a worker": f"{memory.peak_mb:.0f} MB",
            **costs(arena, findings),
            **lateness(findings),
        }
        broken = (f"a worker had {memory.peak_mb:.0f} MB",) if memory.peak_mb > _MEMORY_MB else ()
        return Outcome(findings=findings, kills=arena.fleet.kills, figures=figures, broken=broken)


class _Memory:
    """The most resident memory that a worker had, as its kernel says; a context manager."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="memory", daemon=True)
        self.peak_mb = 0.0

    def _look(self) -> None:
        while not self._ended.wait(0.5):
            for pid in list(self._arena.fleet.workers):
                self.peak_mb = max(self.peak_mb, _resident_mb(pid))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()


def _resident_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


@scenario("Events that the first version stored, new and requeued, are read and delivered.", events=2_000)
def first_format(run: Run) -> Outcome:
    with run.arena() as arena:
        arena.endpoint("crm", queues=1)
        ledger, client = Ledger(arena.emitted), arena.server.client
        stem, began = "kasplo:{0}:", time.time()
        for number in range(run.events):
            event_id, sent = f"msg_first-{number}", body(event(number))
            packed = b"1\n" + event_id.encode() + b"\npromo\n" + sent
            if number % 2:
                client.xadd(f"{stem}new:crm.0", {"e": packed})
            else:
                # Attempted once, first due just now, due again at once.
                now = int(time.time() * 1000)
                client.zadd(f"{stem}retry:crm.0", {b"1,0,%d\n%b" % (now, packed): now + 600})
            ledger.write([Emitted(began, began, event_id, digest(sent), stored=True, endpoints=("crm",)).line()])
        client.zadd(f"{stem}schedule", {"crm.0": 0})
        arena.work(2)
        arena.until_drained(60)
        findings = arena.audit(promise())
        return Outcome(findings=findings, kills=0)
