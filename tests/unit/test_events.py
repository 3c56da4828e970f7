"""The catalogue is the documented table, and `validate` holds every event to it."""

import json
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from enum import IntEnum, StrEnum
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any

import pytest

from kasplo_notify.errors import InvalidEvent
from kasplo_notify.events import EVENT_TYPES, Event, check_event_id, check_mail_class, validate

# Per type, in wire order: "name" required, "name?" optional; "D" where the Kasplo document has the field.
WIRE = {
    "scomp": "event_type D, event_time?, email D, listid D, sendid D, click_tracking_id D",
    "engine_click": (
        "event_type D, event_time D, email D, listid D, sendid D, click_url D, click_tracking_id D, engine_ip D, "
        "user_agent D"
    ),
    "engine_open": (
        "event_type, event_time, email, listid, sendid, click_tracking_id, engine_ip, user_agent, is_privacy_open?"
    ),
    "engine_unsub": ("event_type D, event_time D, email D, listid D, sendid D, click_url D, click_tracking_id D"),
    "bounce_all": (
        "event_type, event_time, email, listid, sendid, bounce_type, bounce_code, bounce_text, click_tracking_id, "
        "synchronous?"
    ),
    "bounce_bad_address": (
        "event_type, event_time, email, listid, sendid, bounce_type, bounce_code, bounce_text, click_tracking_id"
    ),
    "delivery_attempt": (
        "event_type D, email D, listid D, sendid D, click_tracking_id D, timestamp D, status D, is_retry D, "
        "injected_time D, message D, outmtaid_ip D, from_address D, headers? D, channel?, msguid?, sender?, mtaid?, "
        "outmtaid?, outmtaid_hostname?, sendsliceid?, throttleid?, mx_hostname?, mx_ip?, message_size?, smtp_timing?"
    ),
}
PASSED_THROUGH = [word.strip("? ") for word in WIRE["delivery_attempt"].split(",")[13:]]

# The document's own values on the wire.
DOCUMENT = r"""
{"event_type":"scomp","email":"customer@example.com","listid":"t99","sendid":"t9920110705","click_tracking_id":"1927393"}
{"event_type":"engine_click","event_time":1317305252,"email":"customer@example.com","listid":"t99","sendid":"t9920110705","click_url":"http://www.example.com","click_tracking_id":"1927393","engine_ip":"1.2.3.4","user_agent":"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_10_3) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/44.0.2403.89 Safari/537.36"}
{"event_type":"engine_unsub","event_time":1317305252,"email":"customer@example.com","listid":"t99","sendid":"t9920110705","click_url":"http://www.example.com/unsub.php","click_tracking_id":"1927393"}
{"event_type":"delivery_attempt","email":"customer@example.com","listid":"t99","sendid":"t9920110705","click_tracking_id":"1927393","timestamp":1317305252.08338,"status":"success","is_retry":0,"injected_time":1490817966,"message":"207.99.125.72 accepted message./Remote host said: 250 ok 1490817966 qp 13613/","outmtaid_ip":"127.0.0.1","from_address":"from@example.com"}
""".strip().splitlines()  # noqa: E501 - lines as they are on the wire

MISSING: Any = object()


def given(event_type: str, **changes: object) -> dict[str, object]:
    """The fields of the type's example, with changes; MISSING takes one away."""
    fields = {**EVENT_TYPES[event_type].example, **changes}
    del fields["event_type"]
    return {name: value for name, value in fields.items() if value is not MISSING}


def wire(event_type: str, **changes: object) -> dict[str, Any]:
    sent: dict[str, Any] = json.loads(validate(event_type, given(event_type, **changes)).body)
    return sent


def refused(event_type: Any, fields: Any) -> InvalidEvent:
    """The error, whose message must be one short line that can be printed."""
    with pytest.raises(InvalidEvent) as caught:
        validate(event_type, fields)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 500
    return caught.value


def wrong(event_type: str, field: str, value: object) -> str:
    """What is said of a field with this value, after type and name."""
    error = refused(event_type, given(event_type, **{field: value}))
    assert (error.event_type, error.field) == (event_type, field)
    start = f"{event_type}: {field} "
    assert str(error).startswith(start)
    return str(error).removeprefix(start)


def each(field: str, *, required: bool | None = None) -> list[str]:
    """The types that have the field."""
    return [
        event_type.name
        for event_type in EVENT_TYPES.values()
        for row in event_type.fields
        if row.name == field and required in (None, row.required)
    ]


