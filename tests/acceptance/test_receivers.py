"""Receivers that nobody here wrote verify what arrives: before, during and after a rotation, and each attempt.

They are libraries of PyPI, which are always there, libraries of npm and Debian's `webhook`. `make test-receivers`
installs those of npm for the time that it takes.
"""

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import which
from typing import Any
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from kasplo_notify.cli import root
from kasplo_notify.signature import generate_secret, sign
from tests.acceptance.world import ROOT, World, until

HERE = ROOT / "tests/receivers"
OLD, NEW, STRANGER = SECRETS = [generate_secret() for _ in range(3)]
NODE, WEBHOOK = os.environ.get("RECEIVERS_NODE", ""), which("webhook")
# Characters of one to four bytes, and one that is changed on the way.
EVENT = {
    "event_type": "scomp",
    "email": "customer@example.com",
    "listid": "größer",
    "sendid": "日本",
    "click_tracking_id": "\U0001f600",
}


def missing(name: str) -> str:
    """Why a receiver cannot run here; empty when it can."""
    if name == "debian":
        return "" if WEBHOOK else "there is no `webhook` on PATH (Debian's package webhook)"
    if not name.startswith("npm-"):
        return ""
    if which("node") is None:
        return "there is no node on PATH"
    installed = NODE and (Path(NODE) / "node_modules" / name.removeprefix("npm-")).is_dir()
    return "" if installed else "its package is not installed: `make test-receivers` does that"


NAMES = ("pypi-standardwebhooks", "pypi-svix", "npm-standardwebhooks", "npm-svix", "debian")
RUNNING = [name for name in NAMES if not missing(name)]


def each(*names: str) -> pytest.MarkDecorator:
    """For each of these receivers; those that cannot run say why."""
    marks = {name: pytest.mark.skipif(bool(missing(name)), reason=missing(name)) for name in names}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=mark) for name, mark in marks.items()])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def hook() -> dict[str, Any]:
    """The hook of docs/receiving.md."""
    (block,) = re.findall(r"^```json\n(.*?)^```$", (ROOT / "docs/receiving.md").read_text(), re.MULTILINE | re.DOTALL)
    (found,) = json.loads(block)
    assert isinstance(found, dict)
    return found


# The only rule of `webhook` about signatures that could be meant.
BODY_ONLY = {
    **hook(),
    "id": "body-only",
    "trigger-rule": {
        "match": {
            "type": "payload-hmac-sha256",
            "secret": OLD,
            "parameter": {"source": "header", "name": "webhook-signature"},
        }
    },
}


@dataclass(frozen=True, slots=True)
class Running:
    """A receiver that runs.

    Attributes:
        url: Where.
        log: The file of its lines.
    """

    url: str
    log: Path

    def told(self, event_id: str) -> list[dict[str, Any]]:
        """What it said of the requests of an event, in their order."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["id"] == event_id]


class Receivers:
    """Starts receivers; each is ended and waited for when the stack closes."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack

    def library(self, name: str) -> Running:
        kind, _, library = name.partition("-")
        program = [sys.executable, "library.py"] if kind == "pypi" else ["node", "library.mjs"]
        log = self._start(name, [*program, library, *SECRETS], HERE)
        until(lambda: log.read_text().endswith("\n"), what=f"the start of {name}")
        return Running(f"http://127.0.0.1:{log.read_text().split()[0]}/", log)

    def debian(self, *hooks: dict[str, Any]) -> Running:
        """Debian's `webhook` with these hooks; the first is the one that the endpoint gets."""
        command = self._folder / "command"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{HERE / "command.py"}"\n')
        command.chmod(0o700)
        changed = [
            {**each, "execute-command": str(command), "command-working-directory": str(self._folder)} for each in hooks
        ]
        (self._folder / "hooks.json").write_text(json.dumps(changed))
        port, told = free_port(), self._folder / "told"
        told.touch()
        arguments = ["-ip", "127.0.0.1", "-port", str(port), "-hooks", str(self._folder / "hooks.json")]
        self._start("debian", [str(WEBHOOK), *arguments], self._folder, TOLD=str(told), SECRETS=" ".join(SECRETS))
        until(lambda: answers(port), what="the start of webhook")
        return Running(f"http://127.0.0.1:{port}/hooks/{hooks[0]['id']}", told)

    def _start(self, name: str, command: list[str], folder: Path, **environ: str) -> Path:
        log = self._folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, env={**os.environ, **environ})
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return log


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Story:
    """What all receivers were sent.

    Attributes:
        receivers: By their names.
        first: Id of the event whose second attempt came when the secret had been rotated.
        last: Id of the event that was sent after the overlap.
    """

    receivers: dict[str, Running]
    first: str
    last: str


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("receivers")
    with ExitStack() as stack:
        settings = {"delivery__delay": 0.1, "delivery__jitter": 0, "delivery__retry_delays": [1.5]}
        world = stack.enter_context(World(tmp_path_factory.mktemp("world"), **settings))
        receivers = Receivers(folder, stack)
        running = {
            name: receivers.debian(hook(), BODY_ONLY) if name == "debian" else receivers.library(name)
            for name in RUNNING
        }
        for name, receiver in running.items():
            own = (("Authorization", "Bearer change-me"),) if name == "debian" else ()
            world.endpoint(name, url=receiver.url, secret=OLD, mail_classes=("promo",), headers=own)

        def arrived(event_id: str, attempts: int) -> Callable[[], bool]:
            return lambda: all(len(each.told(event_id)) >= attempts for each in running.values())

        first = world.notifier.emit(EVENT, mail_class="promo").id
        assert world.worker("burst").wait() == 0
        until(arrived(first, 1), what="the first attempt")
        for name in running:
            rotate = ["endpoint", "rotate-secret", name, "--secret", NEW, "--overlap", "1h"]
            assert CliRunner().invoke(root, rotate, env=world.environ).exit_code == 0
        world.workers(1)
        until(arrived(first, 2), what="the second attempt")
        for name in running:
            world.registry.update(name, lambda each: replace(each, old_secret_until=1))
        last = world.notifier.emit(EVENT, mail_class="promo").id
        until(arrived(last, 2), what="both attempts after the overlap")
        yield Story(running, first, last)


