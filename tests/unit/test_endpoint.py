"""Endpoints: what may be registered, what may be changed, and what a stored record may not smuggle in."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from kasplo_notify.config import Config
from kasplo_notify.config_sections import DeliveryConfig
from kasplo_notify.endpoint import Endpoint, milliseconds
from kasplo_notify.endpoint_checks import change_endpoint, make_endpoint
from kasplo_notify.errors import EndpointError
from kasplo_notify.headers import check_headers, parse_header

CONFIG = Config()
URL = "https://hooks.example.com/in"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def make(**values: Any) -> Endpoint:
    return make_endpoint(CONFIG, **({"name": "crm", "url": URL} | values))


def test_an_endpoint_with_nothing_but_a_name_and_a_url() -> None:
    made = make(created_at=7)
    assert made.secret is not None
    assert made.secret.startswith("whsec_")
    assert made == Endpoint(name="crm", url=URL, secret=made.secret, created_at=7)


def test_the_format_and_queues_default_to_the_configuration() -> None:
    config = Config(delivery=DeliveryConfig(use_json_for_http_post=False, queues=2))
    made = make_endpoint(config, name="crm", url=URL)
    assert (made.format, made.queues) == ("form", 2)


def test_everything_that_can_be_given_is_kept() -> None:
    made = make(
        method="get",
        format="form",
        mail_classes=["Promo", "default", "promo"],
        event_types=["scomp", "engine_click", "scomp"],
        headers=[("X-Team", "mail")],
        secret=SECRET,
        basic="user:pass",
        delay=0,
        timeout=25,
        max_in_flight=8,
        queues=8,
        retry_delays=[1, 2.5],
    )
    assert made == Endpoint(
        name="crm",
        url=URL,
        method="GET",
        format="form",
        mail_classes=("Promo", "default"),
        event_types=("scomp", "engine_click"),
        headers=(("X-Team", "mail"),),
        secret=SECRET,
        basic="user:pass",
        delay=0.0,
        timeout=25.0,
        max_in_flight=8,
        queues=8,
        retry_delays=(1.0, 2.5),
    )
    assert Endpoint.from_json(made.to_json()) == made


def test_none_as_secret_means_unsigned() -> None:
    assert make(secret="none").secret is None
    assert change_endpoint(CONFIG, make(), secret=None).secret is None


@pytest.mark.parametrize(
    "values",
    [
        {"name": ""},
        {"name": "CRM"},
        {"name": "a b"},
        {"name": "a\n"},
        {"name": "a" * 65},
        {"name": "ä"},
        {"name": 5},
        {"url": "http://127.0.0.1/"},
        {"method": "PUT"},
        {"method": "POST\r\n"},
        {"method": 5},
        {"format": "xml"},
        {"mail_classes": "promo"},
        {"mail_classes": [""]},
        {"mail_classes": ["é"]},
        {"mail_classes": ["a\nb"]},
        {"mail_classes": ["a" * 129]},
        {"mail_classes": ["*", "promo"]},
        {"mail_classes": [5]},
        {"event_types": ["click"]},
        {"event_types": "scomp"},
        {"event_types": [5]},
        {"headers": [("Host", "x")]},
        {"headers": [("X-A", "b"), ("x-a", "c")]},
        {"headers": [("X-A",)]},
        {"headers": ["X-A: b"]},
        {"headers": 5},
        {"secret": "hunter2"},
        {"secret": 5},
        {"basic": "no colon"},
        {"basic": "a\n:b"},
        {"basic": "a:" + "b" * 600},
        {"basic": "a:\ud800"},
        {"basic": "a:b", "headers": [("authorization", "Bearer x")]},
        {"delay": -1},
        {"delay": 86_401},
        {"delay": float("nan")},
        {"delay": float("inf")},
        {"delay": True},
        {"delay": "30"},
        {"timeout": 0},
        {"timeout": 25.1},
        {"timeout": 10**400},
        {"max_in_flight": 0},
        {"max_in_flight": 10_001},
        {"max_in_flight": 2.0},
        {"max_in_flight": 3},
        {"queues": 0},
        {"queues": 65},
        {"queues": True},
        {"max_in_flight": 5, "queues": 6},
        {"retry_delays": [-1]},
        {"retry_delays": ["30"]},
        {"retry_delays": 30},
        {"retry_delays": [1] * 101},
        {"color": "red"},
        {"removing": "keep"},
        {"old_secret": SECRET},
    ],
    ids=repr,
)
def test_a_bad_value_is_refused_in_one_sentence(values: dict[str, object]) -> None:
    with pytest.raises(EndpointError) as refused:
        make(**values)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 250
    assert "hunter2" not in str(refused.value)


def test_a_header_value_that_is_no_string_is_told_as_that() -> None:
    with pytest.raises(EndpointError, match="the value of the header X-Tenant is a string, not 42"):
        make(headers={"X-Tenant": 42})


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("Authorization=Bearer hunter2", "that begins with 'Authorization' has"),
        ("Authorization Bearer hunter2", "that begins with 'Authorization' has"),
        ("Authorization\thunter2", "that begins with 'Authorization' has"),
        (" hunter2", "the header name has"),
        ("", "the header name has"),
    ],
)
def test_of_a_header_name_that_is_none_only_its_beginning_is_quoted(name: str, quoted: str) -> None:
    with pytest.raises(EndpointError, match="a header is written 'Name: value'") as refused:
        make(headers=[(name, "x")])
    assert quoted in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_of_a_header_name_that_is_too_long_nothing_is_quoted() -> None:
    assert make(headers=[("x" * 128, "y")])
    with pytest.raises(EndpointError, match=r"a header name has at most 128 characters, and one has 129$"):
        make(headers=[("x" * 129, "y")])


def test_the_header_of_one_more_metadata_service_is_refused_by_its_value() -> None:
    for value in ("Bearer Oracle", "bearer  oracle"):
        with pytest.raises(EndpointError, match="metadata"):
            make(headers=[("AUTHORIZATION", value)])
    for header in (("Authorization", "Bearer Oracles"), ("X-Token", "Bearer Oracle")):
        assert make(headers=[header]).headers == (header,)


def test_a_near_miss_is_told_what_was_meant() -> None:
    with pytest.raises(EndpointError, match="engine_click"):
        make(event_types=["engine_clicks"])
    with pytest.raises(EndpointError, match="max_in_flight"):
        change_endpoint(CONFIG, make(), max_inflight=5)


def test_a_change_runs_the_same_checks() -> None:
    made = make(basic="a:b")
    assert change_endpoint(CONFIG, made, method="GET", delay=5).secret == made.secret
    for bad in (
        {"url": "http://10.0.0.1/"},
        {"headers": [("Authorization", "x")]},
        {"name": "other"},
        {"created_at": 5},
        {"max_in_flight": 1},
    ):
        with pytest.raises(EndpointError):
            change_endpoint(CONFIG, made, **bad)


def test_none_puts_a_value_back_to_its_default() -> None:
    made = make(secret=SECRET, delay=5, timeout=5, queues=2, max_in_flight=9, mail_classes=["a"], event_types=["scomp"])
    back = change_endpoint(
        CONFIG,
        made,
        delay=None,
        timeout=None,
        queues=None,
        max_in_flight=None,
        mail_classes=None,
        event_types=None,
    )
    assert back == Endpoint(name="crm", url=URL, secret=SECRET)


def test_signing_secrets_during_and_after_a_rotation() -> None:
    rotating = Endpoint(name="a", url=URL, secret="new", old_secret="old", old_secret_until=100)
    assert rotating.signing_secrets(99.9) == ("new", "old")
    assert rotating.signing_secrets(100) == ("new",)
    assert Endpoint(name="a", url=URL).signing_secrets(0) == ()


def test_repr_shows_no_secrets() -> None:
    shown = repr(make(secret=SECRET, basic="user:hunter2", headers=[("X-Key", "hunter2")]))
    assert "hunter2" not in shown
    assert "whsec_" not in shown


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"name": "A B"},
        {"name": None},
        {"url": "javascript:alert(1)"},
        {"url": "https://h.example.com/\r\nX: y"},
        {"url": "https://h.example.com/ x"},
        {"url": 5},
        {"method": "DELETE"},
        {"method": "GET / HTTP/1.1\r\nX: y"},
        {"format": ["json"]},
        {"mail_classes": "promo"},
        {"mail_classes": ["a\r\nb"]},
        {"event_types": ["A B"]},
        {"headers": [["X-A", "a\r\nb"]]},
        {"headers": [["X-A"]]},
        {"headers": [5]},
        {"headers": {"X-A": "b"}},
        {"headers": [["Transfer-Encoding", "chunked"]]},
        {"secret": "x"},
        {"secret": 5},
        {"old_secret_until": -1},
        {"basic": "a\r\n:b"},
        {"delay": "5"},
        {"timeout": 0},
        {"timeout": True},
        {"max_in_flight": 1.5},
        {"queues": 0},
        {"queues": 10**9},
        {"retry_delays": [None]},
        {"created_at": "now"},
        {"removing": "yes"},
    ],
    ids=repr,
)
def test_a_broken_stored_record_is_refused(change: dict[str, object]) -> None:
    record = orjson.loads(make().to_json()) | change
    with pytest.raises(EndpointError):
        Endpoint.from_json(orjson.dumps(record))


@pytest.mark.parametrize("stored", [b"", b"{}", b"[]", b"null", b"\xff", b'{"v":1}', b'{"v":1,"name":"a"}'])
def test_what_is_no_record_is_refused(stored: bytes) -> None:
    with pytest.raises(EndpointError):
        Endpoint.from_json(stored)


def test_keys_of_a_later_version_are_ignored_and_missing_ones_take_their_default() -> None:
    assert Endpoint.from_json(b'{"v":1,"name":"a","url":"https://h.example.com/","later":1}') == Endpoint(
        name="a", url="https://h.example.com/"
    )


@pytest.mark.parametrize(
    "line",
    [
        "no colon",
        ": value",
        "X A: b",
        "X-A : b",
        "X-Ä: b",
        "X-A: a\r\nB: c",
        "X-A: a\rB",
        "X-A: a\x00b",
        "X-A: a\tb",
        "X-A: é",
        "X-A\r\nY: b",
        "X-A: " + "x" * 1025,
        "Host: internal",
        "hOsT: internal",
        "Content-Length: 5",
        "Transfer-Encoding: chunked",
        "Connection: close, X-Kasplo-Signature",
        "Keep-Alive: 5",
        "Upgrade: websocket",
        "TE: trailers",
        "Proxy-Authorization: x",
        "Expect: 100-continue",
        "Content-Type: text/plain",
        "User-Agent: x",
        "Accept: text/html",
        "Accept-Encoding: gzip",
        "Content-Encoding: gzip",
        "Trailer: X-A",
        "Proxy-Authenticate: Basic",
        "Proxy-Connection: keep-alive",
        "HTTP2-Settings: AAA",
        "Transfer_Encoding: chunked",
        "webhook-signature: v1,AAAA",
        "Webhook-Id: x",
        "X-Kasplo-Attempt: 9",
        "X_Kasplo_Attempt: 9",
        "X-aws-ec2-metadata-token: x",
        "X-aws-ec2-metadata-token-ttl-seconds: 60",
        "Metadata-Flavor: Google",
        "Metadata: true",
        "X-Google-Metadata-Request: True",
    ],
)
def test_a_bad_header_is_refused(line: str) -> None:
    with pytest.raises(EndpointError) as refused:
        parse_header(line)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("line", "pair"),
    [
        ("Authorization: Bearer abc", ("Authorization", "Bearer abc")),
        ("X-A:b", ("X-A", "b")),
        ("X-A:   b:c  ", ("X-A", "b:c")),
        ("X-Empty:", ("X-Empty", "")),
        ("X-A: " + "x" * 1024, ("X-A", "x" * 1024)),
    ],
)
def test_a_good_header_is_split(line: str, pair: tuple[str, str]) -> None:
    assert parse_header(line) == pair


def test_all_headers_together_are_at_most_8_kib() -> None:
    pairs = [(f"X-{n}", "x" * 1000) for n in range(8)]
    assert check_headers(pairs) == tuple(pairs)
    with pytest.raises(EndpointError, match="8192"):
        check_headers([*pairs, ("X-9", "x" * 1000)])


@pytest.mark.parametrize(
    ("seconds", "whole"),
    [
        (0, 0),
        (30, 30_000),
        (32.3, 32_300),
        (0.07, 70),
        (1.1, 1_100),
        (0.0001, 1),
        (2.0005, 2_001),
        (86_400, 86_400_000),
    ],
)
def test_a_delay_in_milliseconds_is_exact_or_rounded_up(seconds: float, whole: int) -> None:
    assert milliseconds(seconds) == whole


@pytest.mark.parametrize("secret", ["none", "whsec_" + "B" * 32])
def test_another_secret_or_none_counts_at_once_and_ends_a_rotation(secret: str) -> None:
    rotating = replace(make(), secret="whsec_" + "A" * 32, old_secret="whsec_" + "C" * 32, old_secret_until=2**31)
    changed = change_endpoint(CONFIG, rotating, secret=secret)
    assert len(changed.signing_secrets(0)) == (0 if secret == "none" else 1)
    assert (changed.old_secret, changed.old_secret_until) == (None, 0)
