"""Workers as processes: killed, stopped, many at once, started by RQ itself, with nothing to do."""

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import pytest
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from tests.acceptance.subscriber import Answer
from tests.acceptance.world import PATIENCE_S, Flow, Process, World, until

MakeWorld = Callable[..., World]
RQ = [sys.executable, "-m", "rq.cli"]


def test_after_a_kill_in_mid_flight_everything_arrives(make_world: MakeWorld) -> None:
    world = make_world(delivery__delay=0.3, delivery__timeout=1, worker__lease=6)
    sub = world.subscriber
    path = world.endpoint("crm")
    sub.answers(path, Answer(held=True))
    ids = world.emit("crm", 50)
    (victim,) = world.workers(1)
    until(lambda: len(sub.waiting(path)) >= 4)
    victim.kill()
    in_flight = [hit.id for hit in sub.hits(path)]
    sub.release(path)
    until(lambda: not sub.waiting(path))
    before = len(sub.hits(path))
    world.workers(1)
    until(lambda: {hit.id for hit in sub.hits(path)[before:]} >= set(ids), 6 + PATIENCE_S)
    until(lambda: world.backlog("crm") == 0)
    counts = Counter(hit.id for hit in sub.hits(path))
    twice = {event_id for event_id, count in counts.items() if count > 1}
    assert twice <= set(in_flight)
    assert max(counts.values()) <= 2


def test_sigterm_duplicates_nothing_and_waits_for_the_answers(make_world: MakeWorld) -> None:
    world = make_world(delivery__delay=0.3, delivery__timeout=8)
    sub = world.subscriber
    path = world.endpoint("crm")
    sub.answers(path, Answer(wait=1.5))
    ids = world.emit("crm", 60)
    (first,) = world.workers(1)
    until(lambda: len(sub.waiting(path)) >= 4)
    first.terminate()
    assert first.wait(8 + 2) == 0
    asked = sub.hits(path)
    assert all(hit.status == 200 for hit in asked)
    assert 0 < len(asked) < len(ids)
    assert world.backlog("crm") == len(ids) - len(asked)
    sub.answers(path, Answer())
    world.workers(1)
    world.wait_for(path, ids)
    assert sorted(hit.id for hit in sub.hits(path)) == sorted(ids)


def test_two_workers_share_the_work_of_one_endpoint(make_world: MakeWorld) -> None:
    world = make_world(delivery__delay=0.3)
    path = world.endpoint("crm", max_in_flight=16)
    world.subscriber.answers(path, Answer(wait=0.05))
    both = world.workers(2)
    ids = world.emit("crm", 1200)
    world.wait_for(path, ids)
    assert sorted(hit.id for hit in world.subscriber.hits(path)) == sorted(ids)
    for process in both:
        process.terminate()
        process.wait()
    shares = [delivered(process) for process in both]
    assert sum(shares) == len(ids)
    assert min(shares) >= len(ids) // 20


def delivered(worker: Process) -> int:
    """How many deliveries a worker logged."""
    return sum(int(count.replace(",", "")) for count in re.findall(r"drained: ([0-9,]+) delivered", worker.output))


def test_deleting_every_key_of_rq_while_events_flow_stops_nothing(make_world: MakeWorld) -> None:
    world = make_world()
    path = world.endpoint("crm")
    world.workers(2)
    deleted = 0
    with Flow(world, "crm") as flow:
        while len(flow.ids) < 150:
            if keys := list(world.redis.scan_iter("rq:*")):
                deleted += world.redis.delete(*keys)
    world.wait_for(path, flow.ids)
    assert deleted > 10
    assert sorted(hit.id for hit in world.subscriber.hits(path)) == sorted(flow.ids)
    assert all(process.running for process in world.processes)


def test_rq_itself_starts_the_worker_and_shows_what_it_does(make_world: MakeWorld) -> None:
    world = make_world(delivery__delay=0.3)
    path = world.endpoint("crm")
    url = world.server.url
    world.start([*RQ, "worker", "-u", url, "-w", "workers.NotifyWorker", "kasplo"])
    until(lambda: world.redis.scard("rq:workers"))
    ids = world.emit("crm", 3)
    world.wait_for(path, ids)

    queue = Queue("kasplo", connection=world.redis, serializer=JSONSerializer)
    until(lambda: finished(queue))
    for job in finished(queue):
        assert re.fullmatch(r"deliver due events: \d queues? due, \d+\.\d s late", job.description or "")
        assert re.fullmatch(r"\d delivered in \d+\.\d s", job.return_value())
    assert any(job.return_value().startswith("3 delivered") for job in finished(queue))
    assert queue.failed_job_registry.count == 0

    info = world.start([*RQ, "info", "-u", url])
    assert info.wait() == 0
    assert re.search(r"^kasplo ", info.output, re.MULTILINE)
    assert "1 workers, 1 queues" in info.output


def finished(queue: Queue) -> list[Job]:
    jobs = Job.fetch_many(queue.finished_job_registry.get_job_ids(), queue.connection, JSONSerializer)
    return [job for job in jobs if job is not None]


def test_burst_delivers_what_is_due_and_ends(make_world: MakeWorld) -> None:
    world = make_world(delivery__delay=0.3)
    assert world.worker("burst").wait() == 0
    path = world.endpoint("crm")
    later = world.endpoint("later", delay=60)
    world.emit("later")
    ids = world.emit("crm", 100)
    until(lambda: world.registry.backlog(["crm"])["crm"].late_ms > 0)
    assert world.worker("burst").wait() == 0
    assert sorted(world.subscriber.taken(path)) == sorted(ids)
    assert world.worker("burst").wait() == 0
    assert world.subscriber.hits(later) == []
    assert world.backlog("later") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_idle_worker_ends_on_a_signal(make_world: MakeWorld, number: signal.Signals) -> None:
    (worker,) = make_world().workers(1)
    os.kill(worker.pid, number)
    assert worker.wait() == 0


def test_a_wrong_configuration_ends_rq_with_one_sentence(make_world: MakeWorld) -> None:
    world = make_world()
    command = [*RQ, "worker", "-u", world.server.url, "-w", "workers.NotifyWorker", "kasplo"]
    wrong = {**world.environ, "KASPLO_DELIVERY__DELAY": "soon"}
    done = subprocess.run(command, env=wrong, cwd=world.folder, capture_output=True, timeout=60, check=False)
    assert done.returncode == 3
    (told,) = [line for line in done.stderr.decode().splitlines() if line]
    assert told.startswith("Error: delivery.delay ")
