"""Log lines of the long-running commands, on stderr: for people, or one JSON object a line."""

import logging
import sys
from datetime import UTC, datetime
from typing import Any

from kasplo_notify.cli.text import json_text, printable


def start_logging(how: str) -> None:
    """Log as `log.format` says: human, json, or auto (human on a terminal, else json)."""
    stream = sys.stderr
    if stream is None:
        return
    handler = logging.StreamHandler(stream)
    human = how == "human" or (how == "auto" and stream.isatty())
    handler.setFormatter(_Human() if human else _Json())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("kasplo_notify").setLevel(logging.INFO)
    logging.getLogger("workers").setLevel(logging.INFO)


class _Human(logging.Formatter):
    """A line for each record, whatever is quoted in it; a traceback follows, indented, as it is no line of its own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - as above
        return "\n".join(f"  {printable(line)}" for line in super().formatException(ei).split("\n"))


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": printable(record.getMessage()),
        }
        if record.exc_info:
            line["traceback"] = "\n".join(map(printable, self.formatException(record.exc_info).split("\n")))
        return json_text(line)
