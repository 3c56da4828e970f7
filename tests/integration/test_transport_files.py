"""The transport where the worker's own machine has nothing left: no file descriptor, no thread."""

import contextlib
import os
import resource
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.integration.scripted import request, transporting

NO_FILES = ("worker", "this worker has no file descriptors left; raise its limit (ulimit -n)")


@contextlib.contextmanager
def no_files() -> Iterator[None]:
    """This process may open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    source = os.open(os.devnull, os.O_RDONLY)
    taken = [source]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/dev/fd"))) + 16, hard))
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
