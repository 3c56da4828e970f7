"""Reading one thing after another, from a server that may refuse some of them or answer nonsense."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from kasplo_notify.errors import NotifyError, StorageBroken, StorageRefused

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """What could not be looked at.

    Attributes:
        what: It, as the beginning of a sentence.
        why: What Redis said.
        needed: Whether workers read it as well.
    """

    what: str
    why: str
    needed: bool


class Attempt:
    """Reads; what Redis does not show is noted, and no reason to stop.

    Attributes:
        unread: What was noted.
    """

    def __init__(self) -> None:
        self.unread: list[Unread] = []

    def read(self, what: str, read: Callable[[], T], *, needed: bool = False) -> T | None:
        """Read one thing; None when it is not shown.

        Raises:
            StorageUnavailable: Redis cannot be reached, or is not ready: there is no sense in going on.
        """
        try:
            return read()
        except (StorageRefused, StorageBroken) as error:
            self.unread.append(Unread(what=what, why=str(error), needed=needed))
        except NotifyError:
            raise
        except OSError as error:
            self.unread.append(Unread(what=what, why=error.strerror or str(error), needed=needed))
        except Exception as error:  # noqa: BLE001 - whatever a server sends instead of an answer
            why = f"the answer is not one of Redis ({type(error).__name__})"
            self.unread.append(Unread(what=what, why=why, needed=needed))
        return None
