"""The HTTP request of one attempt, as values; `transport` puts it on the wire.

What is the same for every request of an endpoint is made once, in `RequestBuilder`; an attempt adds the
event's own headers, the timestamp and the signature. Sources: the document's sections "HTTP POST", "HTTP GET"
and "Headers"; Standard Webhooks 1.0.0.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.parse import quote, urlencode

import orjson

from kasplo_notify.endpoint import Endpoint
from kasplo_notify.signature import sign
from kasplo_notify.stored import StoredEvent
from kasplo_notify.tls import Tls

# Few servers take 8,000 characters (RFC 9112, section 3). What is beyond this only takes up memory.
MAX_QUERY_URL = 65_536

_PLAIN = re.compile(r"(?! )[ -~]*(?<! )")
_ESCAPE = re.compile(r"%(?=[0-9A-Fa-f]{2})")
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
_EVENT_TYPE = re.compile(r"[a-z_]{1,64}")
_EVENT_ID = re.compile(r"[!-\-/-~]{1,64}")

_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"


class UnbuildableEvent(ValueError):
    """A stored event from which no request can be made: a dead letter, with this message as its reason."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request, ready to be sent.

    Attributes:
        method: POST or GET.
        url: Absolute, percent-encoded.
        headers: In the order in which they are sent. Host and Content-Length follow from the rest. They may hold
            credentials and are not shown in `repr`.
        body: Exactly the bytes that were signed.
        tls: What the endpoint brings along for TLS.
    """

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes
    tls: Tls | None = None

    @property
    def size(self) -> int:
        """Bytes, about."""
        return len(self.url) + len(self.body)


@cache
def user_agent() -> str:
    """`kasplo-notify/<version>`."""
    try:
        return f"kasplo-notify/{version('kasplo-notify')}"
    except PackageNotFoundError:
        return "kasplo-notify/0"


def header_text(value: str) -> str:
    """`value` as a header value: percent-encoded (UTF-8) where it is not printable ASCII.

    So are spaces at either end, which HTTP strips, and a percent sign before two hexadecimal digits: what
    looks like an escape is one. Decoding (`urllib.parse.unquote`) gives every value back as it was.
    """
    if _PLAIN.fullmatch(value) and "%" not in value:
        return value
    text = _ESCAPE.sub("%25", value)
    inner = text.strip(" ")
    before = len(text) - len(text.lstrip(" "))
    after = len(text) - before - len(inner)
    return "%20" * before + quote(inner, safe=_PRINTABLE) + "%20" * after


class RequestBuilder:
    """Builds the requests of one endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._method = endpoint.method
        self._url = endpoint.url
        self._tls = endpoint.tls
        self._form = endpoint.format == "form"
        self._query = self._form and endpoint.method == "GET"
        fixed: list[tuple[str, str]] = [("User-Agent", user_agent())]
        if not self._query:
            fixed.append(("Content-Type", _FORM if self._form else _JSON))
        if endpoint.basic is not None:
            token = base64.b64encode(endpoint.basic.encode()).decode("ascii")
            fixed.append(("Authorization", f"Basic {token}"))
        self._fixed = (*fixed, *endpoint.headers)

    def build(self, event: StoredEvent, attempt: int, timestamp: int) -> Request:
        """The request of one attempt.

        Args:
            event: As it was stored.
            attempt: 1, 2, ...
            timestamp: Of this attempt, in Unix seconds.

        Raises:
            UnbuildableEvent: The stored event is broken.
        """
        fields = _fields(event)
        event_type = fields.get("event_type")
        if type(event_type) is not str or not _EVENT_TYPE.fullmatch(event_type):
            raise UnbuildableEvent("the stored event has no event_type that could be one")
        tracking_id = fields.get("click_tracking_id", "")
        if type(tracking_id) is not str:
            raise UnbuildableEvent("the stored event's click_tracking_id is not a string")
        if not _EVENT_ID.fullmatch(event.id):
            raise UnbuildableEvent("the stored event has no valid id")
        url, body = self._url, event.body
        if self._form:
            body = urlencode([(name, _form_text(value)) for name, value in fields.items()]).encode("ascii")
            if self._query:
                url = f"{url}{'&' if '?' in url else '?'}{body.decode('ascii')}"
                body = b""
                if len(url) > MAX_QUERY_URL:
                    raise UnbuildableEvent(
                        f"as a query string its URL has {len(url):,} characters, and {MAX_QUERY_URL:,} are the most; "
                        "register the endpoint with POST"
                    )
        headers = (
            *self._fixed,
            ("X-Kasplo-Click-Tracking-ID", header_text(tracking_id)),
            ("X-Kasplo-Event-Type", event_type),
            ("X-Kasplo-Mail-Class", header_text(event.mail_class)),
            ("X-Kasplo-Attempt", str(attempt)),
            ("webhook-id", event.id),
            ("webhook-timestamp", str(timestamp)),
        )
        if secrets := self._endpoint.signing_secrets(timestamp):
            headers = (*headers, ("webhook-signature", sign(secrets, event.id, timestamp, body)))
        return Request(self._method, url, headers, body, self._tls)


def _fields(event: StoredEvent) -> Mapping[str, Any]:
    try:
        fields = orjson.loads(event.body)
    except orjson.JSONDecodeError as error:
        raise UnbuildableEvent("the stored event is not JSON") from error
    if type(fields) is not dict:
        raise UnbuildableEvent("the stored event is not a JSON object")
    return fields


def _form_text(value: Any) -> str:
    """A field's value in a form: strings as they are, anything else as JSON writes it."""
    return value if type(value) is str else orjson.dumps(value).decode()
