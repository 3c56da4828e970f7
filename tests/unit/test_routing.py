"""Who gets which event: EVENTS.md, decision 13, line by line."""

import itertools
from dataclasses import replace

import orjson
import pytest

from kasplo_notify.endpoint import Endpoint
from kasplo_notify.routing import Route, RouteTable, dump_routes


def endpoint(name: str, *mail_classes: str, types: tuple[str, ...] = (), queues: int = 4) -> Endpoint:
    return Endpoint(
        name=name, url="https://e.example/", mail_classes=mail_classes or ("*",), event_types=types, queues=queues
    )


def table(*endpoints: Endpoint) -> RouteTable:
    return RouteTable.load(b"1", dump_routes(endpoints))


def matched(routes: RouteTable, mail_class: str, event_type: str = "scomp") -> list[str]:
    return [route.endpoint for route in routes.match(mail_class, event_type)]


def test_an_endpoint_gets_the_mail_classes_that_it_names() -> None:
    routes = table(endpoint("crm", "promo", "alerts"), endpoint("other", "news"))
    assert matched(routes, "promo") == matched(routes, "alerts") == ["crm"]
    assert matched(routes, "news") == ["other"]
    assert matched(routes, "unknown") == []


def test_every_matching_endpoint_gets_the_event() -> None:
    routes = table(endpoint("b", "promo"), endpoint("a", "promo"), endpoint("c"))
    assert matched(routes, "promo") == ["a", "b", "c"]


@pytest.mark.parametrize("given", ["promo", "PROMO", "Promo"])
@pytest.mark.parametrize("named", ["promo", "PROMO", "pRoMo"])
def test_case_does_not_matter(named: str, given: str) -> None:
    assert matched(table(endpoint("crm", named)), given) == ["crm"]


def test_a_star_is_every_class_and_none() -> None:
    routes = table(endpoint("all"))
    assert matched(routes, "promo") == matched(routes, "") == matched(routes, "default") == ["all"]


def test_an_event_without_a_class_matches_only_star_and_default() -> None:
    routes = table(endpoint("all"), endpoint("rest", "default"), endpoint("crm", "promo"))
    assert matched(routes, "") == ["all", "rest"]


def test_a_default_gets_what_nobody_names() -> None:
    routes = table(endpoint("crm", "promo"), endpoint("rest", "default"))
    assert matched(routes, "promo") == ["crm"]
    assert matched(routes, "news") == ["rest"]


def test_a_star_takes_nothing_from_a_default() -> None:
    assert matched(table(endpoint("all"), endpoint("rest", "default")), "promo") == ["all", "rest"]


def test_a_default_gets_the_types_of_a_class_that_nobody_takes() -> None:
    routes = table(endpoint("crm", "promo", types=("engine_click",)), endpoint("rest", "default"))
    assert matched(routes, "promo", "engine_click") == ["crm"]
    assert matched(routes, "promo", "scomp") == ["rest"]


def test_a_default_itself_takes_only_its_types() -> None:
    routes = table(endpoint("rest", "default", types=("scomp",)))
    assert matched(routes, "promo", "scomp") == ["rest"]
    assert matched(routes, "promo", "engine_click") == []


def test_an_endpoint_may_name_a_class_and_be_a_default_or_a_star() -> None:
    routes = table(endpoint("a", "promo", "default"), endpoint("b", "promo"), endpoint("c", "news", "*"))
    assert matched(routes, "promo") == ["a", "b", "c"]
    assert matched(routes, "news") == ["c"]
    assert matched(routes, "other") == ["a", "c"]


@pytest.mark.parametrize("mail_class", ["*", "default", "DEFAULT"])
def test_an_event_cannot_name_star_or_default_as_its_class(mail_class: str) -> None:
    """They are what an event without a class matches, and nothing more."""
    routes = table(endpoint("all"), endpoint("rest", "default"), endpoint("crm", "promo"))
    assert matched(routes, mail_class) == matched(routes, "")


