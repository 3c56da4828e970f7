"""A server that speaks Redis' protocol and answers what a test wants, nonsense included."""

import re
import socketserver
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, cast

_ARGUMENT = re.compile(rb"\$(\d+)\r\n")


class HostileServer(socketserver.ThreadingTCPServer):
    """Answers each command with the bytes that are given for its name, and others with `+OK`. A context manager.

    Args:
        answers: Command in upper case -> what is sent; `b""` closes the connection.
    """

    daemon_threads = True

    def __init__(self, answers: Mapping[bytes, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = answers
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.server_address[1]}/0"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self.shutdown()
        self._thread.join(10)
        self.server_close()


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        answers = cast("HostileServer", self.server).answers
        queued: list[bytes] | None = None
        while command := self._command():
            name = command[0].upper()
            if name == b"MULTI":
                queued = []
                self.wfile.write(b"+OK\r\n")
            elif name == b"EXEC" and queued is not None:
                self.wfile.write(b"*%d\r\n" % len(queued) + b"".join(queued))
                queued = None
            elif (answer := answers.get(name, b"+OK\r\n")) == b"":
                return
            elif queued is not None and not answer.startswith(b"-"):
                queued.append(answer)
                self.wfile.write(b"+QUEUED\r\n")
            else:
                self.wfile.write(answer)

    def _command(self) -> list[bytes]:
        head: Any = self.rfile.readline()
        words = []
        for _ in range(int(head[1:] or 0) if head.startswith(b"*") else 0):
            size = int(_ARGUMENT.fullmatch(self.rfile.readline())[1])  # type: ignore[index]
            words.append(self.rfile.read(size + 2)[:-2])
        return words


def bulk(text: bytes) -> bytes:
    """A reply that is a string."""
    return b"$%d\r\n%s\r\n" % (len(text), text)
