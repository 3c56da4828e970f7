"""One run: a server, the network to it, subscribers, workers and producers; all of it ends with the run."""

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trustme

from kasplo_notify.config import Config
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.registry import Registry
from tests.torture.checker import Findings, Promise, check
from tests.torture.fleet import Fleet, Program
from tests.torture.ledger import read_emitted, read_received
from tests.torture.producer import Load
from tests.torture.proxy import Proxy
from tests.torture.scan import scan
from tests.torture.server import Server, die_with_parent

ROOT = Path(__file__).parents[2]
DELAY_S = 0.5
LEASE_S = 7.0
RETRY_DELAYS_S = (0.2, 0.4, 0.8, 1.6, 3.2, 3.2, 3.2, 3.2)
ATTEMPTS = len(RETRY_DELAYS_S) + 1
SETTINGS = {
    "DELIVERY__DELAY": DELAY_S,
    "DELIVERY__TIMEOUT": 2.0,
    "DELIVERY__CONNECT_TIMEOUT": 2.0,
    "DELIVERY__RETRY_DELAYS": RETRY_DELAYS_S,
    "WORKER__LEASE": LEASE_S,
    "EGRESS__ALLOW": ["127.0.0.0/8"],
}


class Arena:
    """A context manager.

    Args:
        folder: For everything that it writes.
        seed: For whatever is drawn.
        fsync, rewrite, sync_s: As :class:`Server`.
        settings: Configuration beside :data:`SETTINGS`, by the names of environment variables without their prefix.

    Attributes:
        server: The server itself.
        producers, workers: The networks to it.
        fleet: The processes of workers and producers.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        fsync: str = "everysec",
        rewrite: bool = True,
        sync_s: float = 0.0,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        self.folder = folder
        self.rng = random.Random(seed)
        self.settings = {**SETTINGS, **(settings or {})}
        self.server = Server(folder, fsync, rewrite=rewrite, sync_s=sync_s)
        self.producers = Proxy(self.server.socket, seed)
        self.workers = Proxy(self.server.socket, seed + 1)
        self.emitted, self.received = folder / "emitted", folder / "received"
        self._refusals = folder / "refusals"
        self._stack = ExitStack()
        self._base = {True: "", False: ""}
        self._number = 0
        self._queues: dict[str, int] = {}

    # --- its life ------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            (self.folder / "config.toml").touch()
            for part in (self.server, self.producers, self.workers):
                stack.enter_context(part)
            for ledger in (self.emitted, self.received, self._refusals):
                ledger.touch()
            self._receiver = stack.enter_context(Program(self._receive()))
            self.fleet = Fleet(stack.enter_context(Program(self._module("tests.torture.zygote"))), self.folder)
            self.registry = Registry.open(Config.load(environ=self.environ(self.server.url)))
            stack.callback(self.registry.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def environ(self, url: str) -> dict[str, str]:
        """What a process of this run is configured by."""
        values = self.settings | {"REDIS__URL": url}
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
        return {"KASPLO_CONFIG": str(self.folder / "config.toml")} | {f"KASPLO_{name}": texts[name] for name in texts}

    def _module(self, *command: str, pass_fds: Iterable[int] = ()) -> "subprocess.Popen[bytes]":
        environ = {name: value for name, value in os.environ.items() if not name.startswith("KASPLO_")}
        with (self.folder / f"{command[0]}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=self.folder,
                env=environ | {"PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=tuple(pass_fds),
                start_new_session=True,
                preexec_fn=die_with_parent(),  # noqa: PLW1509 - one call, loaded before the fork
            )

    def _receive(self) -> "subprocess.Popen[bytes]":
        certificate = self.folder / "certificate.pem"
        # Of an authority that nobody trusts.
        trustme.CA().issue_cert("subscriber.example").private_key_and_cert_chain_pem.write_to_path(certificate)
        listeners = [socket.create_server(("127.0.0.1", 0), backlog=1024) for _ in range(2)]
        ports = [listener.getsockname()[1] for listener in listeners]
        self._base = {False: f"http://127.0.0.1:{ports[0]}", True: f"https://127.0.0.1:{ports[1]}"}
        descriptors = [listener.fileno() for listener in listeners]
        arguments = [str(self.received), *map(str, descriptors), str(certificate)]
        try:
            return self._module("tests.torture.receiver", *arguments, pass_fds=descriptors)
        finally:
            for listener in listeners:
                listener.close()

    @property
    def names(self) -> list[str]:
        """The endpoints."""
        return list(self._queues)

    # --- subscribers ---------------------------------------------------------------------------------------------

    def endpoint(self, name: str, behaviour: str = "ok", **fields: Any) -> str:
        """Register an endpoint for the mail class of its name; `insecure` has a certificate that nobody trusts."""
        self.script(**{name: behaviour})
        url = f"{self._base[behaviour == 'insecure']}/{name}"
        values: dict[str, Any] = {"name": name, "url": url, "mail_classes": (name,), "queues": 4}
        endpoint = Endpoint(**(values | fields))
        self.registry.add(endpoint)
        self._queues[name] = endpoint.queues
        return name

    def script(self, **behaviours: str) -> None:
        """What endpoints do from now on."""
        self._receiver.ask({"script": behaviours})

    def peaks(self) -> dict[str, int]:
        """The most requests of each endpoint that were open at once."""
        return dict(self._receiver.ask({"ask": "peaks"}))

    # --- workers -------------------------------------------------------------------------------------------------

    def work(self, count: int = 1, **sabotage: object) -> None:
        """Start workers."""
        for _ in range(count):
            how = {"count": str(self.fleet.counts), **sabotage}
            self.fleet.fork("worker", self.environ(self.workers.url), {"sabotage": how})

    # --- producers -----------------------------------------------------------------------------------------------

    def emit(
        self,
        count: int,
        routes: Mapping[str, list[str]],
        *,
        batch: int = 20,
        rate: float = 0.0,
        processes: int = 1,
        zipf: bool = False,
        sabotage: Mapping[str, object] | None = None,
    ) -> list[int]:
        """Start producers that emit `count` events together; returns their process ids."""
        started = []
        for part in range(processes):
            load = Load(
                first=self._number + part * (count // processes),
                count=count // processes,
                batch=batch,
                rate=rate / processes,
                routes=dict(routes),
                seed=self.rng.randrange(1 << 30),
                ledger=str(self.emitted),
                refusals=str(self._refusals),
                zipf=zipf,
            )
            options = {"load": asdict(load), "sabotage": dict(sabotage or {})}
            started.append(self.fleet.fork("producer", self.environ(self.producers.url), options))
        self._number += count
        return started

    def refusals(self) -> Counter[str]:
        """How often `emit` raised what."""
        return Counter(self._refusals.read_text().split())

    # --- the end -------------------------------------------------------------------------------------------------

    def waiting(self, *names: str) -> int:
        """Events of these endpoints, or of all, that are neither delivered nor given up."""
        pipe = self.server.client.pipeline(transaction=False)
        for name in names or self._queues:
            for number in range(self._queues[name]):
                pipe.xlen(f"kasplo:{{0}}:new:{name}.{number}")
                pipe.zcard(f"kasplo:{{0}}:retry:{name}.{number}")
        return int(sum(pipe.execute()))

    def until_drained(self, seconds: float) -> None:
        """Wait until nothing waits any more; `seconds` without any progress is the end of patience."""
        least, since = self.waiting(), time.monotonic()
        while left := self.waiting():
            if left < least:
                least, since = left, time.monotonic()
            assert time.monotonic() - since < seconds, f"{left} events still wait, and nothing happens"
            time.sleep(0.2)

    def audit(self, promise: Promise) -> Findings:
        """End all processes, then compare the ledgers with what is left.

        What killed workers had open is explained beside what `promise` explains.
        """
        self.fleet.stop("producer")
        self.fleet.stop("worker")
        while self._receiver.ask({"ask": "idle"}) < 0.2:
            time.sleep(0.05)
        promise = replace(promise, duplicates=promise.duplicates + sum(self.fleet.unsettled))
        return check(read_emitted(self.emitted), read_received(self.received), scan(self.server.client), promise)
