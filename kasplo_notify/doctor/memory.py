"""Whether Redis has memory for what comes, and what it does without."""

from collections.abc import Iterator
from typing import Final

from kasplo_notify.doctor.finding import Finding, fault, ok, warning
from kasplo_notify.doctor.server import Server
from kasplo_notify.quantities import counted, storage

# The rest is what an outage of a subscriber may need before somebody looks.
_NEARLY_FULL_PERCENT: Final = 80


def memory(server: Server) -> Iterator[Finding]:
    """The findings of a server's memory."""
    yield from _policy(server)
    yield from _maxmemory(server)
    yield from _evictions(server)


def _policy(server: Server) -> Iterator[Finding]:
    policy = server.setting("maxmemory-policy", "maxmemory_policy")
    if policy == "noeviction":
        yield ok("maxmemory_policy", "maxmemory-policy is noeviction")
    elif policy is not None:
        yield fault(
            "maxmemory_policy",
            f"maxmemory-policy is {policy}: Redis deletes queued events when its memory is full; set it to noeviction, "
            "in the server's configuration file as well",
        )


def _maxmemory(server: Server) -> Iterator[Finding]:
    most = server.size("maxmemory", "maxmemory")
    used = server.number("used_memory")
    if most == 0:
        machine = server.number("total_system_memory")
        how_full = f" ({storage(used)} of {storage(machine)} used)" if used is not None and machine else ""
        yield warning(
            "maxmemory",
            f"maxmemory is not set: a growing backlog ends with the kernel killing Redis{how_full}; set it well below "
            "the machine's memory",
        )
    elif most and used is not None:
        # Buffers of the append-only file and of replicas do not count.
        used = max(0, used - (server.number("mem_not_counted_for_evict") or 0))
        percent = used * 100 // most
        how_full = f"{storage(used)} of {storage(most)} used"
        if percent >= 100:
            yield fault(
                "maxmemory",
                f"Redis' memory is full ({how_full}): new events are refused; raise maxmemory, or lower "
                "delivery.max_backlog for the endpoint that fills it (`kasplo-notify status`)",
            )
        elif percent >= _NEARLY_FULL_PERCENT:
            yield warning(
                "maxmemory",
                f"Redis' memory is {percent} % full ({how_full}): at 100 % new events are refused; raise maxmemory, or "
                "see which backlog grows (`kasplo-notify status`)",
            )
        else:
            yield ok("maxmemory", f"{how_full} ({percent} %)")


def _evictions(server: Server) -> Iterator[Finding]:
    evicted = server.number("evicted_keys")
    if evicted:
        yield fault(
            "evicted_keys",
            f"Redis has deleted {counted(evicted, 'key')} since its start to make room, and queued events may be among "
            "them; set maxmemory-policy to noeviction, then CONFIG RESETSTAT begins the count again",
        )
    elif evicted is not None:
        yield ok("evicted_keys", "Redis has deleted nothing to make room since its start")
