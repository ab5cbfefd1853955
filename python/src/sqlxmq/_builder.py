"""A job on its way: everything about it can be set before it is sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar, overload
from uuid import UUID

from sqlxmq import _statements, _tracing
from sqlxmq._errors import EncodingError
from sqlxmq._options import Duration, JobOptions, length_if_given, length_of
from sqlxmq._payload import shown, to_json
from sqlxmq._senders import AsyncSender, SyncSender, execute
from sqlxmq._statements import Statement

T = TypeVar("T")


class JobBuilder:
    """A job that is being made ready. Each `set_…` method returns the builder itself.

    Use it for jobs of other applications, of which only the name is known; for your own,
    `send_mail.builder()` and `send_mail.prepare(to="…")` give builders.

    Attributes:
        name (str): under which workers know the job.
        id (UUID | None): the job's own id (None: the database makes one).
        channel_name (str | None): what was set; here and below, None where the database's default applies.
        channel_args (str | None): what was set.
        delay (timedelta | None): what was set.
        retries (int | None): what was set.
        retry_backoff (timedelta | None): what was set.
        ordered (bool | None): what was set.
        priority (int | None): what was set.
        commit_interval (timedelta | None): what was set.
        when_dead (str | None): what was set.
        raw_json (str | None): the JSON payload as text.
        raw_bytes (bytes | None): the binary payload.
        headers (dict[str, str]): what travels beside the payload.
    """

    def __init__(self, name: str, id: UUID | None = None) -> None:
        """
        Args:
            name: under which workers know the job.
            id: the job's id, to send it once only; by default the database makes one.
        """
        self.name = name
        self.id = id
        self.channel_name: str | None = None
        self.channel_args: str | None = None
        self.delay: timedelta | None = None
        self.retries: int | None = None
        self.retry_backoff: timedelta | None = None
        self.ordered: bool | None = None
        self.priority: int | None = None
        self.commit_interval: timedelta | None = None
        self.when_dead: str | None = None
        self.raw_json: str | None = None
        self.raw_bytes: bytes | None = None
        self.headers: dict[str, str] = {}

    def set_channel_name(self, channel_name: str) -> JobBuilder:
        """Sets channel_name, the channel's name, which workers subscribe to."""
        self.channel_name = channel_name
        return self

    def set_channel_args(self, channel_args: str) -> JobBuilder:
        """Sets channel_args, the channel's arguments: with the name, the unit of order and of fairness."""
        self.channel_args = channel_args
        return self

    def set_delay(self, delay: Duration) -> JobBuilder:
        """Sets delay, how long the job waits before it is due, a timedelta or seconds."""
        self.delay = length_of(delay, "delay")
        return self

    def set_retries(self, retries: int) -> JobBuilder:
        """Sets retries, the number of attempts after the first."""
        self.retries = retries
        return self

    def set_retry_backoff(self, retry_backoff: Duration) -> JobBuilder:
        """Sets retry_backoff, least lease of the first attempt and wait after its failure, a timedelta or seconds;
        doubling with each."""
        self.retry_backoff = length_of(retry_backoff, "retry_backoff")
        return self

    def set_ordered(self, ordered: bool) -> JobBuilder:
        """Sets ordered, whether the job runs in strict order with the other ordered jobs of its channel."""
        self.ordered = ordered
        return self

    def set_priority(self, priority: int) -> JobBuilder:
        """Sets priority, smaller first, within the channel (-32768 to 32767)."""
        self.priority = priority
        return self

    def set_commit_interval(self, commit_interval: Duration | None) -> JobBuilder:
        """Sets commit_interval, for how long the job is only reserved, until commit() makes it real, a timedelta or
        seconds; None: it is real at once."""
        self.commit_interval = length_if_given(commit_interval, "commit_interval")
        return self

    def set_when_dead(self, when_dead: str) -> JobBuilder:
        """Sets when_dead, "hold" or "pass": what an ordered job does to those behind it once it is dead."""
        self.when_dead = when_dead
        return self

    def set_raw_json(self, raw_json: str) -> JobBuilder:
        """Sets raw_json, the JSON payload as text, which the database will check (SQLSTATE 22P02)."""
        self.raw_json = raw_json
        return self

    def set_json(self, value: Any) -> JobBuilder:
        """Sets the JSON payload, from any value that @job could take as an argument.

        Raises:
            EncodingError: the value cannot be written as JSON.
        """
        try:
            self.raw_json = to_json(value)
        except (TypeError, ValueError) as error:
            raise EncodingError(
                f"job {self.name}: the payload is {shown(value)}, which JSON cannot hold: {error}"
            ) from None
        return self

    def set_raw_bytes(self, raw_bytes: bytes) -> JobBuilder:
        """Sets raw_bytes, the binary payload, beside the JSON or without it."""
        self.raw_bytes = raw_bytes
        return self

    def set_headers(self, headers: Mapping[str, str]) -> JobBuilder:
        """Sets headers, what travels beside the payload; workers find it as current_job.headers."""
        self.headers = dict(headers)
        return self

    def set_options(self, options: JobOptions) -> JobBuilder:
        """Sets what the options say; where they are silent, nothing changes."""
        for name, value in vars(options).items():
            if value is not None:
                setattr(self, name, value)
        return self

    @overload
    def spawn(self, sender: AsyncSender, /) -> Coroutine[Any, Any, UUID]: ...
    @overload
    def spawn(self, sender: SyncSender, /) -> UUID: ...
    def spawn(self, sender: AsyncSender | SyncSender, /) -> Coroutine[Any, Any, UUID] | UUID:
        """Sends the job, and returns its id.

        Args:
            sender: what to send through, and in whose transaction: see Job.spawn.

        Raises:
            TypeError: nothing can be sent through the sender.
            Exception: the database refused; the driver's own.
        """
        return _send(sender, [self], _first_of, is_batch=False)


