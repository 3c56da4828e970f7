"""How long one call of emit goes on trying: one deadline for all of its steps."""

from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from kasplo_notify.errors import StorageBroken, StorageUnavailable

if TYPE_CHECKING:
    from tenacity import RetryCallState

# Seconds after which no try begins.
GIVE_UP: Final = 0.5


class Patience:
    """The deadline of one call. It starts anew with each chunk that was pushed."""

    __slots__ = ("_began", "_failed", "_pushed")

    def __init__(self) -> None:
        self._began = monotonic()
        self._pushed = 0
        self._failed = False

    def left(self) -> float:
        """Seconds in which a try may begin; never less than 0."""
        return max(0.0, self._began + GIVE_UP - monotonic())

    def check(self) -> None:
        """Before the first try of a step. As long as Redis answers, a slow process is no reason to give up.

        Raises:
            StorageUnavailable: Earlier steps have used up the time, and not all of their tries went well.
        """
        if self._failed and not self.left():
            raise late()

    def ends_with(self, error: StorageUnavailable) -> bool:
        """Note that a try failed; say whether it was the last."""
        self._failed = True
        return isinstance(error, StorageBroken) or not self.left()

    def heed(self, pushed: int) -> None:
        """Note how many events of the call are stored."""
        if pushed > self._pushed:
            self._began, self._pushed, self._failed = monotonic(), pushed, False

    def tries(self) -> dict[str, Any]:
        """How tenacity tries again. Each script is idempotent, so one whose reply was lost may be repeated."""
        from tenacity import retry_if_exception, wait_random_exponential  # noqa: PLC0415 - 20 ms, for an emit only

        def again(error: BaseException) -> bool:
            return isinstance(error, StorageUnavailable) and not self.ends_with(error)

        def stop(state: "RetryCallState") -> bool:
            return self.left() <= state.upcoming_sleep

        wait = wait_random_exponential(multiplier=0.02, max=0.2)
        return {"retry": retry_if_exception(again), "stop": stop, "wait": wait, "reraise": True}


def late() -> StorageUnavailable:
    """The error of a call whose time is over, whatever it waited for."""
    return StorageUnavailable(
        "Redis is not available: it did not answer within a second. Check redis.url and that the server runs"
    )
