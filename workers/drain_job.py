"""The job of RQ, as our workers read it: whatever is stored of it, it is a drain."""

from collections.abc import Mapping
from typing import Any, Self, cast

from redis.exceptions import ResponseError
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer

TIMEOUT_S, RESULT_TTL_S, FAILURE_TTL_S = 900, 60, 3600
FUNCTION = "workers.drain"
_DESCRIBED = 200


class DrainJob(Job):
    """A drain under the id of a stored job.

    RQ's jobs name Python functions and callbacks that are imported and called, and URLs that are requested, past the
    egress guard. Whoever can write to Redis could name any, so nothing of a stored job is looked at but what says in
    words why somebody asked for it. No pickle is loaded either, and no number is read that may not be one.
    """

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """As RQ's, from what is the same for every drain."""
        said = raw_data.get(b"description", b"").decode(errors="replace")
        description = said if said.isprintable() and len(said) <= _DESCRIBED else "a job that none of our workers wrote"
        super().restore(
            {
                b"data": JSONSerializer.dumps((FUNCTION, None, (), {})),
                b"description": description.encode(),
                b"origin": raw_data.get(b"origin", b"").decode(errors="replace").encode(),
                b"timeout": str(TIMEOUT_S).encode(),
                b"result_ttl": str(RESULT_TTL_S).encode(),
                b"failure_ttl": str(FAILURE_TTL_S).encode(),
            }
        )

    @classmethod
    def fetch(cls, id: str, *args: Any, **options: Any) -> Self:  # noqa: A002 - RQ's signature
        """As RQ's; what is no id, or under it no job, is passed over as one that is missing."""
        try:
            return cast("Self", super().fetch(id, *args, **options))
        except (ValueError, ResponseError) as error:
            raise NoSuchJobError(f"not a job: {ascii(id)[:_DESCRIBED]}") from error
