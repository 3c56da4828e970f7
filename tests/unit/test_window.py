"""How many requests may be in flight: windows of queues, slots of a process. Time is given, none passes."""

import random

import pytest

from kasplo_notify.window import FAST_BYTES, IDLE_S, SLOW_BYTES, START, Slots, Window
from tests.unit.queues import window_of

# --- the window of a queue -------------------------------------------------------------------------------------------


def test_a_window_starts_small_and_doubles_with_each_round_of_successes() -> None:
    window = Window()
    for expected in (START, 2 * START, 4 * START):
        assert window.size == expected
        for _ in range(int(window.size)):
            window.succeeded(cap=1000, now=100.0)


def test_a_window_never_grows_beyond_its_cap() -> None:
    window = Window()
    for _ in range(100):
        window.succeeded(cap=32, now=100.0)
    assert window.size == 32


def test_a_cap_that_was_lowered_takes_effect_with_the_next_success() -> None:
    window = window_of(64.0)
    window.succeeded(cap=8, now=100.0)
    assert window.size == 8


def test_a_failure_halves_the_window() -> None:
    window = window_of(32.0)
    window.failed(now=10.0, started=9.0)
    assert window.size == 16


def test_failures_that_were_in_flight_together_halve_it_once() -> None:
    window = window_of(32.0)
    for moment in range(10):
        window.failed(now=10.0 + moment / 100, started=9.5)
    assert window.size == 16
    window.failed(now=11.0, started=10.0)
    assert window.size == 8


def test_after_a_failure_it_grows_by_one_with_each_round() -> None:
    window = window_of(32.0)
    window.failed(now=10.0, started=9.0)
    for _ in range(16):
        window.succeeded(cap=1000, now=100.0)
    assert 16.9 < window.size < 17.1


@pytest.mark.parametrize(("idle", "size"), [(0.0, 32), (IDLE_S - 0.1, 32), (IDLE_S, START)])
def test_a_window_that_nothing_was_answered_in_begins_small_again(idle: float, size: float) -> None:
    window = Window()
    for _ in range(100):
        window.succeeded(cap=32, now=100.0)
    window.resume(100.0 + idle)
    assert window.size == size


def test_a_window_that_is_smaller_than_small_stays_so() -> None:
    window = Window()
    window.failed(now=100.0, started=99.0)
    window.resume(200.0)
    assert window.size == START / 2


def test_a_failure_is_an_answer_too() -> None:
    window = window_of(32.0)
    window.failed(now=200.0, started=199.0)
    window.resume(200.0 + IDLE_S - 0.1)
    assert window.size == 16


def test_a_window_is_never_smaller_than_one_request() -> None:
    window = Window()
    for moment in range(50):
        window.failed(now=float(moment), started=float(moment))
    assert window.size == 1
    window.succeeded(cap=1000, now=100.0)
    assert window.size == 2


def test_a_window_can_begin_anew() -> None:
    window = window_of(32.0)
    window.failed(now=10.0, started=9.0)
    window.restart()
    assert window.size == START
    window.succeeded(cap=1000, now=100.0)
    assert window.size == START + 1
    window.failed(now=1.0, started=0.5)
    assert window.size < START


# --- the slots of a process ------------------------------------------------------------------------------------------


def test_one_endpoint_alone_may_have_all_but_what_is_kept_for_others() -> None:
    slots = Slots(fast_limit=8, slow_limit=8)
    opened = 0
    while slots.may_open("a", 0.0):
        slots.opened("a", 0.0)
        opened += 1
    assert (opened, slots.free, slots.in_flight) == (8, 0, 8)
    assert not slots.may_open("b", 0.0)


def test_once_half_is_taken_nobody_may_have_more_than_an_equal_share() -> None:
    slots = Slots(fast_limit=12, slow_limit=0)
    for endpoint in ("a", "a", "a", "a", "b", "c"):
        slots.opened(endpoint, 0.0)
    assert not slots.may_open("a", 0.0)
    assert slots.may_open("b", 0.0)
    for _ in range(3):
        slots.opened("b", 0.0)
    assert not slots.may_open("b", 0.0)
    assert slots.may_open("new", 0.0)


