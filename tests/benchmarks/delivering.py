"""Delivered events/s of one worker process, against a bare aiohttp loop at the same concurrency."""

import subprocess
import sys
from dataclasses import dataclass
from statistics import median

import orjson

from kasplo_notify import Notifier
from kasplo_notify.console import Console
from kasplo_notify.events import validate

from .figure import BenchmarkError, Figure, Plan, compared
from .stage import CONCURRENCY, HERE, Stage, cpu_of, event, wait_until

_LIMIT_S = 120.0
_CHUNK = 5000


@dataclass(frozen=True, slots=True)
class _Run:
    """Events/s between the first and the last arrival, and microseconds of CPU per event."""

    rate: float
    cpu_us: float
    server_cpu_us: float = 0.0
    round_trips: float = 0.0


def measure(stage: Stage, plan: Plan, console: Console) -> list[Figure]:
    """Alternate the two over the same receiver."""
    ours, bare = [], []
    for number in range(plan.rounds):
        console.status(f"round {number + 1} of {plan.rounds}: a bare aiohttp loop, {plan.backlog:,} requests")
        bare.append(_bare(stage, plan.backlog))
        ours.append(_worker(stage, plan.backlog, console, f"round {number + 1} of {plan.rounds}"))
        shown = f"{ours[-1].rate:,.0f}/s by the worker, {bare[-1].rate:,.0f}/s by the bare loop"
        console.line(f"  round {number + 1}: {shown}")
    against = "bare aiohttp.ClientSession POST loop"
    figures = [
        compared(
            "delivered, one worker process",
            "/s",
            [(mine.rate, its.rate) for mine, its in zip(ours, bare, strict=True)],
            against,
            note=f"signed POST, {CONCURRENCY} in flight, backlog of {plan.backlog:,}",
        )
    ]
    if all(run.cpu_us for run in ours):
        cpu = [(mine.cpu_us, its.cpu_us) for mine, its in zip(ours, bare, strict=True)]
        server = median(run.server_cpu_us for run in ours)
        note = f"Redis {server:.0f} us beside it"
        figures.append(compared("CPU per delivered event", "us", cpu, against, note=note))
    trips = median(run.round_trips for run in ours)
    figures.append(Figure(name="Redis round trips per delivered event", unit="", value=trips))
    return figures


def _bare(stage: Stage, requests: int) -> _Run:
    stage.receiver.ask("reset")
    command = [sys.executable, str(HERE / "bare_loop.py"), stage.receiver.url, str(requests), str(CONCURRENCY)]
    example = event(0)
    del example["mail_class"]
    body = validate(str(example["event_type"]), example).body
    done = subprocess.run(command, input=body, capture_output=True, timeout=_LIMIT_S, check=False)
    if done.returncode:
        raise BenchmarkError(f"the bare loop failed: {done.stderr.decode(errors='replace')[-500:]}")
    return _Run(_rate(stage, requests), orjson.loads(done.stdout) / requests * 1e6)


def _worker(stage: Stage, events: int, console: Console, title: str) -> _Run:
    stage.clear()
    name = stage.add_endpoint(0.0)
    stage.registry.pause(name)
    with Notifier(config=stage.config) as notifier:
        for start in range(0, events, _CHUNK):
            console.status(f"{title}: queueing {start:,} of {events:,} events")
            notifier.emit_many([event(number) for number in range(start, min(start + _CHUNK, events))])

    def arrived() -> bool:
        requests = int(stage.receiver.ask("report")["requests"])
        console.status(f"{title}: {requests:,} of {events:,} delivered by a worker")
        return requests >= events

    with stage.worker() as pid:
        worker_cpu, server_cpu, calls = cpu_of(pid), stage.server_cpu(), _calls(stage)
        stage.registry.resume(name)
        wait_until(arrived, _LIMIT_S, f"{events:,} events were delivered")
        wait_until(lambda: stage.waiting(name) == 0, 10, "all were settled")
        after = cpu_of(pid)
        used = (after - worker_cpu) / events * 1e6 if after is not None and worker_cpu is not None else 0.0
        server_used = (stage.server_cpu() - server_cpu) / events * 1e6
        trips = (_calls(stage) - calls) / events
    return _Run(_rate(stage, events), used, server_used, trips)


def _calls(stage: Stage) -> int:
    return int(stage.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))


def _rate(stage: Stage, requests: int) -> float:
    report = stage.receiver.ask("report")
    if report["requests"] != requests or report["again"]:
        raise BenchmarkError(f"{requests:,} requests were due, the receiver saw {report}")
    return float((requests - 1) / (report["last"] - report["first"]))
