"""Every event arrives byte for byte, by POST and by GET, with the headers that were promised, and signed."""

import json
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any
from urllib.parse import parse_qsl

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from kasplo_notify.signature import generate_secret
from tests.acceptance.subscriber import Hit
from tests.acceptance.world import World, until

AGENT = (
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_10_3) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/44.0.2403.89 Safari/537.36"
)
MESSAGE = '"email":"customer@example.com","listid":"t99","sendid":"t9920110705"'
BOUNCE = (
    '"bounce_type":"h","bounce_code":10,"bounce_text":"550 5.1.1 <customer@example.com>: no such \\"user\\"",'
    '"click_tracking_id":"1927393"'
)
ATTEMPT = (
    f'{{"event_type":"delivery_attempt",{MESSAGE},"click_tracking_id":"1927393","timestamp":1317305252.08338,'
    '"status":"success","is_retry":0,"injected_time":1490817966,'
    '"message":"207.99.125.72 accepted message./Remote host said: 250 ok 1490817966 qp 13613/",'
    '"outmtaid_ip":"127.0.0.1","from_address":"from@example.com"'
)
# The document's four examples, then one of each other type and of what is optional.
WIRE = (
    f'{{"event_type":"scomp",{MESSAGE},"click_tracking_id":"1927393"}}',
    (
        f'{{"event_type":"engine_click","event_time":1317305252,{MESSAGE},"click_url":"http://www.example.com",'
        f'"click_tracking_id":"1927393","engine_ip":"1.2.3.4","user_agent":"{AGENT}"}}'
    ),
    (
        f'{{"event_type":"engine_unsub","event_time":1317305252,{MESSAGE},'
        '"click_url":"http://www.example.com/unsub.php","click_tracking_id":"1927393"}'
    ),
    ATTEMPT + "}",
    (
        f'{{"event_type":"engine_open","event_time":1317305252,{MESSAGE},"click_tracking_id":"1927393",'
        f'"engine_ip":"2001:db8::1","user_agent":"{AGENT}","is_privacy_open":true}}'
    ),
    f'{{"event_type":"bounce_all","event_time":1317305252,{MESSAGE},{BOUNCE},"synchronous":false}}',
    f'{{"event_type":"bounce_bad_address","event_time":1317305252,{MESSAGE},{BOUNCE}}}',
    f'{{"event_type":"engine_unsub","event_time":1317305252,{MESSAGE},"click_url":"","click_tracking_id":""}}',
    f'{{"event_type":"scomp","event_time":1317305252,{MESSAGE},"click_tracking_id":"50% für Jürgen & 日本 "}}',
    ATTEMPT + ',"headers":{"X-Campaign":["spring","sale"],"X-Note":["größer",""]},"channel":"smtp","msguid":"m1",'
    '"sender":"a@b.example","mtaid":7,"outmtaid":8,"outmtaid_hostname":"out.example","sendsliceid":"s1",'
    '"throttleid":0,"mx_hostname":"mx.example","mx_ip":"192.0.2.1","message_size":12345,'
    '"smtp_timing":{"connect":0.25}}',
)
TRACKING = {"": "", "50% für Jürgen & 日本 ": "50% f%C3%BCr J%C3%BCrgen & %E6%97%A5%E6%9C%AC%20"}
PATHS = ("/post", "/get", "/form-post", "/form-get", "/unsigned", "/rotating", "/custom")
BODIES = ("/post", "/get", "/unsigned", "/rotating", "/custom")
SECRET, OLD_SECRET = generate_secret(), generate_secret()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """An installation in which each event of WIRE was delivered once to each path."""
    with World(tmp_path_factory.mktemp("delivery")) as world:
        sub = world.subscriber
        signed: dict[str, Any] = {"mail_classes": ("promo",), "secret": SECRET}
        world.endpoint("post", **signed)
        world.endpoint("get", method="GET", **signed)
        world.endpoint("form-post", format="form", **signed)
        world.endpoint("form-get", format="form", method="GET", **signed | {"url": sub.url("/form-get?key=k%20v")})
        world.endpoint("unsigned", mail_classes=("*",))
        later = int(world.now()) + 3600
        world.endpoint("rotating", old_secret=OLD_SECRET, old_secret_until=later, **signed)
        headers = (("X-Tenant", "t 1"), ("X-Empty", ""))
        world.endpoint("custom", mail_classes=("PROMO",), headers=headers, basic="user:pässword")
        for body in WIRE:
            fields = json.loads(body)
            # As a producer may give them, in any order; the wire has its own.
            world.notifier.emit(dict(reversed(fields.items())), mail_class="promo")
        world.workers(1)
        until(lambda: all(len(sub.hits(path)) >= len(WIRE) for path in PATHS))
        yield world


def by_body(world: World, path: str) -> dict[str, Hit]:
    hits = world.subscriber.hits(path)
    assert len(hits) == len(WIRE)
    return {hit.body.decode(): hit for hit in hits}


