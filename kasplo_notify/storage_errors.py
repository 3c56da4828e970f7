"""What Redis' errors mean: it is away, it is full, it wants another login, or something in it is broken."""

import re

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    ClusterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from kasplo_notify.errors import NotifyError, QueueFull, StorageBroken, StorageRefused, StorageUnavailable

# What stands for "not now": a replica, a failover, a script that runs for too long, a disk that cannot be written.
_NOT_NOW = (ReadOnlyError, ClusterDownError, TryAgainError, AskError)
_NOT_NOW_CODES = ("BUSY ", "MISCONF ", "NOREPLICAS ")
_NO_DATABASE = "DB index is out of range"
# What the server lacks: the beginning of its words -> what to do.
_LACKING = {
    "unknown command": "Redis lacks a command: {}. It has to be Redis 7.0 or Valkey 7.2, or newer",
    "Error compiling script": "Redis cannot read a script: {}. It has to be Redis 7.0 or Valkey 7.2, or newer",
}
# How a server says that an ACL forbids what a script does; Redis 7.0 in the second way.
_ACL_IN_SCRIPT = ("ACL failure in script: ", "The user executing the script ")
_NAMELESS = re.compile(r"(?i)no permissions to access|the user executing the script")
_PIPELINED = re.compile(r"(?:Command # \d+ \((\w+).* of pipeline caused error: )?(.*)", re.DOTALL)
_NOT_TRUSTED = re.compile(r"certificate verify failed: (.*?)\.? \(_ssl")
_QUOTED_CHARACTERS = 200


def explain(error: RedisError | OSError, *, asked: str = "", login: str = "") -> NotifyError:
    """The error of ours that stands for one of Redis' errors.

    Args:
        error: It.
        asked: What Redis was asked for: a script or a command.
        login: The user name that was given to Redis; empty for none.
    """
    # A pipeline puts the command in front of the server's words, and an event may be in it.
    command, text = _PIPELINED.fullmatch(str(error) or type(error).__name__).groups()  # type: ignore[union-attr]  # always
    asked, text = command or asked, text.rstrip(".")
    words = text.removeprefix("ERR ")[:_QUOTED_CHARACTERS]
    if isinstance(error, OutOfMemoryError):
        return QueueFull("Redis is full (maxmemory): give it more memory, or let the backlog drain, then try again")
    if text == "No connection available":
        return StorageUnavailable("all connections to Redis are busy: emit fewer at once, or many with emit_many")
    if isinstance(error, AuthenticationError | AuthenticationWrongNumberOfArgsError):
        return StorageUnavailable(f"Redis refuses the login: {text}. Check redis.url")
    if isinstance(error, NoPermissionError) or words.startswith(_ACL_IN_SCRIPT):
        return _forbidden(words, asked, login or "default")
    if words.startswith(_NO_DATABASE):
        return StorageUnavailable(
            f"Redis does not have this database: {words}. Check the number at the end of redis.url"
        )
    if remedy := next((each for beginning, each in _LACKING.items() if words.startswith(beginning)), ""):
        return StorageRefused(remedy.format(words))
    if isinstance(error, ResponseError) and not isinstance(error, _NOT_NOW) and not text.startswith(_NOT_NOW_CODES):
        return StorageBroken(f"a record in Redis is not as it should be: {words}")
    return StorageUnavailable(_away(text))


def _away(text: str) -> str:
    """Why there is no connection, or no answer."""
    if untrusted := _NOT_TRUSTED.search(text):
        return (
            f"the certificate of Redis is not accepted: {untrusted[1]}. Check the host in redis.url, and "
            "?ssl_ca_certs=FILE behind it"
        )
    if "[SSL" in text:
        return f"no TLS connection to Redis: {text}. Check that redis.url names its TLS port"
    return f"Redis is not available: {text}. Check redis.url and that the server runs"


def _forbidden(words: str, asked: str, login: str) -> StorageRefused:
    """What an ACL forbids, to whom."""
    said = words.removeprefix(_ACL_IN_SCRIPT[0]).partition(" script: ")[0]
    who = f" (user {login})" if _NAMELESS.search(said) else ""
    what = f" {asked}" if asked else ""
    return StorageRefused(
        f"the ACL of Redis forbids{what}: {said}{who}. What each user needs: docs/operations.md, section Users of Redis"
    )
