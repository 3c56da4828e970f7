"""Log lines of the long-running commands, on stderr: for people, or one JSON object a line."""

import logging
import sys
from datetime import UTC, datetime

import orjson


def start_logging(how: str) -> None:
    """Log as `log.format` says: human, json, or auto (human on a terminal, else json)."""
    stream = sys.stderr
    if stream is None:
        return
    handler = logging.StreamHandler(stream)
    human = how == "human" or (how == "auto" and stream.isatty())
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S") if human else _Json()
    )
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("kasplo_notify").setLevel(logging.INFO)
    logging.getLogger("workers").setLevel(logging.INFO)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()
