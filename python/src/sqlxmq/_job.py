"""@job: a function that can be sent as a job."""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Concatenate, Generic, ParamSpec, TypeAlias, TypeVar, cast, overload
from uuid import UUID

import psycopg
import psycopg_pool

from sqlxmq._current_job import CurrentJob
from sqlxmq._errors import DecodingError, EncodingError

P = ParamSpec("P")
R = TypeVar("R")

AsyncSender: TypeAlias = "psycopg.AsyncConnection[Any] | psycopg_pool.AsyncConnectionPool[Any]"
SyncSender: TypeAlias = "psycopg.Connection[Any] | psycopg_pool.ConnectionPool[Any]"

ENQUEUE = """
    SELECT mq_enqueue(
        %(name)s, %(payload)s::jsonb, channel_name => %(channel_name)s, channel_args => %(channel_args)s,
        delay => %(delay)s, retries => %(retries)s, retry_backoff => %(retry_backoff)s,
        ordered => %(ordered)s, priority => %(priority)s, when_dead => %(when_dead)s, id => %(id)s)
"""


@dataclass(frozen=True)
class Options:
    """How a job is sent; see mq_enqueue, whose arguments these are."""

    channel_name: str = ""
    channel_args: str = ""
    delay: timedelta = timedelta(0)
    retries: int = 4
    retry_backoff: timedelta = timedelta(seconds=1)
    ordered: bool = False
    priority: int = 0
    when_dead: str = "hold"
    id: UUID | None = None


