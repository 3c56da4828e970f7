"""The registry of endpoints in Redis: what operators change and workers read.

A change is one script that compares the registry's version, so two operators cannot overwrite each other, and
that bumps it before the command returns, so every emit() that begins later routes by it.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

from kasplo_notify import embedded
from kasplo_notify.config import Config
from kasplo_notify.endpoint import Endpoint, check_name, milliseconds
from kasplo_notify.errors import (
    EndpointError,
    EndpointExists,
    StorageBroken,
    StorageUnavailable,
    UnknownEndpoint,
    nearest,
    quoted,
    shown,
)
from kasplo_notify.health import MAX_WORD, Backlog, Health
from kasplo_notify.routing import Route, RouteTable, dump_routes
from kasplo_notify.store import Arg, Call, Keys, Store, connect

DAY_MS = 86_400_000
_SWEEP = 500
_COLLISIONS = 100


@dataclass(frozen=True, slots=True)
class Broken:
    """A record of the registry that is not readable."""

    name: str
    reason: str


class Registry:
    """Reads and changes the registry. Every method raises StorageUnavailable when Redis does not answer."""

    def __init__(self, store: Store, config: Config) -> None:
        self.store = store
        self.config = config

    @classmethod
    def open(cls, config: Config) -> Self:
        """Connect as the configuration says.

        Raises:
            StorageUnavailable: The URL is `embedded` and no embedded server runs.
        """
        url = embedded.url_of(config)
        return cls(Store(connect(url, timeout=2.0), config.redis.prefix), config)

    def close(self) -> None:
        self.store.close()

    def read(self) -> tuple[str, dict[str, Endpoint], list[Broken]]:
        """The registry's version, its endpoints by name in alphabetical order, and the records that are broken."""
        keys = self.store.keys
        version, stored = self.store.read(("GET", keys("version")), ("HGETALL", keys.endpoints))
        endpoints: dict[str, Endpoint] = {}
        broken = []
        for raw_name, record in sorted(stored.items()):
            name = _name(raw_name)
            try:
                endpoints[name] = Endpoint.from_json(record, check_name(name))
            except EndpointError as error:
                broken.append(Broken(name, str(error)))
            except Exception as error:  # noqa: BLE001 - a fault of ours with one record must not hide the others
                fault = f"{type(error).__name__}, a fault of this version; please report it"
                broken.append(Broken(name, f"the stored endpoint {shown(name)} cannot be read ({fault})"))
        return (version or b"0").decode(), endpoints, broken

    def endpoints(self) -> dict[str, Endpoint]:
        return self.read()[1]

    def get(self, name: str) -> Endpoint:
        """One endpoint.

        Raises:
            UnknownEndpoint: There is none of that name; says which was meant.
            EndpointError: Its record is not readable.
        """
        _, endpoints, broken = self.read()
        if name not in endpoints:
            raise _missing(name, endpoints, broken)
        return endpoints[name]

    def names(self) -> list[str]:
        """All that are registered, with a record that can be read or not."""
        _, endpoints, broken = self.read()
        return [*endpoints, *(each.name for each in broken)]

    def add(self, endpoint: Endpoint) -> None:
        """Register an endpoint; from the moment this returns, every emit() that begins routes by it.

        Raises:
            EndpointExists: The name is taken, or its removal is not done.
        """

        def change(endpoints: dict[str, Endpoint]) -> tuple[Endpoint, str]:
            if endpoint.name in endpoints:
                raise EndpointExists(
                    f"endpoint {endpoint.name!r} is still being removed: try again when `endpoint list` has lost it"
                    if endpoints[endpoint.name].removing
                    else f"endpoint {endpoint.name!r} exists: use `endpoint update {endpoint.name}`, or another name"
                )
            return endpoint, "new"

        self._change(change)

    def update(self, name: str, change_one: Callable[[Endpoint], Endpoint]) -> Endpoint:
        """Replace an endpoint by what `change_one` makes of it; it may run more than once.

        Raises:
            UnknownEndpoint: There is none of that name, or it is being removed.
            EndpointError: What `change_one` raises.
        """

        def change(endpoints: dict[str, Endpoint]) -> tuple[Endpoint, str]:
            endpoint = endpoints.get(name)
            if endpoint is None or endpoint.removing:
                raise unknown_endpoint(name, endpoints)
            return change_one(endpoint), "changed"

        self.get(name)

        return self._change(change)

    def pause(self, name: str, reason: str = "operator") -> str:
        """Stop the attempts of an endpoint within a second; its backlog stays. Returns why it is paused."""
        self.get(name)
        paused: bytes = self.store.run(Call("pause", [name, reason]))
        return paused[:MAX_WORD].decode(errors="replace")

    def resume(self, name: str) -> bool:
        """Send what waits, at once: forget pause, breaker and Retry-After, and the delays of what was requeued.

        Returns whether there was anything to forget but delays.

        Raises:
            EndpointError: The endpoint is being removed.
        """
        self.get(name)
        answer = self.store.run(Call("resume", [name, milliseconds(self.config.delivery.delay)]))
        if answer == b"removing":
            raise EndpointError(f"endpoint {name!r} is being removed: it cannot be resumed")
        self._hasten(name)
        return bool(answer)

    def _hasten(self, name: str) -> None:
        """Each retry once: what fails meanwhile waits for its next delay."""
        left = self.backlog([name])[name].retrying
        while left > 0:
            moved = self.store.run(Call("hasten", [name, min(left, _SWEEP)]))
            left -= moved or left

    def remove(self, name: str, *, drop: bool) -> Iterator[tuple[int, int]]:
        """Remove an endpoint: at once for producers and workers, then its backlog, in steps.

        Args:
            name: The endpoint.
            drop: Delete its backlog instead of turning it into dead letters.

        Yields:
            After each step, how many events were swept so far, and how many queues a worker still holds. Whoever
            iterates decides how long to wait for those. A removal that is not finished goes on in the workers.

        Raises:
            UnknownEndpoint: There is none of that name.
        """

        def change(endpoints: dict[str, Endpoint]) -> tuple[Endpoint, str]:
            if name not in endpoints:
                raise unknown_endpoint(name, endpoints)
            return replace(endpoints[name], removing="drop" if drop else "keep"), "removing"

        self.get(name)
        self._change(change)
        total = 0
        while True:
            status, swept, held = self.store.run(removal(self.store.keys, self.config, name, drop=drop))
            total += swept
            yield total, held
            if status != b"removing":
                return

    def health(self, names: Sequence[str]) -> dict[str, Health]:
        """The health of endpoints, by name."""
        stored = self.store.read(*(("HGETALL", self.store.keys(f"health:{name}")) for name in names))
        return {name: Health.read(values) for name, values in zip(names, stored, strict=True)}

    def backlog(self, names: Sequence[str]) -> dict[str, Backlog]:
        """What endpoints have waiting, by name."""
        _now, *rows = self.store.run(Call("backlog", [milliseconds(self.config.delivery.delay), *names]))
        return {
            name: Backlog(waiting=int(waiting), retrying=int(retrying), dead=int(dead), late_ms=int(late))
            for name, (waiting, retrying, dead, late) in zip(names, rows, strict=True)
        }

    def routes(self) -> RouteTable:
        return RouteTable.load(None, dump_routes(self.endpoints().values()))

    def _change(self, change: Callable[[dict[str, Endpoint]], tuple[Endpoint, str]]) -> Endpoint:
        keys = self.store.keys
        for _ in range(_COLLISIONS):
            version, endpoints, broken = self.read()
            endpoint, kind = change(endpoints)
            endpoints[endpoint.name] = endpoint
            unreadable = {each.name for each in broken} - {endpoint.name}
            delay = "" if endpoint.delay is None else milliseconds(endpoint.delay)
            default_delay = milliseconds(self.config.delivery.delay)
            args: list[Arg] = [
                version,
                endpoint.name,
                endpoint.to_json(),
                dump_routes(endpoints.values(), self._routes_of(unreadable)),
            ]
            args += [delay, endpoint.queues, default_delay, kind]
            status, _ = self.store.run(Call("register", args, [keys.endpoints, keys.routes]))
            if status == b"registered":
                return endpoint
        raise StorageUnavailable("the registry is being changed by others all the time: try again")

    def _routes_of(self, names: Collection[str]) -> list[Route]:
        """The routes that are stored for endpoints whose records are not readable: their events must not be lost."""
        if not names:
            return []
        try:
            (stored,) = self.store.read(("GET", self.store.keys.routes))
            return RouteTable.load(None, stored).of_endpoints(names)
        except (ValueError, TypeError, StorageBroken):
            return []


