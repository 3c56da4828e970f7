"""Installations for the acceptance tests: of a test's own, and one for what takes half a minute."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.subscriber import Answer
from tests.acceptance.world import World


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Makes installations of this test's own; keyword arguments are configuration."""
    with ExitStack() as stack:
        made: list[World] = []

        def make(**settings: object) -> World:
            folder = tmp_path / str(len(made))
            folder.mkdir()
            made.append(stack.enter_context(World(folder, **settings)))
            return made[-1]

        yield make


@dataclass(frozen=True, slots=True, kw_only=True)
class LongRun:
    """What runs beside all other tests, with the default delay of 30 seconds.

    Attributes:
        world: Where.
        emitted: Events to /real by POST and by GET: id -> Unix seconds by Redis' clock, read before the emit.
        down: Ids of the events, all due at once, for /down, which only answers 500.
    """

    world: World
    emitted: dict[str, float]
    down: list[str]


@pytest.fixture(scope="session")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LongRun]:
    """Begins before the first test; the tests that ask for it come last."""
    with World(tmp_path_factory.mktemp("long-run"), delivery__delay=30) as world:
        world.endpoint("post", "/real", mail_classes=("real",))
        world.endpoint("get", "/real", mail_classes=("real",), method="GET")
        world.endpoint("down", delay=0, retry_delays=(1.0,) * 50)
        world.subscriber.answers("/down", Answer(status=500))
        world.workers(1)
        emitted = {}
        for _ in range(3):
            before = world.now()
            emitted[world.emit("real")[0]] = before
        yield LongRun(world=world, emitted=emitted, down=world.emit("down", 500))


@pytest.fixture(scope="session", autouse=True)
def _begin_the_long_run(request: pytest.FixtureRequest) -> None:
    if any(_in_the_long_run(item) for item in request.session.items):
        request.getfixturevalue("long_run")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_in_the_long_run)


def _in_the_long_run(item: pytest.Item) -> bool:
    return "long_run" in getattr(item, "fixturenames", ())
