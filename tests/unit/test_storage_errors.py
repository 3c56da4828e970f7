"""What Redis' errors mean to whoever called: try again, correct something, or find the broken record."""

import pytest
from redis import exceptions
from redis._parsers.base import BaseParser
from redis.exceptions import RedisError, ResponseError

from kasplo_notify.errors import QueueFull, StorageBroken, StorageRefused, StorageUnavailable
from kasplo_notify.storage_errors import explain


def server_says(words: str) -> RedisError:
    error = BaseParser.parse_error(words)  # type: ignore[no-untyped-call]
    assert isinstance(error, RedisError)
    return error


@pytest.mark.parametrize(
    "error",
    [
        exceptions.ConnectionError("Connection refused"),
        exceptions.TimeoutError("Timeout reading from socket"),
        OSError("no route to host"),
        server_says("LOADING Redis is loading the dataset in memory"),
        server_says("BUSY Redis is busy running a script. You can only call SCRIPT KILL."),
        server_says("READONLY You can't write against a read only replica."),
        server_says("MISCONF Errors writing to the AOF file: No space left on device"),
        server_says("NOREPLICAS Not enough good replicas to write."),
        server_says("CLUSTERDOWN The cluster is down"),
        server_says("MASTERDOWN Link with MASTER is down"),
        server_says("TRYAGAIN Multiple keys request during rehashing of slot"),
    ],
    ids=lambda error: str(error)[:20],
)
def test_what_may_be_over_soon_is_told_to_be_not_available(error: RedisError | OSError) -> None:
    ours = explain(error)
    assert type(ours) is StorageUnavailable
    assert str(ours).startswith("Redis is not available: ")
    assert str(ours).endswith(". Check redis.url and that the server runs")


@pytest.mark.parametrize(
    ("words", "kind", "told"),
    [
        ("NOAUTH Authentication required.", StorageUnavailable, "refuses the login"),
        ("WRONGPASS invalid username-password pair or user is disabled.", StorageUnavailable, "refuses the login"),
        ("NOPERM User joe has no permissions to run the 'evalsha' command", StorageRefused, "forbids: User joe has no"),
        ("ERR DB index is out of range", StorageUnavailable, "the number at the end of redis.url"),
        ("ERR unknown command 'EVALSHA', with args beginning with: ", StorageRefused, "7.0"),
    ],
)
def test_what_the_operator_has_to_correct_is_told_in_fitting_words(
    words: str, kind: type[StorageUnavailable], told: str
) -> None:
    ours = explain(server_says(words))
    assert type(ours) is kind
    assert told in str(ours)
    assert "that the server runs" not in str(ours)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "NOPERM User joe has no permissions to run the 'get' command",
            "the script push: User joe has no permissions to",
        ),
        ("NOPERM No permissions to access a key", "the script push: No permissions to access a key (user joe). "),
        (
            "ERR ACL failure in script: User joe has no permissions to run the 'get' command script: 1f, on @u:1.",
            "the script push: User joe has no permissions to run the 'get' command. ",
        ),
        (
            "ERR ACL failure in script: No permissions to access a key script: 1f, on @user_script:1.",
            "the script push: No permissions to access a key (user joe). ",
        ),
        (
            "ERR The user executing the script can't run this command or subcommand script: 1f, on @user_script:1.",
            "the script push: The user executing the script can't run this command or subcommand (user joe). ",
        ),
    ],
)
def test_what_an_acl_forbids_names_the_user_what_was_asked_and_where_to_read_on(words: str, told: str) -> None:
    ours = explain(server_says(words), asked="the script push", login="joe")
    assert type(ours) is StorageRefused
    assert str(ours).startswith(f"the ACL of Redis forbids {told}")
    assert str(ours).endswith("docs/operations.md, section Users of Redis")


def test_of_a_pipeline_the_name_of_the_command_is_told_and_nothing_that_was_given_with_it() -> None:
    words = "Command # 2 (HGET kasplo:endpoints secret) of pipeline caused error: No permissions to access a key"
    ours = explain(exceptions.NoPermissionError(words))
    assert str(ours).startswith("the ACL of Redis forbids HGET: No permissions to access a key (user default). ")
    assert "secret" not in str(ours)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "Error 1 to h:1. [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: expired (_ssl.c:1).",
            "the certificate of Redis is not accepted: expired. ",
        ),
        (
            "Error 1 connecting to redis:6380. [SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006).",
            "no TLS connection to Redis: Error 1 connecting to redis:6380",
        ),
    ],
)
def test_a_failed_handshake_is_told_as_one(words: str, told: str) -> None:
    assert str(explain(exceptions.ConnectionError(words))).startswith(told)


@pytest.mark.parametrize(
    "words",
    [
        "WRONGTYPE Operation against a key holding the wrong kind of value script: 1f2e, on @user_script:12.",
        "ERR user_script:40: attempt to perform arithmetic on a nil value",
        "BUSYKEY Target key name already exists.",
    ],
)
def test_any_other_answer_is_a_broken_record(words: str) -> None:
    ours = explain(server_says(words))
    assert type(ours) is StorageBroken
    assert str(ours).startswith(f"a record in Redis is not as it should be: {words.removeprefix('ERR ')[:30]}")


def test_at_most_200_characters_of_the_server_are_quoted_and_no_command() -> None:
    ours = explain(ResponseError("Command # 1 (SET secret) of pipeline caused error: WRONGTYPE " + "x" * 500))
    assert type(ours) is StorageBroken
    assert "secret" not in str(ours)
    assert len(str(ours).partition(": ")[2]) == 200


def test_a_full_redis_is_neither() -> None:
    full = explain(server_says("OOM command not allowed when used memory > 'maxmemory'."))
    assert type(full) is QueueFull