class TestTheCatalogue:
    def test_has_the_seven_types_in_the_order_of_the_document(self) -> None:
        assert list(EVENT_TYPES) == list(WIRE)
        assert [event_type.name for event_type in EVENT_TYPES.values()] == list(WIRE)

    @pytest.mark.parametrize("name", WIRE)
    def test_has_the_fields_of_the_table_in_wire_order(self, name: str) -> None:
        rows = [
            row.name + ("" if row.required else "?") + (" D" if row.source == "document" else "")
            for row in EVENT_TYPES[name].fields
        ]
        assert ", ".join(rows) == WIRE[name]

    @pytest.mark.parametrize("name", WIRE)
    def test_describes_every_type_and_field(self, name: str) -> None:
        event_type = EVENT_TYPES[name]
        assert event_type.title
        assert all(row.type and row.description.endswith(".") for row in event_type.fields)

    @pytest.mark.parametrize("name", WIRE)
    def test_has_an_example_of_every_type_that_is_sent_as_it_stands(self, name: str) -> None:
        example = EVENT_TYPES[name].example
        body = validate(name, given(name)).body
        assert body.decode() == json.dumps(dict(example), separators=(",", ":"))

    def test_cannot_be_changed(self) -> None:
        with pytest.raises(TypeError):
            EVENT_TYPES["mine"] = EVENT_TYPES["scomp"]  # type: ignore[index]
        with pytest.raises(TypeError):
            EVENT_TYPES["scomp"].example["email"] = "x"  # type: ignore[index]


class TestTheWire:
    @pytest.mark.parametrize("line", DOCUMENT, ids=lambda line: line.split('"')[3])
    def test_is_the_documents_byte_for_byte(self, line: str) -> None:
        fields = json.loads(line)
        event = validate(fields.pop("event_type"), fields)
        assert event.body == line.encode()

    @pytest.mark.parametrize("name", WIRE)
    def test_has_its_keys_in_order_whatever_order_they_are_given_in(self, name: str) -> None:
        optional: dict[str, object] = {"event_time": 1, "is_privacy_open": True, "synchronous": False, "headers": {}}
        optional |= dict.fromkeys(PASSED_THROUGH, 1)
        names = [row.name for row in EVENT_TYPES[name].fields]
        fields = given(name)
        fields |= {field: value for field, value in optional.items() if field in names}
        backwards = dict(reversed(fields.items()))
        assert list(json.loads(validate(name, backwards).body)) == names

    def test_is_utf8_with_nothing_escaped_that_need_not_be(self) -> None:
        body = validate("scomp", given("scomp", email="jürgen@exämple.com", click_tracking_id="😀")).body
        assert '"jürgen@exämple.com"' in body.decode()
        assert '"😀"' in body.decode()

    def test_leaves_out_what_was_not_given_and_keeps_an_empty_string(self) -> None:
        assert "event_time" not in wire("scomp")
        assert wire("scomp", click_tracking_id="")["click_tracking_id"] == ""
        assert wire("engine_unsub", click_url="")["click_url"] == ""
        assert wire("engine_open", user_agent="")["user_agent"] == ""
        assert (wire("scomp", listid="", sendid="")["listid"]) == ""

    def test_is_the_same_when_the_fields_repeat_the_type(self) -> None:
        assert validate("scomp", dict(EVENT_TYPES["scomp"].example)) == validate("scomp", given("scomp"))

    def test_an_event_carries_what_is_needed_beside_its_body(self) -> None:
        event = validate("scomp", given("scomp", click_tracking_id=5))
        assert event == Event("scomp", event.body, "customer@example.com")
        assert json.loads(event.body)["click_tracking_id"] == "5"

    def test_the_mapping_of_the_caller_is_left_as_it_was(self) -> None:
        fields = given("delivery_attempt", click_tracking_id=5, headers={"X-A": ["b"]}, smtp_timing={"a": [1]})
        before = json.dumps(fields)
        validate("delivery_attempt", MappingProxyType(fields))
        validate("delivery_attempt", fields)
        assert json.dumps(fields) == before

    def test_a_bounce_of_a_bad_address_is_two_events_of_the_same_fields(self) -> None:
        everything = wire("bounce_all")
        assert wire("bounce_bad_address") == {**everything, "event_type": "bounce_bad_address"}
        assert "belongs to bounce_all only" in str(
            refused("bounce_bad_address", given("bounce_bad_address", synchronous=True))
        )


