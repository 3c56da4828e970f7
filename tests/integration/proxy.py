"""A TCP port in front of the real server, for what only a real socket shows: lost and late replies to scripts."""

import select
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import unquote


class Proxy:
    """Carries bytes both ways; a context manager.

    Attributes:
        scripts: Requests for a script that were carried to the server.
        lose: Replies to scripts that are not carried back; their connection is cut instead. Counted down.
        open: While it is cleared, replies to scripts wait here.
        replied: Set when a reply to a script has come from the server.
    """

    def __init__(self, url: str) -> None:
        self._path = unquote(url.removeprefix("unix://"))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self.scripts = self.lose = 0
        self.open = threading.Event()
        self.open.set()
        self.replied = threading.Event()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self.open.set()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            if select.select([self._listener], [], [], 0.02)[0]:
                client, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._carry, args=(client,)))
                self._threads[-1].start()

    def _carry(self, client: socket.socket) -> None:
        script = False
        with suppress(OSError), client, socket.socket(socket.AF_UNIX) as server:
            server.connect(self._path)
            while not self._ended.is_set():
                for ready in select.select([client, server], [], [], 0.02)[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    if ready is client:
                        script = b"EVAL" in data
                        self.scripts += script
                        server.sendall(data)
                        continue
                    if script:
                        self.replied.set()
                        if self.lose:
                            self.lose -= 1
                            return
                        self.open.wait(10)
                    client.sendall(data)
