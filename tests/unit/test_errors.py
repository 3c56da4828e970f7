"""The exception tree, and how messages quote what was given."""

import pickle

import pytest

from kasplo_notify import errors
from kasplo_notify.errors import InvalidEvent, PushError, QueueFull, StorageBroken, StorageUnavailable, nearest, shown

TREE = {
    "NotifyError": "Exception",
    "InvalidEvent": "NotifyError ValueError",
    "ConfigError": "NotifyError ValueError",
    "EndpointError": "NotifyError ValueError",
    "UnknownEndpoint": "EndpointError",
    "EndpointExists": "EndpointError",
    "PushError": "NotifyError",
    "StorageUnavailable": "PushError",
    "StorageRefused": "StorageUnavailable",
    "StorageBroken": "StorageUnavailable",
    "QueueFull": "PushError",
    "AlreadyRunning": "NotifyError",
}


def test_the_tree_is_exactly_this() -> None:
    found = {
        name: " ".join(base.__name__ for base in value.__bases__)
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert found == TREE


def test_every_error_stands_in_the_drawing_at_the_head_of_the_module() -> None:
    assert errors.__doc__ is not None
    assert [name for name in TREE if name not in errors.__doc__] == []


def test_an_invalid_event_says_its_type_and_field() -> None:
    error = InvalidEvent("scomp: email is missing", event_type="scomp", field="email")
    assert (str(error), error.event_type, error.field) == ("scomp: email is missing", "scomp", "email")
    plain = InvalidEvent("no event")
    assert (plain.event_type, plain.field) == (None, None)


@pytest.mark.parametrize("kind", [PushError, StorageUnavailable, StorageBroken, QueueFull])
def test_a_push_error_says_what_is_stored_also_after_a_pickle(kind: type[PushError]) -> None:
    error = pickle.loads(pickle.dumps(kind("Redis is away", event_ids=["a", "b"], pushed=1)))  # noqa: S301
    assert (str(error), error.event_ids, error.pushed) == ("Redis is away", ("a", "b"), 1)
    plain = kind("Redis is away")
    assert (plain.event_ids, plain.pushed) == ((), 0)


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "null"),
        ("Grüße, 世界", "'Grüße, 世界'"),
        ("\u202egnp.exe\u200b\x9b", r"'\u202egnp.exe\u200b\x9b'"),
        (0, "0"),
        (1e99, "1e+99"),
        ({}, "an object"),
        (True, "true"),
        ("it's", '''"it's"'''),
        ("a\nb\x1b[1m", r"'a\nb\x1b[1m'"),
        ("\ud800é", r"'\ud800é'"),
        pytest.param("x" * 10**6, f"'{'x' * 60}'... (1000000 characters)", id="huge string"),
        (-5, "-5"),
        pytest.param(10**10000, "a number of about 10001 digits", id="huge int"),
        (float("nan"), "nan"),
        (1e300, "1e+300"),
        ([1] * 10**6, "a list"),
        (Hostile(), "a value of type Hostile"),
        (type("T" * 1000, (), {})(), f"a value of type {'T' * 60}"),
    ],
)
def test_a_value_is_quoted_short_and_safe_to_print(value: object, expected: str) -> None:
    assert shown(value) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [("emial", "email"), ("Email", "email"), ("LIST_ID", "listid"), ("q", None), ("", None), ("é" * 1000, None)],
)
def test_the_nearest_name_is_found(given: str, expected: str | None) -> None:
    assert nearest(given, ["email", "listid", "sendid"]) == expected