def removal(keys: Keys, config: Config, name: str, *, drop: bool) -> Call:
    """One step of the removal of an endpoint."""
    dead = config.dead
    how = "drop" if drop else "keep"
    keep_ms = int(dead.keep_days * DAY_MS)
    return Call("remove", [name, how, _SWEEP, dead.max_bytes, keep_ms], [keys.endpoints])


def _name(stored: bytes) -> str:
    """A name in the registry. What is none may be anything, of any length, and is quoted."""
    name = stored[: 2 * MAX_WORD].decode(errors="replace")
    try:
        return check_name(name)
    except EndpointError:
        return quoted(name)


def _missing(name: str, known: Iterable[str], broken: Iterable[Broken]) -> EndpointError:
    """The error for a name that has no record, or none that can be read."""
    reason = next((each.reason for each in broken if each.name == name), "")
    if reason:
        return EndpointError(f"{reason}; register it again with `kasplo-notify endpoint add {name} URL`")
    return unknown_endpoint(name, known)


def unknown_endpoint(name: str, known: Iterable[str]) -> UnknownEndpoint:
    """The error for a name that nobody registered."""
    meant = nearest(name, known)
    hint = f"did you mean {meant!r}?" if meant else "`kasplo-notify endpoint list` shows them all"
    return UnknownEndpoint(f"no endpoint is named {quoted(name)}: {hint}")
