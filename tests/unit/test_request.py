"""The request of one attempt: what the document and the contract promise, header by header, byte by byte."""

import base64
import random
from dataclasses import replace
from urllib.parse import parse_qsl, unquote, urlsplit

import orjson
import pytest

from kasplo_notify.endpoint import Endpoint
from kasplo_notify.request import Request, RequestBuilder, UnbuildableEvent, header_text
from kasplo_notify.signature import sign, verify
from kasplo_notify.stored import StoredEvent

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW = 1_700_000_000
POST = Endpoint(name="crm", url="https://hooks.example.com/in", secret=SECRET)
CLICK = StoredEvent(
    "e1",
    "promo",
    b'{"event_type":"engine_click","event_time":1317305252,"email":"c@example.com","click_tracking_id":"1927393"}',
)
DELIVERY = StoredEvent(
    "e2",
    "",
    b'{"event_type":"delivery_attempt","email":"a+b@example.com","click_tracking_id":"","timestamp":1317305252.08338,'
    b'"is_retry":0,"message":"207 ok / qp & 13=%","headers":{"X-A":["1","2"]},"synchronous":true}',
)


def build(endpoint: Endpoint, event: StoredEvent = CLICK, attempt: int = 1) -> Request:
    return RequestBuilder(endpoint).build(event, attempt, NOW)


def header(request: Request, name: str) -> str | None:
    found = [value for key, value in request.headers if key.lower() == name.lower()]
    assert len(found) <= 1
    return found[0] if found else None


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_json_is_the_stored_bytes_with_post_and_with_get(method: str) -> None:
    request = build(replace(POST, method=method))
    assert (request.method, request.url, request.body) == (method, POST.url, CLICK.body)
    assert header(request, "Content-Type") == "application/json"


def test_the_headers_of_the_contract() -> None:
    request = build(POST, attempt=3)
    assert request.headers[0][0] == "User-Agent"
    assert request.headers[0][1].startswith("kasplo-notify/")
    assert request.headers[1:] == (
        ("Content-Type", "application/json"),
        ("X-Kasplo-Click-Tracking-ID", "1927393"),
        ("X-Kasplo-Event-Type", "engine_click"),
        ("X-Kasplo-Mail-Class", "promo"),
        ("X-Kasplo-Attempt", "3"),
        ("webhook-id", "e1"),
        ("webhook-timestamp", str(NOW)),
        ("webhook-signature", sign([SECRET], "e1", NOW, CLICK.body)),
    )


def test_the_tracking_id_and_the_mail_class_are_present_when_empty() -> None:
    request = build(POST, DELIVERY)
    assert header(request, "X-Kasplo-Click-Tracking-ID") == ""
    assert header(request, "X-Kasplo-Mail-Class") == ""


def test_the_id_is_constant_over_attempts() -> None:
    assert {header(build(POST, attempt=n), "webhook-id") for n in range(1, 5)} == {"e1"}


def test_during_rotation_there_are_two_signatures() -> None:
    old = "whsec_" + base64.b64encode(bytes(32)).decode()
    rotating = replace(POST, old_secret=old, old_secret_until=NOW + 1)
    signature = header(build(rotating), "webhook-signature")
    assert signature is not None
    assert len(signature.split(" ")) == 2
    assert header(build(replace(rotating, old_secret_until=NOW)), "webhook-signature") == sign(
        [SECRET], "e1", NOW, CLICK.body
    )


def test_an_unsigned_endpoint_still_gets_id_and_timestamp() -> None:
    request = build(replace(POST, secret=None))
    assert header(request, "webhook-signature") is None
    assert header(request, "webhook-id") == "e1"
    assert header(request, "webhook-timestamp") == str(NOW)


def test_own_headers_and_basic_credentials_are_sent() -> None:
    request = build(replace(POST, headers=(("X-Team", "mail"), ("X-Zone", "b")), basic="üser:p:w"))
    assert header(request, "X-Team") == "mail"
    assert header(request, "X-Zone") == "b"
    assert header(request, "Authorization") == "Basic " + base64.b64encode("üser:p:w".encode()).decode()