class TestTheType:
    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("engine_clik", "did you mean engine_click?"),
            ("SCOMP", "did you mean scomp?"),
            ("bounce", "did you mean bounce_all?"),
            ("click!", "the types are scomp, engine_click, engine_open"),
            ("", "the types are scomp"),
            ("\ud800\x1b", "the types are scomp"),
            ("x" * 10**6, "the types are scomp"),
        ],
        ids=lambda text: text[:12].encode("ascii", "backslashreplace").decode(),
    )
    def test_an_unknown_one_is_refused_with_what_was_meant(self, name: str, hint: str) -> None:
        error = refused(name, given("scomp"))
        assert hint in str(error)
        assert error.field == "event_type"
        assert error.event_type == name[:60]

    @pytest.mark.parametrize(
        "name", [5, b"scomp", [], {}, float("nan"), object()], ids=lambda name: type(name).__name__
    )
    def test_what_is_no_string_is_no_type(self, name: object) -> None:
        error = refused(name, given("scomp"))
        assert str(error).startswith("event_type must be one of scomp, ")
        assert error.event_type is None

    def test_none_at_all_is_called_missing(self) -> None:
        error = refused(None, given("scomp"))
        assert str(error).startswith("event_type is missing; it is one of scomp, ")
        assert (error.field, error.event_type) == ("event_type", None)

    def test_a_second_one_among_the_fields_is_refused(self) -> None:
        error = refused("scomp", {**given("scomp"), "event_type": "engine_open"})
        assert str(error) == ("scomp: event_type is 'engine_open' among the fields; give one or the other")

    def test_the_member_of_an_enum_of_strings_will_do(self) -> None:
        class Type(StrEnum):
            SCOMP = "scomp"

        event = validate(Type.SCOMP, {**given("scomp"), "event_type": Type.SCOMP})
        assert event == validate("scomp", given("scomp"))
        assert type(event.event_type) is str


class TestFields:
    @pytest.mark.parametrize(
        ("name", "field"), [(name, row.name) for name in WIRE for row in EVENT_TYPES[name].fields[1:] if row.required]
    )
    def test_a_missing_one_is_named(self, name: str, field: str) -> None:
        error = refused(name, given(name, **{field: MISSING}))
        assert str(error) == f"{name}: {field} is missing"
        assert (error.event_type, error.field) == (name, field)

    def test_all_missing_ones_are_named_at_once(self) -> None:
        error = refused("scomp", {"email": "a@b"})
        assert str(error) == "scomp: listid, sendid, click_tracking_id are missing"

    @pytest.mark.parametrize(
        ("event_type", "name", "hint"),
        [
            ("engine_open", "is_privacy_opne", "did you mean is_privacy_open?"),
            ("engine_open", "click_url", "it belongs to engine_click, engine_unsub only"),
            ("scomp", "headers", "it belongs to delivery_attempt only"),
            ("delivery_attempt", "event_time", "it belongs to scomp, engine_click, engine_open"),
            ("scomp", "mail_class", "it is given beside the event's fields, not among them"),
            ("scomp", "event_id", "it is given beside the event's fields, not among them"),
            ("scomp", "qqq", "the fields are event_time, email, listid, sendid, click_tracking_id"),
            ("scomp", "\ud800", "the fields are event_time"),
            ("scomp", "e" * 10**6, "the fields are event_time"),
        ],
        ids=lambda text: text[:20].encode("ascii", "backslashreplace").decode(),
    )
    def test_an_unknown_one_is_refused_with_what_was_meant(self, event_type: str, name: str, hint: str) -> None:
        error = refused(event_type, {**given(event_type), name: "x"})
        assert hint in str(error)
        assert (error.event_type, error.field) == (event_type, name[:60])

    @pytest.mark.parametrize("field", ["email", "event_time"])
    def test_a_misspelt_required_one_is_found(self, field: str) -> None:
        fields = given("engine_click")
        slip = field[:-2] + field[-1] + field[-2]
        fields[slip] = fields.pop(field)
        error = refused("engine_click", {"event_type": "engine_click", **fields})
        assert str(error) == f"engine_click: {field} is missing; is {slip!r} meant to be {field}?"
        assert error.field == field

    @pytest.mark.parametrize("key", [1, None, ("email",), b"email", True])
    def test_a_key_that_is_no_string_is_refused(self, key: object) -> None:
        error = refused("scomp", {**given("scomp"), key: "x"})
        assert "is no name of a field" in str(error)

    @pytest.mark.parametrize(
        "fields", [None, "x", 5, [], [("email", "a")], {1}, object()], ids=lambda f: type(f).__name__
    )
    def test_what_is_no_mapping_is_refused(self, fields: object) -> None:
        assert str(refused("scomp", fields)).startswith("scomp: the fields must be a mapping of names to values")

    @pytest.mark.parametrize(
        ("name", "field"), [(name, row.name) for name in WIRE for row in EVENT_TYPES[name].fields[1:]]
    )
    @pytest.mark.parametrize("value", [None, object(), b"1", {1, 2}, math.nan], ids=lambda value: type(value).__name__)
    def test_none_and_what_json_cannot_say_are_refused_everywhere(self, name: str, field: str, value: object) -> None:
        reason = wrong(name, field, value)
        if value is None:
            assert reason.endswith(", not null; leave out a field that has no value")


