"""The inputs of hostile_urls.tsv and more_hostile_urls.tsv, and a network that is not there."""

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PUBLIC = "93.184.215.14"
_HERE = Path(__file__).parent
_ROW = re.compile(r"(?:(DNS|REBIND|REDIRECT|HEADER|ENV)\[(.*?)\](?: |$))?(.*)", re.DOTALL)
_ESCAPES = {r"\r": "\r", r"\n": "\n", r"\t": "\t", r"\x00": "\0", r"\x85": "\x85", "\\\\": "\\"}
_ESCAPE = re.compile("|".join(map(re.escape, _ESCAPES)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One input.

    Attributes:
        name: For an endpoint, and for the test.
        kind: DNS, REBIND, REDIRECT, HEADER or ENV; empty for a URL alone.
        given: What stands in the brackets.
        url: The URL.
        verdict: allow, reject-at-register or block.
        guarded: The connect guard alone has to refuse it.
    """

    name: str
    kind: str
    given: str
    url: str
    verdict: str
    guarded: bool

    @property
    def arrives(self) -> bool:
        """Whether its request reaches a server: a redirect does, and is not followed."""
        return self.verdict == "allow" or self.kind == "REDIRECT"

    @property
    def headers(self) -> list[list[str]]:
        """The header of a HEADER row."""
        if self.kind != "HEADER":
            return []
        name, _, value = self.given.replace("<9000 chars>", "x" * 9000).partition(": ")
        return [[name, value]]

    @property
    def host(self) -> str:
        """The name that a DNS or REBIND row gives answers for."""
        return self.given.partition("=")[0]

    @property
    def answers(self) -> list[list[str]]:
        """What that name resolves to, in turn; the last again and again."""
        turns = self.given.partition("=")[2].split(";")
        return [[each for each in turn.split(",") if each] for turn in turns]


def _read(file: str) -> Iterator[Row]:
    lines = (_HERE / file).read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        given, verdict, why = line.split("\t")
        match = _ROW.fullmatch(_ESCAPE.sub(lambda found: _ESCAPES[found[0]], given))
        assert match is not None
        assert verdict in ("allow", "reject-at-register", "block"), line
        name = f"{file.partition('_')[0]}-{number}"
        # Each has a name of its own, as each has other answers.
        stub = (match[2] or "").replace("a.test", f"{name}.test")
        url = match[3].replace("a.test", f"{name}.test") if match[1] != "HEADER" else "https://hooks.example.com/"
        guarded = "connect guard must block it too" in why or (verdict == "block" and match[1] in ("DNS", "REBIND"))
        yield Row(name=name, kind=match[1] or "", given=stub, url=url, verdict=verdict, guarded=guarded)


GIVEN = tuple(_read("hostile_urls.tsv"))
ROWS = (*GIVEN, *_read("more_hostile_urls.tsv"))


class StubNetwork:
    """Names resolve as the rows say, and whatever is dialled is noted and led to one port of this machine.

    A name that no row gives answers for is 127.0.0.1, as hostile as can be, unless it is one of the servers of the
    rows that are allowed. So a guard that let something through would be seen, and no packet leaves.

    Attributes:
        ports: Where a dialled port is led to; None is for all others.
        dialled: Addresses, with the ports, in order.
    """

    def __init__(self, rows: tuple[Row, ...]) -> None:
        self.ports: dict[int | None, int] = {}
        self.dialled: list[tuple[str, int]] = []
        self._answers = {row.host: row.answers for row in rows if row.kind in ("DNS", "REBIND")}

    @contextmanager
    def instead_of_the_real_one(self) -> Iterator[None]:
        """Until the end, no lookup and no connection of this process goes elsewhere."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", self.resolve)
            for name in ("connect", "connect_ex"):
                patch.setattr(socket.socket, name, self._connecting(getattr(socket.socket, name)), raising=True)
            yield

    def resolve(self, host: str, port: int, *_: object) -> list[tuple[object, ...]]:
        """As socket.getaddrinfo."""
        addresses = self._addresses(host)
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (each, port, 0, 0))
            if ":" in each
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
            for each in addresses
        ]

    def _addresses(self, host: str) -> list[str]:
        turns = self._answers.get(host)
        if turns is None or (turns and turns[0] and turns[0][0].startswith("0x")):
            return [PUBLIC] if host.endswith("example.com") else ["127.0.0.1"]
        return turns.pop(0) if len(turns) > 1 else turns[0]

    def _connecting(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def connect(sock: socket.socket, address: Any) -> Any:
            if sock.family == socket.AF_UNIX:
                return real(sock, address)
            self.dialled.append((address[0], address[1]))
            port = self.ports.get(address[1], self.ports[None])
            mapped = ("::ffff:127.0.0.1", port, 0, 0)
            return real(sock, mapped if sock.family == socket.AF_INET6 else ("127.0.0.1", port))

        return connect
