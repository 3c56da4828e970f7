"""The catalogue: the seven event types, their fields in wire order, an example of each.

Pure data. The Kasplo webhook document tabulates scomp, engine_click, engine_unsub and delivery_attempt.
engine_open and the two bounces come from the Event Notification System of GreenArrow Engine, from which it
descends, as do the optional fields that the document does not have. `events.validate` holds events to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Kind = Literal[
    "event_type", "email", "id", "tracking_id", "text", "url", "ip", "seconds", "number", "time", "bool",
    "int", "zero_or_one", "bounce_type", "status", "headers", "json",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of one event type.

    `kind` selects the check in `events`, `type` says the same to a reader. `source` is "document",
    or "engine" for what the older system adds.
    """

    name: str
    kind: Kind
    type: str
    required: bool
    description: str
    source: Literal["document", "engine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventType:
    """One event type; `fields` are in wire order, `example` is a whole event as a subscriber gets it."""

    name: str
    title: str
    fields: tuple[Field, ...]
    example: Mapping[str, object]


STATUSES = ("success", "failure", "failure_toolong", "deferral", "connmaxout")
BOUNCE_TYPES = MappingProxyType({"h": "hard", "s": "soft", "o": "other"})

# What a reader is told about a kind. The wire has exactly these JSON types.
_TYPES: Mapping[Kind, str] = {
    "event_type": "string",
    "email": 'string, not ""',
    "id": "string",
    "tracking_id": 'string, may be ""',
    "text": "string",
    "url": 'string, not ""',
    "ip": "string, IPv4 or IPv6 address",
    "seconds": "int, Unix seconds",
    "number": "float or int, Unix seconds",
    "time": "int or float, Unix seconds",
    "bool": "bool",
    "int": "int",
    "zero_or_one": "int, 0 or 1",
    "bounce_type": '"h" (hard), "s" (soft) or "o" (other)',
    "status": ", ".join(STATUSES[:-1]) + f" or {STATUSES[-1]}",
    "headers": "object: header name -> list of strings",
    "json": "any JSON value, passed through as given",
}

# Every field: its kind and what it means, the same in every type unless an entry `type.field` says otherwise.
_FIELDS: Mapping[str, tuple[Kind, str]] = {
    "event_type": ("event_type", "The type of the event."),
    "event_time": ("seconds", "When the event happened."),
    "email": ("email", "The address that the message was to."),
    "listid": ("id", "The mailing list that the message is a part of."),
    "sendid": ("id", "The internal identifier of the send."),
    "click_url": ("url", "The URL of the link that was clicked on."),
    "engine_unsub.click_url": (
        "text",
        'The destination of the unsubscribe link; "" for an unsubscribe by List-Unsubscribe header.',
    ),
    "click_tracking_id": (
        "tracking_id",
        "The X-Kasplo-Click-Tracking-ID of the message; traces the event back to it.",
    ),
    "engine_ip": ("ip", "The IP address that generated the click or open."),
    "user_agent": ("text", "The user agent that generated the click or open."),
    "is_privacy_open": ("bool", "Whether the open came from a mail privacy proxy rather than a reader."),
    "bounce_type": ("bounce_type", "How severe the bounce is."),
    "bounce_code": ("int", "The numeric code of the bounce."),
    "bounce_text": ("text", "The text of the bounce."),
    "synchronous": ("bool", "Whether the receiving server refused the message during the SMTP connection."),
    "timestamp": ("number", "When the delivery was attempted."),
    "status": ("status", "The result of the delivery attempt."),
    "is_retry": ("zero_or_one", "0 for the first delivery attempt of the message, 1 otherwise."),
    "injected_time": ("time", "When the message was injected into the queue."),
    "message": ("text", "The success, failure or deferral message of the attempt."),
    "outmtaid_ip": ("ip", "The outgoing IP address that was used."),
    "from_address": ("text", "The first address in the From header, as originally injected."),
    "headers": ("headers", "Custom headers of the message; a name may repeat, so each has a list of values."),
    "channel": ("json", "How the message was delivered, such as smtp."),
    "msguid": ("json", "The unique identifier of the message in the queue."),
    "sender": ("json", "The envelope sender."),
    "mtaid": ("json", "The identifier of the virtual MTA that was asked for."),
    "outmtaid": ("json", "The identifier of the IP address that was used."),
    "outmtaid_hostname": ("json", "The hostname of the outgoing IP address."),
    "sendsliceid": ("json", "The part of the send that the message belongs to."),
    "throttleid": ("json", "The throttle that applied to the attempt."),
    "mx_hostname": ("json", "The hostname of the receiving mail server."),
    "mx_ip": ("json", "The IP address of the receiving mail server."),
    "message_size": ("json", "The size of the message in bytes."),
    "smtp_timing": ("json", "How long the steps of the SMTP conversation took."),
}


def _event_type(title: str, fields: str, example: Mapping[str, object], *, documented: bool) -> EventType:
    """`fields` in wire order, optional ones in brackets; `documented`: the document has the type's table."""
    name = str(example["event_type"])
    rows = []
    for word in fields.split(", "):
        field = word.strip("[]")
        required = field == word
        kind, description = _FIELDS.get(f"{name}.{field}", _FIELDS[field])
        # The document describes custom headers in its text; its tables have required fields only.
        in_document = documented and (required or field == "headers")
        rows.append(
            Field(
                name=field,
                kind=kind,
                type=_TYPES[kind],
                required=required,
                description=description,
                source="document" if in_document else "engine",
            )
        )
    return EventType(name=name, title=title, fields=tuple(rows), example=MappingProxyType(dict(example)))


_MESSAGE = {"email": "customer@example.com", "listid": "t99", "sendid": "t9920110705"}
_USER_AGENT = (
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_10_3) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/44.0.2403.89 Safari/537.36"
)
_BOUNCE = {
    "event_time": 1317305252,
    **_MESSAGE,
    "bounce_type": "h",
    "bounce_code": 10,
    "bounce_text": "550 5.1.1 <customer@example.com>: no such user",
    "click_tracking_id": "1927393",
}

