"""A child that is forked at the worst moment of its parent's emit emits as well."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A thread of the parent is held at the moment in question, and the parent forks just then. The child gets ten
# seconds; nobody waits for one that hangs.
PROGRAM = """
import faulthandler, os, signal, sys, threading, time
import kasplo_notify

faulthandler.dump_traceback_later(40, exit=True)
MOMENT = sys.argv[1]
EVENT = dict(event_type="scomp", email="a@example.com", listid="1", sendid="2", click_tracking_id="")
main = threading.get_ident()
parent = os.getpid()
reached, go_on = threading.Semaphore(0), threading.Event()

def hold():
    if os.getpid() == parent and threading.get_ident() != main:
        reached.release()
        go_on.wait(0.3)

def held(function):
    def call(*args, **options):
        hold()
        return function(*args, **options)
    return call

class Importing:
    def find_spec(self, name, path=None, target=None):
        if name == "redis.client":
            hold()

threads = 1
if MOMENT == "first import":
    sys.meta_path.insert(0, Importing())
if MOMENT == "default notifier":
    kasplo_notify.Notifier.__init__ = held(kasplo_notify.Notifier.__init__)
if MOMENT in ("client", "all connections busy"):
    from kasplo_notify import store
    store.connect = held(store.connect)
if MOMENT == "all connections busy":
    threads = 8
    kasplo_notify.emit(EVENT, event_id="first")
    store.Store.run = held(store.Store.run)

emitting = [threading.Thread(target=kasplo_notify.emit, args=(EVENT,), daemon=True) for _ in range(threads)]
for thread in emitting:
    thread.start()
for _ in range(threads):
    assert reached.acquire(timeout=10), "the moment did not come"
child = os.fork()
if not child:
    status = 1
    try:
        ids = []
        def emit(event_id):
            ids.append(kasplo_notify.emit(EVENT, event_id=event_id).id)
        emit("child")
        thread = threading.Thread(target=emit, args=("childs-thread",))
        thread.start()
        thread.join()
        status = 2 - len(ids)
    finally:
        os._exit(status)
status = None
for _ in range(1000):
    ended, code = os.waitpid(child, os.WNOHANG)
    if ended:
        status = code
        break
    time.sleep(0.01)
else:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
go_on.set()
for thread in emitting:
    thread.join(10)
receipt = kasplo_notify.emit(EVENT, event_id="parent")
print("child", "hangs" if status is None else status, "parent", receipt.id)
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.parametrize("where", ["", "redis://localhost:1/0"], ids=["a socket", "a host"])
def test_nothing_is_imported_once_an_emit_connects(redis_url: str, where: str) -> None:
    """A fork waits for the imports that come before; it could not wait for these."""
    program = f"""
import sys
from kasplo_notify import Config, Notifier, StorageUnavailable, store
connect = store.connect
def connected(*args, **options):
    client = connect(*args, **options)
    before.update(sys.modules)
    return client
before = {{}}
store.connect = connected
try:
    event = dict(event_type="scomp", email="a@example.com", listid="1", sendid="2", click_tracking_id="")
    Notifier({where or redis_url!r}).emit(event)
except StorageUnavailable:
    pass
print(sorted(sys.modules.keys() - before.keys()))
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


@pytest.mark.parametrize("moment", ["default notifier", "first import", "client", "all connections busy"])
def test_a_child_forked_during_an_emit_of_another_thread_emits(redis_url: str, tmp_path: Path, moment: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, moment],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "KASPLO_REDIS__URL": redis_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.stdout == "child 0 parent parent\n", run.stderr
