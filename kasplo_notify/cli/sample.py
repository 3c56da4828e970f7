"""`endpoint test`: one real signed request, by the way that deliveries take."""

import asyncio
import random
import secrets
from dataclasses import dataclass
from typing import Any, Final

import click

from kasplo_notify.cli.errors import FAILED
from kasplo_notify.cli.event_types import EVENT_TYPE
from kasplo_notify.cli.root import Command
from kasplo_notify.cli.session import Session, pass_session
from kasplo_notify.cli.text import clipped, document, masked_header, paint, printable
from kasplo_notify.config import Config
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.events import EVENT_TYPES, validate
from kasplo_notify.guard import EgressGuard
from kasplo_notify.outcome import Outcome
from kasplo_notify.quantities import span
from kasplo_notify.request import Request, RequestBuilder
from kasplo_notify.routing import ANY, DEFAULT
from kasplo_notify.status import redis_ms
from kasplo_notify.stored import Progress, StoredEvent
from kasplo_notify.transport import Transport
from kasplo_notify.verdict import Policy, Verdict, decide

_SHOWN_CHARACTERS: Final = 300
# Ours, and no secrets however they look: an operator compares them with what the subscriber saw.
_OURS: Final = ("webhook-", "x-kasplo-", "user-agent", "content-type")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """What was sent, and what came of it."""

    request: Request
    outcome: Outcome
    verdict: Verdict
    relied_on_allow: bool

    @property
    def accepted(self) -> bool:
        return self.verdict.action == "delivered"


@click.command(cls=Command)
@click.argument("name")
@click.option("--event-type", type=EVENT_TYPE, metavar="T", help="Type of the sample; else the first that it takes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@pass_session
def test(session: Session, name: str, *, event_type: str | None, as_json: bool) -> None:
    """Send one signed sample now.

    It goes past the queue, and the request and the answer are shown. Its id begins with test_, it is not
    stored, and it is sent once. Exit code 0 when the answer is 2xx, else 1.

    Example: kasplo-notify endpoint test crm --event-type scomp
    """
    with session.registry() as registry:
        endpoint = registry.get(name)
        now_s = redis_ms(registry.store) / 1000
    event = _event(endpoint, event_type or next(iter(endpoint.event_types), "engine_click"))
    request = RequestBuilder(endpoint).build(event, attempt=1, timestamp=int(now_s))
    timeout = session.config.delivery.timeout if endpoint.timeout is None else endpoint.timeout
    guard = EgressGuard(session.config.egress)
    outcome = asyncio.run(_send(session.config, guard, request, timeout))
    delays = session.config.delivery.retry_delays if endpoint.retry_delays is None else endpoint.retry_delays
    policy, no_jitter = Policy(retry_delays=delays, jitter=0.0), random.Random(0)  # noqa: S311 - of no consequence
    verdict = decide(outcome, Progress(0, 0, int(now_s * 1000)), policy, now_s, no_jitter)
    sample = _Sample(request=request, outcome=outcome, verdict=verdict, relied_on_allow=guard.relied_on_allow)
    if as_json:
        document(_json(name, event, sample))
    else:
        _show(sample)
    if not sample.accepted:
        click.get_current_context().exit(FAILED)


def _event(endpoint: Endpoint, event_type: str) -> StoredEvent:
    """A sample with the document's values, of a mail class that the endpoint takes."""
    mail_class = next((each for each in endpoint.mail_classes if each not in (ANY, DEFAULT)), "")
    body = validate(event_type, EVENT_TYPES[event_type].example).body
    return StoredEvent(f"test_{secrets.token_hex(12)}", mail_class, body)


async def _send(
    config: Config,
    guard: EgressGuard,
    request: Request,
    timeout: float,  # noqa: ASYNC109 - the transport's
) -> Outcome:
    transport = Transport(config, guard)
    await transport.start()
    try:
        return await transport.send(request, timeout=timeout)
    finally:
        await transport.close()


def _show(sample: _Sample) -> None:
    request, outcome = sample.request, sample.outcome
    click.echo(printable(f"{request.method} {request.url}"))
    for name, value in request.headers:
        click.echo(printable(f"  {name}: {_masked(name, value)}"))
    if request.body:
        click.echo(f"  {_excerpt(request.body)}")
    click.echo()
    if outcome.status is None:
        click.echo(printable(f"No answer after {outcome.duration_ms} ms: {outcome.detail or outcome.error}"))
    else:
        click.echo(f"HTTP {outcome.status} after {outcome.duration_ms} ms")
        if outcome.excerpt:
            click.echo(f"  {_excerpt(outcome.excerpt)}")
        elif outcome.detail:
            click.echo(printable(f"  {outcome.detail}"))
    click.echo()
    click.echo(paint(_judgement(sample), "green" if sample.accepted else "red"))
    if sample.relied_on_allow:
        click.echo("Its address is permitted by egress.allow; workers need the same egress.allow.")


def _judgement(sample: _Sample) -> str:
    """The verdict in words: what would become of an event that is answered like this."""
    status, verdict = sample.outcome.status, sample.verdict
    if sample.accepted:
        return "Accepted: an event that is answered like this is delivered."
    if verdict.action == "pause":
        return "Not accepted: 410 Gone would pause this endpoint until `endpoint resume`; its events are kept."
    if verdict.action == "dead":
        return "Not accepted: an event would become a dead letter, since no retries are configured."
    again = f"an event would be sent again in about {span(verdict.delay)}"
    if status is not None and 300 <= status <= 399:
        return f"Not accepted: redirects are not followed, so register the URL it points to; {again}."
    if status is None:
        return f"Not delivered: {again}."
    return f"Not accepted, only 2xx is: {again}."


def _masked(name: str, value: str) -> str:
    return value if name.lower().startswith(_OURS) else masked_header(name, value)


def _excerpt(body: bytes) -> str:
    text = printable(body)
    short = clipped(text, _SHOWN_CHARACTERS)
    return text if short == text else f"{short} ({len(body):,} bytes)"


def _json(name: str, event: StoredEvent, sample: _Sample) -> dict[str, Any]:
    request, outcome = sample.request, sample.outcome
    return {
        "endpoint": name,
        "event_id": event.id,
        "accepted": sample.accepted,
        "request": {
            "method": request.method,
            "url": request.url,
            "headers": [[key, _masked(key, value)] for key, value in request.headers],
            "body": request.body.decode(errors="replace"),
        },
        "status": outcome.status,
        "duration_ms": outcome.duration_ms,
        "error": outcome.error or None,
        "detail": outcome.detail or None,
        "excerpt": outcome.excerpt.decode(errors="replace"),
        "relied_on_egress_allow": sample.relied_on_allow,
        "verdict": sample.verdict.action,
        "reason": sample.verdict.reason,
    }
