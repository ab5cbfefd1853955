"""What can go wrong, as exceptions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import psycopg

LEASE_LOST = "MQ001"


class SqlxmqError(Exception):
    """Base of all exceptions that are this package's own."""


class LeaseLost(SqlxmqError):
    """The job is not held at this attempt any more: roll back, and drop this attempt.

    Attributes: id and attempt, the delivery that is over.
    """

    def __init__(self, id: UUID, attempt: int) -> None:
        super().__init__(f"job {id} is not held at attempt {attempt} any more")
        self.id = id
        self.attempt = attempt


class UnknownJobError(SqlxmqError):
    """A job was received whose name is not in the registry.

    Attributes: name, the job's.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"no job named {name!r} is registered with this worker")
        self.name = name


class EncodingError(SqlxmqError, TypeError):
    """An argument of a job cannot be written as JSON; nothing was sent."""


class DecodingError(SqlxmqError, ValueError):
    """A job's payload does not fit the function's arguments; the attempt fails with this error."""


@contextmanager
def fenced(id: UUID, attempt: int) -> Iterator[None]:
    """Turns the database's SQLSTATE for a lost lease into LeaseLost."""
    try:
        yield
    except psycopg.Error as error:
        if error.sqlstate == LEASE_LOST:
            raise LeaseLost(id, attempt) from error
        raise
