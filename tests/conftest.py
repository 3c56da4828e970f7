"""What all tiers share: a real server, started once. Where there is none, the run fails; nothing is skipped."""

from collections.abc import Iterator

import pytest
import redis

from kasplo_notify.config import Config, RedisConfig
from kasplo_notify.embedded import EmbeddedServer


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A Redis or Valkey of this session's own."""
    data_dir = tmp_path_factory.mktemp("server")
    with EmbeddedServer(Config(redis=RedisConfig(url="embedded", data_dir=data_dir))) as server:
        yield server


@pytest.fixture
def redis_url(server: EmbeddedServer) -> Iterator[str]:
    """The URL of the real server, which is empty and takes whatever is stored."""
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", 0)
        client.flushall()
        yield server.url
        client.config_set("maxmemory", 0)
