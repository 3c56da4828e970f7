"""What Redis does to workers and producers: killed and restarted, full, not there yet."""

import os
import signal
import time
from collections.abc import Callable

import pytest
from rq import Queue, Worker

from kasplo_notify import QueueFull, StorageUnavailable
from tests.acceptance.subscriber import Answer
from tests.acceptance.world import PATIENCE_S, World, scomp, until

MakeWorld = Callable[..., World]


def test_events_flow_on_after_redis_was_killed(make_world: MakeWorld) -> None:
    world = make_world(delivery__delay=0.3)
    path = world.endpoint("crm")
    workers = world.workers(2)
    ids = [f"event-{number}" for number in range(200)]
    for number, event_id in enumerate(ids):
        if number == 100:
            assert world.server.pid is not None
            os.kill(world.server.pid, signal.SIGKILL)
            with pytest.raises(StorageUnavailable) as away:
                world.notifier.emit(scomp(number), mail_class="crm", event_id=event_id)
            assert away.value.event_ids == (event_id,)
            world.server.restart()
        world.notifier.emit(scomp(number), mail_class="crm", event_id=event_id)
        time.sleep(0.01)
    world.wait_for(path, ids, 2 * PATIENCE_S)
    assert set(world.subscriber.taken(path)) == set(ids)
    assert all(worker.running for worker in workers)


def test_a_full_redis_refuses_new_events_and_delivers_the_queued_ones(make_world: MakeWorld) -> None:
    world = make_world(delivery__delay=0.3)
    path = world.endpoint("crm", retry_delays=(0.5,) * 20)
    # Requeueing needs memory, too.
    world.subscriber.decides(path, lambda hit: Answer(status=500 if hit.attempt == 1 else 200))
    ids = world.emit("crm", 8)
    world.redis.config_set("maxmemory", "1mb")
    with pytest.raises(QueueFull) as refused:
        world.emit("crm")
    assert len(refused.value.event_ids) == 1
    assert refused.value.pushed == 0
    worker = world.worker()
    world.wait_for(path, ids, 2 * PATIENCE_S)
    assert sorted(hit.attempt for hit in world.subscriber.hits(path)) == [1] * 8 + [2] * 8
    assert worker.running
    world.redis.config_set("maxmemory", "1gb")
    # And RQ is in charge again, as soon as the drain that ran without it has ended.
    queue = Queue("kasplo", connection=world.redis)
    until(lambda: Worker.count(queue=queue), what="the return of RQ")
    ids = world.emit("crm", 5)
    world.wait_for(path, ids)
    until(lambda: queue.finished_job_registry.count > 0, what="a drain by RQ")


@pytest.mark.parametrize("in_flight", [0, 4])
def test_a_worker_that_is_told_to_stop_does_not_wait_for_a_redis_that_hangs(
    make_world: MakeWorld, in_flight: int
) -> None:
    world = make_world(delivery__delay=0, delivery__timeout=1)
    path = world.endpoint("crm")
    world.subscriber.answers(path, Answer(held=True))
    (worker,) = world.workers(1)
    if in_flight:
        world.emit("crm", in_flight)
        until(lambda: world.subscriber.waiting(path))
    assert world.server.pid is not None
    os.kill(world.server.pid, signal.SIGSTOP)
    try:
        worker.terminate()
        # It would wait for half a minute and more, for commands of RQ.
        assert worker.wait() == 1
        assert "stopped_early" in worker.output
    finally:
        os.kill(world.server.pid, signal.SIGCONT)
    world.processes.remove(worker)


def test_a_worker_that_starts_before_redis_waits_for_it(make_world: MakeWorld) -> None:
    world = make_world(delivery__delay=0.3)
    path = world.endpoint("crm")
    ids = world.emit("crm", 5)
    world.server.stop()
    worker = world.worker()
    until(lambda: worker.output or not worker.running, what="a sign of life")
    time.sleep(1)
    assert worker.running, worker.output
    world.server.start()
    world.wait_for(path, ids, 2 * PATIENCE_S)


def test_what_is_tampered_with_under_a_running_worker_stops_neither_it_nor_the_others(make_world: MakeWorld) -> None:
    world = make_world(delivery__delay=0.2)
    path, keys = world.endpoint("crm"), world.registry.store.keys
    for name in ("record", "state", "events", "retries"):
        world.endpoint(name, queues=1)
    (worker,) = world.workers(1)
    ids = world.emit("crm", 5)
    world.redis.hset(keys.endpoints, "record", "x" * 10_000_000)
    world.redis.hset(keys("health:state"), mapping={"partitions": "inf", "paused": b"\xff"})
    world.redis.set(keys("new:events.0"), "junk")
    world.redis.set(keys("retry:retries.0"), "junk")
    world.redis.zadd(keys("schedule"), dict.fromkeys((b"record.0", b"events.0", b"retries.0", b"\xff", b"No\nName"), 1))
    world.redis.set("rq:job:junk", "junk")
    world.redis.rpush("rq:queue:kasplo", "junk", b"\xff", "no id!")
    # A version that nobody has seen: what is known of endpoints is read anew.
    world.redis.incr(keys("version"))
    ids += world.emit("crm", 5)
    world.wait_for(path, ids, 2 * PATIENCE_S)
    until(lambda: "the record of record is broken" in worker.output, what="a word about the record")
    until(lambda: "queue_broken: the keys of events.0" in worker.output, what="a word about the queue")
    assert worker.running
    assert "drain_failed" not in worker.output
