"""A queue in a drain's hands: what it reads, what is next, when it can be given back."""

from collections.abc import Sequence

import pytest

from kasplo_notify.held import POISON_AFTER, READ_AHEAD, SINGLE_AFTER, Held, Item, suspicion
from kasplo_notify.stored import Progress, StoredEvent
from tests.unit.queues import Row, again, fresh, hold, packed

DELAY = 30_000


def ids(items: Sequence[Item]) -> list[str]:
    return [item.event.id for item in items if item.event]


def fill(held: Held, rows: Sequence[Row], asked: int) -> None:
    for item in held.add(rows, asked):
        held.keep(item)


# --- reading ---------------------------------------------------------------------------------------------------------


def test_a_new_event_was_due_its_delay_after_it_arrived() -> None:
    item = Item.read(fresh(1000)[0], DELAY)
    assert (item.kind, item.ref, item.progress) == ("n", b"1000-0", Progress(0, 0, 1000 + DELAY))
    assert item.event == StoredEvent("n1000", "promo", b"{}")


def test_a_retry_brings_its_progress_along() -> None:
    item = Item.read(again(5)[0], DELAY)
    assert (item.kind, item.progress, item.event and item.event.id) == ("r", Progress(1, 0, 7), "r5")


@pytest.mark.parametrize(
    "row",
    [
        (b"n", b"1000-0", b"1000", b"garbage"),
        (b"n", b"1000-0", b"1000", b""),
        (b"r", b"garbage", b"1000", b""),
        (b"r", b"1,0,7\ngarbage", b"1000", b""),
        (b"r", b"x,y,z\n" + packed("a"), b"1e3", b""),
    ],
)
def test_a_broken_record_is_an_item_without_an_event(row: Row) -> None:
    item = Item.read(row, DELAY)
    assert (item.event, item.ref) == (None, row[1])


def test_reading_goes_on_behind_the_last_event_of_each_kind() -> None:
    held = hold()
    assert (held.last_id, held.last_score) == ("", "-inf")
    held.add([*fresh(1, 2), *again(5, 6)], 16)
    assert (held.last_id, held.last_score) == ("2-0", "6")


def test_a_retry_that_is_read_again_is_not_taken_twice() -> None:
    held = hold()
    assert ids(held.add(again(5, 6), 2)) == ["r5", "r6"]
    assert held.ties == 1
    assert ids(held.add(again(6, 7), 2 + held.ties)) == ["r7"]


def test_retries_with_one_score_are_all_taken_however_few_are_asked_for() -> None:
    held = hold()
    stored = again(*range(20), score=100)
    taken: list[str] = []
    for _ in range(20):
        taken += ids(held.add(stored[: 3 + held.ties], 3))
        if held.exhausted:
            break
    assert taken == [f"r{number}" for number in range(20)]


def test_a_retry_that_was_settled_may_come_again_under_its_old_name() -> None:
    held = hold()
    (item,) = held.add(again(5), 16)
    held.unsettled = 1
    held.settled(item)
    assert ids(held.add(again(5), 16)) == ["r5"]


@pytest.mark.parametrize(
    ("rows", "exhausted"),
    [([], True), (fresh(1, 2), True), (fresh(1, 2, 3), False), (again(1, 2, 3), False), ([*fresh(1), *again(2)], True)],
)
def test_a_queue_is_exhausted_when_less_came_than_was_asked_for(rows: Sequence[Row], *, exhausted: bool) -> None:
    held = hold()
    held.add(rows, 3)
    assert held.exhausted is exhausted


# --- how much --------------------------------------------------------------------------------------------------------


def test_no_more_requests_than_window_and_cap() -> None:
    assert hold(size=8.0, cap=100).limit == 8
    assert hold(size=8.9, cap=100).limit == 8
    assert hold(size=64.0, cap=5).limit == 5


def test_a_probe_is_one_request() -> None:
    assert hold(size=64.0, probe=True).limit == 1


def test_after_two_deaths_events_are_sent_one_at_a_time() -> None:
    assert [hold(deaths=deaths).limit for deaths in (0, 1, 2, 3)] == [8, 8, 1, 1]
    assert (SINGLE_AFTER, POISON_AFTER) == (2, 3)


def test_two_windows_are_read_ahead_and_nothing_while_half_of_one_is_there() -> None:
    held = hold(size=8.0)
    assert held.wants() == 16
    fill(held, fresh(*range(1, 5)), 4)
    assert held.wants() == 12
    fill(held, fresh(5), 1)
    assert held.wants() == 0


def test_no_more_is_read_ahead_than_a_bound() -> None:
    assert hold(size=1000.0).wants() == READ_AHEAD


