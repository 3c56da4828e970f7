r"""How an event is stored in Redis: a few header lines, then the exact bytes that will be sent.

A packed event is ``1\n<event id>\n<mail class>\n<body>``. The leading ``1`` is the format's version, so that
a later version can still read what an earlier one stored. The JSON body never holds a raw newline, the id and
the mail class are printable ASCII, so three splits are exact.

An event that was attempted and not delivered waits in a sorted set as ``<attempts>,<free>,<first due>\n``
followed by the packed event: its retry state travels with it.
"""

from dataclasses import dataclass

_VERSION = b"1"
# Above it, a number is none that a script could have written: Lua's are exact up to here.
_MOST = 1 << 53


class BrokenRecord(ValueError):
    """A stored record that is not one of ours, or was tampered with."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as it waits in Redis.

    Attributes:
        id: The event id, sent as ``webhook-id``.
        mail_class: The mail class it was emitted with; empty when there was none.
        body: The JSON bytes, exactly as they are delivered.
    """

    id: str
    mail_class: str
    body: bytes

    def pack(self) -> bytes:
        return b"\n".join((_VERSION, self.id.encode(), self.mail_class.encode(), self.body))

    @classmethod
    def unpack(cls, packed: bytes) -> "StoredEvent":
        """Read a packed event.

        Raises:
            BrokenRecord: The bytes are not a packed event of a version that is known.
        """
        parts = packed.split(b"\n", 3)
        if len(parts) != 4 or parts[0] != _VERSION or not parts[1]:
            raise BrokenRecord("the stored event has an unknown format")
        try:
            return cls(parts[1].decode("ascii"), parts[2].decode("ascii"), parts[3])
        except UnicodeDecodeError as error:
            raise BrokenRecord("the stored event is not readable") from error


@dataclass(frozen=True, slots=True)
class Progress:
    """What has happened to an event so far.

    Attributes:
        attempts: Requests made.
        free: Those of them that burnt no attempt of the backoff schedule (throttled, or a paused endpoint).
        first_due_ms: When the first attempt was due, in Unix milliseconds by Redis' clock.
    """

    attempts: int
    free: int
    first_due_ms: int

    def pack(self) -> bytes:
        return b"%d,%d,%d" % (self.attempts, self.free, self.first_due_ms)

    @classmethod
    def unpack(cls, header: bytes) -> "Progress":
        """Read what :meth:`pack` wrote.

        Raises:
            BrokenRecord: It is not three whole numbers.
        """
        try:
            attempts, free, first_due_ms = (int(part) for part in header.split(b","))
        except ValueError as error:
            raise BrokenRecord("the stored retry state is not readable") from error
        if min(attempts, free, first_due_ms) < 0 or max(attempts, free, first_due_ms) > _MOST:
            raise BrokenRecord("the stored retry state is not readable")
        return cls(attempts, free, first_due_ms)


def split_retry(member: bytes) -> tuple[Progress, bytes]:
    """Split a member of a retry set into its progress and the packed event.

    Raises:
        BrokenRecord: It does not start with a progress.
    """
    header, _, packed = member.partition(b"\n")
    return Progress.unpack(header), packed
