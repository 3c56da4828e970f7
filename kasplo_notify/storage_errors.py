"""What Redis' errors mean: it is away, it is full, it wants another login, or something in it is broken."""

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
_QUOTED_CHARACTERS = 200


def explain(error: RedisError | OSError) -> NotifyError:
    """The error of ours that stands for one of Redis' errors."""
    # A pipeline puts the command in front of the server's words, and an event may be in it.
    text = (str(error) or type(error).__name__).rpartition("of pipeline caused error: ")[2].rstrip(".")
    words = text.removeprefix("ERR ")[:_QUOTED_CHARACTERS]
    if isinstance(error, OutOfMemoryError):
        return QueueFull("Redis is full (maxmemory): give it more memory, or let the backlog drain, then try again")
    if text == "No connection available":
        return StorageUnavailable("all connections to Redis are busy: emit fewer at once, or many with emit_many")
    if isinstance(error, AuthenticationError | AuthenticationWrongNumberOfArgsError):
        return StorageUnavailable(f"Redis refuses the login: {text}. Check redis.url")
    if isinstance(error, NoPermissionError):
        return StorageRefused(f"Redis denies the login something: {words}. Let it (ACL SETUSER)")
    if words.startswith(_NO_DATABASE):
        return StorageUnavailable(
            f"Redis does not have this database: {words}. Check the number at the end of redis.url"
        )
    for beginning, remedy in _LACKING.items():
        if words.startswith(beginning):
            return StorageRefused(remedy.format(words))
    if isinstance(error, ResponseError) and not isinstance(error, _NOT_NOW) and not text.startswith(_NOT_NOW_CODES):
        return StorageBroken(f"a record in Redis is not as it should be: {words}")
    return StorageUnavailable(f"Redis is not available: {text}. Check redis.url and that the server runs")
