"""Standard Webhooks: who sent this, when, and has it been changed on the way?

The signature of a request is the HMAC-SHA256 of `<webhook-id>.<webhook-timestamp>.<body>`, in base64 behind
`v1,`. While a secret is being rotated there are two, separated by a space.
Source: Standard Webhooks specification 1.0.0, sections "Signature scheme" and "Symmetric".
"""

import base64
import binascii
import hmac
import secrets as randomness
from collections.abc import Mapping, Sequence
from functools import lru_cache

from kasplo_notify.errors import EndpointError

SECRET_PREFIX = "whsec_"  # noqa: S105 - the prefix of secrets, not one
_MIN_BYTES, _MAX_BYTES = 24, 64


def generate_secret() -> str:
    """A new secret: `whsec_` and 32 random bytes in base64."""
    return SECRET_PREFIX + base64.b64encode(randomness.token_bytes(32)).decode()


def check_secret(secret: object) -> str:
    """A secret that an operator brings along.

    Raises:
        EndpointError: It is not `whsec_` followed by the base64 of 24 to 64 bytes. The message does not
            repeat it.
    """
    if type(secret) is not str or not secret.startswith(SECRET_PREFIX):
        raise EndpointError("a secret is whsec_ followed by base64; leave --secret out to have one generated")
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise EndpointError(
            "what follows whsec_ in the secret is not base64 (A-Z a-z 0-9 + / and = at the end)"
        ) from error
    if not _MIN_BYTES <= len(key) <= _MAX_BYTES:
        raise EndpointError(f"the secret has {len(key)} bytes; {_MIN_BYTES} to {_MAX_BYTES} are allowed")
    return secret


def sign(secrets: Sequence[str], event_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`; `timestamp` is in Unix seconds, as in `webhook-timestamp`.

    The one-shot `hmac.digest` takes 1.6 microseconds for an event of 300 bytes, an `hmac` object 3.4.
    """
    signed = b"%b.%d.%b" % (event_id.encode(), timestamp, body)
    return " ".join(["v1," + _digest(secret, signed) for secret in secrets])


def verify(secret: str, headers: Mapping[str, str], body: bytes, now: float, tolerance: float = 300) -> bool:
    """Whether a request bears a valid signature and a fresh timestamp.

    `now` is in Unix seconds; the timestamp may differ from it by `tolerance` seconds. The names in `headers`
    may be of any case.
    """
    given = {name.lower(): value for name, value in headers.items()}
    event_id, stamp = given.get("webhook-id", ""), given.get("webhook-timestamp", "")
    if not event_id or not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
        return False
    if abs(now - int(stamp)) > tolerance:
        return False
    expected = sign([secret], event_id, int(stamp), body).encode()
    return any(
        hmac.compare_digest(expected, candidate.encode()) for candidate in given.get("webhook-signature", "").split(" ")
    )


def _digest(secret: str, signed: bytes) -> str:
    return binascii.b2a_base64(hmac.digest(_key(secret), signed, "sha256"), newline=False).decode("ascii")


@lru_cache(maxsize=4096)
def _key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(SECRET_PREFIX))
