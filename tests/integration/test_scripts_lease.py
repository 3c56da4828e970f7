"""renew and release: how long a drain holds a queue, and what becomes of the queue afterwards."""

from tests.integration.shard import DELAY, HOUR, LEASE, Item, Shard, failed

# --- renew -----------------------------------------------------------------------------------------------------------


def test_renewing_puts_off_the_end_of_the_lease(shard: Shard) -> None:
    shard.hold(queue="crm.0")
    shard.hold(queue="crm.1")
    before = shard.now()
    assert shard.renew("drain1", "crm.0", "crm.1", lease=HOUR) == [(True, "", 0), (True, "", 0)]
    for queue in ("crm.0", "crm.1"):
        assert before + HOUR <= (shard.score(queue) or 0) <= shard.now() + HOUR


def test_a_queue_that_was_lost_is_told_and_not_renewed(shard: Shard) -> None:
    shard.hold("drain2")
    before = shard.dump()
    assert shard.renew("drain1", "crm.0", "crm.1") == [(False, "", 0), (False, "", 0)]
    assert shard.dump() == before


def test_a_pause_and_a_gate_are_told_to_who_renews(shard: Shard) -> None:
    shard.hold(queue="crm.0")
    shard.hold(queue="other.0")
    shard.set_health("crm", paused="operator")
    gate = shard.now() + HOUR
    shard.set_health("other", not_before=gate)
    assert shard.renew("drain1", "crm.0", "other.0") == [(True, "operator", 0), (True, "", gate)]


def test_the_registrys_version_is_told_to_who_renews(shard: Shard) -> None:
    shard.client.set(shard.keys("version"), 12)
    assert shard.run("renew", "drain1", LEASE)[1] == b"12"


# --- release ---------------------------------------------------------------------------------------------------------


def test_a_released_queue_is_looked_at_when_its_next_event_is_due(shard: Shard) -> None:
    (ref,) = shard.hold()
    shard.settle("drain1", failed(ref, delay=HOUR))
    shard.push("new")
    assert shard.release("drain1", "crm.0") == (1, 0, 0)
    assert shard.owner() is None
    assert shard.now() < (shard.score() or 0) <= shard.now() + DELAY + 1
    shard.client.delete(shard.keys("new:crm.0"))
    shard.client.hset(shard.keys("owner"), "crm.0", "drain1")
    shard.release("drain1", "crm.0")
    assert shard.score() == shard.retries()["e0"][1]


def test_a_served_queue_goes_to_the_back_of_the_line(shard: Shard) -> None:
    shard.hold("drain1", queue="crm.0")
    shard.put("crm.1", "fresh", age=DELAY + 10)
    before = shard.now()
    assert shard.release("drain1", "crm.0") == (1, 1, 0)
    assert (shard.score("crm.0") or 0) >= before
    assert shard.claim("drain2", most=1).names == ["crm.1"]


def test_a_queue_that_is_empty_leaves_nothing_behind(shard: Shard) -> None:
    (ref,) = shard.hold("drain1")
    shard.run("alone", "drain1", "crm.0", "e0")
    shard.end_lease("crm.0")
    shard.claim("drain2")
    shard.client.xdel(shard.keys("new:crm.0"), ref)
    assert shard.release("drain2", "crm.0") == (1, 0, 0)
    assert shard.names() == set()


def test_a_drain_that_lost_a_queue_cannot_release_it(shard: Shard) -> None:
    shard.hold("drain2")
    before = shard.dump()
    assert shard.release("drain1", "crm.0", "crm.1") == (0, 0, 0)
    assert shard.dump() == before


def test_releasing_twice_is_releasing_once(shard: Shard) -> None:
    shard.hold()
    shard.put_retry("crm.0", "later", due_in=HOUR)
    shard.release("drain1", "crm.0")
    shard.client.zadd(shard.keys("schedule"), {"crm.0": 5})
    before = shard.dump()
    assert shard.release("drain1", "crm.0") == (0, 0, 0)
    assert shard.dump() == before


def test_a_released_queue_of_a_paused_endpoint_is_not_looked_at(shard: Shard) -> None:
    shard.hold()
    shard.set_health(paused="operator")
    assert shard.release("drain1", "crm.0") == (1, 0, 0)
    assert (shard.score(), shard.owner(), shard.new()) == (None, None, ["e0"])


def test_a_released_queue_is_not_looked_at_before_the_gate(shard: Shard) -> None:
    gate = shard.now() + HOUR
    shard.hold()
    shard.set_health(not_before=gate)
    assert shard.release("drain1", "crm.0") == (1, 0, 0)
    assert shard.score() == gate


def test_an_endpoints_own_delay_counts_at_release(shard: Shard) -> None:
    (ref,) = shard.hold()
    shard.set_health(delay=2 * HOUR)
    shard.release("drain1", "crm.0")
    assert shard.score() == int(ref.split(b"-")[0]) + 2 * HOUR + 1


def test_idle_workers_are_told_to_who_releases(shard: Shard) -> None:
    shard.hold()
    for worker in ("w1", "w2"):
        shard.run("peek", worker, "idle", 3000)
    shard.run("peek", "w3", "busy", 3000)
    assert shard.release("drain1", "crm.0") == (1, 1, 2)


def test_an_owner_that_comes_back_late_harms_nothing(shard: Shard) -> None:
    """It was silent for longer than its lease, and another drain has delivered meanwhile."""
    (ref,) = shard.hold("drain1")
    shard.end_lease("crm.0")
    shard.claim("drain2")
    shard.settle("drain2", Item(ref=ref))
    shard.release("drain2", "crm.0")
    shard.push("fresh")
    before = shard.dump()
    assert shard.settle("drain1", failed(ref)).applied == 0
    assert shard.renew("drain1", "crm.0") == [(False, "", 0)]
    assert shard.release("drain1", "crm.0")[0] == 0
    assert shard.dump() == before


# --- peek ------------------------------------------------------------------------------------------------------------


def peek(shard: Shard, worker: str, state: str, believed: int = 3000) -> tuple[int, int, int, bool]:
    """Queues due, workers idle, workers busy, whether this worker should ask for a drain."""
    _, _, due, _, idle, busy, _, call = shard.run("peek", worker, state, believed)
    return due, idle, busy, bool(call)


def test_a_drain_is_asked_for_when_something_is_due_and_a_worker_idle(shard: Shard) -> None:
    shard.push("a")
    assert peek(shard, "w1", "idle") == (0, 1, 0, False)
    shard.let_pass("crm.0", DELAY + 1)
    assert peek(shard, "w1", "idle") == (1, 1, 0, True)


def test_of_many_dispatchers_one_asks(shard: Shard) -> None:
    shard.put("crm.0", "a")
    assert [peek(shard, f"w{number}", "idle")[3] for number in range(3)].count(True) >= 1
    shard.client.set(shard.keys("calling"), "w9", px=60_000)
    assert peek(shard, "w1", "idle")[3] is False


def test_nobody_asks_for_a_drain_when_all_are_busy(shard: Shard) -> None:
    shard.put("crm.0", "a")
    assert peek(shard, "w1", "busy") == (1, 0, 1, False)


def test_a_worker_that_left_or_fell_silent_counts_neither_as_idle_nor_as_busy(shard: Shard) -> None:
    peek(shard, "w1", "idle")
    peek(shard, "w2", "busy")
    assert peek(shard, "w1", "gone") == (0, 0, 1, False)
    shard.client.zadd(shard.keys("busy"), {"w2": shard.now() - 1})
    assert peek(shard, "w3", "idle") == (0, 1, 0, False)
