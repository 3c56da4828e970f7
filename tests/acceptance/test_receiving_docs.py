"""The receivers of docs/receiving.md, as a subscriber would run them: real processes, real requests, really signed."""

import contextlib
import http.client
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Self
from urllib.parse import parse_qsl

import orjson
import pytest

from kasplo_notify.catalogue import EVENT_TYPES
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.request import Request, RequestBuilder
from kasplo_notify.signature import generate_secret
from kasplo_notify.stored import StoredEvent

PAGE = Path(__file__).parents[2] / "docs/receiving.md"
FIRST, SECOND, OTHER = generate_secret(), generate_secret(), generate_secret()
# The largest body that there is: 256 KiB of JSON, as a form whose every byte may need three.
LARGEST = 3 * 256 * 1024


def program(language: str) -> str:
    """The only block of this language."""
    (text,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert isinstance(text, str)
    return text


@dataclass(frozen=True, slots=True)
class Receiver:
    """A receiver that runs."""

    port: int
    folder: Path

    def answer(self, request: Request, *, body: bytes | None = None, without: str = "", **changed: str) -> int:
        """The status that a request is answered with, its body or headers changed on the way."""
        headers = {name: value for name, value in request.headers if name != without}
        headers |= {name.replace("_", "-"): value for name, value in changed.items()}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            target = request.url.removeprefix("http://subscriber.example")
            connection.request(request.method, target, request.body if body is None else body, headers)
            return connection.getresponse().status


class Running:
    """The receiver's process; a context manager."""

    def __init__(self, command: list[str], folder: Path, secrets: str) -> None:
        environ = {"PATH": os.environ["PATH"], "PORT": "0", "WEBHOOK_SECRETS": secrets}
        self._folder = folder
        self._log = (folder / "receiver.log").open("wb")
        self._process = subprocess.Popen(
            command, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=self._log, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()

    @property
    def receiver(self) -> Receiver:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        told = re.search(r":(\d+)/", line)
        assert told, (line, (self._folder / "receiver.log").read_text())
        return Receiver(int(told[1]), self._folder)


@pytest.fixture(
    params=[
        "python",
        pytest.param("js", marks=pytest.mark.skipif(which("node") is None, reason="there is no node on PATH")),
    ]
)
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def receiver(language: str, tmp_path: Path) -> Iterator[Receiver]:
    """A receiver that knows two secrets."""
    name, command = ("receiver.py", sys.executable) if language == "python" else ("receiver.mjs", "node")
    (tmp_path / name).write_text(program(language))
    with Running([command, name], tmp_path, f"{FIRST} {SECOND}") as running:
        yield running.receiver


def signed(
    *,
    secret: str = FIRST,
    method: str = "POST",
    form: str = "json",
    age: float = 0,
    event: bytes = b"",
    attempt: int = 1,
) -> Request:
    """A request as a worker builds it."""
    endpoint = Endpoint(name="crm", url="http://subscriber.example/hook", method=method, format=form, secret=secret)
    body = event or orjson.dumps(dict(EVENT_TYPES["engine_click"].example))
    return RequestBuilder(endpoint).build(StoredEvent("msg_1", "promo", body), attempt, int(time.time() - age))


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("form", ["json", "form"])
def test_a_genuine_request_is_taken(receiver: Receiver, method: str, form: str) -> None:
    assert receiver.answer(signed(method=method, form=form)) == 200


def test_the_largest_event_is_taken(receiver: Receiver) -> None:
    text = "\N{LATIN SMALL LETTER E WITH ACUTE}" * (120 * 1024)
    event = orjson.dumps({**EVENT_TYPES["delivery_attempt"].example, "message": text})
    request = signed(form="form", event=event)
    assert 2 * 256 * 1024 < len(request.body) <= LARGEST
    assert receiver.answer(request) == 200


def test_a_body_that_was_changed_is_refused(receiver: Receiver) -> None:
    request = signed()
    assert receiver.answer(request, body=request.body.replace(b"customer", b"somebody")) == 401
    assert receiver.answer(request, body=request.body + b" ") == 401
    assert receiver.answer(request, body=b"") == 401


def test_an_id_or_time_that_was_changed_is_refused(receiver: Receiver) -> None:
    request = signed()
    assert receiver.answer(request, webhook_id="msg_2") == 401
    assert receiver.answer(request, webhook_timestamp=str(int(time.time()) - 1)) == 401


@pytest.mark.parametrize("age", [301, 3600, -310])
def test_an_old_request_is_refused_and_one_from_the_future(receiver: Receiver, age: float) -> None:
    assert receiver.answer(signed(age=age)) == 401


def test_a_request_of_four_minutes_ago_is_taken(receiver: Receiver) -> None:
    assert receiver.answer(signed(age=240)) == 200


def test_another_secret_is_refused(receiver: Receiver) -> None:
    assert receiver.answer(signed(secret=OTHER)) == 401


@pytest.mark.parametrize("header", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_request_without_one_of_the_three_headers_is_refused(receiver: Receiver, header: str) -> None:
    assert receiver.answer(signed(), without=header) == 401


@pytest.mark.parametrize("junk", ["", " ", "v1", "v1,", "v1a,AAAA", "v1,\xe9", "x" * 9999])
def test_what_is_no_signature_is_refused(receiver: Receiver, junk: str) -> None:
    assert receiver.answer(signed(), webhook_signature=junk) == 401


@pytest.mark.parametrize("junk", ["", "-1", "1e9", "0x1", "9" * 5000, "\xb2"])
def test_what_is_no_time_is_refused(receiver: Receiver, junk: str) -> None:
    assert receiver.answer(signed(), webhook_timestamp=junk) == 401


def test_during_a_rotation_either_secret_is_enough(receiver: Receiver) -> None:
    assert receiver.answer(signed(secret=SECOND)) == 200
    ours, others = signed(), signed(secret=OTHER)
    both = f"{dict(others.headers)['webhook-signature']} {dict(ours.headers)['webhook-signature']}"
    assert receiver.answer(ours, webhook_signature=both) == 200


def test_an_event_that_comes_again_is_taken_and_stored_once(receiver: Receiver, language: str) -> None:
    assert receiver.answer(signed()) == 200
    assert receiver.answer(signed(attempt=2)) == 200
    if language == "python":
        with contextlib.closing(sqlite3.connect(receiver.folder / "events.db")) as db:
            assert db.execute("select id, body from events").fetchall() == [("msg_1", signed().body.decode())]


def test_a_body_that_is_too_large_is_not_taken(receiver: Receiver) -> None:
    with contextlib.suppress(ConnectionError):
        assert receiver.answer(signed(), body=b" " * 2_000_000) == 413
    assert receiver.answer(signed()) == 200


def test_with_get_and_form_fields_the_query_has_the_event() -> None:
    request = signed(method="GET", form="form")
    fields = dict(parse_qsl(request.url.partition("?")[2]))
    assert fields["email"] == "customer@example.com"
    assert request.body == b""


def test_the_programs_need_nothing_but_what_their_language_brings() -> None:
    assert set(re.findall(r"from '([^']+)'", program("js"))) == {"node:crypto", "node:http"}
    modules = set(re.findall(r"^(?:import|from) (\w+)", program("python"), re.MULTILINE))
    assert modules <= sys.stdlib_module_names
