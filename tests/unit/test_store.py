"""Clients: made of a URL, or like another client; and what of a URL may be shown."""

import pytest
import redis
import redis.asyncio
from redis.sentinel import Sentinel

from kasplo_notify.errors import ConfigError
from kasplo_notify.store import connect, connect_async, connect_async_like, connect_like

SAME = ("host", "port", "path", "db", "username", "password")


@pytest.mark.parametrize(
    ("url", "kind", "asyncio_kind"),
    [
        ("redis://[::1]:6390/3", redis.Connection, redis.asyncio.Connection),
        ("redis://only-a-host", redis.Connection, redis.asyncio.Connection),
        ("redis://joe@host:1/0", redis.Connection, redis.asyncio.Connection),
        ("redis://joe:p%40ss@host:1/0", redis.Connection, redis.asyncio.Connection),
        ("unix:///run/a%20b.sock?db=2", redis.UnixDomainSocketConnection, redis.asyncio.UnixDomainSocketConnection),
        (
            "rediss://host/1?ssl_cert_reqs=none&ssl_check_hostname=false&ssl_ca_path=/etc/ca",
            redis.SSLConnection,
            redis.asyncio.SSLConnection,
        ),
    ],
)
def test_a_client_like_another_reaches_the_same_server_in_the_same_way(
    url: str, kind: type, asyncio_kind: type
) -> None:
    given = redis.Redis.from_url(url, socket_timeout=99)
    settings = given.connection_pool.connection_kwargs
    threads, asyncio = connect_like(given, timeout=1.5).connection_pool, connect_async_like(given).connection_pool
    assert (threads.connection_class, asyncio.connection_class) == (kind, asyncio_kind)
    for made in (threads, asyncio):
        wanted = {name: value for name, value in settings.items() if name in SAME or name.startswith("ssl_")}
        assert wanted.items() <= made.connection_kwargs.items()
        made.make_connection()
    assert threads.connection_kwargs["socket_timeout"] == 1.5
    assert asyncio.connection_kwargs["socket_timeout"] == 5.0
    assert threads.connection_kwargs["retry"].get_retries() == 0


def test_a_client_of_sentinel_is_refused() -> None:
    client = Sentinel([("localhost", 1)]).master_for("mymaster")  # type: ignore[no-untyped-call]
    with pytest.raises(ConfigError, match="Sentinel"):
        connect_like(client)


@pytest.mark.parametrize("make", [connect, connect_async])
@pytest.mark.parametrize("url", ["redis://joe:sec#ret@host", "redis://joe:sec/ret@host", "ftp://joe:sec@ret@host"])
def test_the_message_about_a_url_that_is_not_usable_quotes_no_password(make: type, url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(url)
    assert "sec" not in str(caught.value)
    assert "ret@" not in str(caught.value)
