"""The one timer that ends all requests."""

import asyncio
from typing import Any

import pytest

from kasplo_notify.exchange import Clock, Exchange


class Overdue(Exchange):
    """A request whose time is up."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, *, faulty: bool) -> None:
        super().__init__(loop, clock, timeout=0)
        self.faulty = faulty
        self.ended = False

    def expire(self) -> None:
        if self.faulty:
            raise RuntimeError("cannot be ended")
        self.ended = True


async def test_a_request_that_cannot_be_ended_does_not_stop_the_timer_of_the_others() -> None:
    loop = asyncio.get_running_loop()
    told: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: told.append(context))
    clock = Clock(loop)
    faulty = Overdue(loop, clock, faulty=True)
    clock.watch(faulty)
    await asyncio.sleep(0.12)
    later = Overdue(loop, clock, faulty=False)
    clock.watch(later)
    await asyncio.sleep(0.12)
    clock.close()
    assert later.ended
    assert [str(context["exception"]) for context in told] == ["cannot be ended"]


@pytest.mark.parametrize("count", [3])
async def test_one_timer_serves_all(count: int) -> None:
    loop = asyncio.get_running_loop()
    clock = Clock(loop)
    overdue = [Overdue(loop, clock, faulty=False) for _ in range(count)]
    for each in overdue:
        clock.watch(each)
    await asyncio.sleep(0.12)
    clock.close()
    assert all(each.ended for each in overdue)