@pytest.mark.parametrize("path", BODIES)
def test_each_event_arrives_byte_for_byte(world: World, path: str) -> None:
    assert sorted(hit.body.decode() for hit in world.subscriber.hits(path)) == sorted(WIRE)


@pytest.mark.parametrize(("path", "line"), [("/post", "POST /post HTTP/1.1"), ("/get", "GET /get HTTP/1.1")])
def test_a_request_has_the_promised_headers_and_no_others(world: World, path: str, line: str) -> None:
    for body, hit in by_body(world, path).items():
        event = json.loads(body)
        assert hit.line == line
        headers = dict(hit.headers)
        assert len(headers) == len(hit.headers)
        assert abs(int(headers.pop("webhook-timestamp")) - hit.at) <= 2
        assert headers.pop("webhook-signature").startswith("v1,")
        assert headers.pop("webhook-id").startswith("msg_")
        tracking_id = event["click_tracking_id"]
        assert headers == {
            "Host": world.subscriber.url("").removeprefix("http://"),
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Content-Length": str(len(body.encode())),
            "Content-Type": "application/json",
            "User-Agent": f"kasplo-notify/{version('kasplo-notify')}",
            "X-Kasplo-Click-Tracking-ID": TRACKING.get(tracking_id, tracking_id),
            "X-Kasplo-Event-Type": event["event_type"],
            "X-Kasplo-Mail-Class": "promo",
            "X-Kasplo-Attempt": "1",
        }


def test_an_event_has_one_id_at_all_endpoints_and_no_two_events_share_one(world: World) -> None:
    ids = [{body: hit.id for body, hit in by_body(world, path).items()} for path in BODIES]
    assert all(each == ids[0] for each in ids)
    assert len(set(ids[0].values())) == len(WIRE)


def form(text: str) -> list[tuple[str, str]]:
    return parse_qsl(text, keep_blank_values=True, strict_parsing=True)


def as_form(body: str) -> list[tuple[str, str]]:
    """The fields of an event as a form has them: texts as they are, all else as JSON."""
    fields = json.loads(body).items()
    compact = (",", ":")
    return [
        (key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=compact))
        for key, value in fields
    ]


def test_format_form_posts_the_fields_urlencoded(world: World) -> None:
    hits = world.subscriber.hits("/form-post")
    assert {hit.line for hit in hits} == {"POST /form-post HTTP/1.1"}
    assert {hit.header("Content-Type") for hit in hits} == {"application/x-www-form-urlencoded"}
    assert sorted(form(hit.body.decode("ascii")) for hit in hits) == sorted(map(as_form, WIRE))


def test_format_form_gets_with_the_fields_in_the_query_and_no_body(world: World) -> None:
    hits = world.subscriber.hits("/form-get")
    assert {hit.body for hit in hits} == {b""}
    assert not any(name in ("Content-Length", "Transfer-Encoding") for hit in hits for name, _ in hit.headers)
    starts = "GET /form-get?key=k%20v&"
    assert all(hit.line.startswith(starts) and hit.line.endswith(" HTTP/1.1") for hit in hits)
    queries = [hit.line.removeprefix(starts).removesuffix(" HTTP/1.1") for hit in hits]
    assert sorted(map(form, queries)) == sorted(map(as_form, WIRE))


def test_an_endpoints_own_headers_and_basic_credentials_are_sent(world: World) -> None:
    for hit in world.subscriber.hits("/custom"):
        assert hit.header("X-Tenant") == "t 1"
        assert hit.header("X-Empty") == ""
        assert hit.header("Authorization") == "Basic dXNlcjpww6Rzc3dvcmQ="


@pytest.mark.parametrize("path", ["/post", "/get", "/form-post", "/form-get", "/rotating"])
def test_the_standard_webhooks_package_verifies_what_arrives(world: World, path: str) -> None:
    for hit in world.subscriber.hits(path):
        headers = dict(hit.headers)
        Webhook(SECRET).verify(hit.body, headers, json_parse=False)
        with pytest.raises(WebhookVerificationError):
            Webhook(SECRET).verify(hit.body + b" ", headers, json_parse=False)


def test_during_a_rotation_both_secrets_verify(world: World) -> None:
    for hit in world.subscriber.hits("/rotating"):
        assert len(hit.header("webhook-signature").split(" ")) == 2
        Webhook(OLD_SECRET).verify(hit.body, dict(hit.headers))
    with pytest.raises(WebhookVerificationError):
        Webhook(OLD_SECRET).verify(hit.body, dict(world.subscriber.hits("/post")[0].headers))


@pytest.mark.parametrize("path", ["/unsigned", "/custom"])
def test_an_endpoint_without_a_secret_gets_no_signature(world: World, path: str) -> None:
    for hit in world.subscriber.hits(path):
        assert "webhook-signature" not in dict(hit.headers)
        assert hit.id
        assert hit.header("webhook-timestamp")
