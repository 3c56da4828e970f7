"""read: more of a queue that a drain holds, from where it left off."""

from tests.integration.shard import DELAY, HOUR, Shard


def ids(events: object) -> list[str]:
    assert isinstance(events, list)
    return [event.id for event in events]


def test_reading_goes_on_after_the_last_new_event(shard: Shard) -> None:
    refs = shard.hold(events=40)
    (first,) = shard.read("drain1", ("crm.0", "", 20, "-inf", 0))
    assert ids(first) == [f"e{number}" for number in range(20)]
    (second,) = shard.read("drain1", ("crm.0", refs[19].decode(), 100, "-inf", 0))
    assert ids(second) == [f"e{number}" for number in range(20, 40)]


def test_reading_retries_goes_on_from_a_score_which_is_read_again(shard: Shard) -> None:
    shard.hold(events=0)
    now = shard.now()
    for number in range(40):
        shard.put_retry("crm.0", f"r{number:02}", due_in=-10_000 + number)
    (first,) = shard.read("drain1", ("crm.0", "", 0, "-inf", 20))
    assert ids(first) == [f"r{number:02}" for number in range(20)]
    assert first is not None
    assert first[-1].time <= now
    (second,) = shard.read("drain1", ("crm.0", "", 0, str(first[-1].time), 100))
    assert "r19" in ids(second)
    assert {f"r{number:02}" for number in range(20, 40)} <= set(ids(second))


def test_retries_with_one_score_are_all_read(shard: Shard) -> None:
    shard.hold(events=0)
    due = shard.now() - 1000
    for number in range(50):
        member = shard.put_retry("crm.0", f"r{number:02}")
        shard.client.zadd(shard.keys("retry:crm.0"), {member: due})
    (events,) = shard.read("drain1", ("crm.0", "", 0, str(due), 60))
    assert len(set(ids(events))) == 50


def test_only_what_is_due_is_read(shard: Shard) -> None:
    shard.hold(events=1)
    shard.push("later")
    shard.put_retry("crm.0", "again", due_in=-1)
    shard.put_retry("crm.0", "in an hour", due_in=HOUR)
    (events,) = shard.read("drain1", ("crm.0", "", 10, "-inf", 10))
    assert ids(events) == ["e0", "again"]


def test_an_endpoints_own_delay_counts(shard: Shard) -> None:
    shard.hold(events=1)
    shard.set_health(delay=HOUR)
    assert shard.read("drain1", ("crm.0", "", 10, "-inf", 10)) == [[]]
    shard.set_health(delay=0)
    shard.push("fresh", delay=0)
    shard.let_pass("crm.0", 1)
    (events,) = shard.read("drain1", ("crm.0", "", 10, "-inf", 10), delay=DELAY)
    assert ids(events) == ["e0", "fresh"]


def test_a_queue_that_was_lost_is_not_read(shard: Shard) -> None:
    shard.hold("drain1", queue="crm.0")
    shard.hold("drain2", queue="crm.1")
    wanted = [(queue, "", 10, "-inf", 10) for queue in ("crm.0", "crm.1", "crm.2")]
    first, second, third = shard.read("drain1", *wanted)
    assert (ids(first), second, third) == (["e0"], None, None)


def test_reading_changes_nothing(shard: Shard) -> None:
    shard.hold(events=3)
    shard.put_retry("crm.0", "again")
    before = shard.dump()
    shard.read("drain1", ("crm.0", "", 10, "-inf", 10))
    assert shard.dump() == before


def test_a_reply_is_bounded_in_bytes_for_all_queues_together(shard: Shard) -> None:
    for number in range(4):
        shard.put(f"crm.{number}", *(f"n{n:02}" for n in range(40)), size=100_000)
        for again in range(40):
            shard.put_retry(f"crm.{number}", f"r{again:02}", size=100_000)
        shard.client.hset(shard.keys("owner"), f"crm.{number}", "drain1")
    replies = shard.read("drain1", *((f"crm.{number}", "", 40, "-inf", 40) for number in range(4)))
    size = sum(len(event.ref) + len(event.packed) for events in replies for event in events or ())
    assert 1_048_576 <= size <= 1_048_576 + 16 * 100_200
