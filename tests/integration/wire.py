"""Between a notifier and its server: counts what is sent, refuses it, or loses the reply."""

from collections.abc import Callable
from typing import Any, cast

import fakeredis
import redis
import redis.asyncio

from kasplo_notify import store

_connect, _connect_async = store.connect, store.connect_async


class Wire:
    """Makes the connections of notifiers, in place of `store.connect` and `store.connect_async`.

    Attributes:
        url: Where the server under test is; any other URL is connected to as it is.
        fake: The server in this process, when it is not a real one.
        sent: Names of what was sent to any server: `script` or `read`.
        good: Scripts that go well before others are refused or lost. Counted down.
        refuse: Scripts that are not sent: the connection is refused. Counted down.
        lose: Scripts whose reply does not come back. Counted down.
        on_loss: Called when a reply is lost.
        on_read: Called when something is read.
    """

    def __init__(self, url: str, fake: "fakeredis.FakeServer | None" = None) -> None:
        self.url = url
        self.fake = fake
        self.sent: list[str] = []
        self.good = self.refuse = self.lose = 0
        self.on_loss: Callable[[], object] = lambda: None
        self.on_read: Callable[[], object] = lambda: None

    def connect(self, url: str, **options: Any) -> "redis.Redis":
        mine = url == self.url and self.fake is not None
        client = fakeredis.FakeRedis(server=self.fake) if mine else _connect(url, **options)
        send_script, send_text, pipeline = client.evalsha, client.eval, client.pipeline

        def through(send: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                self._before()
                reply = send(*args)
                self._after()
                return reply

            return call

        return cast("redis.Redis", self._patched(client, through(send_script), through(send_text), pipeline))

    def connect_async(self, url: str, **options: Any) -> "redis.asyncio.Redis":
        mine = url == self.url and self.fake is not None
        fake = fakeredis.FakeAsyncRedis(server=self.fake, max_connections=1000) if mine else None
        client = fake or _connect_async(url, **options)
        send_script, send_text, pipeline = client.evalsha, client.eval, client.pipeline

        def through(send: Callable[..., Any]) -> Callable[..., Any]:
            async def call(*args: Any) -> Any:
                self._before()
                reply = await send(*args)
                self._after()
                return reply

            return call

        return cast("redis.asyncio.Redis", self._patched(client, through(send_script), through(send_text), pipeline))

    def _patched(self, client: Any, evalsha: Any, eval_: Any, pipeline: Any) -> Any:
        def counted(*args: Any, **options: Any) -> Any:
            self.sent.append("read")
            self.on_read()
            return pipeline(*args, **options)

        client.evalsha, client.eval, client.pipeline = evalsha, eval_, counted
        return client

    def _before(self) -> None:
        self.sent.append("script")
        if self.refuse and not self.good:
            self.refuse -= 1
            raise redis.ConnectionError("Connection refused.")

    def _after(self) -> None:
        if self.good:
            self.good -= 1
        elif self.lose:
            self.lose -= 1
            self.on_loss()
            raise redis.ConnectionError("Connection closed by server.")