# In the document's order: spam complaints, clicks, opens, unsubscribes, bounces, delivery attempts.
_ALL = (
    _event_type(
        "Spam complaint",
        "event_type, [event_time], email, listid, sendid, click_tracking_id",
        {"event_type": "scomp", **_MESSAGE, "click_tracking_id": "1927393"},
        documented=True,
    ),
    _event_type(
        "Click",
        "event_type, event_time, email, listid, sendid, click_url, click_tracking_id, engine_ip, user_agent",
        {
            "event_type": "engine_click",
            "event_time": 1317305252,
            **_MESSAGE,
            "click_url": "http://www.example.com",
            "click_tracking_id": "1927393",
            "engine_ip": "1.2.3.4",
            "user_agent": _USER_AGENT,
        },
        documented=True,
    ),
    _event_type(
        "Open",
        "event_type, event_time, email, listid, sendid, click_tracking_id, engine_ip, user_agent, [is_privacy_open]",
        {
            "event_type": "engine_open",
            "event_time": 1317305252,
            **_MESSAGE,
            "click_tracking_id": "1927393",
            "engine_ip": "1.2.3.4",
            "user_agent": _USER_AGENT,
        },
        documented=False,
    ),
    _event_type(
        "Unsubscribe",
        "event_type, event_time, email, listid, sendid, click_url, click_tracking_id",
        {
            "event_type": "engine_unsub",
            "event_time": 1317305252,
            **_MESSAGE,
            "click_url": "http://www.example.com/unsub.php",
            "click_tracking_id": "1927393",
        },
        documented=True,
    ),
    _event_type(
        "Bounce, every one, for statistics",
        "event_type, event_time, email, listid, sendid, bounce_type, bounce_code, bounce_text, "
        "click_tracking_id, [synchronous]",
        {"event_type": "bounce_all", **_BOUNCE},
        documented=False,
    ),
    _event_type(
        "Bounce of a bad address, to act on",
        "event_type, event_time, email, listid, sendid, bounce_type, bounce_code, bounce_text, click_tracking_id",
        {"event_type": "bounce_bad_address", **_BOUNCE},
        documented=False,
    ),
    _event_type(
        "Delivery attempt",
        "event_type, email, listid, sendid, click_tracking_id, timestamp, status, is_retry, injected_time, "
        "message, outmtaid_ip, from_address, [headers], [channel], [msguid], [sender], [mtaid], [outmtaid], "
        "[outmtaid_hostname], [sendsliceid], [throttleid], [mx_hostname], [mx_ip], [message_size], "
        "[smtp_timing]",
        {
            "event_type": "delivery_attempt",
            **_MESSAGE,
            "click_tracking_id": "1927393",
            "timestamp": 1317305252.08338,
            "status": "success",
            "is_retry": 0,
            "injected_time": 1490817966,
            "message": "207.99.125.72 accepted message./Remote host said: 250 ok 1490817966 qp 13613/",
            "outmtaid_ip": "127.0.0.1",
            "from_address": "from@example.com",
        },
        documented=True,
    ),
)

EVENT_TYPES: Mapping[str, EventType] = MappingProxyType({event_type.name: event_type for event_type in _ALL})