class TestIds:
    FIELDS = ("email", "listid", "sendid", "click_tracking_id")

    @pytest.mark.parametrize("field", FIELDS[1:])
    @pytest.mark.parametrize(
        ("value", "sent"), [(1927393, "1927393"), (0, "0"), (-1, "-1"), (2**128 - 1, str(2**128 - 1))]
    )
    def test_an_int_becomes_a_string(self, field: str, value: int, sent: str) -> None:
        assert wire("scomp", **{field: value})[field] == sent

    def test_the_member_of_an_enum_becomes_its_value(self) -> None:
        class List(IntEnum):
            NEWS = 99

        assert wire("scomp", listid=List.NEWS)["listid"] == "99"

    @pytest.mark.parametrize("field", FIELDS)
    @pytest.mark.parametrize("value", [1927393.0, True, [], {}, 10**50], ids=repr)
    def test_anything_else_is_refused(self, field: str, value: object) -> None:
        assert wrong("scomp", field, value).startswith("must be a")

    def test_an_address_is_no_number_and_not_empty(self) -> None:
        assert wrong("scomp", "email", 5) == "must be an address, not 5"
        assert wrong("scomp", "email", "") == "must be an address, not ''"

    @pytest.mark.parametrize("field", FIELDS)
    @pytest.mark.parametrize("character", ["\0", "\t", "\n", "\r", "\x1b", "\x7f", "\x80", "\x9f"], ids=ascii)
    def test_a_control_character_is_refused(self, field: str, character: str) -> None:
        assert wrong("scomp", field, f"ab{character}c").startswith(f"holds the control character {character!a} at")

    @pytest.mark.parametrize("value", ["\u00a0", "a b", "\u200b\u2028", "日本", "\U0010ffff", '"\\/', "."], ids=ascii)
    def test_any_other_text_will_do(self, value: str) -> None:
        sent = wire("scomp", email=value, listid=value, sendid=value, click_tracking_id=value)
        assert [sent[field] for field in self.FIELDS] == [value] * 4

    def test_the_tracking_id_is_bounded_because_it_is_a_header_too(self) -> None:
        assert len(wire("scomp", click_tracking_id="x" * 2048)["click_tracking_id"]) == 2048
        assert len(wire("scomp", click_tracking_id="é" * 1024)["click_tracking_id"]) == 1024
        assert wrong("scomp", "click_tracking_id", "é" * 1025).startswith(
            "has 2050 bytes; it is sent as an HTTP header"
        )
        assert wrong("scomp", "click_tracking_id", "x" * 10**6)


class TestTimes:
    WHEN = datetime(2011, 9, 29, 14, 7, 32, 83380, tzinfo=UTC)
    BOUND = 253402300799

    @pytest.mark.parametrize("name", each("event_time"))
    def test_the_event_time_is_an_int(self, name: str) -> None:
        assert wire(name, event_time=0)["event_time"] == 0
        assert wire(name, event_time=self.BOUND)["event_time"] == self.BOUND
        assert wrong(name, "event_time", 1317305252.5).endswith("not 1317305252.5; give whole seconds")
        assert wrong(name, "event_time", 1317305252.0).endswith("; give whole seconds")

    @pytest.mark.parametrize("field", ["timestamp", "injected_time"])
    @pytest.mark.parametrize("value", [0, 0.0, 1317305252, 1317305252.08338, BOUND])
    def test_the_times_of_a_delivery_are_int_or_float_as_given(self, field: str, value: float) -> None:
        sent = wire("delivery_attempt", **{field: value})[field]
        assert (sent, type(sent)) == (value, type(value))

    @pytest.mark.parametrize(
        ("name", "field"),
        [("scomp", "event_time"), ("delivery_attempt", "timestamp"), ("delivery_attempt", "injected_time")],
    )
    @pytest.mark.parametrize(
        "value",
        [
            "1317305252",
            "2011-09-29T14:07:32Z",
            -1,
            math.inf,
            -math.inf,
            math.nan,
            True,
            10**30,
            10**400,
            [],
            WHEN.date(),
        ],
        ids=lambda value: str(value)[:12] if not isinstance(value, int) or value < 10**31 else "huge",
    )
    def test_anything_else_is_refused(self, name: str, field: str, value: object) -> None:
        assert wrong(name, field, value).startswith("must be a")

    @pytest.mark.parametrize("field", ["timestamp", "injected_time"])
    def test_milliseconds_are_recognised(self, field: str) -> None:
        assert wrong("delivery_attempt", field, 1317305252083).endswith("; these look like milliseconds")
        assert wrong("engine_open", "event_time", 1317305252083).endswith("; these look like milliseconds")

    @pytest.mark.parametrize(
        "zone", [UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=8))], ids=str
    )
    def test_an_aware_datetime_is_converted(self, zone: timezone) -> None:
        when = self.WHEN.astimezone(zone)
        assert wire("scomp", event_time=when)["event_time"] == 1317305252
        sent = wire("delivery_attempt", timestamp=when, injected_time=when)
        assert (sent["timestamp"], sent["injected_time"]) == (1317305252.08338, 1317305252.08338)

    def test_a_datetime_of_a_whole_second_has_the_form_of_the_documents_example(self) -> None:
        when = self.WHEN.replace(microsecond=0)
        body = validate("delivery_attempt", given("delivery_attempt", timestamp=when, injected_time=when)).body
        assert b'"timestamp":1317305252.0,' in body
        assert b'"injected_time":1317305252,' in body

    @pytest.mark.parametrize(
        ("name", "field"),
        [("scomp", "event_time"), ("delivery_attempt", "timestamp"), ("delivery_attempt", "injected_time")],
    )
    def test_a_naive_datetime_is_refused_and_one_before_1970(self, name: str, field: str) -> None:
        assert wrong(name, field, self.WHEN.replace(tzinfo=None)).startswith(
            "must not be a datetime without a time zone"
        )
        assert wrong(name, field, datetime(1969, 12, 31, tzinfo=UTC)).startswith("must be a")

    def test_a_subclass_of_float_or_int_becomes_one(self) -> None:
        class Seconds(float):
            pass

        class Second(IntEnum):
            FIRST = 1

        assert wire("delivery_attempt", timestamp=Seconds(1.5))["timestamp"] == 1.5
        assert wire("scomp", event_time=Second.FIRST)["event_time"] == 1


