"""Operations on the queue, through whatever connection is open."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, overload
from uuid import UUID

from sqlxmq import _statements
from sqlxmq._errors import sqlstate_of
from sqlxmq._options import Duration, length_of
from sqlxmq._senders import AsyncSender, SyncSender, execute

# Each takes what Job.spawn takes, and is part of the transaction that is open there. With something
# asynchronous, await the result.


@overload
def commit(sender: AsyncSender, ids: Iterable[UUID | str]) -> Coroutine[Any, Any, list[UUID]]: ...
@overload
def commit(sender: SyncSender, ids: Iterable[UUID | str]) -> list[UUID]: ...
def commit(sender: AsyncSender | SyncSender, ids: Iterable[UUID | str]) -> Coroutine[Any, Any, list[UUID]] | list[UUID]:
    """Second phase of a two-phase send: makes jobs real that were sent with a commit_interval.

    Args:
        sender: what to send through, and in whose transaction: see Job.spawn.
        ids: the jobs.

    Returns:
        The ids that were reserved and are committed now; one that is missing was too late.

    Raises:
        ValueError: an id is no UUID.
    """
    return execute(sender, _statements.commit(ids))


@overload
def clear(sender: AsyncSender, channel_names: Sequence[str]) -> Coroutine[Any, Any, None]: ...
@overload
def clear(sender: SyncSender, channel_names: Sequence[str]) -> None: ...
def clear(sender: AsyncSender | SyncSender, channel_names: Sequence[str]) -> Coroutine[Any, Any, None] | None:
    """Removes all jobs of these channel names, running ones included.

    Args:
        sender: what to send through, and in whose transaction: see Job.spawn.
        channel_names: the names, whatever the channels' arguments.

    Raises:
        TypeError: channel_names is a text instead of a list of texts.
    """
    if isinstance(channel_names, str):
        raise TypeError(f"channel_names is {channel_names!r}, but it must be a list of names")
    return execute(sender, _statements.clear(channel_names))


@overload
def clear_all(sender: AsyncSender) -> Coroutine[Any, Any, None]: ...
@overload
def clear_all(sender: SyncSender) -> None: ...
def clear_all(sender: AsyncSender | SyncSender) -> Coroutine[Any, Any, None] | None:
    """Removes all jobs, running ones included.

    Args:
        sender: what to send through, and in whose transaction: see Job.spawn.
    """
    return execute(sender, _statements.clear_all())


@overload
def exists(sender: AsyncSender, id: UUID | str) -> Coroutine[Any, Any, bool]: ...
@overload
def exists(sender: SyncSender, id: UUID | str) -> bool: ...
def exists(sender: AsyncSender | SyncSender, id: UUID | str) -> Coroutine[Any, Any, bool] | bool:
    """Whether a job is in the queue, in whatever state. A job that is done is not.

    Args:
        sender: what to send through, and in whose transaction: see Job.spawn.
        id: the job.

    Raises:
        ValueError: the id is no UUID.
    """
    return execute(sender, _statements.exists(id))


@overload
def cancel(sender: AsyncSender, ids: Iterable[UUID | str]) -> Coroutine[Any, Any, Mapping[UUID, str]]: ...
@overload
def cancel(sender: SyncSender, ids: Iterable[UUID | str]) -> Mapping[UUID, str]: ...
def cancel(
    sender: AsyncSender | SyncSender, ids: Iterable[UUID | str]
) -> Coroutine[Any, Any, Mapping[UUID, str]] | Mapping[UUID, str]:
    """Cancels jobs: removes those that wait or are dead, asks the holders of those that run to stop.

    Args:
        sender: what to send through, and in whose transaction: see Job.spawn.
        ids: the jobs.

    Returns:
        For each that is in the queue, "removed" or "requested".

    Raises:
        ValueError: an id is no UUID.
    """
    return execute(sender, _statements.cancel(ids))


@overload
def retry(
    sender: AsyncSender, ids: Iterable[UUID | str], *, retries: int = 0, delay: Duration = timedelta(0)
) -> Coroutine[Any, Any, list[UUID]]: ...
@overload
def retry(
    sender: SyncSender, ids: Iterable[UUID | str], *, retries: int = 0, delay: Duration = timedelta(0)
) -> list[UUID]: ...
def retry(
    sender: AsyncSender | SyncSender,
    ids: Iterable[UUID | str],
    *,
    retries: int = 0,
    delay: Duration = timedelta(0),
) -> Coroutine[Any, Any, list[UUID]] | list[UUID]:
    """Gives dead jobs another try.

    Args:
        sender: what to send through, and in whose transaction: see Job.spawn.
        ids: the jobs; those that are not dead are passed over.
        retries: attempts after the first new one.
        delay: how long until they are due, a timedelta or seconds.

    Returns:
        The ids that were dead.

    Raises:
        ValueError: an id is no UUID.
    """
    return execute(sender, _statements.retry(ids, retries, length_of(delay, "delay")))


def should_retry(error: BaseException) -> bool:
    """Whether a transaction that failed with this error can succeed when it is tried again: serialization failures
    (SQLSTATE 40001) and deadlocks (40P01).

    Args:
        error: of whatever driver, also one that SQLAlchemy or Django has wrapped.
    """
    return sqlstate_of(error) in ("40001", "40P01")
