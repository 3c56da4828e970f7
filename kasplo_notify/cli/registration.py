"""`endpoint add`, `endpoint update`, `endpoint rotate-secret`: what writes an endpoint's record."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Final

import click

from kasplo_notify.cli.ask import ask
from kasplo_notify.cli.certificates import expiry_warnings
from kasplo_notify.cli.errors import FAILED, Refused, complain, let_go_of_stdout
from kasplo_notify.cli.moments import Span, iso, local
from kasplo_notify.cli.record_options import confidential, given_values, record_options
from kasplo_notify.cli.root import Command
from kasplo_notify.cli.session import Session, pass_session
from kasplo_notify.cli.states import changed_rows, record_json, record_rows
from kasplo_notify.cli.text import document, fields
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.endpoint_checks import change_endpoint, make_endpoint
from kasplo_notify.errors import EndpointError
from kasplo_notify.quantities import span
from kasplo_notify.signature import check_secret, generate_secret
from kasplo_notify.status import redis_ms

_MAX_OVERLAP_S: Final = 30 * 86_400


@click.command(cls=Command)
@click.argument("name")
@click.argument("url")
@record_options(update=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document, the secret in it.")
@pass_session
def add(session: Session, /, name: str, url: str, *, as_json: bool, **options: Any) -> None:
    """Register a subscriber.

    NAME is up to 64 of the characters a-z 0-9 _ -, URL that of its HTTP server.

    From the moment this returns, every event that is emitted goes to it, if it takes the event's mail class and
    type; without --mail-class it takes every class, without --event-type all types. Requests are signed
    (Standard Webhooks) with a secret that is shown once, here.

    Example: kasplo-notify endpoint add crm https://crm.example.com/hook --mail-class promo
    """
    now_s = int(time.time())
    endpoint = make_endpoint(session.config, name=name, url=url, created_at=now_s, **given_values(options))
    warn_of_expiry(endpoint, now_s)
    with session.registry() as registry:
        registry.add(endpoint)
    with written(f"Endpoint {name} is registered", unseen=[endpoint] if options["secret"] is None else []):
        if as_json:
            document(record_json(endpoint, secret=endpoint.secret))
            return
        click.echo(f"Endpoint {name} is registered.")
        fields(record_rows(endpoint, session.config, now_s))
        show_secret(endpoint)
        click.echo(f"Next, one signed sample: kasplo-notify endpoint test {name}")


@click.command(cls=Command)
@click.argument("name")
@click.option("--url", help="Where its events go.")
@record_options(update=True)
@click.option("--all-event-types", is_flag=True, help="Take all event types.")
@click.option("--no-headers", is_flag=True, help="Send no headers of its own.")
@click.option("--no-basic", is_flag=True, help="No HTTP Basic authentication.")
@click.option("--no-ca-file", is_flag=True, help="Trust the system's authorities.")
@click.option("--no-client-cert", is_flag=True, help="Show no certificate; its key is deleted, too.")
@pass_session
def update(
    session: Session,
    /,
    name: str,
    *,
    all_event_types: bool,
    no_headers: bool,
    no_basic: bool,
    no_ca_file: bool,
    no_client_cert: bool,
    **options: Any,
) -> None:
    """Change an endpoint.

    Only what is given changes, and workers follow within a second. A repeatable option replaces all that there was.

    Example: kasplo-notify endpoint update crm --timeout 5 --header 'X-Tenant: 42'
    """
    changes = given_values(options)
    for key, cleared, empty in (
        ("event_types", all_event_types, ()),
        ("headers", no_headers, ()),
        ("basic", no_basic, None),
        ("ca", no_ca_file, None),
        ("client_cert", no_client_cert, None),
        ("client_key", no_client_cert, None),
    ):
        if cleared and key in changes:
            named = "CA file" if key == "ca" else key.replace("_", " ")
            raise Refused(f"The options to set and to clear the {named} exclude each other.")
        if cleared:
            changes[key] = empty
    if not changes:
        raise Refused(f"Nothing to change: give at least one option. See: kasplo-notify endpoint update {name} --help")
    config = session.config
    before: list[Endpoint] = []

    def change(endpoint: Endpoint) -> Endpoint:
        before[:] = [endpoint]
        return change_endpoint(config, endpoint, **changes)

    with session.registry() as registry:
        after = registry.update(name, change)
        now_s = redis_ms(registry.store) / 1000
    warn_of_expiry(after, now_s)
    if before[0] == after:
        click.echo(f"Endpoint {name} is like that already.")
        return
    click.echo(f"Endpoint {name} is changed.")
    fields([(key, how) for key, how in changed_rows(before[0], after, config, now_s)])


@click.command("rotate-secret", cls=Command)
@click.argument("name")
@click.option(
    "--overlap",
    type=Span(_MAX_OVERLAP_S),
    default="24h",
    show_default=True,
    metavar="TIME",
    help="How long requests carry a signature of the old secret as well (30m, 24h, 3d); 0 = not at all.",
)
@click.option(
    "--secret",
    metavar="whsec_...",
    help="The new secret (or @FILE, or @- for standard input); else one is generated.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document, the secret in it.")
@pass_session
def rotate_secret(session: Session, name: str, *, overlap: float, secret: str | None, yes: bool, as_json: bool) -> None:
    """Give an endpoint a new secret.

    It is shown once, here. Until the overlap ends requests carry two signatures, so the subscriber can change
    over at any time. Asks first when an overlap is running: that ends then, as requests carry two signatures at most.

    Example: kasplo-notify endpoint rotate-secret crm --overlap 48h
    """
    new = generate_secret() if secret is None else check_secret(confidential("--secret", secret))
    with session.registry() as registry:
        now_s = redis_ms(registry.store) // 1000
        until = now_s + round(overlap)
        current = registry.get(name)
        if current.old_secret and current.old_secret_until > now_s:
            promised = local(current.old_secret_until * 1000)
            ask(
                f"The secret before the current one was to sign until {promised}; it would end at once. Go on?", yes=yes
            )

        def change(endpoint: Endpoint) -> Endpoint:
            if endpoint.secret == new:
                raise EndpointError(f"endpoint {name!r} signs with this secret already; give another one")
            old = endpoint.secret if overlap else None
            return replace(endpoint, secret=new, old_secret=old, old_secret_until=until if old else 0)

        endpoint = registry.update(name, change)
    with written(f"Endpoint {name} has a new secret", unseen=[endpoint] if secret is None else []):
        if as_json:
            document({"name": name, "secret": new, "old_secret_until": iso(endpoint.old_secret_until * 1000)})
            return
        click.echo(f"Endpoint {name} has a new secret.")
        show_secret(endpoint)
        if endpoint.old_secret:
            ends = local(endpoint.old_secret_until * 1000)
            click.echo(f"The one before signs as well for {span(overlap)}, until {ends}.")
        else:
            click.echo("It alone signs from now on.")


@contextmanager
def written(done: str, *, unseen: Sequence[Endpoint]) -> Iterator[None]:
    """Where what was done is written: when that fails, it was done all the same, and generated secrets are lost."""
    try:
        yield
    except OSError as error:
        names = [endpoint.name for endpoint in unseen if endpoint.secret is not None]
        lost = ""
        if names:
            whose = "its secret" if len(names) == 1 else f"the secrets of {', '.join(names)}"
            lost = f" Nobody has seen {whose}: kasplo-notify endpoint rotate-secret {names[0]} gives another."
        with suppress(OSError):
            complain(f"{done}, but that could not be written ({error.strerror}).{lost}")
        let_go_of_stdout()
        click.get_current_context().exit(FAILED)


def warn_of_expiry(endpoint: Endpoint, now_s: float) -> None:
    for warning in expiry_warnings(endpoint, now_s):
        click.echo(warning, err=True)


def show_secret(endpoint: Endpoint) -> None:
    if endpoint.secret is None:
        click.echo("Its requests are not signed: the subscriber cannot tell who sent them.")
    else:
        click.echo(f"Secret, shown only this once: {endpoint.secret}")