class TestText:
    FIELDS = (
        ("engine_click", "click_url"),
        ("engine_unsub", "click_url"),
        ("engine_click", "user_agent"),
        ("engine_open", "user_agent"),
        ("bounce_all", "bounce_text"),
        ("delivery_attempt", "message"),
        ("delivery_attempt", "from_address"),
    )

    @pytest.mark.parametrize(("name", "field"), FIELDS)
    def test_control_characters_are_escaped_not_refused(self, name: str, field: str) -> None:
        value = "a\0\x01\t\r\n\x1f\x7f\x80 \u2028</script>"
        assert wire(name, **{field: value})[field] == value

    @pytest.mark.parametrize(("name", "field"), FIELDS)
    @pytest.mark.parametrize("value", [5, 5.5, True, ["x"], {}, b"x"], ids=repr)
    def test_only_strings_are_text(self, name: str, field: str, value: object) -> None:
        assert wrong(name, field, value).startswith("must be a string, not ")

    def test_bytes_are_to_be_decoded(self) -> None:
        assert wrong("bounce_all", "bounce_text", b"x") == "must be a string, not a value of type bytes; decode it"

    @pytest.mark.parametrize(("name", "field"), [*FIELDS, *(("scomp", field) for field in TestIds.FIELDS)])
    @pytest.mark.parametrize("value", ["a\ud800", "\udfffa", "\udc80"], ids=ascii)
    def test_half_of_a_surrogate_pair_is_refused(self, name: str, field: str, value: str) -> None:
        assert wrong(name, field, value).startswith("cannot be written as JSON: str is not valid UTF-8")

    def test_a_click_has_a_url(self) -> None:
        assert wrong("engine_click", "click_url", "") == "must not be empty"

    def test_a_subclass_of_str_becomes_one(self) -> None:
        class Markup(str):
            __slots__ = ()

            def __str__(self) -> str:
                return "something else"

        assert wire("engine_click", user_agent=Markup("a"), email=Markup("b"))["user_agent"] == "a"
        assert type(validate("scomp", given("scomp", email=Markup("b"))).email) is str


class TestAddresses:
    FIELDS = (("engine_click", "engine_ip"), ("engine_open", "engine_ip"), ("delivery_attempt", "outmtaid_ip"))

    @pytest.mark.parametrize(("name", "field"), FIELDS)
    @pytest.mark.parametrize("value", ["0.0.0.1", "255.255.255.255", "::", "2001:DB8::1", "::ffff:1.2.3.4"])
    def test_ipv4_and_ipv6_are_sent_as_given(self, name: str, field: str, value: str) -> None:
        assert wire(name, **{field: value})[field] == value

    @pytest.mark.parametrize(("name", "field"), FIELDS)
    @pytest.mark.parametrize(
        "value",
        [
            "",
            "1.2.3",
            "1.2.3.256",
            "01.2.3.4",
            "1.2.3.4 ",
            "1.2.3.4\0",
            "1.2.3.4:80",
            "[::1]",
            "fe80::1%eth0",
            "é",
            ":\ud800",
            "::1/64",
            "localhost",
            "x" * 10**6,
            ip_address("1.2.3.4"),
            16909060,
            True,
        ],
        ids=lambda value: ascii(value)[:20],
    )
    def test_anything_else_is_refused(self, name: str, field: str, value: object) -> None:
        assert wrong(name, field, value).startswith("must be an IPv4 or IPv6 address as a string, not ")


