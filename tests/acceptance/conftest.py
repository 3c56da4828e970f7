"""Installations for the acceptance tests: of a test's own, of a module, and one that waits the real 30 seconds."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.subscriber import Hit
from tests.acceptance.world import World

REAL_DELAY_TEST = "test_an_event_is_held_for_the_real_thirty_seconds"


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
class RealDelay:
    """Events that wait the 30 seconds of the default configuration.

    Attributes:
        world: Where.
        emitted: Event id -> Unix seconds by Redis' clock, read before it was emitted.
    """

    world: World
    emitted: dict[str, float]

    def arrived(self) -> list[Hit]:
        return self.world.subscriber.hits("/real")


@pytest.fixture(scope="session")
def real_delay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealDelay]:
    """Events emitted before the first test runs."""
    with World(tmp_path_factory.mktemp("real"), delivery__delay=30) as world:
        world.endpoint("post", "/real", mail_classes=("real",))
        world.endpoint("get", "/real", mail_classes=("real",), method="GET")
        world.workers(1)
        emitted = {}
        for _ in range(3):
            before = world.now()
            emitted[world.emit("real")[0]] = before
        yield RealDelay(world=world, emitted=emitted)


@pytest.fixture(scope="session", autouse=True)
def _begin_the_real_delay(request: pytest.FixtureRequest) -> None:
    """Let the 30 seconds pass while the other tests run."""
    if any(item.name == REAL_DELAY_TEST for item in request.session.items):
        request.getfixturevalue("real_delay")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Judge the real delay last, when it has passed."""
    items.sort(key=lambda item: item.name == REAL_DELAY_TEST)
