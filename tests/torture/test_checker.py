"""The checker can fail: each set, by a ledger that is wrong in one way."""

from dataclasses import replace

import pytest

from tests.torture.checker import Findings, Promise, check
from tests.torture.ledger import Emitted, Received
from tests.torture.scan import Kept, Scan

PROMISE = Promise(delay=1.0, attempts=3)
EMITTED = [Emitted(10.0, 10.1, f"e{n}", f"b{n}", stored=True, endpoints=("crm", "shop")) for n in range(2)]
RECEIVED = [Received(11.5, each.id, each.body, endpoint, 1, 200) for each in EMITTED for endpoint in each.endpoints]
NOTHING = Scan((), ())


def judge(
    *,
    emitted: list[Emitted] = EMITTED,
    received: list[Received] = RECEIVED,
    left: Scan = NOTHING,
    promise: Promise = PROMISE,
) -> Findings:
    return check(emitted, received, left, promise)


def test_a_run_in_which_everything_arrived_once_has_no_complaint() -> None:
    findings = judge()
    assert findings.complaints == {}
    assert (findings.emitted, findings.pairs, findings.requests, findings.duplicates) == (2, 4, 4, 0)
    assert findings.late(0.5) == pytest.approx(0.4)


def test_what_neither_arrived_nor_is_kept_is_lost() -> None:
    assert judge(received=RECEIVED[1:]).lost == {("e0", "crm")}
    refused = [replace(RECEIVED[0], status=500), *RECEIVED[1:]]
    assert judge(received=refused).lost == {("e0", "crm")}


@pytest.mark.parametrize("place", ["new", "retry", "dead"])
def test_what_is_kept_is_not_lost(place: str) -> None:
    findings = judge(received=RECEIVED[1:], left=Scan((Kept(place, "crm", "e0", "b0"),), ()))
    assert findings.lost == set()
    assert findings.complaints.keys() == ({"buried"} if place == "dead" else {"leaks"})


def test_a_dead_letter_that_was_announced_is_none_too_many() -> None:
    left = Scan((Kept("dead", "crm", "e0", "b0", "poison"), Kept("dead", "crm", "e1", "b1", "too_old")), ())
    findings = judge(left=left, promise=replace(PROMISE, may_bury=lambda kept: kept.reason == "poison"))
    assert findings.buried == {("e1", "crm")}
    assert findings.dead == 2


def test_what_emit_did_not_acknowledge_may_be_there_or_not() -> None:
    emitted = [replace(EMITTED[0], stored=False), EMITTED[1]]
    assert judge(emitted=emitted).complaints == {}
    assert judge(emitted=emitted, received=RECEIVED[2:]).complaints == {}


def test_what_may_be_lost_is_forgiven_and_counted() -> None:
    findings = judge(received=RECEIVED[1:], promise=replace(PROMISE, may_lose=lambda event: event.id == "e0"))
    assert not findings.lost
    assert findings.forgiven == 1


def test_what_was_never_emitted_is_a_phantom() -> None:
    other = replace(RECEIVED[0], id="e9")
    assert judge(received=[*RECEIVED, other]).phantom == {("e9", "crm")}
    assert judge(left=Scan((Kept("dead", "else", "e0", "b0"),), ())).phantom == {("e0", "else")}


def test_other_bytes_are_corrupt_wherever_they_are() -> None:
    assert judge(received=[replace(RECEIVED[0], body="x"), *RECEIVED[1:]]).corrupt == {("e0", "crm")}
    assert judge(left=Scan((Kept("dead", "crm", "e0", "x"),), ())).corrupt == {("e0", "crm")}


def test_a_request_before_the_delay_is_early() -> None:
    assert judge(received=[replace(RECEIVED[0], at=10.999), *RECEIVED[1:]]).early == {("e0", "crm")}


def test_more_attempts_than_the_policy_has_are_found_and_some_more_only_where_it_throttles() -> None:
    fourth, fifth = ([*RECEIVED, replace(RECEIVED[0], attempt=number)] for number in (4, 5))
    assert judge(received=fourth).attempts == {("e0", "crm")}
    for endpoint, found in (("crm", set()), ("shop", {("e0", "crm")})):
        assert judge(received=fourth, promise=replace(PROMISE, free=1, throttle={endpoint})).attempts == found
    assert judge(received=fifth, promise=replace(PROMISE, free=1, throttle={"crm"})).attempts == {("e0", "crm")}


@pytest.mark.parametrize("burnt", [2, 3, 4])
def test_a_dead_letter_whose_attempts_were_used_up_had_all_of_them(burnt: int) -> None:
    left = Scan((Kept("dead", "crm", "e0", "b0", "attempts_used_up", burnt),), ())
    findings = judge(left=left, promise=replace(PROMISE, may_bury=lambda _: True))
    assert findings.buried == (set() if burnt == PROMISE.attempts else {("e0", "crm")})


def test_requests_too_many_are_counted_and_bounded() -> None:
    retried = [replace(RECEIVED[0], status=500), replace(RECEIVED[0], attempt=2), *RECEIVED[1:]]
    assert judge(received=retried).duplicates == 0
    again = [*RECEIVED, RECEIVED[0], replace(RECEIVED[1], attempt=2)]
    assert judge(received=again).duplicates == 2
    assert "duplicates" in judge(received=again, promise=replace(PROMISE, duplicates=1)).complaints
    assert judge(received=again, promise=replace(PROMISE, duplicates=2)).complaints == {}


def test_a_request_too_many_is_explained_only_by_one_of_its_own_event_that_may_be_repeated() -> None:
    def forgotten(request: Received) -> bool:
        return request.at < 12.0

    again = replace(RECEIVED[0], at=14.0)
    promise = replace(PROMISE, may_repeat=forgotten)
    assert judge(received=[*RECEIVED, again], promise=promise).complaints == {}
    # Of the others there were requests that may be repeated, too; this one was taken later.
    late = [replace(RECEIVED[0], at=13.0), *RECEIVED[1:], again]
    assert judge(received=late, promise=promise).complaints.keys() == {"duplicates"}
    # It was first tried then, and that was not taken, and not repeated.
    retried = [replace(RECEIVED[0], status=500), replace(RECEIVED[0], attempt=2, at=13.0)]
    third = replace(RECEIVED[0], attempt=3, at=14.0)
    assert judge(received=[*retried, *RECEIVED[1:], third], promise=promise).complaints.keys() == {"duplicates"}


def test_an_event_in_two_places_is_found() -> None:
    twice = (Kept("new", "crm", "e0", "b0"), Kept("retry", "crm", "e0", "b0"))
    assert judge(left=Scan(twice, ())).twice == {("e0", "crm")}


def test_keys_that_are_left_are_leaks() -> None:
    left = Scan((), ("kasplo:{0}:owner: hash",))
    assert judge(left=left).leaks == left.leaks
    assert judge(left=left, promise=replace(PROMISE, drained=False)).leaks == ()


def test_lines_of_the_ledgers_are_read_as_they_were_written() -> None:
    emitted = replace(EMITTED[0], endpoints=())
    assert Emitted.read(emitted.line()) == emitted
    assert Emitted.read(EMITTED[0].line()) == EMITTED[0]
    assert Received.read(RECEIVED[0].line()) == RECEIVED[0]
