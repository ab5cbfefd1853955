"""What a test sees of jobs: those that were sent, and those that it ran."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlxmq import _statements
from sqlxmq._job import AnyJob, BatchJob, Job
from sqlxmq._statements import Statement


@dataclass(frozen=True, kw_only=True)
class SpawnedJob:
    """A job that is in the queue.

    Attributes:
        id (UUID): the job's id.
        name (str): the job's name.
        state (str): "ready", "scheduled", "running", "blocked" or "dead".
        arguments (Mapping[str, Any]): by name, those that its function will be called with, defaults included, or,
            where the job was not given, what the JSON payload has.
        payload (Any): the value of a batch job, else the JSON payload, decoded.
        raw_json (str | None): the JSON payload as it was sent (None: there is none).
        raw_bytes (bytes | None): the binary payload (None: there is none).
        channel_name (str): the channel's name.
        channel_args (str): the channel's arguments.
        priority (int): smaller first, within the channel.
        ordered (bool): whether it runs in strict order with the others of its channel.
        when_dead (str): "hold" or "pass".
        headers (Mapping[str, str]): what travels beside the payload.
        attempts_made (int): how many attempts there were.
        attempts_left (int): how many there can still be.
        retry_backoff (timedelta): how long it will wait after the next failure.
        created_at (datetime): when it was sent.
        due_at (datetime): from when on it can run.
        reserved_until (datetime | None): until when it is reserved (None: it is no reservation).
        last_error (str | None): why the last attempt failed (None: none has).
    """

    id: UUID
    name: str
    state: str
    arguments: Mapping[str, Any]
    payload: Any
    raw_json: str | None = field(repr=False)
    raw_bytes: bytes | None = field(repr=False)
    channel_name: str
    channel_args: str
    priority: int
    ordered: bool
    when_dead: str
    headers: Mapping[str, str]
    attempts_made: int
    attempts_left: int
    retry_backoff: timedelta
    created_at: datetime
    due_at: datetime
    reserved_until: datetime | None
    last_error: str | None = field(repr=False)

    @property
    def delay(self) -> timedelta:
        """How long after it was sent the job is, or was, due."""
        return self.due_at - self.created_at


@dataclass(frozen=True)
class RanJob:
    """A job that a test has run.

    Attributes:
        id (UUID): the job's id.
        name (str): the job's name.
        attempt (int): the number of this delivery.
        outcome (str): as observers are told it: "completed", "failed", "retried", "snoozed", "cancelled" or "lost"
            (the lease was, so nothing was reported).
        error (BaseException | None): why it failed (None: it did not).
        result (Any): what the function returned.
    """

    id: UUID
    name: str
    attempt: int
    outcome: str
    error: BaseException | None
    result: Any


def in_queue(job: AnyJob | str | None = None) -> Statement[list[SpawnedJob]]:
    """The jobs in the queue, in the order in which they were sent: all, or one job's, or one name's."""
    return Statement(_statements.JOBS, [], lambda rows: of_job([_spawned(row) for row in rows], job))


def of_job(jobs: list[SpawnedJob], job: AnyJob | str | None) -> list[SpawnedJob]:
    """Those of one job, their payloads decoded by its types; or of one name; or all.

    Raises DecodingError if a payload is not of the job's types.
    """
    if job is None:
        return jobs
    if isinstance(job, str):
        return [one for one in jobs if one.name == job]
    found = [one for one in jobs if one.name == job.name]
    if isinstance(job, Job):
        found = [replace(one, arguments=job._payload.with_defaults(job.arguments(one.raw_json))) for one in found]
    elif isinstance(job, BatchJob):
        found = [replace(one, arguments={}, payload=job.decode(one.raw_json)) for one in found]
    return found


def check_spawned(
    jobs: list[SpawnedJob],
    job: AnyJob | str,
    args: tuple[Any, ...],
    arguments: Mapping[str, Any],
    count: int | None,
) -> list[SpawnedJob]:
    """The jobs that match. Raises AssertionError if there are none, or not as many as wanted."""
    __tracebackhide__ = True
    found = _matching(jobs, job, args, arguments)
    if count is None:
        assert found, f"{_wanted(job, args, arguments)} was not sent.{_there(jobs)}"
    else:
        assert len(found) == count, (
            f"{_wanted(job, args, arguments)} was sent {len(found)} times, not {count}.{_there(jobs)}"
        )
    return found


def check_not_spawned(
    jobs: list[SpawnedJob], job: AnyJob | str, args: tuple[Any, ...], arguments: Mapping[str, Any]
) -> None:
    """Raises AssertionError if a job matches."""
    __tracebackhide__ = True
    assert not _matching(jobs, job, args, arguments), f"{_wanted(job, args, arguments)} was sent.{_there(jobs)}"


def _matching(
    jobs: list[SpawnedJob], job: AnyJob | str, args: tuple[Any, ...], arguments: Mapping[str, Any]
) -> list[SpawnedJob]:
    if isinstance(job, Job):
        arguments, args = job._payload.some(args, arguments), ()
    elif len(args) > 1 or (args and arguments) or (arguments and isinstance(job, BatchJob)):
        name = job if isinstance(job, str) else job.name
        raise TypeError(f"job {name}: give one value, its payload" + (", or arguments" if isinstance(job, str) else ""))
    return [
        one
        for one in of_job(jobs, job)
        if (not args or one.payload == args[0])
        and all(name in one.arguments and one.arguments[name] == value for name, value in arguments.items())
    ]


def _wanted(job: AnyJob | str, args: tuple[Any, ...], arguments: Mapping[str, Any]) -> str:
    return _call(job if isinstance(job, str) else job.name, args, arguments)


def _call(name: str, args: tuple[Any, ...], arguments: Mapping[str, Any]) -> str:
    given = [repr(value) for value in args] + [f"{name}={value!r}" for name, value in arguments.items()]
    return f"{name}({', '.join(given):.500})"


def _there(jobs: list[SpawnedJob]) -> str:
    if not jobs:
        return " There is no job in the queue."
    lines = ["", "In the queue:"]
    for one in jobs[:20]:
        args = () if one.payload is None or isinstance(one.payload, dict) else (one.payload,)
        lines.append(f"  {_call(one.name, args, one.arguments)}  {one.state}, channel {one.channel_name!r}")
    if len(jobs) > 20:
        lines.append(f"  and {len(jobs) - 20} more")
    return "\n".join(lines)


def _spawned(row: Sequence[Any]) -> SpawnedJob:
    (
        id, name, state, raw_json, raw_bytes, channel_name, channel_args, priority, ordered, when_dead, headers,
        attempts_made, attempts_left, retry_backoff, created_at, due_at, reserved_until, last_error,
    ) = row  # fmt: skip
    payload = None if raw_json is None else json.loads(raw_json)
    return SpawnedJob(
        id=UUID(str(id)), name=name, state=state, arguments=payload if isinstance(payload, dict) else {},
        payload=payload, raw_json=raw_json, raw_bytes=None if raw_bytes is None else bytes(raw_bytes),
        channel_name=channel_name, channel_args=channel_args, priority=priority, ordered=ordered,
        when_dead=when_dead, headers={} if headers is None else json.loads(headers), attempts_made=attempts_made,
        attempts_left=attempts_left, retry_backoff=retry_backoff, created_at=created_at, due_at=due_at,
        reserved_until=reserved_until, last_error=last_error,
    )  # fmt: skip