def test_before_half_is_taken_an_endpoint_may_have_more_than_its_share() -> None:
    slots = Slots(fast_limit=12, slow_limit=0)
    for endpoint in ("b", "a", "a", "a", "a"):
        slots.opened(endpoint, 0.0)
    assert slots.may_open("a", 0.0)


def test_with_more_endpoints_than_slots_each_may_have_one() -> None:
    slots = Slots(fast_limit=4, slow_limit=0)
    for endpoint in ("a", "b", "c"):
        slots.opened(endpoint, 0.0)
    assert not slots.may_open("a", 0.0)
    assert slots.may_open("d", 0.0)


def test_a_closed_request_frees_its_slot() -> None:
    slots = Slots(fast_limit=1, slow_limit=0)
    ticket = slots.opened("a", 0.0)
    assert not slots.may_open("b", 0.0)
    slots.closed(ticket, 0.1)
    assert slots.may_open("b", 0.1)
    assert (slots.free, slots.in_flight) == (1, 0)


def test_a_request_older_than_a_second_frees_its_slot_for_others() -> None:
    slots = Slots(fast_limit=1, slow_limit=1)
    ticket = slots.opened("hangs", 0.0)
    slots.age(0.999)
    assert (slots.free, slots.has_slow("hangs")) == (0, False)
    slots.age(1.0)
    assert (slots.free, slots.slow, slots.in_flight, slots.has_slow("hangs")) == (1, 1, 1, True)
    slots.closed(ticket, 1.1)
    assert (slots.slow, slots.in_flight, slots.has_slow("hangs")) == (0, 0, False)


def test_an_endpoint_that_hangs_opens_one_more_request_a_second_and_others_as_they_like() -> None:
    slots = Slots(fast_limit=100, slow_limit=100)
    slots.opened("hangs", 0.0)
    slots.age(1.5)
    assert slots.may_open("hangs", 1.5)
    slots.opened("hangs", 1.5)
    assert not slots.may_open("hangs", 2.4)
    assert slots.may_open("other", 2.4)
    assert slots.may_open("hangs", 2.5)


def test_an_endpoint_that_answers_again_is_no_longer_held_back() -> None:
    slots = Slots(fast_limit=100, slow_limit=100)
    late = slots.opened("hangs", 0.0)
    slots.age(1.0)
    slots.opened("hangs", 1.0)
    slots.closed(late, 1.1)
    assert slots.may_open("hangs", 1.1)


def test_an_endpoint_that_answers_most_of_its_requests_at_once_does_not_hang() -> None:
    slots = Slots(fast_limit=100, slow_limit=100)
    slots.opened("tail", 0.0)
    slots.age(1.0)
    assert slots.hangs("tail", 1.0)
    slots.closed(slots.opened("tail", 1.0), 1.2)
    assert slots.has_slow("tail")
    assert not slots.hangs("tail", 2.1)
    slots.opened("tail", 2.1)
    assert slots.may_open("tail", 2.1)
    assert slots.hangs("tail", 2.2), "nothing was answered for a second"


def test_an_answer_that_took_more_than_a_second_says_that_it_still_hangs() -> None:
    slots = Slots(fast_limit=100, slow_limit=1)
    slots.opened("hangs", 0.0)
    late = slots.opened("hangs", 0.0)
    slots.age(1.5)
    slots.closed(late, 1.5)
    assert slots.hangs("hangs", 1.6)


def test_when_the_slow_allowance_is_used_up_who_has_a_part_of_it_gets_no_more() -> None:
    slots = Slots(fast_limit=100, slow_limit=2)
    for _ in range(2):
        slots.opened("hangs", 0.0)
    slots.age(1.0)
    slots.closed(slots.opened("hangs", 1.0), 1.1)
    assert not slots.may_open("hangs", 9.0)
    assert slots.may_open("other", 9.0)


def test_after_a_drain_nothing_is_in_flight() -> None:
    slots = Slots(fast_limit=2, slow_limit=1)
    slots.opened("a", 0.0)
    slots.age(1.0)
    slots.opened("b", 1.0)
    slots.clear()
    assert (slots.in_flight, slots.free, slots.has_slow("a")) == (0, 2, False)