class TestSmallKinds:
    @pytest.mark.parametrize(("name", "field"), [("engine_open", "is_privacy_open"), ("bounce_all", "synchronous")])
    def test_a_bool_is_true_or_false(self, name: str, field: str) -> None:
        assert wire(name, **{field: True})[field] is True
        assert wire(name, **{field: False})[field] is False
        for value in (0, 1, "true", "", 1.0):
            assert wrong(name, field, value).startswith("must be true or false, not ")

    def test_is_retry_is_0_or_1_and_no_bool(self) -> None:
        assert [wire("delivery_attempt", is_retry=value)["is_retry"] for value in (0, 1)] == [0, 1]
        assert b'"is_retry":1,' in validate("delivery_attempt", given("delivery_attempt", is_retry=1)).body
        hint = "give 1 for true, 0 for false"
        assert wrong("delivery_attempt", "is_retry", value=True) == f"must be a whole number, not true; {hint}"
        for value in (2, -1, "0", 0.0, 10**30):
            assert wrong("delivery_attempt", "is_retry", value).startswith("must be ")

    @pytest.mark.parametrize("name", each("bounce_code"))
    def test_a_bounce_code_is_an_int(self, name: str) -> None:
        for value in (0, 10, 550, -1, 2**63 - 1):
            assert wire(name, bounce_code=value)["bounce_code"] == value
        for wrong_value in ("550", "5.1.1", 550.0, True, 2**63, 10**10000):
            assert wrong(name, "bounce_code", wrong_value).startswith("must be a whole number")

    @pytest.mark.parametrize("name", each("bounce_type"))
    def test_a_bounce_type_is_a_letter(self, name: str) -> None:
        assert [wire(name, bounce_type=letter)["bounce_type"] for letter in "hso"] == ["h", "s", "o"]
        for value, meant in [("hard", "h"), ("SOFT", "s"), ("other", "o"), ("H", "h")]:
            assert wrong(name, "bounce_type", value).endswith(f'; did you mean "{meant}"?')
        for other in ("", "x", "hs", 1, ["h"]):
            assert wrong(name, "bounce_type", other).startswith('must be "h" (hard), "s" (soft) or "o" (other), not ')

    def test_a_status_is_one_of_five(self) -> None:
        for status in ("success", "failure", "failure_toolong", "deferral", "connmaxout"):
            assert wire("delivery_attempt", status=status)["status"] == status
        assert wrong("delivery_attempt", "status", "sucess").endswith('; did you mean "success"?')
        assert wrong("delivery_attempt", "status", "Deferral").endswith('; did you mean "deferral"?')
        unlisted: tuple[object, ...] = ("", "bounced", 250, True, [], "x" * 10**6)
        for value in unlisted:
            assert wrong("delivery_attempt", "status", value).startswith("must be one of success, failure, ")