def test_nothing_is_read_for_a_queue_that_is_exhausted_or_closing() -> None:
    held = hold()
    held.exhausted = True
    assert held.wants() == 0
    held = hold()
    held.closing = True
    assert held.wants() == 0


# --- in which order --------------------------------------------------------------------------------------------------


def test_new_events_and_retries_take_turns() -> None:
    held = hold()
    fill(held, [*fresh(1, 2, 3), *again(1, 2, 3)], 3)
    assert ids([held.next() for _ in range(6)]) == ["n1", "r1", "n2", "r2", "n3", "r3"]


def test_where_one_at_a_time_is_sent_new_events_and_retries_take_turns_too() -> None:
    held = hold(deaths=SINGLE_AFTER)
    for item in held.add([*fresh(1, 2, 3), *again(1, 2)], 10):
        held.keep(item)
    sent = []
    while held.buffered:
        sent.append(held.next())
        held.finished(sent[-1])
    assert ids(sent) == ["n1", "r1", "n2", "r2", "n3"]


def test_while_both_are_due_neither_takes_more_than_half_of_what_is_in_flight() -> None:
    held = hold()
    fill(held, [*fresh(*range(1, 50)), *again(*range(1, 50))], 50)
    flying = [held.next() for _ in range(8)]
    for turn in range(60):
        # The new events are answered at once, the retries hang.
        kind = "n" if turn % 4 else "r"
        answered = next((item for item in flying if item.kind == kind), flying[0])
        flying.remove(answered)
        held.finished(answered)
        flying.append(held.next())
        assert abs(held.fresh_in_flight - held.again_in_flight) <= 1


@pytest.mark.parametrize("rows", [fresh(1, 2, 3, 4), again(1, 2, 3, 4)])
def test_one_kind_alone_may_use_the_whole_window(rows: Sequence[Row]) -> None:
    held = hold()
    fill(held, rows, 4)
    assert [held.next().ref for _ in range(4)] == [row[1] for row in rows]
    assert held.in_flight == 4


# --- giving it back --------------------------------------------------------------------------------------------------


def test_a_queue_is_done_when_nothing_is_buffered_in_flight_or_unsettled() -> None:
    held = hold()
    assert not held.done
    fill(held, fresh(1), 3)
    assert not held.done
    item = held.next()
    assert not held.done
    held.unsettled += 1
    held.finished(item)
    assert not held.done
    held.settled(item)
    assert held.done


def test_a_queue_with_more_to_read_is_not_done() -> None:
    held = hold()
    held.add([], 0)
    assert not held.exhausted
    assert not held.done


def test_a_queue_that_forgets_what_was_read_ahead_reads_it_again_and_waits_for_what_is_in_flight() -> None:
    held = hold()
    fill(held, [*fresh(1, 2), *again(3)], 2)
    item = held.next()
    sizes = sum(len(row[1]) + len(row[3]) for row in fresh(2)) + len(again(3)[0][1]) + len(packed("r3"))
    assert held.forget() == sizes
    assert [each.ref for each in held.add([*fresh(2), *again(3)], 2)] == [fresh(2)[0][1], again(3)[0][1]]
    held.closing = True
    assert (held.buffered, held.done) == (0, False)
    held.finished(item)
    assert held.done


# --- deaths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noted", "suspected", "poison"),
    [
        ("", False, ""),
        ("0 1 e0", False, ""),
        ("1 1 e0", True, ""),
        ("2 9 e0", True, ""),
        ("3 3 e0", True, "e0"),
        ("0 10 e0", False, "e0"),
        ("1 1 an id", True, ""),
        ("x 3 e0", False, ""),
        ("3", False, ""),
        ("\u00b3 3 e0", False, ""),
    ],
)
def test_who_is_suspected_and_who_is_given_up(noted: str, suspected: bool, poison: str) -> None:  # noqa: FBT001
    assert suspicion(noted) == (suspected, poison)


def test_a_queue_was_served_when_the_first_of_each_kind_was_sent() -> None:
    held = hold(deaths=SINGLE_AFTER)
    served = [held.served]
    fill(held, [*fresh(1, 2), *again(3)], asked=4)
    served.append(held.served)
    for _ in range(2):
        held.finished(held.next())
        served.append(held.served)
    assert served == [True, False, False, True]


@pytest.mark.parametrize("was_fresh", [True, False])
def test_which_kind_comes_first_can_be_chosen(was_fresh: bool) -> None:  # noqa: FBT001
    held = hold(deaths=SINGLE_AFTER)
    held.was_fresh = was_fresh
    fill(held, [*fresh(1), *again(2)], asked=4)
    assert held.next().kind == ("r" if was_fresh else "n")