@each(*NAMES)
def test_each_attempt_is_signed_anew_with_the_secrets_of_its_time(story: Story, name: str) -> None:
    told = story.receivers[name].told
    before, during = told(story.first)
    assert (before["attempt"], before["verified"]) == (1, [0])
    assert (during["attempt"], during["verified"]) == (2, [0, 1])
    assert int(before["timestamp"]) < int(during["timestamp"])
    once, again = told(story.last)
    assert [each["verified"] for each in (once, again)] == [[1], [1]]
    assert int(once["timestamp"]) < int(again["timestamp"])


@each(*NAMES)
def test_a_body_that_was_changed_on_the_way_verifies_with_no_secret(story: Story, name: str) -> None:
    lines = [*story.receivers[name].told(story.first), *story.receivers[name].told(story.last)]
    assert [each["changed"] for each in lines] == [[]] * 4


def status_of(url: str, event_id: str, **changed: str) -> int:
    """What `webhook` answers to a request that is signed by us, its headers changed on the way."""
    body, stamp = json.dumps(EVENT).encode(), int(time.time())
    headers = {"Content-Type": "application/json", "X-Kasplo-Attempt": "2", "Authorization": "Bearer change-me"}
    headers |= {"webhook-id": event_id, "webhook-timestamp": str(stamp)}
    headers |= {"webhook-signature": sign([OLD], event_id, stamp, body)} | changed
    parts = urlsplit(url)
    with contextlib.closing(http.client.HTTPConnection(str(parts.netloc), timeout=20)) as connection:
        connection.request("POST", parts.path, body, headers)
        return connection.getresponse().status


@each("debian")
def test_debians_webhook_checks_a_header_by_itself_and_signatures_only_by_its_command(story: Story, name: str) -> None:
    receiver = story.receivers[name]
    assert status_of(receiver.url, "genuine") == 200
    assert status_of(receiver.url, "forged", **{"webhook-signature": "v1,AAAA"}) == 500
    assert status_of(receiver.url, "stranger", Authorization="Bearer no") == 401
    # Its rule is for the HMAC of the body alone, in hexadecimal.
    assert status_of(receiver.url.replace("/kasplo", "/body-only"), "refused") == 500
    verified = {each: [line["verified"] for line in receiver.told(each)] for each in ("genuine", "forged")}
    assert verified == {"genuine": [[0]], "forged": [[]]}
    assert receiver.told("stranger") == receiver.told("refused") == []


def test_there_is_a_receiver_of_pypi_at_least() -> None:
    assert set(RUNNING) >= {"pypi-standardwebhooks", "pypi-svix"}
