"""`kasplo-notify up --demo`: the whole way of seven events, on this machine, before your eyes.

It disturbs nothing: its data folder is a temporary one, and with a configured URL its keys and its RQ queue
have names of their own. All are removed at the end; what a killed demo left is removed by the next.
"""

from __future__ import annotations

import contextlib
import os
import queue
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from kasplo_notify import demo_remains
from kasplo_notify.catalogue import EVENT_TYPES
from kasplo_notify.config import Config, toml
from kasplo_notify.config_checks import masked_url
from kasplo_notify.config_sections import RedisConfig
from kasplo_notify.datadir import RunLock
from kasplo_notify.demo_screen import Screen, Sent
from kasplo_notify.embedded import EmbeddedServer
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.notifier import Notifier
from kasplo_notify.receiver import Delivery, ReceiverThread
from kasplo_notify.registry import Registry
from kasplo_notify.signature import generate_secret
from kasplo_notify.stopping import Signals
from kasplo_notify.supervisor import Supervisor, worker_command

if TYPE_CHECKING:
    from pathlib import Path

    from kasplo_notify.console import Console
    from kasplo_notify.receiver import Receiver

_WORKERS = 2
_PATIENCE_S = 60.0  # after the delay; the requeued event needs 15 at most
_RETRY_DELAYS = (3.0, 6.0, 10.0, 15.0)
_REFUSED, _REFUSALS = "engine_click", 2
# Which mail class an event of the demo belongs to; each class has its endpoint.
_METHODS = {"promo": "POST", "transactional": "GET"}
_TRANSACTIONAL = {"bounce_all", "bounce_bad_address", "delivery_attempt"}


def run_demo(config: Config, *, out: Console) -> int:
    """Start everything, emit all seven event types, show them arrive, stop everything.

    Args:
        config: of it, redis.url and delivery.delay are used, and all else is the demo's own.
        out: where it is shown.

    Returns:
        0 when everything arrived as it should, 130 after a signal; else 1, and the output says what did not.

    Raises:
        ConfigError: no server program, or no place for temporary files.
        StorageUnavailable: the server did not start, or the configured one does not answer.
    """
    demo_remains.sweep()
    with ExitStack() as stack:
        folder = stack.enter_context(demo_remains.folder())
        url, name = config.redis.url, demo_remains.new_name()
        embedded = url == "embedded"
        if embedded:
            own = Config(redis=RedisConfig(url="embedded", data_dir=folder))
            url = stack.enter_context(EmbeddedServer(own)).url
        else:
            stack.enter_context(RunLock(folder))
        signals = stack.enter_context(Signals())
        demo = _write_config(folder, url, name, config.delivery.delay)
        registry = stack.enter_context(contextlib.closing(Registry.open(demo)))
        if not embedded:
            registry.read()  # whether the server answers
            stack.callback(demo_remains.forget, registry, name)
        deliveries: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        receiver = stack.enter_context(ReceiverThread(deliveries.put)).receiver
        log = stack.enter_context((folder / "workers.log").open("wb"))
        command = worker_command((), burst=False)
        supervisor = Supervisor(command, _WORKERS, environ=_environ(folder / demo_remains.CONFIG), output=log)
        stack.callback(supervisor.end, grace=15.0)
        supervisor.start()
        screen = Screen(out, delay=demo.delivery.delay)
        where = "embedded, in a temporary folder" if embedded else masked_url(url)
        screen.begin(where, supervisor.pids, receiver.url)
        _register(registry, receiver)
        sent = _emit(demo, receiver, screen)
        problem = _watch(sent, deliveries, supervisor, signals, screen)
        if problem:
            screen.show_log((folder / "workers.log").read_text(errors="replace"))
    if signals.stops:
        return screen.interrupted()
    return screen.end(sent, problem)


def _register(registry: Registry, receiver: Receiver) -> None:
    """Two subscribers: one mail class and one method each, signed, requeued soon."""
    for mail_class, method in _METHODS.items():
        secret = generate_secret()
        receiver.know(secret)
        registry.add(
            Endpoint(
                name=f"{mail_class}-{method.lower()}",
                url=receiver.url,
                method=method,
                mail_classes=(mail_class,),
                secret=secret,
                retry_delays=_RETRY_DELAYS,
                created_at=int(time.time()),
            )
        )


def _emit(config: Config, receiver: Receiver, screen: Screen) -> list[Sent]:
    """All seven types, with the values of the document's examples."""
    sent = []
    with Notifier(config=config) as notifier:
        for event_type in EVENT_TYPES.values():
            name = event_type.name
            mail_class = "transactional" if name in _TRANSACTIONAL else "promo"
            event_id = f"demo-{name}"
            if name == _REFUSED:
                receiver.refuse(event_id, _REFUSALS)
            receipt = notifier.emit(event_type.example, mail_class=mail_class, event_id=event_id)
            sent.append(
                Sent(
                    id=receipt.id,
                    event_type=name,
                    mail_class=mail_class,
                    method=_METHODS[mail_class],
                    at=time.time(),
                    refusals=_REFUSALS if name == _REFUSED else 0,
                )
            )
            screen.emitted(sent[-1], receipt.endpoints)
    return sent


def _watch(
    sent: list[Sent],
    deliveries: queue.SimpleQueue[Delivery],
    supervisor: Supervisor,
    signals: Signals,
    screen: Screen,
) -> str:
    """Show what arrives until everything has; returns what went wrong, or an empty string."""
    by_id = {item.id: item for item in sent}
    first_due = sent[0].at + screen.delay
    while not all(item.done for item in sent):
        supervisor.poll()
        if signals.stops:
            return ""
        if supervisor.failing:
            return "the workers do not start; their last words are above"
        if time.time() > sent[-1].at + screen.delay + _PATIENCE_S:
            return f"not everything arrived within {screen.delay + _PATIENCE_S:.0f} s"
        screen.tick(first_due - time.time(), sum(not item.done for item in sent))
        with suppress(queue.Empty):
            while True:
                delivery = deliveries.get(timeout=0.05)
                if item := by_id.get(delivery.event_id):
                    item.deliveries.append(delivery)
                    screen.arrived(item, delivery)
    return ""


def _write_config(folder: Path, url: str, name: str, delay: float) -> Config:
    """The configuration of the demo's workers and of the demo itself, as a file; nothing else is heeded."""
    sections: dict[str, dict[str, object]] = {
        "redis": {"url": url, "data_dir": str(folder), "prefix": f"{name}:"},
        "delivery": {"delay": delay},
        "worker": {"queue": name},
        "egress": {"allow": ("127.0.0.1/32",)},
    }
    lines = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {toml(value)}" for key, value in values.items()]
    path = folder / demo_remains.CONFIG
    path.write_text("\n".join(lines) + "\n")
    return Config.load(path, environ={})


def _environ(config: Path) -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith("KASPLO_")}
    return {**others, "KASPLO_CONFIG": str(config)}
