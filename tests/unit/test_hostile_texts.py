"""Whatever text is in an event, it breaks neither a header, nor a query string, nor the line of a log."""

import contextlib
import io
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast
from urllib.parse import parse_qsl, unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kasplo_notify.catalogue import EVENT_TYPES
from kasplo_notify.cli.errors import complain
from kasplo_notify.cli.logs import start_logging
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.errors import InvalidEvent, quoted
from kasplo_notify.events import validate
from kasplo_notify.request import Request, RequestBuilder, UnbuildableEvent
from kasplo_notify.stored import StoredEvent
from kasplo_notify.transport import _Target, _wire

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PIECES = (
    *(
        "\r\n",
        "\n",
        "\r",
        "\0",
        "\t",
        " ",
        "\x1b[2J\x1b[31m",
        "\x1b]0;t\x07",
        "\x7f",
        "\x85",
        "\x9b2J",
        "\u2028",
        "\u202e",
    ),
    *('"', "'", "\\", "%", "%0d%0a", "%00", "%25", "&", "=", "?", "#", ";", "+", ":", "/", "é", "日本", "\U0001f600"),
    *("\ud800", "\udcff", "\r\nX-Evil: 1", "\r\n\r\nGET / HTTP/1.1\r\n", "&email=x@y", "{}", "%s", "a", "0"),
)
texts = st.one_of(st.lists(st.sampled_from(PIECES), max_size=6).map("".join), st.text(max_size=20))
fields = st.dictionaries(
    st.sampled_from(
        ["click_tracking_id", "email", "listid", "sendid", "click_url", "user_agent", "message", "x&y=\r\n"]
    ),
    texts,
    max_size=6,
)
# A run makes up the same texts each time, and keeps none.
repeatable = settings(
    max_examples=150,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def sent(endpoint: Endpoint, body: bytes) -> tuple[Request, bytes]:
    """The request with an event, and its bytes on the wire."""
    request = RequestBuilder(endpoint).build(StoredEvent("e1", "promo", body), 1, 1_700_000_000)
    path = "/" + request.url.split("/", 3)[3]
    return request, _wire(request, _Target(cast("Any", None), path, "hooks.example.com"))


def check_head(request: Request, wire: bytes, tracking_id: str) -> None:
    """A strict reader of HTTP finds one request with the headers that were meant."""
    head, end, body = wire.partition(b"\r\n\r\n")
    assert (end, body) == (b"\r\n\r\n", request.body)
    first, *lines = head.split(b"\r\n")
    assert not any(byte < 0x20 or byte > 0x7E for line in (first, *lines) for byte in line)
    method, target, version = first.split(b" ")
    assert (method, version) == (request.method.encode(), b"HTTP/1.1")
    assert b"#" not in target
    names = [line.split(b": ")[0].decode() for line in lines]
    length = ["Content-Length"] if "Content-Length" in names else []
    assert names == ["Host", "Accept", "Accept-Encoding", *(name for name, _ in request.headers), *length]
    (value,) = (line.partition(b": ")[2] for line in lines if line.startswith(b"X-Kasplo-Click-Tracking-ID: "))
    assert unquote(value.decode("ascii"), errors="strict") == tracking_id


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("form", ["json", "form"])
@given(stored=fields)
@repeatable
def test_a_stored_event_with_any_texts_is_one_request_or_none(
    method: str, form: str, stored: Mapping[str, str]
) -> None:
    endpoint = Endpoint(name="crm", url="https://hooks.example.com/in?k=v", method=method, format=form, secret=SECRET)
    event = {"event_type": "scomp", "click_tracking_id": "", **stored}
    if any("\ud800" <= each <= "\udfff" for text in stored.values() for each in text):
        # Half of a surrogate pair is in no UTF-8, so no request can say it.
        with pytest.raises(UnbuildableEvent, match="is not JSON"):
            sent(endpoint, json.dumps(event).encode())
        return
    request, wire = sent(endpoint, json.dumps(event).encode())
    check_head(request, wire, event["click_tracking_id"])
    if form == "form":
        query = request.body.decode("ascii") if method == "POST" else request.url.partition("?k=v&")[2]
        assert parse_qsl(query, keep_blank_values=True, strict_parsing=True) == list(event.items())
    else:
        assert json.loads(request.body) == event


@given(name=st.sampled_from(sorted(EVENT_TYPES)), given_texts=fields)
@repeatable
def test_what_emit_accepts_can_be_sent_and_what_it_refuses_is_one_line(
    name: str, given_texts: Mapping[str, str]
) -> None:
    event: dict[str, object] = dict(EVENT_TYPES[name].example)
    for field, text in given_texts.items():
        try:
            validate(name, event | {field: text})
            event[field] = text
        except InvalidEvent as error:
            refused = str(error)
            assert refused.isprintable()
    for method in ("POST", "GET"):
        endpoint = Endpoint(name="crm", url="https://hooks.example.com/", method=method, format="form")
        request, wire = sent(endpoint, validate(name, event).body)
        check_head(request, wire, str(event["click_tracking_id"]))


@pytest.fixture(params=["human", "json"])
def written(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """What the long-running commands write for a record of the log."""
    root = logging.getLogger()
    before = root.level, [*root.handlers]
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    start_logging(request.param)
    handler = root.handlers[-1]

    def write(message: str, *values: object, error: Exception | None = None) -> str:
        fault = None if error is None else (type(error), error, error.__traceback__)
        return handler.format(logging.LogRecord("kasplo_notify.sender", 40, "", 0, message, values, fault))

    yield write
    root.setLevel(before[0])
    root.handlers = before[1]


@given(text=texts)
@repeatable
def test_a_text_in_a_log_is_on_its_line_and_harmless(written: Callable[..., str], text: str) -> None:
    line = written("event_unbuildable: %s for %s", text, quoted(text))
    assert line.isprintable()
    assert "event_unbuildable: " in line


@given(text=texts)
@repeatable
def test_a_text_in_a_traceback_passes_for_no_line_of_the_log(written: Callable[..., str], text: str) -> None:
    first, *more = written("attempt_failed", error=ValueError(text)).split("\n")
    assert all(line.isprintable() for line in (first, *more))
    assert "attempt_failed" in first
    # For people it is below its line and indented, for programs inside of it.
    assert all(line.startswith("  ") for line in more)
    assert more or "ValueError" in json.loads(first)["traceback"]


@given(text=texts)
@repeatable
def test_a_text_in_a_complaint_is_on_its_line_and_harmless(text: str) -> None:
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        complain(f"line 3: {text}")
    told = stderr.getvalue()
    assert told.endswith("\n")
    assert told[:-1].isprintable()