def test_form_post_is_urlencoded_and_signed_as_sent() -> None:
    request = build(replace(POST, format="form"), DELIVERY)
    assert header(request, "Content-Type") == "application/x-www-form-urlencoded"
    assert parse_qsl(request.body.decode("ascii"), keep_blank_values=True, strict_parsing=True) == [
        ("event_type", "delivery_attempt"),
        ("email", "a+b@example.com"),
        ("click_tracking_id", ""),
        ("timestamp", "1317305252.08338"),
        ("is_retry", "0"),
        ("message", "207 ok / qp & 13=%"),
        ("headers", '{"X-A":["1","2"]}'),
        ("synchronous", "true"),
    ]
    assert verify(SECRET, dict(request.headers), request.body, NOW)


def test_a_form_that_is_too_long_for_a_url_cannot_be_sent_with_get() -> None:
    endpoint = replace(POST, method="GET", format="form", url="https://example.com/")

    def of(length: int) -> StoredEvent:
        return StoredEvent("e1", "", orjson.dumps({"event_type": "scomp", "raw": "x" * length}))

    empty = len(build(endpoint, of(0)).url)
    assert len(build(endpoint, of(65_536 - empty)).url) == 65_536
    with pytest.raises(UnbuildableEvent, match="has 65,537 characters, and 65,536 are the most"):
        build(endpoint, of(65_537 - empty))
    assert len(build(replace(endpoint, method="POST"), of(65_537)).body) > 65_537


@pytest.mark.parametrize("query", ["", "?key=1", "?"])
def test_form_get_appends_to_the_query_and_has_no_body(query: str) -> None:
    request = build(replace(POST, method="GET", format="form", url=POST.url + query))
    assert request.body == b""
    assert header(request, "Content-Type") is None
    assert verify(SECRET, dict(request.headers), b"", NOW)
    pairs = parse_qsl(urlsplit(request.url).query, keep_blank_values=True)
    assert pairs == [
        *([("key", "1")] if "key" in query else []),
        ("event_type", "engine_click"),
        ("event_time", "1317305252"),
        ("email", "c@example.com"),
        ("click_tracking_id", "1927393"),
    ]


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ("1927393", "1927393"),
        ("a b", "a b"),
        ("50%off", "50%off"),
        ("100%", "100%"),
        ("a%20b", "a%2520b"),
        ("é", "%C3%A9"),
        (" x ", "%20x%20"),
        ("  ", "%20%20"),
        ("a\r\nX-Evil: 1", "a%0D%0AX-Evil: 1"),
        ("\x00\t\x7f", "%00%09%7F"),
    ],
)
def test_the_tracking_id_is_encoded_only_where_it_must_be(value: str, sent: str) -> None:
    event = StoredEvent("e1", "", orjson.dumps({"event_type": "scomp", "email": "a@b", "click_tracking_id": value}))
    assert header(build(POST, event), "X-Kasplo-Click-Tracking-ID") == sent


@pytest.mark.parametrize("seed", range(300))
def test_every_value_survives_a_header(seed: int) -> None:
    rng = random.Random(seed)
    value = "".join(rng.choices("%%%  01aAfFgZé€😀\t\n\x00\x7f+&=,", k=rng.randrange(12)))
    sent = header_text(value)
    assert sent.isascii()
    assert sent.isprintable()
    assert sent == sent.strip()
    assert unquote(sent, errors="strict") == value


@pytest.mark.parametrize(
    "event",
    [
        StoredEvent("e", "", b""),
        StoredEvent("e", "", b"nonsense"),
        StoredEvent("e", "", b"[]"),
        StoredEvent("e", "", b'"text"'),
        StoredEvent("e", "", b"{}"),
        StoredEvent("e", "", b'{"event_type":7}'),
        StoredEvent("e", "", b'{"event_type":"a\\r\\nb"}'),
        StoredEvent("e", "", b'{"event_type":"scomp","click_tracking_id":7}'),
        StoredEvent("e", "", b'{"event_type":"scomp"}\xff'),
        StoredEvent("", "", CLICK.body),
        StoredEvent("a b", "", CLICK.body),
        StoredEvent("a\r\nb", "", CLICK.body),
        StoredEvent("a.b", "", CLICK.body),
    ],
)
def test_a_broken_stored_event_cannot_be_built(event: StoredEvent) -> None:
    with pytest.raises(UnbuildableEvent, match="the stored event"):
        build(POST, event)
