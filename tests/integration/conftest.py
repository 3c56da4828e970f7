"""The same tests on fakeredis and on a real server: every fixture here stands on `shard`, which is either."""

import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha1
from pathlib import Path

import fakeredis
import pytest
import redis
import trustme

from kasplo_notify import carrier, patience, store
from kasplo_notify.config import Config, RedisConfig
from kasplo_notify.dead import DeadLetters
from kasplo_notify.registry import Registry
from kasplo_notify.store import Script
from tests.integration.emitter import AsyncioEmitter, Emitter, ThreadsEmitter
from tests.integration.shard import Shard
from tests.integration.wire import Wire


@cache
def _without_first_line(name: str) -> Script:
    """The first line of a script, `#!lua flags=...`, is a syntax error to fakeredis."""
    text = store.script(name).text.partition("\n")[2]
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


@pytest.fixture(params=["fakeredis", "server"])
def wire(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Wire:
    """How notifiers get their connections."""
    if request.param == "server":
        made = Wire(request.getfixturevalue("redis_url"))
    else:
        # Before the script function is replaced, as the replacement asks it for the text.
        patched = {name: _without_first_line(name) for name in _scripts()}
        monkeypatch.setattr(store, "script", patched.__getitem__)
        made = Wire("redis://in-this-process", fakeredis.FakeServer(server_type="valkey"))
    monkeypatch.setattr(store, "connect", made.connect)
    monkeypatch.setattr(store, "connect_async", made.connect_async)
    return made


def _scripts() -> Iterator[str]:
    return (path.stem for path in store._SCRIPTS.glob("*.lua") if path.stem not in {"shared", "read_queue"})


@pytest.fixture
def shard(wire: Wire) -> Iterator[Shard]:
    client = redis.Redis.from_url(wire.url) if wire.fake is None else fakeredis.FakeRedis(server=wire.fake)
    with client:
        yield Shard(client, wire.url)


@pytest.fixture
def config(wire: Wire) -> Config:
    return Config(redis=RedisConfig(url=wire.url))


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """emit() waits as long as a busy machine takes: for claims about what is stored, not about how soon."""
    monkeypatch.setattr(carrier, "TIMEOUT", 20.0)
    monkeypatch.setattr(patience, "GIVE_UP", 20.0)


@pytest.fixture
def registry(shard: Shard, config: Config) -> Registry:
    return Registry(shard.store, config)


@pytest.fixture
def letters(shard: Shard, registry: Registry) -> DeadLetters:
    return DeadLetters(shard.store, registry)


@pytest.fixture(params=["threads", "asyncio"])
def emitters(request: pytest.FixtureRequest, config: Config) -> Iterator[Callable[[Config], Emitter]]:
    """Makes notifiers of either kind."""
    made: list[Emitter] = []

    def make(given: Config) -> Emitter:
        made.append(ThreadsEmitter(given) if request.param == "threads" else AsyncioEmitter(given))
        return made[-1]

    yield make
    for emitter in made:
        emitter.close()


@pytest.fixture
def emitter(emitters: Callable[[Config], Emitter], config: Config) -> Emitter:
    return emitters(config)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority of our own."""
    return trustme.CA()


@pytest.fixture
def certificate(authority: trustme.CA) -> Callable[..., ssl.SSLContext]:
    """Makes server contexts: certificates for `names`, good for `days`."""

    def make(*names: str, days: int = 1) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        until = datetime.now(UTC) + timedelta(days=days)
        authority.issue_cert(*names, not_before=until - timedelta(days=2), not_after=until).configure_cert(context)
        return context

    return make


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our authority is the one that this machine trusts."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
