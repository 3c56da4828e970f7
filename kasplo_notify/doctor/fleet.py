"""Whether anybody delivers, how late, and which endpoints are in trouble."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from kasplo_notify.config import Config
from kasplo_notify.doctor.finding import Finding, fault, note, ok, warning
from kasplo_notify.quantities import counted, listed, span
from kasplo_notify.status import EndpointStatus

_LATE_S: Final = 60
# At 100 % of max_backlog the oldest events become dead letters.
_DEEP_PERCENT: Final = 80
# From here on a queue is delivered one event at a time, to find the one that kills (held.SINGLE_AFTER).
_DEATHS: Final = 2
# What is sent as it comes due; the others wait for an operator, a probe, or as they asked.
_DELIVERED: Final = ("active", "failing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The workers and the endpoints; None is what could not be read.

    Attributes:
        idle, busy: Worker processes.
        suspended: Whether `rq suspend` keeps RQ's workers from taking jobs.
        endpoints: How things stand with each, removed ones with dead letters included.
        unreadable: Endpoints whose keys are not what they should be, with what is wrong.
        unregistered: Names that are not registered and have events -> how many.
        deaths: Queue -> drains that died holding it.
        counters: What the scripts count over all endpoints.
    """

    idle: int | None = None
    busy: int | None = None
    suspended: bool | None = None
    endpoints: Sequence[EndpointStatus] | None = None
    unreadable: Mapping[str, str] = field(default_factory=dict)
    unregistered: Mapping[str, int] = field(default_factory=dict)
    deaths: Mapping[str, int] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)

    @property
    def workers(self) -> int | None:
        return None if self.idle is None or self.busy is None else self.idle + self.busy


def deliveries(fleet: Fleet) -> Iterator[Finding]:
    """The findings of the workers, and of how late they are."""
    yield from _workers(fleet)
    if fleet.suspended:
        yield fault("rq_suspended", "RQ is suspended: no worker takes a new drain; end that with `rq resume`")
    yield from _late(fleet)
    dying = sorted(queue for queue, count in fleet.deaths.items() if count >= _DEATHS)
    if dying:
        yield warning(
            "deaths",
            f"workers died again and again while they delivered {listed(dying)}, which goes one event at a time since; "
            "see their logs, and whether the kernel killed them for their memory",
        )


def _workers(fleet: Fleet) -> Iterator[Finding]:
    if fleet.workers:
        yield ok("workers", f"{fleet.busy:,} busy, {fleet.idle:,} idle")
    elif fleet.workers == 0:
        held = sum(each.backlog.waiting + each.backlog.retrying for each in fleet.endpoints or ())
        yield fault(
            "workers",
            f"no worker runs, so nothing is delivered ({counted(held, 'event')} held); start some: "
            "kasplo-notify worker -n 2",
        )


def _late(fleet: Fleet) -> Iterator[Finding]:
    if not fleet.workers or fleet.endpoints is None:
        return
    sent = [each for each in fleet.endpoints if each.state in _DELIVERED]
    late = [each for each in sent if each.backlog.late_ms > _LATE_S * 1000]
    if not late:
        yield ok("late", "no event that could be sent is more than a minute late")
        return
    worst = max(late, key=lambda each: each.backlog.late_ms)
    others = f", and {counted(len(late) - 1, 'other endpoint')} over a minute" if len(late) > 1 else ""
    what = f"the oldest event of {worst.name} is {span(worst.backlog.late_ms / 1000)} late{others}"
    if fleet.idle:
        yield warning(
            "late",
            f"{what}, while {counted(fleet.idle, 'worker')} idle: more requests at once help if it answers slowly "
            f"(`kasplo-notify attempts {worst.name}`; `endpoint update` with --max-in-flight)",
        )
    else:
        yield warning("late", f"{what}, and every worker is busy; start more: kasplo-notify worker -n 2")


def endpoints(fleet: Fleet, config: Config) -> Iterator[Finding]:
    """The findings of the endpoints: first what is broken, then what is worth knowing."""
    statuses = fleet.endpoints
    if statuses is None:
        return
    registered = [each for each in statuses if each.endpoint is not None]
    if registered:
        yield ok("endpoints", f"{counted(len(registered), 'endpoint')} registered")
    elif not any(each.broken for each in statuses) and not fleet.unreadable:
        yield note(
            "endpoints", "none is registered, so events go nowhere; the first: kasplo-notify endpoint add NAME URL"
        )
    yield from _broken(fleet, statuses)
    yield from lease(registered, config)
    yield from _deep(statuses, config)
    yield from _held_back(statuses)
    yield from _counted(fleet, statuses)


