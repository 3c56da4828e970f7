"""Forks the workers and producers of a run. They are processes like any other, but their imports are done already:
a worker that is killed every half second would do little else.

Run as a program. A command a line on stdin, as JSON: {"role": "worker" | "producer", "environ": {...}, "log": path,
"options": {...}}. On stdout {"started": pid} answers it, and {"ended": pid, "code": n} says how a process ended. When
stdin closes all are killed.
"""

import contextlib
import json
import logging
import os
import select
import signal
import socket
from typing import Any, NoReturn

from kasplo_notify.config import Config
from tests.torture import producer, sabotage
from tests.torture.server import die_with_parent
from workers import run_worker

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)


def main() -> None:
    waker, wakes = socket.socketpair()
    wakes.setblocking(False)  # noqa: FBT003 - the standard library wants it so
    signal.set_wakeup_fd(wakes.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    running: set[int] = set()
    stdin = 0
    stdin = 0
    rest = b""
    while True:
        ready, _, _ = select.select([stdin, waker.fileno()], [], [])
        if waker.fileno() in ready:
            waker.recv(4096)
            _reap(running)
        if stdin in ready:
            data = os.read(stdin, 65_536)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                running.add(_start(json.loads(line)))
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _reap(running: set[int]) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        running.discard(pid)
        _say({"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def _start(command: dict[str, Any]) -> int:
    pid = os.fork()
    if not pid:
        _run(command)
    _say({"started": pid})
    return pid


def _say(message: dict[str, Any]) -> None:
    os.write(1, f"{json.dumps(message)}\n".encode())


def _run(command: dict[str, Any]) -> NoReturn:
    """The forked process, from its first breath to its last."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        if dying := die_with_parent():
            dying()
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(command["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        for target, source in ((0, nothing), (1, log), (2, log)):
            os.dup2(source, target)
        logging.basicConfig(level="INFO", format="%(asctime)s %(process)d %(name)s %(message)s", force=True)
        os.environ.update(command["environ"])
        options = command["options"]
        sabotage.apply(options.get("sabotage", {}))
        config = Config.load(environ=command["environ"])
        if command["role"] == "producer":
            code = producer.run(config, options)
        else:
            code = run_worker(config, burst=options.get("burst", False))
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        logging.getLogger("torture").exception("it died of this")
    finally:
        logging.shutdown()
        os._exit(code)


if __name__ == "__main__":
    main()