def test_when_the_slow_allowance_is_used_up_old_requests_keep_their_slots() -> None:
    slots = Slots(fast_limit=4, slow_limit=2)
    tickets = [slots.opened(f"hangs{number}", 0.0) for number in range(4)]
    slots.age(5.0)
    assert (slots.slow, slots.free) == (2, 2)
    slots.closed(tickets[0], 5.0)
    slots.age(5.1)
    assert (slots.slow, slots.free) == (2, 3)


def test_a_worker_without_a_slow_allowance_moves_nothing() -> None:
    slots = Slots(fast_limit=4, slow_limit=0)
    slots.opened("hangs", 0.0)
    slots.age(100.0)
    assert (slots.slow, slots.fast) == (0, 1)


def test_requests_that_hold_many_bytes_are_fewer() -> None:
    slots = Slots(fast_limit=256, slow_limit=1024)
    while slots.may_open("a", 0.0):
        slots.opened("a", 0.0, 1_000_000)
    assert (slots.fast, slots.free) == (34, 0)
    assert FAST_BYTES <= slots.fast_bytes < FAST_BYTES + 1_000_000
    assert not slots.may_open("b", 0.0)


def test_one_that_is_larger_than_all_is_sent_by_itself() -> None:
    slots = Slots(fast_limit=256, slow_limit=1024)
    assert slots.may_open("a", 0.0)
    ticket = slots.opened("a", 0.0, 2 * FAST_BYTES)
    assert not slots.may_open("a", 0.0)
    assert not slots.may_open("b", 0.0)
    slots.closed(ticket, 0.5)
    assert slots.may_open("b", 0.5)


def test_once_half_of_the_bytes_are_taken_nobody_gets_more_than_an_equal_share_of_them() -> None:
    slots = Slots(fast_limit=256, slow_limit=1024)
    slots.opened("a", 0.0, FAST_BYTES // 2)
    slots.opened("b", 0.0, 300)
    assert not slots.may_open("a", 0.0)
    assert slots.may_open("b", 0.0)
    assert slots.may_open("c", 0.0)


def test_the_bytes_of_slow_requests_have_an_allowance_of_their_own() -> None:
    slots = Slots(fast_limit=256, slow_limit=1024)
    for second in range(4):
        slots.opened(f"hangs{second}", float(second), SLOW_BYTES // 3)
        slots.age(second + 1.0)
    assert (slots.slow, slots.fast) == (3, 1)
    assert (slots.slow_bytes, slots.fast_bytes) == (SLOW_BYTES, SLOW_BYTES // 3)
    slots.clear()
    slots.opened("hangs", 0.0, SLOW_BYTES)
    slots.age(1.0)
    assert not slots.may_open("hangs", 9.0), "the allowance is used up, and it has a part of it"
    assert slots.may_open("other", 9.0)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_the_books_balance(seed: int) -> None:
    rng = random.Random(seed)
    slots = Slots(fast_limit=16, slow_limit=8)
    open_tickets = []
    largest = SLOW_BYTES // 4
    for step in range(3000):
        now = step / 50
        slots.age(now)
        endpoint = rng.choice("abcde")
        if rng.random() < 0.6 and slots.may_open(endpoint, now):
            open_tickets.append(slots.opened(endpoint, now, rng.choice((300, 700_000, largest))))
        elif open_tickets:
            slots.closed(open_tickets.pop(rng.randrange(len(open_tickets))), now)
        assert slots.fast == sum(not ticket.slow for ticket in open_tickets) <= 16
        assert slots.slow == sum(ticket.slow for ticket in open_tickets) <= 8
        fast, slow = (sum(each.size for each in open_tickets if each.slow is kind) for kind in (False, True))
        assert slots.fast_bytes == fast < FAST_BYTES + largest
        assert slots.slow_bytes == slow < SLOW_BYTES + largest
    for ticket in open_tickets:
        slots.closed(ticket, 60.0)
    assert (slots.in_flight, slots.fast_bytes, slots.slow_bytes, slots._usage) == (0, 0, 0, {})