def _send(
    sender: AsyncSender | SyncSender,
    builders: Sequence[JobBuilder],
    finished: Callable[[Statement[list[UUID]]], Statement[T]],
    *,
    is_batch: bool,
) -> Coroutine[Any, Any, T] | T:
    """Sends these jobs, each with the sender's trace, if there is one, beside its payload."""
    tracer = _tracing.tracer
    if tracer is None:
        return execute(sender, finished(_statement(builders, [builder.headers for builder in builders])))
    sending = tracer.sending(builders, is_batch=is_batch)
    with sending.under_way():
        result = execute(sender, finished(_statement(builders, sending.headers)))
    if isinstance(result, Coroutine):
        return _awaited(result, sending)
    sending.sent(result if isinstance(result, UUID) else None)
    return result


async def _awaited(result: Coroutine[Any, Any, T], sending: _tracing.Sending) -> T:
    with sending.under_way():
        sent = await result
    sending.sent(sent if isinstance(sent, UUID) else None)
    return sent


def _statement(builders: Sequence[JobBuilder], headers: Iterable[Mapping[str, str]]) -> Statement[list[UUID]]:
    return _statements.enqueue(builders, [json.dumps(dict(one)) if one else None for one in headers])


def _first_of(statement: Statement[list[UUID]]) -> Statement[UUID]:
    return Statement(statement.text, statement.parameters, lambda rows: statement.read(rows)[0])


def _all_of(statement: Statement[list[UUID]]) -> Statement[list[UUID]]:
    return statement


@overload
def spawn_many(sender: AsyncSender, jobs: Iterable[JobBuilder]) -> Coroutine[Any, Any, list[UUID]]: ...
@overload
def spawn_many(sender: SyncSender, jobs: Iterable[JobBuilder]) -> list[UUID]: ...
def spawn_many(
    sender: AsyncSender | SyncSender, jobs: Iterable[JobBuilder]
) -> Coroutine[Any, Any, list[UUID]] | list[UUID]:
    """Sends many jobs in one round trip, all or none: `spawn_many(connection, [send_mail.prepare(to=a) for a in …])`.

    Args:
        sender: what to send through, and in whose transaction: see Job.spawn.
        jobs: builders, from Job.prepare, Job.builder or JobBuilder.

    Returns:
        The ids, in the order of the jobs. With something asynchronous, await the result.

    Raises:
        TypeError: jobs holds something else, or nothing can be sent through the sender.
        Exception: as Job.spawn; the database's refusal says which of the jobs it is about, counted from 1.
    """
    builders = list(jobs)
    for builder in builders:
        if not isinstance(builder, JobBuilder):
            raise TypeError(f"jobs must be builders, as prepare() returns them, not {builder!r:.200}")
    return _send(sender, builders, _all_of, is_batch=True)
