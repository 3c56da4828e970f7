"""Standard Webhooks signatures: the published vector, the reference library, rotation, hostile headers."""

import base64
from datetime import UTC, datetime

import pytest
from standardwebhooks.webhooks import Webhook

from kasplo_notify.errors import EndpointError
from kasplo_notify.signature import check_secret, generate_secret, sign, verify

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID, STAMP, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def headers(signature: str, stamp: int | str = STAMP, event_id: str = ID) -> dict[str, str]:
    return {"Webhook-Id": event_id, "WEBHOOK-TIMESTAMP": str(stamp), "webhook-signature": signature}


def test_the_vector_of_the_specification() -> None:
    assert sign([SECRET], ID, STAMP, BODY) == SIGNATURE
    assert verify(SECRET, headers(SIGNATURE), BODY, STAMP)


def test_the_reference_library_verifies_ours() -> None:
    now = int(datetime.now(UTC).timestamp())
    for secret in (SECRET, generate_secret()):
        body = b'{"event_type":"scomp","email":"k\xc3\xb6nig@example.com"}'
        given = {
            "webhook-id": "e1",
            "webhook-timestamp": str(now),
            "webhook-signature": sign([secret], "e1", now, body),
        }
        assert Webhook(secret).verify(body, given)["event_type"] == "scomp"


def test_during_rotation_either_secret_verifies_and_the_current_one_comes_first() -> None:
    old, new = generate_secret(), generate_secret()
    both = sign([new, old], ID, STAMP, BODY)
    assert both.split(" ") == [sign([new], ID, STAMP, BODY), sign([old], ID, STAMP, BODY)]
    assert verify(new, headers(both), BODY, STAMP)
    assert verify(old, headers(both), BODY, STAMP)
    assert not verify(generate_secret(), headers(both), BODY, STAMP)


def test_the_reference_library_accepts_both_secrets_of_a_rotation() -> None:
    now = int(datetime.now(UTC).timestamp())
    old, new = generate_secret(), generate_secret()
    given = {
        "webhook-id": "e1",
        "webhook-timestamp": str(now),
        "webhook-signature": sign([new, old], "e1", now, BODY),
    }
    for secret in (old, new):
        assert Webhook(secret).verify(BODY, given)


def test_an_empty_body_is_signed_too() -> None:
    assert verify(SECRET, headers(sign([SECRET], ID, STAMP, b"")), b"", STAMP)


def test_anything_changed_on_the_way_is_noticed() -> None:
    assert not verify(SECRET, headers(SIGNATURE), BODY + b" ", STAMP)
    assert not verify(SECRET, headers(SIGNATURE, event_id="other"), BODY, STAMP)
    assert not verify(SECRET, headers(SIGNATURE, STAMP + 1), BODY, STAMP)


def test_a_timestamp_is_good_for_five_minutes_either_way() -> None:
    for off in (-300, 300):
        assert verify(SECRET, headers(SIGNATURE), BODY, STAMP + off)
    for off in (-301, 301):
        assert not verify(SECRET, headers(SIGNATURE), BODY, STAMP + off)


@pytest.mark.parametrize(
    "given",
    [
        {},
        headers(""),
        headers("v1"),
        headers("v1,"),
        headers("v2," + SIGNATURE[3:]),
        headers(SIGNATURE[3:]),
        headers("ü" + SIGNATURE),
        headers(SIGNATURE, "-5"),
        headers(SIGNATURE, "²"),
        headers(SIGNATURE, "9" * 5000),
        headers(SIGNATURE, event_id=""),
    ],
)
def test_hostile_headers_do_not_verify_and_do_not_raise(given: dict[str, str]) -> None:
    assert verify(SECRET, given, BODY, STAMP) is False


def test_generated_secrets_are_valid_and_differ() -> None:
    made = {generate_secret() for _ in range(100)}
    assert len(made) == 100
    assert all(check_secret(each) == each for each in made)
    assert all(len(base64.b64decode(each.removeprefix("whsec_"))) == 32 for each in made)


@pytest.mark.parametrize("size", [24, 32, 64])
def test_a_secret_of_24_to_64_bytes_is_accepted(size: int) -> None:
    secret = "whsec_" + base64.b64encode(bytes(size)).decode()
    assert check_secret(secret) == secret


@pytest.mark.parametrize(
    "secret",
    [
        None,
        5,
        "",
        "whsec_",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa Sw",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS-",
        "whsec_" + "ü" * 40,
        "whsec_" + base64.b64encode(bytes(25)).decode().rstrip("="),
    ],
)
def test_other_secrets_are_refused_and_not_repeated(secret: object) -> None:
    with pytest.raises(EndpointError) as refused:
        check_secret(secret)
    assert "MfKQ9r8" not in str(refused.value)
