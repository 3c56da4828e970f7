"""Hostile texts in events and answers, from emit to a dead letter: no line of a log and of the command line breaks."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

import pytest

from tests.acceptance.commands import Cli, installation
from tests.acceptance.subscriber import Answer

HOSTILE = "a\r\nX-Evil: 1\r\n\r\n\x1b[2J\x1b]0;title\x07\x00\"'%0d%0a&b=c#\u2028\u202e\x85\x9b日本"
# What an id and an address may have: anything that is no control character.
VISIBLE = "".join(each for each in HOSTILE if not (each < " " or "\x7f" <= each < "\xa0"))
EVENT = {
    "event_type": "engine_click",
    "event_time": 1317305252,
    "email": f"{VISIBLE}@example.com",
    "listid": VISIBLE,
    "sendid": VISIBLE,
    "click_url": f"https://example.com/{HOSTILE}",
    "click_tracking_id": VISIBLE,
    "engine_ip": "1.2.3.4",
    "user_agent": HOSTILE,
}


@dataclass(frozen=True, slots=True)
class Story:
    """What happened.

    Attributes:
        cli: In this installation.
        log: What the workers logged.
    """

    cli: Cli
    log: str


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The event became a dead letter at two endpoints, and one whose record was edited at a third."""
    with installation(tmp_path_factory.mktemp("hostile")) as cli:
        world = cli.world
        world.endpoint("post", mail_classes=("promo",), retry_delays=())
        world.endpoint("get", mail_classes=("promo",), retry_delays=(), method="GET", format="form")
        for path in ("/post", "/get"):
            world.subscriber.answers(path, Answer(status=500, body=HOSTILE.encode()))
        world.notifier.emit(EVENT, mail_class="promo")
        world.endpoint("edited", queues=1)
        world.emit("edited")
        key = world.registry.store.keys("new:edited.0")
        world.redis.delete(key)
        world.redis.xadd(key, {"e": f"1\n\x1b[2J\revil\n\n{json.dumps(EVENT)}"})
        time.sleep(0.2)
        log = cli.ok("worker", "-n", "1", "--burst").err
        yield Story(cli, log)


def test_each_request_is_one_with_the_texts_as_they_were(story: Story) -> None:
    (post,), (get,) = story.cli.world.subscriber.hits("/post"), story.cli.world.subscriber.hits("/get")
    assert json.loads(post.body) == EVENT
    query = parse_qsl(get.line.split(" ")[1].partition("?")[2], keep_blank_values=True, strict_parsing=True)
    assert query == [(key, str(value)) for key, value in EVENT.items()]
    for hit in (post, get):
        assert unquote(hit.header("X-Kasplo-Click-Tracking-ID")) == VISIBLE
        assert not any(name == "X-Evil" or not value.isprintable() for name, value in hit.headers)


def test_what_workers_log_is_one_line_for_each_record(story: Story) -> None:
    lines = story.log.removesuffix("\n").split("\n")
    assert all(line.isprintable() for line in lines)
    messages = [json.loads(line)["message"] for line in lines]
    assert any(each.startswith("event_unbuildable: '") and "\\x1b[2J" in each for each in messages), messages


@pytest.mark.parametrize(
    "args",
    [
        ("status",),
        ("attempts", "post"),
        ("dead", "list"),
        ("dead", "show"),
        ("dead", "export"),
        ("endpoint", "list"),
        ("endpoint", "test", "post"),
        ("emit",),
    ],
    ids=" ".join,
)
def test_what_commands_show_is_harmless(story: Story, args: tuple[str, ...]) -> None:
    hostile = {**EVENT, "event_time": HOSTILE, "email": HOSTILE}
    ran = story.cli.run(*args, given=json.dumps(hostile).encode() if args == ("emit",) else b"")
    assert ran.code in (0, 1)
    for line in (ran.out + ran.err).removesuffix("\n").split("\n"):
        # An export is JSON, for programs.
        assert line.isprintable() or json.loads(line), line
    shown: dict[tuple[str, ...], str] = {
        ("dead", "show"): "\\x1b[2J",
        ("dead", "list"): "engine_click",
        ("attempts", "post"): "X-Evil: 1\\r\\n",
    }
    assert shown.get(args, "") in ran.out
