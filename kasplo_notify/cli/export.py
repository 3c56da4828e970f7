"""`endpoint export`: the registry as a file."""

import os
from pathlib import Path

import click
import orjson
import tomli_w

from kasplo_notify.cli.errors import FAILED, Refused, shortened
from kasplo_notify.cli.registry_file import table_of
from kasplo_notify.cli.root import Command
from kasplo_notify.cli.session import Session, pass_session
from kasplo_notify.cli.text import json_text
from kasplo_notify.errors import quoted
from kasplo_notify.quantities import counted
from kasplo_notify.status import redis_ms

# The second is what the umask makes of it.
_PRIVATE, _AS_USUAL = 0o600, 0o666


@click.command(cls=Command)
@click.argument("file", default="-")
@click.option("--with-secrets", is_flag=True, help="Secrets, passwords and keys as well; only you may read FILE then.")
@click.option("--json", "as_json", is_flag=True, help="The same as one JSON document.")
@pass_session
def export(session: Session, file: str, *, with_secrets: bool, as_json: bool) -> None:
    """Write the registry as TOML.

    To FILE, or to standard output. It has what differs from the defaults. Without --with-secrets, `<kept>` stands where
    something is confidential: `endpoint apply` leaves that as it is registered.

    Example: kasplo-notify endpoint export registry.toml
    """
    config = session.config
    with session.registry() as registry:
        _, endpoints, broken = registry.read()
        now_s = redis_ms(registry.store) / 1000
    tables = {
        name: table_of(endpoint, config, now_s, with_secrets=with_secrets)
        for name, endpoint in endpoints.items()
        if not endpoint.removing
    }
    document = {"endpoints": tables}
    text = (
        f"{json_text(document, orjson.OPT_INDENT_2)}\n" if as_json else tomli_w.dumps(document, multiline_strings=True)
    )
    if file == "-":
        click.echo(text, nl=False)
    else:
        _write(file, text, _PRIVATE if with_secrets else _AS_USUAL)
    click.echo(f"{counted(len(tables), 'endpoint')} exported.", err=True)
    for each in broken:
        click.echo(shortened(f"Left out: {each.reason}."), err=True)
    if broken:
        click.get_current_context().exit(FAILED)


def _write(file: str, text: str, mode: int) -> None:
    """The whole text or, where that fails, what was there before."""
    try:
        path = Path(file).resolve()
        if path.exists() and not path.is_file():
            raise Refused(f"{quoted(file)} is no file.")
        beside = path.with_name(f".{path.name[:200]}.{os.getpid()}")
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as out:
                out.write(text)
                out.flush()
                os.fsync(out.fileno())
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "that is no path"
        raise Refused(f"{quoted(file)} cannot be written: {reason}.") from None
