"""A key that is not what it should be stops its own endpoint, and nobody else."""

from tests.integration.shard import Item, Shard, failed

JUNK = "no stream, no set, no hash"


def spoil(shard: Shard, *names: str) -> None:
    for name in names:
        shard.client.delete(shard.keys(name))
        shard.client.set(shard.keys(name), JUNK)


def test_an_event_for_a_broken_queue_becomes_a_dead_letter_and_the_others_get_theirs(shard: Shard) -> None:
    spoil(shard, "new:crm.0")
    assert shard.push("a", queues=("crm.0", "ok.0"), token="t") == ("pushed", 1)
    assert shard.new("ok.0") == ["a"]
    assert shard.dead("crm") == [("a", "broken_queue")]
    assert shard.push("a", queues=("crm.0", "ok.0"), token="t") == ("repeated", 0)


def test_a_push_that_cannot_be_scheduled_is_not_repeated(shard: Shard) -> None:
    spoil(shard, "health:crm")
    assert shard.push("a", queues=("crm.0", "ok.0"), token="t") == ("pushed", 1)
    assert shard.new("crm.0") == shard.new("ok.0") == ["a"]


def test_a_broken_queue_is_named_left_alone_for_a_while_and_the_others_are_claimed(shard: Shard) -> None:
    for queue in ("bad.0", "worse.0", "crm.0"):
        shard.put(queue, "a")
    spoil(shard, "new:bad.0", "health:worse")
    claim = shard.claim()
    assert claim.names == ["crm.0"]
    assert claim.broken.keys() == {"bad.0", "worse.0"}
    assert shard.score("bad.0") == shard.score("worse.0") == claim.now + 60_000
    assert shard.owner("bad.0") is None


def test_a_note_of_deaths_that_is_not_one_stops_nothing(shard: Shard) -> None:
    shard.hold("drain1")
    shard.client.hset(shard.keys("suspect"), "crm.0", JUNK)
    shard.run("alone", "drain1", "crm.0", "e0")
    shard.end_lease("crm.0")
    (claimed,) = shard.claim("drain2").queues
    assert (claimed.deaths, claimed.alone) == (1, "1 1 e0")


def test_a_broken_queue_is_lost_for_its_drain_which_reads_the_others(shard: Shard) -> None:
    shard.hold("drain1", queue="bad.0")
    shard.hold("drain1", queue="crm.0")
    spoil(shard, "new:bad.0")
    bad, good = shard.read("drain1", ("bad.0", "", 5, "-inf", 5), ("crm.0", "", 5, "-inf", 5))
    assert bad is None
    assert good is not None
    assert len(good) == 1


def test_what_cannot_be_moved_stays_where_it_is_and_its_endpoint_is_paused(shard: Shard) -> None:
    (bad,) = shard.hold("drain1", queue="bad.0")
    (good,) = shard.hold("drain1", queue="crm.0")
    spoil(shard, "retry:bad.0")
    settled = shard.settle("drain1", failed(bad, queue="bad.0"), Item(ref=good))
    assert settled.applied == 1
    assert settled.alone["bad"][0] == "broken"
    assert (len(shard.new("bad.0")), len(shard.new("crm.0"))) == (1, 0)


def test_a_broken_health_record_is_told_to_whoever_holds_the_queue(shard: Shard) -> None:
    shard.hold("drain1", queue="bad.0")
    shard.hold("drain1", queue="crm.0")
    spoil(shard, "health:bad")
    assert shard.renew("drain1", "bad.0", "crm.0") == [(True, "broken", 0), (True, "", 0)]
    assert shard.release("drain1", "bad.0", "crm.0")[0] == 2
    assert shard.owner("bad.0") is None
    assert shard.score("bad.0") is not None


def test_repair_goes_on_behind_a_broken_endpoint(shard: Shard) -> None:
    spoil(shard, "health:bad")
    shard.put("crm.0", "a")
    shard.client.zrem(shard.keys("schedule"), "crm.0")
    assert shard.repair("bad", "crm") == ["crm.0"]
