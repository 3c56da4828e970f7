"""What holds for any input whatever. Each property takes bytes, returns None, and raises when it has found something.

An exception that is documented is caught where it is documented, so any other one is a find; so is an input that takes
long. What is accepted has to be stable: read again, or checked again, it is what it was.
"""

import asyncio
import io
import ipaddress
import math
import random
import re
import socket
from dataclasses import replace
from functools import cache
from urllib.parse import unquote, urlsplit

import orjson
from yarl import URL

from kasplo_notify.cli.certificates import expiry_warnings, tls_json, tls_rows
from kasplo_notify.config import Config
from kasplo_notify.config_sections import EgressConfig
from kasplo_notify.dead import _letter
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.errors import EndpointError, InvalidEvent
from kasplo_notify.events import EVENT_TYPES, check_event_id, check_mail_class, validate
from kasplo_notify.guard import MAX_URL_CHARACTERS, AddressBlocked, EgressGuard
from kasplo_notify.headers import check_basic, check_headers, parse_header
from kasplo_notify.health import Health
from kasplo_notify.held import Item
from kasplo_notify.json_lines import read_lines
from kasplo_notify.outcome import Outcome
from kasplo_notify.request import RequestBuilder, UnbuildableEvent
from kasplo_notify.signature import check_secret, sign, verify
from kasplo_notify.spool import record as spooled
from kasplo_notify.status import _attempt
from kasplo_notify.stored import BrokenRecord, Progress, StoredEvent, split_retry
from kasplo_notify.tls import context_of
from kasplo_notify.transport import Transport, _wire
from kasplo_notify.verdict import MAX_RETRY_AFTER_S, MIN_RETRY_AFTER_S, Policy, decide, parse_retry_after
from tests.fuzz.answering import answered
from tests.fuzz.source import Source

_NOW = 1_700_000_000.0
_POLICY = Policy(retry_delays=(30.0,), jitter=0.0)
ENDPOINT = Endpoint(name="e", url="https://hooks.example.com/in")
_LIMIT = 1 << 53


# --- events -------------------------------------------------------------------------------------------------------


def event(data: bytes) -> None:
    """Any type, any fields: an event that is the same when it is read and emitted again, or `InvalidEvent`."""
    source = Source(data)
    names = list(EVENT_TYPES)
    name = source.one_of(names) if source.byte() % 8 else source.text()
    given: object = dict(EVENT_TYPES[name].example) if name in EVENT_TYPES else {}
    if isinstance(given, dict):
        known = [field.name for field in EVENT_TYPES.get(name, EVENT_TYPES[names[0]]).fields]
        while source:
            key = source.one_of(known) if source.byte() % 8 else source.text()
            if source.byte() % 8:
                given[key] = source.value()
            else:
                given.pop(key, None)
    _accepted(name, given if data[:1] != b"\xff" else source.value())
    for check in (check_mail_class, check_event_id):
        try:
            assert check(value := Source(data).value()) == (value or "")
        except InvalidEvent as error:
            _told(error)


def line(data: bytes) -> None:
    """Lines of JSON as `emit` takes them: each is refused with a sentence, or its fields go the way of any event."""
    for each in read_lines(io.BytesIO(data)):
        if each is None:
            continue
        assert each.number > 0
        assert not (each.refused and each.fields)
        if not each.refused:
            _accepted(each.fields.get("event_type"), each.fields)


def _accepted(name: object, fields: object) -> None:
    try:
        accepted = validate(name, fields)  # type: ignore[arg-type]
    except InvalidEvent as error:
        _told(error)
        return
    read = orjson.loads(accepted.body)
    assert read["event_type"] == accepted.event_type
    assert read["email"] == accepted.email
    assert b"\n" not in accepted.body
    assert validate(accepted.event_type, read) == accepted
    stored = StoredEvent("msg_1", "", accepted.body)
    assert StoredEvent.unpack(stored.pack()) == stored
    for endpoint in (ENDPOINT, replace(ENDPOINT, format="form"), replace(ENDPOINT, format="form", method="GET")):
        _on_the_wire(endpoint, stored)


def _told(error: Exception) -> None:
    """A message is one line that can be printed and read."""
    message = str(error)
    assert message.isprintable(), message
    assert 0 < len(message) < 1000, message


# --- endpoints ----------------------------------------------------------------------------------------------------


