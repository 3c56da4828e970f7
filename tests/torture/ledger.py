"""The two append-only ledgers: what was emitted, and what arrived. They live outside Redis, and nothing kills them.

A line is written with one `write`, so that several processes may share a file and a reader never sees half of one.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path


def digest(body: bytes) -> str:
    """What stands for a body in the ledgers."""
    return blake2b(body, digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Emitted:
    """One event, written after `emit` had returned or given up.

    Attributes:
        began: Unix seconds before the first call that may have stored it: a call that a full Redis refused has not.
        ended: Unix seconds after the call that acknowledged it, or the last one that did not.
        id: The event id.
        body: Digest of the bytes that have to arrive.
        stored: Whether `emit` acknowledged it; otherwise it may or may not be there.
        endpoints: Where it has to arrive.
    """

    began: float
    ended: float
    id: str
    body: str
    stored: bool
    endpoints: tuple[str, ...]

    def line(self) -> str:
        stored = "stored" if self.stored else "unknown"
        return f"{self.began!r} {self.ended!r} {self.id} {self.body} {stored} {','.join(self.endpoints)}\n"

    @classmethod
    def read(cls, line: str) -> "Emitted":
        began, ended, event_id, body, stored, endpoints = line.rstrip("\n").split(" ")
        names = tuple(endpoints.split(",")) if endpoints else ()
        return cls(float(began), float(ended), event_id, body, stored == "stored", names)


@dataclass(frozen=True, slots=True)
class Received:
    """One request, written before it was answered.

    Attributes:
        at: Unix seconds when it was complete.
        id: `webhook-id`.
        body: Digest of its body.
        endpoint: Whose URL it was sent to.
        attempt: `X-Kasplo-Attempt`.
        status: What it is answered; 0 for no answer.
        open: Requests to this endpoint that were open then, this one included.
    """

    at: float
    id: str
    body: str
    endpoint: str
    attempt: int
    status: int
    open: int = 1

    @property
    def taken(self) -> bool:
        return 200 <= self.status <= 299

    def line(self) -> str:
        return f"{self.at!r} {self.id} {self.body} {self.endpoint} {self.attempt} {self.status} {self.open}\n"

    @classmethod
    def read(cls, line: str) -> "Received":
        at, event_id, body, endpoint, attempt, status, now_open = line.rstrip("\n").split(" ")
        return cls(float(at), event_id, body, endpoint, int(attempt), int(status), int(now_open))


class Ledger:
    """A file that is only appended to."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, lines: Iterable[str]) -> None:
        """Append lines in one go."""
        data = "".join(lines).encode()
        written = os.write(self._file, data)
        assert written == len(data), "the disk of the ledgers is full"


def read_emitted(path: Path) -> Iterator[Emitted]:
    with path.open() as lines:
        yield from map(Emitted.read, lines)


def read_received(path: Path) -> Iterator[Received]:
    with path.open() as lines:
        yield from map(Received.read, lines)
