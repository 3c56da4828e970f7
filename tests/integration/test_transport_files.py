"""What the transport has open, and what comes of it where the worker's own machine has nothing left."""

import asyncio
import contextlib
import os
import resource
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest
import trustme

from kasplo_notify.request import Request
from kasplo_notify.resolver import PooledResolver
from kasplo_notify.tls import Tls
from kasplo_notify.transport import Transport
from tests.integration.scripted import OK, Server, Visit, request, serving, transporting

NO_FILES = ("worker", "this worker has no file descriptors left; raise its limit (ulimit -n)")


@contextlib.contextmanager
def no_files() -> Iterator[None]:
    """This process may open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    source = os.open(os.devnull, os.O_RDONLY)
    taken = [source]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (source + 16, hard))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(source))
        yield
    finally:
        for each in taken:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_name_that_could_not_be_looked_up_without_a_file_is_the_workers_fault() -> None:
    async with transporting() as transport:
        with no_files():
            outcome = await transport.send(request("http://localhost:1/"), timeout=5)
    assert (outcome.error, outcome.detail) == NO_FILES


@pytest.mark.parametrize("code", [socket.EAI_AGAIN, socket.EAI_NONAME])
async def test_whatever_the_resolver_calls_it(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> list[object]:
        raise socket.gaierror(code, "the name is at fault")

    monkeypatch.setattr(socket, "getaddrinfo", none_left)
    async with transporting() as transport:
        with no_files():
            outcome = await transport.send(request("http://hooks.example.com/"), timeout=5)
        assert (outcome.error, outcome.detail) == NO_FILES
        assert (await transport.send(request("http://hooks.example.com/"), timeout=5)).error == "dns"


async def test_a_lookup_that_gets_no_memory_is_the_workers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> list[object]:
        raise socket.gaierror(socket.EAI_MEMORY, "Memory allocation failure")

    monkeypatch.setattr(socket, "getaddrinfo", none_left)
    async with transporting() as transport:
        outcome = await transport.send(request("http://hooks.example.com/"), timeout=5)
    assert (outcome.error, outcome.detail) == ("worker", "this machine has no memory left for a connection")


async def test_a_lookup_that_gets_no_thread_is_the_workers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with transporting() as transport:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", none_left)
            outcome = await transport.send(request("http://hooks.example.com/"), timeout=5)
    assert outcome.error == "worker"
    assert outcome.detail.startswith("this worker can start no more threads")


async def test_of_a_name_with_many_addresses_not_all_are_dialled_and_of_no_family_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    six = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", (f"2001:db8::{each}", 80, 0, 0)) for each in range(1, 300)]
    four = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"192.0.2.{each}", 80)) for each in range(1, 200)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: six + four)
    found = [each["host"] for each in await PooledResolver().resolve("many.example.com", 80)]
    assert found == [f"2001:db8::{each}" for each in range(1, 5)] + [f"192.0.2.{each}" for each in range(1, 5)]


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name is this machine's."""

    def answer(_: str, port: int, *__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", answer)


class Hosts:
    """Many hosts in one server: which of their connections are open, by the number of the host."""

    def __init__(self) -> None:
        self.open: list[int] = []
        self.changed = asyncio.Event()

    async def script(self, visit: Visit) -> None:
        number = -1
        try:
            while True:
                wanted = await visit.request()
                number = int(wanted.partition(b"Host: h")[2].partition(b".")[0])
                self.open.append(number)
                await visit.send(OK)
        finally:
            self.open = [each for each in self.open if each != number]
            self.changed.set()

    async def are_open(self, *wanted: int) -> None:
        async with asyncio.timeout(20):
            while sorted({*self.open}) != sorted(wanted):
                self.changed.clear()
                await self.changed.wait()


async def ask(transport: Transport, server: Server, *numbers: int) -> None:
    for number in numbers:
        outcome = await transport.send(request(f"http://h{number}.example.com:{server.port}/"), timeout=5)
        assert (outcome.status, outcome.detail) == (200, "")


@pytest.mark.usefixtures("hosts")
async def test_so_many_idle_connections_are_kept_and_no_more_those_that_were_used_last() -> None:
    hosts = Hosts()
    async with serving(hosts.script) as server, transporting(max_in_flight=2) as transport:
        await ask(transport, server, 0, 1, 2, 3)
        await hosts.are_open(0, 1, 2, 3)
        await ask(transport, server, 0, 4, 5)
        await hosts.are_open(0, 3, 4, 5)
        await ask(transport, server, 0, 3, 4, 5)
        assert server.connections == 6
        await ask(transport, server, *range(6, 60))
        await hosts.are_open(56, 57, 58, 59)
        assert server.connections == 60


@pytest.mark.usefixtures("hosts")
async def test_the_bound_holds_for_many_connections_to_one_host_too() -> None:
    everyone = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.request()
        if visit.number == 10:
            everyone.set()
        await everyone.wait()
        await visit.send(OK)
        await visit.gone()
        gone.release()

    gone = asyncio.Semaphore(0)
    async with serving(script) as server, transporting(max_in_flight=2) as transport, asyncio.timeout(20):
        await asyncio.gather(*(ask(transport, server, 0) for _ in range(10)))
        for _ in range(6):
            await gone.acquire()
        assert gone.locked()


@pytest.mark.usefixtures("hosts")
async def test_connections_that_the_other_side_has_closed_do_not_count() -> None:
    hosts = Hosts()

    async def script(visit: Visit) -> None:
        if visit.number not in (2, 3):
            return await hosts.script(visit)
        await visit.request()
        return await visit.send(OK)

    async with serving(script) as server, transporting(max_in_flight=2) as transport, asyncio.timeout(20):
        await ask(transport, server, 0, 1, 2)
        while len(transport._connector._kept) > 1:  # type: ignore[union-attr]  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await ask(transport, server, 3, 4, 5)
        await hosts.are_open(0, 3, 4, 5)
        await ask(transport, server, 0, 6)
        await hosts.are_open(0, 4, 5, 6)


@pytest.mark.usefixtures("hosts")
async def test_where_there_is_no_file_left_for_a_connection_idle_ones_are_closed_for_it() -> None:
    hosts = Hosts()
    async with serving(hosts.script) as server, transporting() as transport:
        await ask(transport, server, *range(20))
        with no_files():
            await ask(transport, server, 20)
        await hosts.are_open(*range(8, 21))


@pytest.mark.usefixtures("hosts")
async def test_and_for_a_client_certificate_which_is_read_from_a_file() -> None:
    hosts, issued = Hosts(), trustme.CA().issue_cert("mail.example.com")
    tls = Tls(cert=issued.cert_chain_pems[0].bytes().decode(), key=issued.private_key_pem.bytes().decode())
    async with serving(hosts.script) as server, transporting() as transport:
        await ask(transport, server, *range(20))
        # Its thread is there already, as in a worker that has been running.
        await asyncio.to_thread(ssl.create_default_context)
        with socket.create_server(("127.0.0.1", 0)) as closed:
            url = f"https://h20.example.com:{closed.getsockname()[1]}/"
        with no_files():
            outcome = await transport.send(Request("POST", url, (), b"", tls), timeout=5)
        assert outcome.error == "refused"
        await hosts.are_open(*range(8, 20))


async def test_where_nothing_can_be_closed_the_worker_is_at_fault() -> None:
    async with serving(Hosts().script) as server, transporting() as transport:
        with no_files():
            outcome = await transport.send(request(server.url), timeout=5)
    assert (outcome.error, outcome.detail) == NO_FILES