def url(data: bytes) -> None:
    """A URL is refused, or normal for ever, and nobody reads another host in it than the guard did."""
    given = data.decode("utf-8", "surrogateescape")
    guard = EgressGuard(EgressConfig())
    try:
        normal = guard.check_url(given)
    except EndpointError as error:
        _told(error)
        return
    assert guard.check_url(normal) == normal
    assert re.fullmatch(r"https?://[!-~]+", normal)
    assert len(normal) <= MAX_URL_CHARACTERS
    split = urlsplit(normal)
    assert split.username is split.password is None
    assert not split.fragment
    host = split.hostname or ""
    parsed = URL(normal, encoded=True)
    assert (parsed.raw_host, parsed.port) == (host, split.port or (443 if split.scheme == "https" else 80))
    assert host.rpartition(".")[2] not in ("localhost", "localdomain")
    try:
        address = socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        address = host
    else:
        assert address == host, "to a resolver it is another address"
    if address != host or ":" in host or host.replace(".", "").isdigit():
        assert _is_public(address), address
    endpoint = replace(ENDPOINT, url=normal)
    assert Endpoint.from_json(endpoint.to_json()) == endpoint
    _on_the_wire(endpoint, StoredEvent("msg_1", "", b'{"event_type":"scomp"}'))


def address(data: bytes) -> None:
    """An address is blocked, or one that Python, too, calls public."""
    text = data.decode("utf-8", "replace")
    if len(data) in (4, 16):
        text = str(ipaddress.ip_address(data))
    guard = EgressGuard(EgressConfig())
    try:
        guard.check_address(text, 443)
    except AddressBlocked:
        return
    assert _is_public(text), text


def _is_public(text: str) -> bool:
    parsed = ipaddress.ip_address(text)
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    special = (parsed.is_private, parsed.is_loopback, parsed.is_link_local, parsed.is_multicast)
    return not any((*special, parsed.is_reserved, parsed.is_unspecified))


def header(data: bytes) -> None:
    """A header, credentials, a secret: refused, or nothing that could end a line of the request."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        pair = parse_header(text)
    except EndpointError as error:
        _told(error)
    else:
        assert check_headers([pair]) == (pair,)
        assert parse_header(f"{pair[0]}: {pair[1]}") == pair
        _on_the_wire(replace(ENDPOINT, headers=(pair,)), StoredEvent("msg_1", "", b'{"event_type":"scomp"}'))
    try:
        basic = check_basic(text)
    except EndpointError as error:
        _told(error)
    else:
        _on_the_wire(replace(ENDPOINT, basic=basic), StoredEvent("msg_1", "", b'{"event_type":"scomp"}'))
    try:
        secret = check_secret(text)
    except EndpointError as error:
        _told(error)
        return
    signed = {"webhook-id": "a", "webhook-timestamp": "1", "webhook-signature": sign([secret], "a", 1, data)}
    assert verify(secret, signed, data, 1)


def signed(data: bytes) -> None:
    """Whatever the headers of a request say, `verify` answers; it says yes to none that was not signed."""
    source = Source(data)
    headers = {
        "webhook-id": source.text(),
        "Webhook-Timestamp": source.text() or "1700000000",
        "webhook-signature": source.text(),
    }
    secret = "whsec_" + "A" * 32
    try:
        assert not verify(secret, headers, source.rest(), _NOW)
    except UnicodeEncodeError:
        assert any("\ud800" <= letter <= "\udfff" for value in headers.values() for letter in value)


# --- stored records -----------------------------------------------------------------------------------------------


def stored(data: bytes) -> None:
    """An event as Redis has it: broken, or the same when it is stored again; and a request, or unbuildable."""
    try:
        progress, packed = split_retry(data)
    except BrokenRecord:
        packed = data
    else:
        assert Progress.unpack(progress.pack()) == progress
        assert min(progress.attempts, progress.free, progress.first_due_ms) >= 0
        assert max(progress.attempts, progress.free, progress.first_due_ms) <= _LIMIT
    Item.read((b"r", data, b"1", b""), 0)
    letter = _letter("e", "1700000000000-0", {b"e": packed, b"p": data, b"r": data, b"d": data})
    assert isinstance(letter.event_type, str)
    try:
        kept = StoredEvent.unpack(packed)
    except BrokenRecord:
        assert letter.event is None
        return
    assert letter.event == kept
    assert kept.pack() == packed
    for endpoint in (ENDPOINT, replace(ENDPOINT, format="form"), replace(ENDPOINT, format="form", method="GET")):
        _on_the_wire(endpoint, kept)


def endpoint(data: bytes) -> None:
    """An endpoint's record: refused, or the same when it is stored again; and requests and TLS can be made for it."""
    try:
        read = Endpoint.from_json(data)
    except EndpointError as error:
        _told(error)
        return
    assert Endpoint.from_json(read.to_json()) == read
    assert read.timeout is None or math.isfinite(read.timeout)
    if read.tls is not None:
        context_of(read.tls)
        shown = [*map(str, tls_json(read).values()), *map(str, tls_rows(read, _NOW)), *expiry_warnings(read, _NOW)]
        assert all(each.isprintable() for each in shown)
    _on_the_wire(read, StoredEvent("msg_1", "", b'{"event_type":"scomp","email":"a"}'))


