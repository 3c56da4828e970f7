"""`config ...`: what is configured, and where it comes from."""

from pathlib import Path
from typing import Any, Final

import click

from kasplo_notify.cli.root import Group
from kasplo_notify.cli.session import Session, pass_session
from kasplo_notify.cli.text import clipped, document, printable, table
from kasplo_notify.config import toml
from kasplo_notify.quantities import counted

_WIDEST: Final = 60


@click.group(cls=Group)
def config() -> None:
    """Check and show the configuration.

    Example: kasplo-notify config show
    """


@config.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@pass_session
def check(session: Session, *, as_json: bool) -> None:
    """Check the configuration.

    It is read as every command reads it; when it is wrong, one sentence says where, and the exit code is 3. Redis is
    not asked.

    Example: kasplo-notify --config /etc/kasplo.toml config check
    """
    loaded = session.config
    given = [setting for setting in loaded.describe() if setting.source != "default"]
    idle = [setting.key for setting in given if "no effect" in setting.comment]
    file = printable(str(loaded.file)) if loaded.file else None
    if as_json:
        sources = {setting.key: printable(setting.source) for setting in given}
        document({"in_order": True, "file": file, "given": sources, "without_effect": idle, "redis_asked": False})
        return
    origin = f"file {file}" if file else "no file"
    click.echo(f"The configuration is in order: {origin}, {counted(len(given), 'key')} given, the others at defaults.")
    for key in idle:
        click.echo(f"{key} is given and has no effect in this version.")
    click.echo("This does not ask Redis: `kasplo-notify status` does.")


@config.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@pass_session
def show(session: Session, *, as_json: bool) -> None:
    """Show every key with its value.

    And where it was given. Secrets are not shown.

    Example: KASPLO_DELIVERY__DELAY=5 kasplo-notify config show
    """
    settings = session.config.describe()
    if as_json:
        document(
            [
                {
                    "key": setting.key,
                    "value": _plain(setting.value),
                    "default": _plain(setting.default),
                    "source": printable(setting.source),
                    "comment": setting.comment,
                }
                for setting in settings
            ]
        )
        return
    rows = [[setting.key, _short(setting.value), setting.source] for setting in settings]
    table(["KEY", "VALUE", "FROM"], rows)


def _short(value: object) -> str:
    text = toml(value)
    short = text if len(text) <= _WIDEST else clipped(text, _WIDEST - 20)
    if short != text and isinstance(value, tuple):
        return f"{short.rpartition(',')[0]}, ...] ({len(value)} items)"
    return short


def _plain(value: object) -> Any:
    # A path may have bytes that are no text, which JSON cannot say.
    return printable(str(value)) if isinstance(value, Path) else value