class TestCustomHeaders:
    def test_a_name_may_repeat_so_each_has_a_list(self) -> None:
        headers = {"X-A": ["1", "2"], "x-a": [], "List-Id": ["<é\t\r\n>"], "!#~": [""]}
        sent = wire("delivery_attempt", headers=headers)
        assert sent["headers"] == headers
        assert list(sent["headers"]) == list(headers)
        assert wire("delivery_attempt", headers={})["headers"] == {}
        assert wire("delivery_attempt", headers=MappingProxyType({"X-A": ("1",)}))["headers"] == {"X-A": ["1"]}

    @pytest.mark.parametrize(
        ("headers", "reason"),
        [
            ({"X-A": "1"}, "has a string for X-A; a name may repeat, so give a list of strings"),
            ({"X-A": 1}, "has 1 for X-A; give a list of strings"),
            ({"X-A": None}, "has null for X-A"),
            ({"X-A": {"1": 1}}, "has an object for X-A"),
            ({"X-A": ["1", 2]}, "has a value for X-A that must be a string, not 2"),
            ({"X-A": [None]}, "has a value for X-A that must be a string, not null"),
            ({"": ["1"]}, "has '' for a name; it takes 1 to 256 printable ASCII characters"),
            ({"X A": ["1"]}, "has 'X A' for a name"),
            ({"X:A": ["1"]}, "has 'X:A' for a name"),
            ({"X\n": ["1"]}, r"has 'X\n' for a name"),
            ({"é": ["1"]}, r"has 'é' for a name"),
            ({"x" * 257: ["1"]}, "has 'x"),
            ({1: ["1"]}, "has 1 for a name"),
            ({f"X-{n}": ["1"] for n in range(1001)}, "has 1001 names; at most 1000 are taken"),
            ({"X-A": ["x" * 300_000]}, "has a value for X-A that has 300000 characters"),
            ({"X-A": ["\ud800"]}, "cannot be written as JSON: str is not valid UTF-8"),
            ([("X-A", ["1"])], "must be an object, header name -> list of strings, not a list"),
            ("X-A: 1", "must be an object, header name -> list of strings, not 'X-A: 1'"),
        ],
        ids=lambda value: ascii(value)[:30],
    )
    def test_what_is_no_header_is_refused(self, headers: object, reason: str) -> None:
        assert wrong("delivery_attempt", "headers", headers).startswith(reason)

    @pytest.mark.parametrize("name", [name for name in WIRE if name != "delivery_attempt"])
    def test_only_delivery_attempts_have_them(self, name: str) -> None:
        assert "belongs to delivery_attempt only" in str(refused(name, given(name, headers={"X-A": ["1"]})))


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


class Plain:
    pass


class TestPassedThrough:
    VALUES: tuple[object, ...] = (
        "text", "", "a\0\n", 0, -(2**63), 2**64 - 1, 1.5, -0.5, True, False, [], {}, [None], {"a": None},
        {"": {"b": [1, "2", 3.5, None, True]}}, nested(64), "smtp",
    )  # fmt: skip

    @pytest.mark.parametrize("field", PASSED_THROUGH)
    def test_any_json_value_is_sent_as_given(self, field: str) -> None:
        for value in self.VALUES:
            sent = wire("delivery_attempt", **{field: value})[field]
            assert (sent, type(sent)) == (value, type(value))

    def test_a_tuple_is_a_list_and_a_subclass_of_dict_an_object(self) -> None:
        assert wire("delivery_attempt", mtaid=(1, (2,)))["mtaid"] == [1, [2]]
        assert wire("delivery_attempt", mtaid=OrderedDict(a=1))["mtaid"] == {"a": 1}

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (math.nan, "holds nan, which JSON cannot say"),
            ([{"a": math.inf}], "holds inf, which JSON cannot say"),
            ({1, 2}, "holds a value of type set, which JSON cannot say"),
            (b"x", "holds a value of type bytes"),
            (Plain(), "holds a value of type Plain"),
            (TestTimes.WHEN, "holds a value of type datetime"),
            (ip_address("::1"), "holds a value of type IPv6Address"),
            ({1: 2}, "holds an object with 1 for a key; JSON has only strings"),
            ([{None: 2}], "holds an object with null for a key"),
            (2**64, "holds a number of about 20 digits; numbers end at 64 bits"),
            (-(2**63) - 1, "holds -9223372036854775809; numbers end at 64 bits"),
            ([10**10000], "holds a number of about 10001 digits"),
            (nested(65), "is nested deeper than 64 levels"),
            (nested(100_000), "is nested deeper than 64 levels"),
            ([0] * 300_000, "holds more values than 262144 bytes of JSON can"),
            ("x" * 300_000, "has 300000 characters"),
            (["\ud800"], "cannot be written as JSON: str is not valid UTF-8"),
            ({"\ud800": 1}, "cannot be written as JSON: str is not valid UTF-8"),
        ],
        ids=lambda value: (
            type(value).__name__ if not isinstance(value, str) else value[:20].encode("ascii", "replace").decode()
        ),
    )
    def test_what_is_not_json_is_refused(self, value: object, reason: str) -> None:
        assert wrong("delivery_attempt", "smtp_timing", value).startswith(reason)

    def test_a_ring_and_a_bomb_end(self) -> None:
        ring: list[Any] = []
        ring.append(ring)
        assert wrong("delivery_attempt", "mtaid", ring).startswith("is nested deeper")
        bomb: list[Any] = ["x"]
        for _ in range(40):
            bomb = [bomb] * 10
        assert wrong("delivery_attempt", "mtaid", bomb).startswith("holds more values")


