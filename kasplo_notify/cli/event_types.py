"""The event type as an argument or option."""

from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from kasplo_notify.catalogue import EVENT_TYPES
from kasplo_notify.errors import nearest, quoted


class _EventType(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on
    name = "event type"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value in EVENT_TYPES:
            return str(value)
        meant = nearest(str(value), EVENT_TYPES)
        hint = f"did you mean {meant}?" if meant else f"the types are {', '.join(EVENT_TYPES)}."
        raise click.BadParameter(f"{quoted(str(value))} is not an event type; {hint}", ctx, param)

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        param: click.Parameter,  # noqa: ARG002 - as above
        incomplete: str,
    ) -> list[CompletionItem]:
        return [CompletionItem(name) for name in EVENT_TYPES if name.startswith(incomplete)]


EVENT_TYPE: Final = _EventType()
