"""What came of one request: a value, whatever the subscriber's server did."""

from dataclasses import dataclass
from typing import Literal

Failure = Literal[
    "",
    "timeout",
    "connect_timeout",
    "refused",
    "reset",
    "tls",
    "dns",
    "blocked",
    "protocol",
    "unreachable",
    "worker",
    "other",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one request.

    Attributes:
        status: The status of the answer; None when there was none. Known at the end of its headers: trouble
            with the body after that changes nothing.
        duration_ms: From the call to the end of the answer, in milliseconds.
        error: Why there was no answer, as a stable word; empty when there was one.
        detail: The same in words for an operator; may also tell what was wrong with an answer.
        retry_after: The header of that name, as it came.
        excerpt: The first bytes of the answer's body, 512 at most, for the log.
    """

    status: int | None
    duration_ms: int
    error: Failure = ""
    detail: str = ""
    retry_after: str | None = None
    excerpt: bytes = b""
