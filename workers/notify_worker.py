"""The RQ worker class: an event loop, an HTTP client and a dispatcher around RQ's own loop."""

import asyncio
import logging
import os
import signal
import socket
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar

from redis.exceptions import RedisError
from rq import Queue, SimpleWorker
from rq.exceptions import StopRequested
from rq.logutils import setup_loghandlers
from rq.serializers import JSONSerializer

from kasplo_notify.book import Subscriber
from kasplo_notify.config import Config
from kasplo_notify.dispatcher import Dispatcher
from kasplo_notify.drain import Drain
from kasplo_notify.embedded import url_of as configured_url
from kasplo_notify.equipment import Equipment, Tally
from kasplo_notify.errors import NotifyError
from kasplo_notify.guard import EgressGuard
from kasplo_notify.store import AsyncStore, Call, Store, connect, connect_async_like, connect_like
from kasplo_notify.transport import Transport
from workers import starting
from workers.drain_job import FAILURE_TTL_S, FUNCTION, RESULT_TTL_S, TIMEOUT_S, DrainJob
from workers.stopping import Stop

if TYPE_CHECKING:
    from redis import Redis

log = logging.getLogger(__name__)

LINGER_S = 2.0
# RQ blocks for this less 15 s when it waits for a job: so long may a dead connection go unnoticed.
WORKER_TTL_S = 30
RESTART_S, RESTART_MOST_S = 0.5, 5.0
# A second signal within this is the same Ctrl+C, sent by the terminal and by a supervisor.
SAME_SIGNAL_S = 1.0