def lease(registered: Sequence[EndpointStatus], config: Config) -> Iterator[Finding]:
    """The finding of the lease and the timeouts that it has to outlast.

    A drain that holds a queue must have settled its last request before the lease ends; it has five seconds for that.
    """
    longest = config.worker.lease - 5
    timeouts = {each.name: each.endpoint.timeout for each in registered if each.endpoint is not None}
    above = sorted(name for name, timeout in timeouts.items() if timeout is not None and timeout > longest)
    if above:
        has = "has a timeout" if len(above) == 1 else "have timeouts"
        yield fault(
            "lease",
            f"{listed(above)} {has} over {longest:g} s (worker.lease - 5 s), where workers end the request; raise "
            "worker.lease everywhere, or `kasplo-notify endpoint update NAME --timeout S`",
        )
    else:
        yield ok("lease", f"worker.lease ({config.worker.lease:g} s) outlasts every timeout")


def _broken(fleet: Fleet, statuses: Sequence[EndpointStatus]) -> Iterator[Finding]:
    records = [each.name for each in statuses if each.broken]
    if records:
        yield fault(
            "broken_records",
            f"the {'record' if len(records) == 1 else 'records'} of {listed(records)} cannot be read, and nothing is "
            "sent there; register again with `kasplo-notify endpoint add`, the backlog is kept",
        )
    if fleet.unreadable:
        names = sorted(fleet.unreadable)
        yield fault(
            "broken_queues",
            f"the keys of {listed(names)} are not what they should be ({fleet.unreadable[names[0]]}); find out who "
            "writes to Redis besides kasplo-notify, and see `queue_broken` in the workers' logs",
        )
    nonsense = {each.name: each.health.nonsense for each in statuses if each.health.nonsense}
    if nonsense:
        names = sorted(nonsense)
        yield warning(
            "broken_health",
            f"what is stored of the state of {listed(names)} has fields that are no numbers "
            f"({', '.join(nonsense[names[0]])}), and counts as never written; find out who writes to Redis besides "
            "kasplo-notify; `kasplo-notify endpoint resume NAME` clears it",
        )
    if fleet.unregistered:
        names = sorted(fleet.unregistered)
        held = sum(fleet.unregistered.values())
        yield fault(
            "unregistered",
            f"{counted(held, 'event')} wait for {listed(names)}, which nobody registered; register the name again with "
            "`kasplo-notify endpoint add`",
        )


def _deep(statuses: Sequence[EndpointStatus], config: Config) -> Iterator[Finding]:
    most = config.delivery.max_backlog
    deep = [
        each.name for each in statuses if (each.backlog.waiting + each.backlog.retrying) * 100 >= most * _DEEP_PERCENT
    ]
    if deep:
        yield warning(
            "backlog",
            f"the backlog of {listed(deep)} is at {_DEEP_PERCENT} % or more of delivery.max_backlog ({most:,}): beyond "
            "it the oldest events become dead letters; mend the subscriber, or raise it",
        )


def _held_back(statuses: Sequence[EndpointStatus]) -> Iterator[Finding]:
    paused = [f"{each.name} ({each.pause_reason})" for each in statuses if each.state == "paused"]
    if paused:
        yield note(
            "paused",
            f"{listed(paused)}, with {_events(statuses, 'paused')} kept; to go on: kasplo-notify endpoint resume NAME",
        )
    opened = [each.name for each in statuses if each.state == "breaker_open"]
    if opened:
        yield note(
            "breaker_open",
            f"ten attempts in a row failed at {listed(opened)}, with {_events(statuses, 'breaker_open')} kept; single "
            "events probe it, and the rest follows by itself (why: kasplo-notify attempts NAME)",
        )
    removing = [each.name for each in statuses if each.state == "removing"]
    if removing:
        yield note("removing", f"being removed: {listed(removing)}; workers finish that")


def _events(statuses: Sequence[EndpointStatus], state: str) -> str:
    held = (each.backlog.waiting + each.backlog.retrying for each in statuses if each.state == state)
    return counted(sum(held), "event")


def _counted(fleet: Fleet, statuses: Sequence[EndpointStatus]) -> Iterator[Finding]:
    dead = sum(each.backlog.dead for each in statuses)
    if dead:
        yield note("dead_letters", f"{counted(dead, 'event')} given up on; see `kasplo-notify dead list`")
    if dropped := fleet.counters.get("dropped"):
        yield note(
            "dropped",
            f"{counted(dropped, 'dead letter')} deleted so far to keep within dead.keep_days and dead.max_bytes",
        )
    if unrouted := fleet.counters.get("unrouted"):
        yield note(
            "unrouted",
            f"{counted(unrouted, 'event')} so far matched no endpoint; who should get them: kasplo-notify route",
        )