def test_an_endpoint_that_is_being_removed_gets_nothing_and_no_longer_counts_for_defaults() -> None:
    leaving = Endpoint(name="crm", url="https://e.example/", mail_classes=("promo",), removing="keep")
    assert matched(table(leaving, endpoint("rest", "default")), "promo") == ["rest"]


def test_the_dry_run_says_the_same_as_the_emit_for_every_mixture() -> None:
    kinds = [("promo",), ("*",), ("default",), ("news", "default"), ("promo", "*")]
    types: list[tuple[str, ...]] = [(), ("scomp",), ("engine_click",)]
    classes = ("promo", "News", "x", "", "*", "default")
    choices = [endpoint("e", *kind, types=chosen) for kind in kinds for chosen in types]
    for pair in itertools.product(choices, repeat=2):
        routes = table(*(replace(each, name=name) for each, name in zip(pair, "ab", strict=True)))
        for mail_class, event_type in itertools.product(classes, ("scomp", "engine_open")):
            explained = routes.explain(mail_class, event_type)
            assert [match.route.endpoint for match in explained] == ["a", "b"]
            assert all(match.reason for match in explained)
            assert [match.route for match in explained if match.matched] == list(routes.match(mail_class, event_type))


@pytest.mark.parametrize(
    ("name", "mail_class", "event_type", "reason"),
    [
        ("crm", "promo", "scomp", "names the mail class promo"),
        ("crm", "news", "scomp", "takes only promo"),
        ("crm", "promo", "engine_click", "does not take engine_click"),
        ("all", "news", "engine_click", "takes every mail class"),
        ("rest", "promo", "scomp", "is a default, and the mail class is named by crm"),
        ("rest", "news", "scomp", "is a default, and no other endpoint names this mail class"),
    ],
)
def test_the_dry_run_says_why(name: str, mail_class: str, event_type: str, reason: str) -> None:
    routes = table(endpoint("crm", "promo", types=("scomp",)), endpoint("all"), endpoint("rest", "default"))
    assert {match.route.endpoint: match.reason for match in routes.explain(mail_class, event_type)}[name] == reason


def test_a_recipient_is_always_in_the_same_queue_whatever_its_case() -> None:
    route = Route("crm", ("*",), (), 8, None)
    assert route.queue_for("A@Example.com") == route.queue_for("a@example.COM")
    assert {route.queue_for(f"customer{number}@example.com") for number in range(200)} == {
        f"crm.{number}" for number in range(8)
    }
    assert Route("crm", ("*",), (), 1, None).queue_for("ünï@example.com") == "crm.0"


def test_where_a_recipient_goes_does_not_change_between_versions() -> None:
    """Two producers of different versions must agree, or a recipient's events are in two queues."""
    assert Route("crm", ("*",), (), 64, None).queue_for("customer@example.com") == "crm.60"


def test_routes_are_read_back_as_they_were_written() -> None:
    slow = Endpoint(name="slow", url="https://e.example/", mail_classes=("News",), delay=0.5, queues=2)
    routes = table(slow, endpoint("crm", "promo", types=("scomp",)))
    assert routes.match("news", "scomp") == (Route("slow", ("news",), (), 2, 0.5),)
    assert routes.match("promo", "scomp") == (Route("crm", ("promo",), ("scomp",), 4, None),)
    assert routes.version == "1"


def test_no_registry_is_no_routes() -> None:
    routes = RouteTable.load(None, None)
    assert (routes.version, routes.match("promo", "scomp"), routes.explain("promo", "scomp")) == ("0", (), [])


def test_producers_are_told_no_secrets() -> None:
    secretive = Endpoint(
        name="crm",
        url="https://user:pass@e.example/token",
        headers=(("Authorization", "Bearer hush"),),
        secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        basic="user:pass",
    )
    assert orjson.loads(dump_routes([secretive])) == [["crm", ["*"], [], 4, None]]


def test_mail_classes_without_end_do_not_fill_the_memory() -> None:
    routes = table(endpoint("all"))
    for number in range(10_000):
        routes.match(f"class {number}", "scomp")
    assert routes.match.cache_info().currsize <= 4096
