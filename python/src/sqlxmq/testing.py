"""Helpers for the tests of applications that send and run jobs.

Everything happens in the database, in the transaction that the test has open, and is rolled back with it.
The plugin for pytest, which comes with the package, offers the same as fixtures; see docs/guide/testing.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast, overload

from sqlxmq import _driver_connection
from sqlxmq._async import testing as _async_testing
from sqlxmq._async.testing import AsyncQueueInTest
from sqlxmq._driver_connection import AsyncTestConnection, TestConnection
from sqlxmq._job import AnyJob
from sqlxmq._registry import JobRegistry
from sqlxmq._senders import AsyncSender, SyncSender, execute
from sqlxmq._spawned import RanJob, SpawnedJob, check_not_spawned, check_spawned, in_queue
from sqlxmq._sync import testing as _sync_testing
from sqlxmq._sync.testing import QueueInTest

__all__ = [
    "AsyncQueueInTest",
    "QueueInTest",
    "RanJob",
    "SpawnedJob",
    "assert_not_spawned",
    "assert_spawned",
    "drain",
    "run_one",
    "spawned",
]

R = TypeVar("R")
T = TypeVar("T")


@overload
def run_one(
    registry: JobRegistry,
    connection: AsyncTestConnection,
    *,
    channel_names: Sequence[str] | None = None,
    raise_errors: bool = True,
) -> Awaitable[RanJob | None]: ...
@overload
def run_one(
    registry: JobRegistry,
    connection: TestConnection,
    *,
    channel_names: Sequence[str] | None = None,
    raise_errors: bool = True,
) -> RanJob | None: ...
def run_one(
    registry: JobRegistry,
    connection: AsyncTestConnection | TestConnection,
    *,
    channel_names: Sequence[str] | None = None,
    raise_errors: bool = True,
) -> Awaitable[RanJob | None] | RanJob | None:
    """Runs one job, if one is due, as a runner would, but in the transaction that is open on the connection:
    the job is claimed and reported there, and what it does in current_job.transaction(), or with a connection
    of current_job.pool, it does there in a savepoint. With something asynchronous, await the result.

    Functions of both kinds are run, whatever the connection is: plain ones in this thread, or in one of their
    own if the connection is asynchronous; asynchronous ones in this event loop, or in one of their own.

    Args:
        registry: the jobs and their context.
        connection: of psycopg, sync or async; or a connection or session of SQLAlchemy or a connection of
            Django that is on psycopg.
        channel_names: whose jobs to run. None: all.
        raise_errors: whether what the job raises is raised here, after it was reported to the database; else
            it goes to the registry's error handler, as with a runner. Retry, Fail, Snooze and Cancel are
            outcomes, and never raised.

    Returns:
        The job that ran; None if none was due.

    Raises:
        TypeError: the connection is none of these.
        ValueError: it is in autocommit mode without an open transaction, so the effects would stay.
        MissingContextError: a job asks for context that the registry was not given.
        Exception: the job's own, UnknownJobError or DecodingError, if raise_errors says so.
    """
    if _driver_connection.is_async(connection):
        return _async_testing.run_one(
            registry,
            cast(AsyncTestConnection, connection),
            channel_names=channel_names,
            raise_errors=raise_errors,
        )
    return _sync_testing.run_one(
        registry, cast(TestConnection, connection), channel_names=channel_names, raise_errors=raise_errors
    )


@overload
def drain(
    registry: JobRegistry,
    connection: AsyncTestConnection,
    *,
    channel_names: Sequence[str] | None = None,
    limit: int = 1000,
    raise_errors: bool = True,
) -> Awaitable[list[RanJob]]: ...
@overload
def drain(
    registry: JobRegistry,
    connection: TestConnection,
    *,
    channel_names: Sequence[str] | None = None,
    limit: int = 1000,
    raise_errors: bool = True,
) -> list[RanJob]: ...
def drain(
    registry: JobRegistry,
    connection: AsyncTestConnection | TestConnection,
    *,
    channel_names: Sequence[str] | None = None,
    limit: int = 1000,
    raise_errors: bool = True,
) -> Awaitable[list[RanJob]] | list[RanJob]:
    """Runs jobs, one after the other, until none is due: also those that were sent by the jobs. Batch jobs run
    with as many items as are due, up to their size. Jobs that are delayed, or wait for a retry, are not due.

    Args:
        registry, connection, channel_names, raise_errors: as in run_one. When a job's error is raised, the
            jobs after it have not run, and are still due.
        limit: how many jobs are run at most.

    Returns:
        The jobs that ran, in that order.

    Raises:
        AssertionError: after so many jobs there was still one due.
        Exception: as run_one.
    """
    if _driver_connection.is_async(connection):
        return _async_testing.drain(
            registry,
            cast(AsyncTestConnection, connection),
            channel_names=channel_names,
            limit=limit,
            raise_errors=raise_errors,
        )
    return _sync_testing.drain(
        registry,
        cast(TestConnection, connection),
        channel_names=channel_names,
        limit=limit,
        raise_errors=raise_errors,
    )


@overload
def spawned(connection: AsyncSender, job: AnyJob | str | None = None) -> Awaitable[list[SpawnedJob]]: ...
@overload
def spawned(connection: SyncSender, job: AnyJob | str | None = None) -> list[SpawnedJob]: ...
def spawned(
    connection: AsyncSender | SyncSender, job: AnyJob | str | None = None
) -> Awaitable[list[SpawnedJob]] | list[SpawnedJob]:
    """The jobs that are in the queue, in the order in which they were sent, whatever their state; those that
    are done are gone. With something asynchronous, await the result.

    Args:
        connection: whatever Job.spawn takes.
        job: whose; the arguments are then decoded by its types. A text: the job's name. None: all jobs.

    Raises:
        DecodingError: a payload does not fit the job.
    """
    return execute(connection, in_queue(job))


@overload
def assert_spawned(
    connection: AsyncSender, job: AnyJob | str, /, *args: Any, count: int | None = None, **arguments: Any
) -> Awaitable[list[SpawnedJob]]: ...
@overload
def assert_spawned(
    connection: SyncSender, job: AnyJob | str, /, *args: Any, count: int | None = None, **arguments: Any
) -> list[SpawnedJob]: ...
def assert_spawned(
    connection: AsyncSender | SyncSender, job: AnyJob | str, /, *args: Any, count: int | None = None, **arguments: Any
) -> Awaitable[list[SpawnedJob]] | list[SpawnedJob]:
    """Fails if no such job is in the queue. With something asynchronous, await it: else nothing is checked.

    Args:
        connection: whatever Job.spawn takes.
        job: the job, or its name.
        args, arguments: what it must have been sent with, as in Job.spawn; others can have any value. Defaults
            count as sent. For an argument that is named count, use spawned().
        count: how many such jobs there must be. None: at least one.

    Returns:
        The jobs that match.

    Raises:
        AssertionError: there are none, or not as many; the message lists what is there.
        TypeError: the arguments are not the job's.
    """
    __tracebackhide__ = True
    return _then(
        execute(connection, in_queue()),
        lambda jobs: check_spawned(jobs, job, args, arguments, count),
    )


@overload
def assert_not_spawned(
    connection: AsyncSender, job: AnyJob | str, /, *args: Any, **arguments: Any
) -> Awaitable[None]: ...
@overload
def assert_not_spawned(connection: SyncSender, job: AnyJob | str, /, *args: Any, **arguments: Any) -> None: ...
def assert_not_spawned(
    connection: AsyncSender | SyncSender, job: AnyJob | str, /, *args: Any, **arguments: Any
) -> Awaitable[None] | None:
    """Fails if such a job is in the queue. With something asynchronous, await it: else nothing is checked.

    Args:
        connection: whatever Job.spawn takes.
        job: the job, or its name.
        args, arguments: as in assert_spawned.

    Raises:
        AssertionError: there is one; the message lists what is there.
        TypeError: the arguments are not the job's.
    """
    __tracebackhide__ = True
    return _then(execute(connection, in_queue()), lambda jobs: check_not_spawned(jobs, job, args, arguments))


def _then(result: Awaitable[T] | T, check: Callable[[T], R]) -> Awaitable[R] | R:
    __tracebackhide__ = True
    if isinstance(result, Awaitable):
        return _after(result, check)
    return check(result)


async def _after(result: Awaitable[T], check: Callable[[T], R]) -> R:
    __tracebackhide__ = True
    return check(await result)
