"""What a notifier sees of the spool: it keeps events, and a thread pushes them when Redis is back."""

import contextlib
import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from kasplo_notify.carrier import Carrier
from kasplo_notify.config import Config
from kasplo_notify.datadir import reason
from kasplo_notify.emission import Prepared, Receipt, generated_id
from kasplo_notify.errors import NotifyError, PushError, StorageBroken
from kasplo_notify.forking import starting
from kasplo_notify.spool.flusher import Flusher
from kasplo_notify.spool.record import SpooledEvent
from kasplo_notify.spool.segments import prepare
from kasplo_notify.spool.writer import CannotSpoolError, Writer

log = logging.getLogger("kasplo_notify.spool")

# Seconds between two looks at the folder, and the longest while Redis stays away.
_LOOK_S: Final = 1.0
_LONGEST_S: Final = 5.0
# Seconds that close and the end of the interpreter wait for the thread: longer than Redis is waited for.
_END_S: Final = 2.0


class Keeper:
    """Keeps the events of one notifier.

    Raises:
        ConfigError: `spool.path` cannot be used.
    """

    def __init__(self, config: Config) -> None:
        spool = config.spool
        assert spool.path is not None  # noqa: S101 - a notifier without one has no keeper
        self._config = config
        self._folder = prepare(spool.path)
        self._writer = Writer(self._folder, spool.max_bytes)
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._away = False

    @property
    def away(self) -> bool:
        """Redis did not take the last events, and the thread, which looks after it, has not reached it since."""
        return self._away and self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Have the thread run, which pushes what is in the folder: also what others leave there, sooner or later."""
        if self._thread is None:
            with starting():
                if self._thread is None:
                    self._start()

    def _start(self) -> None:
        carrier, stop = Carrier(self._config), threading.Event()
        flusher = Flusher(self._folder, carrier.push, self._writer, stopped=stop.is_set)
        thread = threading.Thread(target=self._run, args=(flusher, carrier, stop), name="kasplo-spool", daemon=True)
        # At the end of the interpreter no thread can be started. The next process pushes what is spooled then.
        with contextlib.suppress(RuntimeError):
            thread.start()
            self._thread, self._stop = thread, stop

    def keep(self, prepared: Sequence[Prepared]) -> list[Receipt]:
        """Keep events that have ids of their own; return when they would survive a loss of power.

        Raises:
            CannotSpoolError: Not all of them are kept.
        """
        self._writer.append([_spooled(item) for item in prepared])
        self.start()
        return [Receipt(item.own_id, (), spooled=True) for item in prepared]

    def try_to_keep(self, prepared: Sequence[Prepared]) -> tuple[list[Prepared], list[Receipt] | None]:
        """Keep events without a try with Redis: the events with their ids, and the receipts if they are kept.

        If they are not, Redis is their last chance: as a part of them may be kept, by the same ids.
        """
        named = _named(prepared, [item.own_id or generated_id() for item in prepared])
        try:
            return named, self.keep(named)
        except CannotSpoolError:
            return named, None

    def keep_rest(self, prepared: Sequence[Prepared], pushed: Sequence[Receipt], error: PushError) -> list[Receipt]:
        """Keep what Redis did not take.

        Args:
            prepared: All events of the call.
            pushed: Receipts of the first of them, which Redis has.
            error: Why it has not got the others.

        Raises:
            PushError: As `error`, when they cannot be kept either.
        """
        try:
            kept = self.keep(_named(prepared, error.event_ids)[len(pushed) :])
        except CannotSpoolError as wrong:
            message = f"{str(error).removesuffix('.')}; and {wrong}"
            raise type(error)(message, event_ids=error.event_ids, pushed=error.pushed) from error
        if not isinstance(error, StorageBroken):
            if not self._away:
                log.warning("spool_used: events are kept in %s: %s", self._folder, error)
            self._away = True
        return [*pushed, *kept]

    def close(self) -> None:
        """End the thread, and let others have what is in the folder. The next event begins anew."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop.set()
            thread.join(_END_S)
        self._writer.close()
        self._away = False

    def disown(self) -> None:
        """Begin anew in a forked child."""
        self._thread, self._away = None, False
        self._writer.disown()

    def _run(self, flusher: Flusher, carrier: Carrier, stop: threading.Event) -> None:
        """Look at the folder until told to stop, whatever happens meanwhile."""
        wait, told = _LOOK_S, False
        while not stop.wait(wait):
            reached = False
            try:
                reached = self._look(flusher, carrier)
                told = False
            except NotifyError as error:
                log.debug("the spool cannot be pushed: %s", error)
            except OSError as error:
                if not told:
                    log.error("spool_unreadable: %s (%s)", self._folder, reason(error))
                told = True
            except Exception:
                log.exception("spool_failed")
            wait = _LOOK_S if reached else min(2 * wait, _LONGEST_S)
        carrier.close()

    def _look(self, flusher: Flusher, carrier: Carrier) -> bool:
        """Push what is there; say whether Redis took all that was tried.

        Raises:
            NotifyError, OSError: Redis cannot be reached, or the folder not be read.
        """
        away = self._away
        done = flusher.round()
        if done.pushed:
            log.info("spool_flushed: %d events are pushed, %d segments are left", done.pushed, done.left)
        if done.error is None and away and not done.pushed:
            # Others have pushed what was kept here, or have it in hand.
            carrier.reach()
        if done.error is None or done.pushed:
            self._away = False
        return done.error is None


def _named(prepared: Sequence[Prepared], ids: Sequence[str]) -> list[Prepared]:
    return [replace(item, own_id=event_id) for item, event_id in zip(prepared, ids, strict=True)]


def _spooled(item: Prepared) -> SpooledEvent:
    return SpooledEvent(item.own_id, item.mail_class, item.event.event_type, item.event.email, item.event.body)
