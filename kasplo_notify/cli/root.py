"""The root of the commands: their order, the global options, and what becomes of errors."""

import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from inspect import cleandoc
from typing import Any, Final, NoReturn

import click

import kasplo_notify
from kasplo_notify.cli.errors import INTERRUPTED, let_go_of_stdout, report
from kasplo_notify.cli.session import Session
from kasplo_notify.errors import nearest, quoted
from kasplo_notify.quantities import counted

# In the order of an operator's tasks: command -> module. Only the module of the command that runs is imported:
# all of them with redis-py and aiohttp take 300 ms, which every `emit` of a shell script would pay.
_COMMANDS: Final[Mapping[str, Mapping[str, str]]] = {
    "Run": {"up": "run", "worker": "run"},
    "Subscribers": {"endpoint": "endpoint", "route": "route"},
    "Events": {"events": "events", "emit": "emit", "spool": "spool"},
    "Watch": {"status": "status", "attempts": "attempts", "dead": "dead", "doctor": "doctor"},
    "Set up": {"config": "config"},
}
_HIDDEN: Final = {"worker-child": "run"}
_MODULES: Final = {name: module for part in _COMMANDS.values() for name, module in part.items()} | _HIDDEN


def _remember(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    session = ctx.ensure_object(Session)
    if value is not None and param.name is not None:
        setattr(session, param.name, value)


def global_options(*, hidden: bool) -> list[click.Parameter]:
    """The options that every command takes."""
    return [
        click.Option(
            ["--config", "config_file"],
            metavar="FILE",
            expose_value=False,
            hidden=hidden,
            callback=_remember,
            help="Configuration file; else KASPLO_CONFIG, else ./config.toml.",
        ),
        click.Option(
            ["--redis-url", "redis_url"],
            metavar="URL",
            expose_value=False,
            hidden=hidden,
            callback=_remember,
            help="Redis, instead of redis.url (KASPLO_REDIS__URL).",
        ),
    ]


def _keep_lines(text: str | None) -> str | None:
    """Help whose examples and tables click does not fill into paragraphs: it looks for a backspace before them."""
    return text and re.sub(r"\n\n(?=Examples?:|Exit codes:)", "\n\n\b\n", cleandoc(text))


class Command(click.Command):
    """A command; the global options may stand behind it as well."""

    allow_extra_args = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.help = _keep_lines(self.help)
        self.params += global_options(hidden=True)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # click would repeat them, and of --header Authorization: Bearer TOKEN without quotes the token is one.
        if (extra := super().parse_args(ctx, args)) and not ctx.resilient_parsing:
            more = counted(len(extra), "argument")
            raise click.UsageError(f"{more} more than it takes; put quotes around what has spaces in it.", ctx)
        return extra


class Group(click.Group):
    """Commands in the order in which they are defined; a near miss is named."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.help = _keep_lines(self.help)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            known = [each for each in self.list_commands(ctx) if each not in _HIDDEN]
            meant = nearest(name, known)
            hint = f"did you mean {meant!r}?" if meant else f"the commands are {', '.join(known)}."
            raise click.UsageError(f"There is no command {quoted(name)}; {hint}", ctx)
        return super().resolve_command(ctx, args)


class Root(Group):
    """`kasplo-notify` itself."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        if cmd_name not in _MODULES:
            return None
        module = import_module(f"kasplo_notify.cli.{_MODULES[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in _COMMANDS.items():
            commands = [(name, self.get_command(ctx, name)) for name in names]
            with formatter.section(title):
                formatter.write_dl([(name, each.get_short_help_str(80)) for name, each in commands if each])

    def main(  # type: ignore[override]  # click's is overloaded
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run a command and exit with its code. No error leaves this as a traceback."""
        extra["standalone_mode"] = False
        try:
            code = super().main(args, prog_name or "kasplo-notify", **extra)
        except click.Abort:
            code = INTERRUPTED
        except SystemExit:
            # click met a closed pipe.
            let_go_of_stdout()
            raise
        except Exception as error:
            if sys.flags.dev_mode and not isinstance(error, (click.ClickException, kasplo_notify.NotifyError)):
                raise
            code = report(error)
        sys.exit(code if isinstance(code, int) else 0)


@click.group(
    cls=Root,
    params=global_options(hidden=False),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(kasplo_notify.__version__, prog_name="kasplo-notify", message="%(prog)s %(version)s")
def root() -> None:
    """Every event of a mail engine arrives at its subscribers' HTTP servers, or is kept until it can.

    To begin: `kasplo-notify up` in one terminal, then `kasplo-notify endpoint add NAME URL` in another.
    Every key of the configuration can be set by environment, too: KASPLO_REDIS__URL for redis.url.

    Exit codes: 0 done, 1 some of it failed, 2 usage, 3 configuration,
                4 storage unreachable or full, 130 interrupted.
    """