def counters(data: bytes) -> None:
    """What the scripts keep of endpoints and attempts, whoever wrote it."""
    source = Source(data)
    names = [b"paused", b"open", b"fails", b"probe_at", b"id", b"attempt", b"status", b"ms", b"excerpt", b"detail"]
    fields = {}
    while source:
        name = source.one_of(names)
        fields[name] = source.blob() * (1 + source.byte() % 20)
    health = Health.read(fields)
    assert min(health.fails, health.probe_at) >= 0
    attempt = _attempt("1700000000000-0", fields)
    assert attempt.status is None or 0 <= attempt.status < 10**15


def spool(data: bytes) -> None:
    """A segment: every byte is of a record, broken or torn; and records are found between whatever there is."""
    reading = spooled.read(data)
    whole = sum(len(spooled.pack(each)) for each in reading.events)
    assert whole + reading.broken + reading.torn == len(data)
    mine = spooled.SpooledEvent("msg_1", "class", "scomp", "a@b", b'{"a":1}')
    among = spooled.read(data + spooled.pack(mine) + data)
    assert mine in among.events


# --- answers ------------------------------------------------------------------------------------------------------


def retry_after(data: bytes) -> None:
    """A time to wait within its bounds, or none; and so is what becomes of it."""
    text = data.decode("utf-8", "surrogateescape")
    seconds = parse_retry_after(text, _NOW)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER_S
    for status in (429, 503):
        verdict = decide(
            Outcome(status=status, duration_ms=1, retry_after=text), Progress(0, 0, 0), _POLICY, _NOW, random.Random(1)
        )
        assert verdict.action == "retry"
        wait = verdict.endpoint_wait
        assert wait is None or MIN_RETRY_AFTER_S <= wait <= MAX_RETRY_AFTER_S
        assert (wait is None) == (seconds is None and status == 503)


def answer(data: bytes) -> None:
    """Bytes as an answer, whole and in pieces: an outcome, whose status does not hang on how the bytes came."""
    source = Source(data)
    reused = source.byte() % 2 == 1
    cuts = sorted(source.byte() * (1 + source.byte() % 4) for _ in range(source.byte() % 6))
    sent = source.rest() * (1 + (data[:1] > b"\xf0") * 200)
    ends = [*cuts, len(sent)]
    pieces = [sent[begin:end] for begin, end in zip([0, *cuts], ends, strict=True)]
    outcomes = [
        _outcome(each, reused=reused)
        for each in ([sent], pieces, [bytes([byte]) for byte in sent[:200]] + [sent[200:]])
    ]
    statuses = {outcome.status for outcome in outcomes if outcome is not None and outcome.status is not None}
    assert len(statuses) <= 1, outcomes
    assert not _broken, _broken.pop()
    assert (None in outcomes) == (reused and not sent)


def _outcome(pieces: list[bytes], *, reused: bool) -> Outcome | None:
    outcome = answered([piece for piece in pieces if piece], _loop(), reused=reused)
    if outcome is None:
        return None
    assert outcome.status is None or 0 <= outcome.status <= 999
    assert (outcome.status is None) == bool(outcome.error)
    assert outcome.error in ("", "protocol", "reset")
    assert bool(outcome.detail) or not outcome.error
    assert len(outcome.excerpt) <= 512
    verdict = decide(outcome, Progress(0, 0, 0), _POLICY, _NOW, random.Random(1))
    assert (verdict.action == "delivered") == (outcome.status is not None and 200 <= outcome.status <= 299)
    return outcome


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _, context: _broken.append(context))
    return loop


_broken: list[object] = []


def close() -> None:
    """Close what the properties share."""
    _loop().close()
    _loop.cache_clear()
    _transport.cache_clear()


# --- requests -----------------------------------------------------------------------------------------------------


@cache
def _transport() -> Transport:
    transport = Transport(Config(), EgressGuard(EgressConfig()))
    transport._loop = _loop()
    return transport


def _on_the_wire(endpoint: Endpoint, event: StoredEvent) -> None:
    """The request is one request, with the headers it should have, or the event is told to be unbuildable."""
    try:
        request = RequestBuilder(endpoint).build(event, 1, 1_700_000_000)
    except UnbuildableEvent:
        return
    try:
        target = _transport()._target(request.url)
    except EndpointError as error:
        _told(error)
        return
    wire = _wire(request, target)
    head, _, body = wire.partition(b"\r\n\r\n")
    assert body == request.body
    assert re.fullmatch(rb"[ -~\r\n]*", head)
    lines = head.split(b"\r\n")
    names = [line.partition(b":")[0].lower() for line in lines[1:]]
    assert re.fullmatch(rb"(POST|GET) [!-~]+ HTTP/1\.1", lines[0])
    assert all(re.fullmatch(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", name) for name in names)
    for name in (b"host", b"content-length", b"webhook-id", b"x-kasplo-event-type", b"x-kasplo-mail-class"):
        assert names.count(name) == 1 or (name == b"content-length" and not body)
    values = dict(request.headers)
    assert unquote(values["X-Kasplo-Mail-Class"]) == event.mail_class
