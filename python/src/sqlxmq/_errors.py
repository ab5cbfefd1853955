"""The package's exceptions."""

from __future__ import annotations

from uuid import UUID

# What the database raises when a job is not held at the attempt that was named.
LEASE_LOST = "MQ001"


def sqlstate_of(error: BaseException | None) -> str | None:
    """The SQLSTATE of a driver's error, also of one that is wrapped by SQLAlchemy or Django; None if
    it has none."""
    for _ in range(5):
        if error is None:
            break
        found = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
        if isinstance(found, str):
            return found
        error = getattr(error, "orig", None) or error.__cause__
    return None


class SqlxmqError(Exception):
    """Base of the package's exceptions."""


class LeaseLost(SqlxmqError):
    """The job is not held at this attempt any more: its lease ran out, or somebody removed it.

    Raised inside of the transaction that wanted to complete or check-point the job: let it pass, so
    that the transaction rolls back, with all that it wrote.

    Attributes:
        id (UUID): the job's.
        attempt (int): the number that was not current.
    """

    def __init__(self, id: UUID, attempt: int) -> None:
        super().__init__(f"job {id} is not held at attempt {attempt} any more")
        self.id = id
        self.attempt = attempt


class UnknownJobError(SqlxmqError):
    """A job was received whose name is not in the registry. The attempt fails with it.

    Attributes:
        name (str): the job's.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"no job named {name!r} is registered with this worker")
        self.name = name


class EncodingError(SqlxmqError, TypeError):
    """An argument of a job cannot be written as JSON, or is not of its parameter's type; nothing was sent."""


class DecodingError(SqlxmqError, ValueError):
    """A job's payload does not fit the function's parameters; the attempt fails with this error, before the function
    is called."""


class MissingContextError(SqlxmqError, LookupError):
    """A job asks for context that the registry was not given; raised when the runner starts, and by
    current_job.context(…)."""


class QueueNotFoundError(SqlxmqError):
    """The database has no queue that this package can work with: none on the search_path, one of an older version, or
    one that the role may not use. Raised when the runner starts."""


class TimeLimitExceeded(SqlxmqError):
    """A job took longer than its time limit; the attempt fails with this error."""


class JobStopped(SqlxmqError):
    """A job was told to stop: its lease was lost, somebody cancelled it, its time limit is over, or the
    worker ends. Raised by raise_if_stopped()."""
