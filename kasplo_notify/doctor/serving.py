"""Whether this is a server that kasplo-notify can use: its version, its role, its connections."""

import re
from collections.abc import Iterator
from typing import Final

from kasplo_notify.doctor.finding import Finding, fault, note, ok, warning
from kasplo_notify.doctor.server import Server
from kasplo_notify.quantities import counted, span

# Scripts need the flags of `#!lua`.
_OLDEST: Final = {"Redis": (7, 0), "Valkey": (7, 2)}
_VERSION: Final = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})(?:\.|$)")
# Whoever is woken at night may not know that it was restarted.
_JUST_STARTED_S: Final = 900


def serving(server: Server) -> Iterator[Finding]:
    """The findings of a server's version, role and connections."""
    yield from _version(server)
    yield from _restarted(server)
    yield from _loading(server)
    yield from _role(server)
    yield from _replicas(server)
    yield from _clients(server)


def _version(server: Server) -> Iterator[Finding]:
    # Valkey calls itself Redis 7.2.4 beside its own version.
    program = "Valkey" if server.word("valkey_version") else "Redis"
    version = server.word(f"{program.lower()}_version")
    if version is None:
        return
    numbers = _VERSION.match(version)
    if numbers and (int(numbers[1]), int(numbers[2])) < _OLDEST[program]:
        yield fault("version", f"this is {program} {version}; install Redis 7.0 or Valkey 7.2, or newer")
    else:
        yield ok("version", f"{program} {version}")


def _restarted(server: Server) -> Iterator[Finding]:
    up_s = server.number("uptime_in_seconds")
    if up_s is not None and up_s < _JUST_STARTED_S:
        yield note("restarted", f"Redis was started {span(up_s)} ago; if nobody did that, its log says why it ended")


def _loading(server: Server) -> Iterator[Finding]:
    if server.word("loading") == "1" or server.word("async_loading") == "1":
        left = server.number("loading_eta_seconds")
        rest = "" if left is None else f", in about {span(left)}"
        yield fault(
            "loading", f"Redis is loading its data: nothing is stored or delivered before that is done{rest}; wait"
        )


def _role(server: Server) -> Iterator[Finding]:
    role = server.word("role")
    if server.word("cluster_enabled") == "1":
        yield fault(
            "cluster", "Redis is a node of a cluster, which spreads the keys of one emit(); use a single server"
        )
    if role == "slave":
        master = f"{server.word('master_host') or '?'}:{server.word('master_port') or '?'}"
        what = "what is stored here is lost" if server.word("slave_read_only") == "0" else "nothing can be stored here"
        yield fault("role", f"Redis is a replica of {master}: {what}; set redis.url to the master")
    elif role is not None:
        yield ok("role", f"Redis is a {role}")


def _replicas(server: Server) -> Iterator[Finding]:
    wanted, good = server.size("min-replicas-to-write"), server.number("min_slaves_good_slaves")
    if wanted and good is not None and good < wanted:
        yield fault(
            "replicas",
            f"min-replicas-to-write is {wanted:,} and {counted(good, 'replica')} can be relied on: new events are "
            "refused; mend the replicas, or lower it",
        )
    elif connected := server.number("connected_slaves"):
        bound = "min-replicas-max-lag bounds how much" if wanted else "min-replicas-to-write bounds how much"
        has = counted(connected, "replica")
        yield note("replicas", f"Redis has {has}: one that takes over may lack what was stored last; {bound}")


def _clients(server: Server) -> Iterator[Finding]:
    connected, most = server.number("connected_clients"), server.number("maxclients")
    refused = server.number("rejected_connections")
    if connected is not None and most and connected * 10 >= most * 9:
        yield warning(
            "clients",
            f"{connected:,} of {most:,} connections are taken: beyond that producers and workers are refused; find "
            "who holds them (CLIENT LIST), or raise maxclients",
        )
    elif refused:
        yield note(
            "clients",
            f"Redis has refused {counted(refused, 'connection')} since its start: it had maxclients; raise that if the "
            "number grows",
        )