@dataclass(frozen=True)
class Job(Generic[P, R]):
    """A function that can be sent as a job, and still be called as the function that it is.

    Attributes: name, under which workers know it; function; sent_with, the options it is sent with.
    """

    name: str
    function: Callable[..., Coroutine[Any, Any, R]]
    sent_with: Options
    signature: inspect.Signature = field(repr=False)
    takes_current_job: bool = field(repr=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, R]:
        """Calls the function itself: no job is sent."""
        return self.function(*args, **kwargs)

    def options(
        self,
        *,
        channel_name: str | None = None,
        channel_args: str | None = None,
        delay: timedelta | None = None,
        retries: int | None = None,
        backoff_secs: float | None = None,
        ordered: bool | None = None,
        priority: int | None = None,
        when_dead: str | None = None,
        id: UUID | None = None,
    ) -> Job[P, R]:
        """The same job, sent with other options; what is not given stays as it is.

        Args:
            channel_name, channel_args: the channel, unit of fairness and of order.
            delay: how long the job waits before it is due.
            retries: attempts after the first.
            backoff_secs: least lease of the first attempt in seconds, doubling with each.
            ordered: whether it runs in strict order with the other ordered jobs of its channel.
            priority: smaller first, within the channel (-32768 to 32767).
            when_dead: "hold" or "pass", what an ordered job does to those behind it once it is dead.
            id: the job's id, to send it once only; by default the database makes one.
        """
        given = {
            "channel_name": channel_name,
            "channel_args": channel_args,
            "delay": delay,
            "retries": retries,
            "retry_backoff": None if backoff_secs is None else timedelta(seconds=backoff_secs),
            "ordered": ordered,
            "priority": priority,
            "when_dead": when_dead,
            "id": id,
        }
        changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        return replace(self, sent_with=replace(self.sent_with, **changes))

    @overload
    def spawn(self, sender: AsyncSender, /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[UUID]: ...
    @overload
    def spawn(self, sender: SyncSender, /, *args: P.args, **kwargs: P.kwargs) -> UUID: ...
    def spawn(self, sender: AsyncSender | SyncSender, /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[UUID] | UUID:
        """Sends the job, with the function's own arguments, and returns its id.

        On a connection it is part of the transaction that is open there; on a pool it is a
        transaction of its own. With something asynchronous, await the result.

        Raises:
            TypeError: the arguments are not the function's.
            EncodingError: an argument cannot be written as JSON.
            psycopg.Error: the database refused (SQLSTATE class 22 or 23: bad options).
        """
        parameters = self._parameters(args, kwargs)
        if isinstance(sender, psycopg.AsyncConnection):
            return self._spawn_async(sender, parameters)
        if isinstance(sender, psycopg_pool.AsyncConnectionPool):
            return self._spawn_through_async_pool(sender, parameters)
        if isinstance(sender, psycopg_pool.ConnectionPool):
            with sender.connection() as connection:
                return self._spawn_sync(connection, parameters)
        if isinstance(sender, psycopg.Connection):
            return self._spawn_sync(sender, parameters)
        raise TypeError(f"cannot send a job through {sender!r}: it is no psycopg connection or pool")

    def _spawn_sync(self, connection: psycopg.Connection[Any], parameters: Mapping[str, Any]) -> UUID:
        with connection.cursor(row_factory=psycopg.rows.scalar_row) as cursor:
            return cast(UUID, cursor.execute(ENQUEUE, parameters).fetchone())

    async def _spawn_async(self, connection: psycopg.AsyncConnection[Any], parameters: Mapping[str, Any]) -> UUID:
        async with connection.cursor(row_factory=psycopg.rows.scalar_row) as cursor:
            return cast(UUID, await (await cursor.execute(ENQUEUE, parameters)).fetchone())

    async def _spawn_through_async_pool(
        self, pool: psycopg_pool.AsyncConnectionPool[Any], parameters: Mapping[str, Any]
    ) -> UUID:
        async with pool.connection() as connection:
            return await self._spawn_async(connection, parameters)

    def _parameters(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        try:
            arguments = self.signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"job {self.name}: {error}") from None
        for argument, value in arguments.items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise EncodingError(
                    f"job {self.name}: argument {argument} is {value!r}, which JSON cannot hold: {error}"
                ) from None
        return {"name": self.name, "payload": json.dumps(arguments), **vars(self.sent_with)}

    async def run(self, current_job: CurrentJob) -> None:
        """Calls the function with the arguments from the job's payload.

        Raises:
            DecodingError: the payload does not fit the function.
            Exception: whatever the function raises.
        """
        payload = current_job.json()
        if payload is None:
            payload = {}
        if not isinstance(payload, dict):
            raise DecodingError(f"the payload must be a JSON object of the arguments, but it is {payload!r}")
        try:
            arguments = self.signature.bind(**payload).arguments
        except TypeError as error:
            raise DecodingError(f"the payload {current_job.raw_json} does not fit the arguments: {error}") from None
        if self.takes_current_job:
            await self.function(current_job, **arguments)
        else:
            await self.function(**arguments)


class _Decorator:
    """What @job(…) returns: a decorator that keeps the function's type."""

    def __init__(self, name: str | None, sent_with: Options) -> None:
        self._name = name
        self._sent_with = sent_with

    @overload
    def __call__(self, function: Callable[Concatenate[CurrentJob, P], Coroutine[Any, Any, R]], /) -> Job[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Job[P, R]: ...
    def __call__(self, function: Callable[..., Coroutine[Any, Any, Any]], /) -> Job[Any, Any]:
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"@job takes an async function, and {function!r} is none")
        signature = inspect.signature(function, eval_str=True)
        parameters = list(signature.parameters.values())
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise TypeError(
                    f"job {function.__qualname__}: argument {parameter.name} must have a name to be sent under"
                )
        takes_current_job = bool(parameters) and parameters[0].annotation is CurrentJob
        return Job(
            self._name or f"{function.__module__}.{function.__qualname__}",
            function,
            self._sent_with,
            signature.replace(parameters=parameters[1:]) if takes_current_job else signature,
            takes_current_job,
        )


def job(
    name: str | None = None,
    *,
    channel_name: str = "",
    channel_args: str = "",
    retries: int = 4,
    backoff_secs: float = 1.0,
    ordered: bool = False,
    priority: int = 0,
    when_dead: str = "hold",
) -> _Decorator:
    """Makes a job of an async function. Its arguments are the payload, a JSON object; if its first
    parameter is annotated as CurrentJob, it gets that, too.

    Args:
        name: under which workers know it; by default the module's and the function's qualified name.
        channel_name, channel_args: the channel, unit of fairness and of order.
        retries: attempts after the first.
        backoff_secs: least lease of the first attempt in seconds, doubling with each.
        ordered: whether it runs in strict order with the other ordered jobs of its channel.
        priority: smaller first, within the channel (-32768 to 32767).
        when_dead: "hold" or "pass", what an ordered job does to those behind it once it is dead.

    Raises:
        TypeError: the function is not async, or has arguments without names.
    """
    return _Decorator(
        name,
        Options(
            channel_name=channel_name,
            channel_args=channel_args,
            retries=retries,
            retry_backoff=timedelta(seconds=backoff_secs),
            ordered=ordered,
            priority=priority,
            when_dead=when_dead,
        ),
    )