class TestSize:
    def padded(self, size: int) -> dict[str, object]:
        empty = len(validate("engine_click", given("engine_click", user_agent="")).body)
        return given("engine_click", user_agent="x" * (size - empty))

    def test_256_kib_of_json_are_taken_and_no_byte_more(self) -> None:
        assert len(validate("engine_click", self.padded(262_144)).body) == 262_144
        error = refused("engine_click", self.padded(262_145))
        assert str(error) == (
            "engine_click: the event is 262145 bytes as JSON, and at most 262144 are taken; "
            "its largest field is user_agent"
        )
        assert (error.event_type, error.field) == ("engine_click", None)

    def test_bytes_count_not_characters(self) -> None:
        error = refused("bounce_all", given("bounce_all", bounce_text="é" * 140_000))
        assert "its largest field is bounce_text" in str(error)
        error = refused("bounce_all", given("bounce_all", bounce_text="\0" * 50_000))
        assert "its largest field is bounce_text" in str(error)

    @pytest.mark.parametrize(
        "field", ["email", "listid", "sendid", "click_tracking_id", "click_url", "user_agent", "engine_ip"]
    )
    def test_a_huge_value_is_not_echoed(self, field: str) -> None:
        for value in ("x" * 10**7, "\n" * 10**7):
            assert wrong("engine_click", field, value)


class EvilString(str):
    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("\x1b[31m" * 10**6)

    def __hash__(self) -> int:
        return hash("email")


class EvilNumber(int):
    def __ge__(self, other: object) -> bool:
        raise KeyError

    def bit_length(self) -> int:
        raise MemoryError


class EvilMapping(Mapping[str, object]):
    def __getitem__(self, key: str) -> object:
        raise RecursionError

    def __iter__(self) -> Iterator[str]:
        raise OSError

    def __len__(self) -> int:
        raise RuntimeError


class EvilZone(tzinfo):
    def utcoffset(self, when: datetime | None, /) -> timedelta:
        raise StopIteration

    dst = utcoffset

    def tzname(self, when: datetime | None, /) -> str:
        raise StopIteration


class TestHostileInput:
    @pytest.mark.parametrize(
        ("event_type", "fields"),
        [
            (EvilString("scomp"), {}),
            ("scomp", EvilMapping()),
            ("scomp", {EvilString("x"): 1}),
            ("scomp", {"email": EvilString("email"), "listid": EvilNumber(5)}),
            ("bounce_all", {**given("bounce_all"), "event_time": datetime(2011, 9, 29, tzinfo=EvilZone())}),
            ("delivery_attempt", {**given("delivery_attempt"), "headers": EvilMapping()}),
            ("delivery_attempt", {**given("delivery_attempt"), "mtaid": [EvilNumber(5)]}),
            ("delivery_attempt", {**given("delivery_attempt"), "status": EvilString("success")}),
        ],
        ids=range(8),
    )
    def test_code_that_runs_when_a_value_is_looked_at_cannot_leave(self, event_type: str, fields: Any) -> None:
        refused(event_type, fields)

    def test_a_million_unknown_fields_are_refused_at_once(self) -> None:
        refused("scomp", {f"field{n}": n for n in range(10**6)})


class TestMailClass:
    def test_none_is_no_class(self) -> None:
        assert check_mail_class(None) == ""

    @pytest.mark.parametrize("value", ["promo", "A B", "x" * 128, "~!*", "default"])
    def test_printable_ascii_will_do(self, value: str) -> None:
        assert check_mail_class(value) == value

    @pytest.mark.parametrize(
        "value",
        ["", "x" * 129, "é", "a\n", "\0", "\x7f", "\ud800", 5, True, b"promo", [], "x" * 10**7],
        ids=lambda value: ascii(value)[:12],
    )
    def test_anything_else_is_refused(self, value: object) -> None:
        with pytest.raises(
            InvalidEvent, match=r"^mail_class must be 1 to 128 printable ASCII characters, not "
        ) as caught:
            check_mail_class(value)
        assert caught.value.field == "mail_class"
        assert len(str(caught.value)) < 200


class TestEventId:
    @pytest.mark.parametrize("value", ["1", "msg_2Z", "a" * 64, "!-/:~", "0e2b8f9c-7d5a-4f63-8a51-7c1e3f9a2b4d"])
    def test_printable_ascii_will_do(self, value: str) -> None:
        assert check_event_id(value) == value

    @pytest.mark.parametrize(
        "value",
        ["", "a" * 65, "a.b", "a b", " a", "a\n", "é", "\x7f", "\0", None, 5, b"a", [], "x" * 10**7],
        ids=lambda value: ascii(value)[:12],
    )
    def test_anything_else_is_refused(self, value: object) -> None:
        with pytest.raises(InvalidEvent, match=r"^event_id must be 1 to 64 printable ASCII characters") as caught:
            check_event_id(value)
        assert caught.value.field == "event_id"
        assert len(str(caught.value)) < 200