class NotifyWorker(SimpleWorker):
    """An RQ worker with an event loop, an HTTP client and a dispatcher.

    It serves the queue of ``worker.queue``, speaks JSON and runs nothing but drains, whatever it is started with: the
    wrong queue would wait for ever, and pickle, or a job of any other kind, would run code for whoever can write to
    Redis. Events are in the Redis that RQ was pointed to. Unlike RQ's own workers it survives what Redis does: RQ ends
    on most errors and cannot dequeue from a full Redis, so it delivers without RQ then, and starts RQ again.
    """

    running: ClassVar["NotifyWorker | None"] = None
    max_connection_wait_time = 2.0

    def __init__(
        self,
        queues: str | Queue | Sequence[str] | Sequence[Queue],
        name: str | None = None,
        *args: Any,
        connection: "Redis | None" = None,
        config: Config | None = None,
        **options: Any,
    ) -> None:
        self._config = starting.configured() if config is None else config
        given = [queues] if isinstance(queues, str | Queue) else list(queues)
        if connection is None:
            connection = next((queue.connection for queue in given if isinstance(queue, Queue)), None)
        names = [queue if isinstance(queue, str) else queue.name for queue in given]
        serves = self._config.worker.queue
        if names not in ([], [serves], ["default"]):
            log.warning("serves the queue %r (worker.queue), not %s", serves, ", ".join(names))
        options |= {"serializer": JSONSerializer, "job_class": DrainJob, "worker_ttl": WORKER_TTL_S}
        self._first_name = name or f"{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:6]}"
        super().__init__(
            [serves],
            self._first_name,
            *args,
            connection=connection or connect(configured_url(self._config)),
            **options,
        )
        self._burst = False
        self._stop: Stop
        self._in_rq = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._equipment: Equipment | None = None
        self._dispatcher: Dispatcher | None = None
        self._restarts = 0
        self._checked = False

    # --- RQ's hooks ----------------------------------------------------------------------------------------------

    def bootstrap(self, *args: Any, **options: Any) -> None:
        super().bootstrap(*args, **options)
        # Under `rq worker` our lines go where RQ's go; an application that configured logging keeps its own way.
        for name in ("kasplo_notify", "workers"):
            setup_loghandlers(*args, name=name, **options)
        starting.collect_less()
        starting.raise_file_limit(self._config)
        self._checked = self._checked or starting.check_redis(self.connection, self._config.redis.prefix)
        self._open()

    def teardown(self) -> None:
        try:
            self._close()
        finally:
            self._sign_off()

    def _sign_off(self) -> None:
        try:
            super().teardown()
        except RedisError as error:
            log.debug("could not sign off from RQ: %s", error)
            with suppress(RedisError):
                self.unsubscribe()

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """A signal, when no drain has the handlers."""
        self._stop.tell()
        # RQ only raises StopRequested when it is idle. Where that is swallowed (it starts a job, a log line is
        # written) it would go on for ever; this ends it after the job, and the job's drain begins nothing.
        self._stop_requested = True
        try:
            super().request_stop(signum, frame)
        except RedisError as error:
            log.debug("could not note the request to stop: %s", error)
        except StopRequested:
            if self._in_rq:
                raise

    def work(self, burst: bool = False, *args: Any, **options: Any) -> bool:  # noqa: FBT001, FBT002 - RQ's signature
        """Serve until told to stop; with `burst` until nothing is due. Returns whether anything was delivered."""
        self._burst = burst
        once = bool(options.get("max_jobs") or options.get("max_idle_time"))
        worked = False
        pause = RESTART_S
        self._stop = Stop(self._longest)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.request_stop)
        while not self._stop:
            if burst and not self._ask_for_drain():
                break
            began = time.monotonic()
            served = self._serve(burst, *args, **options)
            worked |= served
            if once or self._stop:
                break
            if not (burst and served):
                worked |= self._deliver_without_rq()
            if not burst and not self._stop:
                pause = RESTART_S if time.monotonic() - began > RESTART_MOST_S else min(2 * pause, RESTART_MOST_S)
                log.warning("rq_restarts: RQ ended, it is started again in %.1f s", pause)
                self._stop.wait(pause)
                # RQ would refuse the name of a worker that could not sign off.
                self._restarts += 1
                self.name = f"{self._first_name}-{self._restarts}"
        self._close()
        self._stop.done()
        return worked

    def _longest(self) -> float:
        """Seconds that a request in flight may still take."""
        equipment = self._equipment
        if equipment is None or not equipment.slots.in_flight:
            return 0.0
        known = equipment.book.subscribers.values()
        return max((each.timeout for each in known if isinstance(each, Subscriber)), default=0.0)

    # --- delivering ----------------------------------------------------------------------------------------------

    def deliver(self) -> Tally:
        """Run one drain on the worker's loop. Signals stop it softly, and reach RQ when it has ended."""
        assert self._loop is not None  # noqa: S101 - bootstrap opened it
        assert self._equipment is not None  # noqa: S101 - as above
        loop = self._loop
        running = Drain(self._equipment, linger=0.0 if self._burst else LINGER_S)
        told: list[tuple[int, float]] = []

        # Not the loop's own signal handlers: what comes when the loop has just ended would be lost with them. The
        # drain looks at the clock twice a second, so it hears of a stop by then even if the wake-up is missed.
        def on_signal(number: int, _frame: FrameType | None) -> None:
            self._stop.tell()
            told.append((number, time.monotonic()))
            again = told[-1][1] - told[0][1] > SAME_SIGNAL_S
            loop.call_soon_threadsafe(running.abort if again else running.stop)

        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, on_signal) for number in numbers}
        if self._stop:
            # It came between RQ's decision to run this and the handlers.
            running.stop()
        if self._dispatcher is not None:
            self._dispatcher.drain_begins()
        try:
            tally = loop.run_until_complete(running.run())
        finally:
            for number in numbers:
                signal.signal(number, before[number])
            if self._dispatcher is not None:
                self._dispatcher.drain_ended()
            if told:
                signal.raise_signal(told[0][0])
        if tally.delivered or tally.failed or tally.dead:
            log.info("drained: %s", tally)
        return tally

    def _serve(self, burst: bool, *args: Any, **options: Any) -> bool:  # noqa: FBT001 - as RQ has it
        self._in_rq = True
        try:
            return bool(super().work(burst, *args, **options))
        except StopRequested:
            return False
        except Exception as error:  # noqa: BLE001 - whatever ended RQ, events must go on
            log.warning("rq_ended: %s", error)
            return False
        finally:
            self._in_rq = False
            self._close()

    def _deliver_without_rq(self) -> bool:
        """Deliver what is due, as RQ could not be asked to. Returns whether anything was."""
        try:
            self._open()
            return bool(self.deliver().delivered) if self._due() else False
        except NotifyError as error:
            log.debug("nothing delivered: %s", error)
            return False
        finally:
            self._close()

    def _due(self) -> bool:
        store = Store(connect_like(self.connection, timeout=2.0, connections=1), self._config.redis.prefix)
        try:
            return bool(store.run(Call("peek", [self.name, "gone", 0]))[2])
        finally:
            store.close()

    def _ask_for_drain(self) -> bool:
        """Enqueue a drain if something is due; for burst, where no dispatcher does."""
        try:
            if not self._due():
                return False
            self._enqueue("deliver due events, then end")
        except (NotifyError, RedisError) as error:
            log.warning("redis_away: %s", error)
            return False
        return True

    def _enqueue(self, description: str) -> None:
        self.queues[0].enqueue_call(
            FUNCTION,
            timeout=TIMEOUT_S,
            result_ttl=RESULT_TTL_S,
            failure_ttl=FAILURE_TTL_S,
            description=description,
        )

    # --- what is open while it serves ----------------------------------------------------------------------------

    def _open(self) -> None:
        if self._loop is not None:
            return
        config = self._config
        self._loop = asyncio.new_event_loop()
        transport = Transport(config, EgressGuard(config.egress, in_worker=True))
        self._loop.run_until_complete(transport.start())
        self._equipment = Equipment(
            config=config,
            store=AsyncStore(connect_async_like(self.connection), config.redis.prefix),
            transport=transport,
            name=self.name,
            help_wanted=self._help_wanted,
        )
        NotifyWorker.running = self
        if not self._burst:
            self._dispatcher = Dispatcher(
                Store(connect_like(self.connection, connections=1), config.redis.prefix),
                config,
                name=self.name,
                enqueue=self._enqueue,
                queued=lambda: self.queues[0].count,
            )
            self._dispatcher.start()

    def _close(self) -> None:
        if self._dispatcher is not None:
            self._dispatcher.stop()
            self._dispatcher = None
        NotifyWorker.running = None
        loop, equipment = self._loop, self._equipment
        # A signal may have ended this halfway: then it is called again.
        if loop is not None and not loop.is_closed():
            if equipment is not None:
                loop.run_until_complete(equipment.transport.close())
                loop.run_until_complete(equipment.store.close())
            loop.close()
        self._loop = self._equipment = None

    def _help_wanted(self) -> None:
        if self._dispatcher is not None:
            self._dispatcher.look()
