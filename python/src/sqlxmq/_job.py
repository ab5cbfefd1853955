"""@job: a function that can be sent as a job."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, get_args, get_origin, overload
from uuid import UUID

from typing_extensions import Self

from sqlxmq._async.current_job import Batch, CurrentJob
from sqlxmq._builder import JobBuilder
from sqlxmq._context import FromContext
from sqlxmq._options import Duration, JobOptions, length_if_given
from sqlxmq._payload import ArgumentsPayload, ValuePayload
from sqlxmq._senders import AsyncSender, SyncSender
from sqlxmq._sync.current_job import SyncBatch, SyncCurrentJob

C = ParamSpec("C")
P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

Proto = JobOptions | Callable[[JobBuilder], JobBuilder]


class AnyJob:
    """What the two kinds of jobs have in common: Job and BatchJob."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None,
        sent_with: JobOptions,
        proto: Proto | None,
        lease: timedelta | None,
        time_limit: timedelta | None,
    ) -> None:
        if isinstance(function, staticmethod):
            function = function.__func__
        if not _is_plain_or_async(function):
            raise TypeError(f"@job takes a function or an async function, not {function!r}")
        if name is None:
            if not hasattr(function, "__qualname__"):
                raise TypeError(f"{function!r} has no name of its own: give the job one")
            name = f"{function.__module__}.{function.__qualname__}"
        for what, duration in (("lease", lease), ("time_limit", time_limit)):
            if duration is not None and duration <= timedelta(0):
                raise ValueError(f"{what} is {duration}, but it must be positive")
        self.name = name
        self.function = function
        self.is_async = any(map(inspect.iscoroutinefunction, _called(function)))
        self.lease = lease
        self.time_limit = time_limit
        self._sent_with = sent_with
        self._proto = proto
        self.__doc__ = function.__doc__
        self.__wrapped__ = function
        self._parameters = _parameters(function, name)
        self.context_parameters = [p for p in self._parameters if isinstance(p.default, FromContext)]
        for parameter in self.context_parameters:
            if parameter.kind is parameter.POSITIONAL_ONLY:
                raise TypeError(f"job {name}: parameter {parameter.name} must have a name to get its context by")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def options(
        self,
        options: JobOptions | None = None,
        *,
        channel_name: str | None = None,
        channel_args: str | None = None,
        delay: Duration | None = None,
        retries: int | None = None,
        backoff_secs: float | None = None,
        ordered: bool | None = None,
        priority: int | None = None,
        commit_interval: Duration | None = None,
        when_dead: str | None = None,
        id: UUID | None = None,
    ) -> Self:
        """The same job, sent with other options; what is not given stays as it is.

        Args:
            options: options in one object; the others go before them.
            channel_name, channel_args: the channel, unit of fairness and of order.
            delay: how long the job waits before it is due, a timedelta or seconds.
            retries: attempts after the first.
            backoff_secs: least lease of the first attempt in seconds, doubling with each.
            ordered: whether it runs in strict order with the other ordered jobs of its channel.
            priority: smaller first, within the channel (-32768 to 32767).
            commit_interval: for how long the job is only reserved, until commit() makes it real; a timedelta or
                seconds.
            when_dead: "hold" or "pass", what an ordered job does to those behind it once it is dead.
            id: the job's id, to send it once only; by default the database makes one.
        """
        given = JobOptions(
            channel_name=channel_name,
            channel_args=channel_args,
            delay=delay,
            retries=retries,
            retry_backoff=length_if_given(backoff_secs, "backoff_secs"),
            ordered=ordered,
            priority=priority,
            commit_interval=commit_interval,
            when_dead=when_dead,
            id=id,
        )
        changed = copy.copy(self)
        changed._sent_with = given.over(options or JobOptions()).over(self._sent_with)
        return changed

    def builder(self, id: UUID | None = None) -> JobBuilder:
        """The job as a builder, without a payload yet: `send_mail.builder().set_json({"to": "…"}).spawn(…)`.

        Args:
            id: the job's id, to send it once only; by default the database makes one.
        """
        builder = JobBuilder(self.name)
        if isinstance(self._proto, JobOptions):
            builder.set_options(self._proto)
        elif self._proto is not None:
            builder = self._proto(builder)
            if not isinstance(builder, JobBuilder):
                raise TypeError(f"job {self.name}: its proto returned {builder!r}, but it must return a JobBuilder")
        builder.set_options(self._sent_with)
        if id is not None:
            builder.id = id
        return builder


def _is_plain_or_async(function: Any) -> bool:
    """Whether it can be called, and does its work then: a generator and a class do not."""
    return (
        callable(function)
        and not isinstance(function, type | AnyJob)
        and not any(map(inspect.isgeneratorfunction, _called(function)))
        and not any(map(inspect.isasyncgenfunction, _called(function)))
    )


def _called(function: Any) -> tuple[Any, Any]:
    """What can say of which kind it is: a function does, an object's method does."""
    return function, function.__call__


def _parameters(function: Callable[..., Any], job_name: str) -> list[inspect.Parameter]:
    """The function's parameters, with annotations that are types. Raises TypeError if they cannot be found."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, NameError) as error:
        raise TypeError(f"job {job_name}: the parameters of {function!r} cannot be found: {error}") from error
    names = getattr(function, "__qualname__", "").split(".")
    if parameters and inspect.isfunction(function) and names[-2:-1] not in ([], ["<locals>"]):
        first = parameters[0]
        if first.name in ("self", "cls") and first.annotation is first.empty:
            raise TypeError(f"job {job_name} is a method: there is no object that a worker could call it with")
    # The place of definition: what was decorated or made partial knows the names in its annotations.
    defined: Any = inspect.unwrap(function)
    while isinstance(defined, functools.partial):
        defined = inspect.unwrap(defined.func)
    known = getattr(getattr(defined, "__func__", defined), "__globals__", {})
    for number, parameter in enumerate(parameters):
        if isinstance(parameter.annotation, str):
            try:
                kind = eval(parameter.annotation, known)
            except Exception as error:
                if isinstance(parameter.default, FromContext) and parameter.default.name is not None:
                    continue
                raise TypeError(
                    f"job {job_name}: parameter {parameter.name} is annotated as {parameter.annotation}, "
                    f"which is not known when the program runs: {error}"
                ) from error
            parameters[number] = parameter.replace(annotation=kind)
    return parameters


def _check_first(job_name: str, first: inspect.Parameter) -> None:
    if first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        raise TypeError(f"job {job_name}: parameter {first.name} must be one that can be given by its position")


class Job(AnyJob, Generic[C, P, R_co]):
    """What @job makes of a function: it can be sent as a job, and still be called as the function that it is.

    Its type says what it is called with, what it is sent with (the same without CurrentJob), and what it
    returns.

    Attributes:
        name (str): under which workers know it.
        function (Callable): what was decorated.
        is_async (bool): whether it runs in the event loop, not in a thread.
        takes_current_job (bool): whether its first parameter is a CurrentJob or SyncCurrentJob.
        context_parameters (list[inspect.Parameter]): those that the registry's context fills.
        lease (timedelta | None): for how long the database holds it for a worker that it does not hear of (None: the
            runner's).
        time_limit (timedelta | None): how long the function may take (None: as long as it likes).
    """

    def __init__(self, function: Callable[..., Any], **settings: Any) -> None:
        super().__init__(function, **settings)
        own = CurrentJob if self.is_async else SyncCurrentJob
        others = {CurrentJob, SyncCurrentJob, Batch, SyncBatch} - {own}
        for number, parameter in enumerate(self._parameters):
            kind = get_origin(parameter.annotation) or parameter.annotation
            if kind in others or (kind is own and number > 0):
                raise TypeError(
                    f"job {self.name}: parameter {parameter.name} is a {kind.__name__}, but "
                    + ("it must come first" if kind is own else f"this function takes a {own.__name__}")
                )
        self.takes_current_job = bool(self._parameters) and self._parameters[0].annotation is own
        if self.takes_current_job:
            _check_first(self.name, self._parameters[0])
        self._payload = ArgumentsPayload(self.name, self._parameters[self.takes_current_job :], self.context_parameters)

    def __call__(self, /, *args: C.args, **kwargs: C.kwargs) -> R_co:
        """Calls the function itself: no job is sent."""
        return cast(R_co, self.function(*args, **kwargs))

    def prepare(self, /, *args: P.args, **kwargs: P.kwargs) -> JobBuilder:
        """The job as a builder, with the function's own arguments as its payload, to be sent later; see spawn_many.

        Args:
            args, kwargs: as in spawn.

        Raises:
            TypeError: the arguments are not the function's.
            EncodingError: an argument cannot be written as JSON, or is not of its parameter's type.
        """
        return self.builder().set_raw_json(self._payload.encode(args, kwargs))

    @overload
    def spawn(self, sender: AsyncSender, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, UUID]: ...
    @overload
    def spawn(self, sender: SyncSender, /, *args: P.args, **kwargs: P.kwargs) -> UUID: ...
    def spawn(
        self, sender: AsyncSender | SyncSender, /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, UUID] | UUID:
        """Sends the job, with the function's own arguments, and returns its id.

        On a connection (psycopg, asyncpg, SQLAlchemy, Django), a cursor or a session it is part of the
        transaction that is open there; on a pool or an engine it is a transaction of its own. With
        something asynchronous, await the result.

        Args:
            sender: what to send through.
            args, kwargs: the function's arguments, without its CurrentJob and what comes from the context.

        Raises:
            TypeError: the arguments are not the function's, or nothing can be sent through the sender.
            EncodingError: an argument cannot be written as JSON, or is not of its parameter's type.
            Exception: the database refused (SQLSTATE class 22 or 23: bad options); the driver's own.
        """
        return self.prepare(*args, **kwargs).spawn(sender)

    def arguments(self, raw_json: str | None) -> dict[str, Any]:
        """The function's arguments out of a payload; what is missing there is left to the function's defaults.

        Args:
            raw_json: the payload, a JSON text.

        Raises:
            DecodingError: it does not fit the function's parameters.
        """
        return self._payload.decode(raw_json)


class BatchJob(AnyJob, Generic[T, R_co]):
    """What @job(batch=…) makes of a function: it is sent as single jobs, each with one value for its payload, and
    run for many of them at a time.

    The first parameter of the function is a Batch[T] or, in a plain function, a SyncBatch[T]; others must have the
    default from_context(). T is what one payload is read as; without it, whatever JSON gives.

    Attributes:
        name (str): under which workers know it.
        batch (int): for how many jobs the function is called at most.
        function (Callable): what was decorated.
        is_async (bool): whether it runs in the event loop, not in a thread.
        context_parameters (list[inspect.Parameter]): those that the registry's context fills.
        lease (timedelta | None): for how long the database holds it for a worker that it does not hear of (None: the
            runner's).
        time_limit (timedelta | None): how long the function may take (None: as long as it likes).
    """

    def __init__(self, function: Callable[..., Any], *, batch: int, **settings: Any) -> None:
        super().__init__(function, **settings)
        if not 1 <= batch <= 10_000:
            raise ValueError(f"batch is {batch}, but it must be between 1 and 10000")
        self.batch = batch
        own = Batch if self.is_async else SyncBatch
        first = self._parameters[0] if self._parameters else None
        if first is None or (get_origin(first.annotation) or first.annotation) is not own:
            raise TypeError(f"job {self.name}: its first parameter must be a {own.__name__}")
        _check_first(self.name, first)
        for parameter in self._parameters[1:]:
            if parameter not in self.context_parameters and parameter.default is parameter.empty:
                raise TypeError(
                    f"job {self.name}: parameter {parameter.name} can come from the registry's context only; "
                    "its default must be from_context()"
                )
        kind = get_args(first.annotation)
        self._payload: ValuePayload[T] = ValuePayload(f"job {self.name}: the payload", kind[0] if kind else Any)

    def __call__(self, batch: Batch[T] | SyncBatch[T], /, **context: Any) -> R_co:
        """Calls the function itself: no job is sent."""
        return cast(R_co, self.function(batch, **context))

    def prepare(self, /, payload: T) -> JobBuilder:
        """One job as a builder, to be sent later; see spawn_many.

        Args:
            payload: of the batch's type.

        Raises:
            EncodingError: the payload cannot be written as JSON, or is not of the batch's type.
        """
        return self.builder().set_raw_json(self._payload.encode(payload))

    @overload
    def spawn(self, sender: AsyncSender, /, payload: T) -> Coroutine[Any, Any, UUID]: ...
    @overload
    def spawn(self, sender: SyncSender, /, payload: T) -> UUID: ...
    def spawn(self, sender: AsyncSender | SyncSender, /, payload: T) -> Coroutine[Any, Any, UUID] | UUID:
        """Sends one job and returns its id.

        Args:
            sender: what to send through, and in whose transaction: see Job.spawn.
            payload: of the batch's type.

        Raises:
            EncodingError: the payload cannot be written as JSON, or is not of the batch's type.
            Exception: as Job.spawn.
        """
        return self.prepare(payload).spawn(sender)

    def decode(self, raw_json: str | None) -> T:
        """An item's payload.

        Args:
            raw_json: the payload, a JSON text.

        Raises:
            DecodingError: it is not of the batch's type.
        """
        return self._payload.decode(raw_json)


class _Decorator:
    """What @job(…) returns: a decorator that keeps the function's type."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings

    @overload
    def __call__(
        self, function: Callable[Concatenate[CurrentJob, P], R], /
    ) -> Job[Concatenate[CurrentJob, P], P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[SyncCurrentJob, P], R], /
    ) -> Job[Concatenate[SyncCurrentJob, P], P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Job[P, P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Job[..., ..., Any]:
        return Job(function, **self._settings)


class _BatchDecorator:
    """What @job(batch=…) returns."""

    def __init__(self, settings: dict[str, Any], batch: int) -> None:
        self._settings = settings
        self._batch = batch

    @overload
    def __call__(self, function: Callable[Concatenate[Batch[T], ...], R], /) -> BatchJob[T, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[SyncBatch[T], ...], R], /) -> BatchJob[T, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> BatchJob[Any, Any]:
        return BatchJob(function, batch=self._batch, **self._settings)


@overload
def job(function: Callable[Concatenate[CurrentJob, P], R], /) -> Job[Concatenate[CurrentJob, P], P, R]: ...
@overload
def job(function: Callable[Concatenate[SyncCurrentJob, P], R], /) -> Job[Concatenate[SyncCurrentJob, P], P, R]: ...
@overload
def job(function: Callable[P, R], /) -> Job[P, P, R]: ...
@overload
def job(
    name: str | None = None,
    *,
    channel_name: str | None = None,
    channel_args: str | None = None,
    retries: int | None = None,
    backoff_secs: float | None = None,
    ordered: bool | None = None,
    priority: int | None = None,
    when_dead: str | None = None,
    proto: Proto | None = None,
    lease: Duration | None = None,
    time_limit: Duration | None = None,
    batch: None = None,
) -> _Decorator: ...
@overload
def job(
    name: str | None = None,
    *,
    channel_name: str | None = None,
    channel_args: str | None = None,
    retries: int | None = None,
    backoff_secs: float | None = None,
    ordered: bool | None = None,
    priority: int | None = None,
    when_dead: str | None = None,
    proto: Proto | None = None,
    lease: Duration | None = None,
    time_limit: Duration | None = None,
    batch: int,
) -> _BatchDecorator: ...
def job(
    name: str | Callable[..., Any] | None = None,
    *,
    channel_name: str | None = None,
    channel_args: str | None = None,
    retries: int | None = None,
    backoff_secs: float | None = None,
    ordered: bool | None = None,
    priority: int | None = None,
    when_dead: str | None = None,
    proto: Proto | None = None,
    lease: Duration | None = None,
    time_limit: Duration | None = None,
    batch: int | None = None,
) -> Any:
    """Makes a job of a function: an async one runs in the worker's event loop, a plain one in a thread.

    Its arguments are the payload, a JSON object. If its first parameter is annotated as CurrentJob (in a
    plain function: SyncCurrentJob), it gets that, too; parameters with the default from_context() get
    what the registry's set_context was given. With batch, its first parameter is a Batch[T] (in a plain
    function: a SyncBatch[T]), a list of items with a payload of type T each.

    What is None is left to proto, and in the end to the database's defaults (retries 4, backoff 1 s, the
    channel '').

    Args:
        name: under which workers know it; by default the module's and the function's qualified name.
        channel_name, channel_args: the channel, unit of fairness and of order.
        retries: attempts after the first.
        backoff_secs: least lease of the first attempt in seconds, doubling with each.
        ordered: whether it runs in strict order with the other ordered jobs of its channel.
        priority: smaller first, within the channel (-32768 to 32767).
        when_dead: "hold" or "pass", what an ordered job does to those behind it once it is dead.
        proto: options to begin with, or a function that makes a builder ready.
        lease: for how long the database holds the job for a worker that it does not hear of, a timedelta
            or seconds, where that is more than the runner's.
        time_limit: how long the function may take, a timedelta or seconds. An async one is then
            cancelled; a plain one is told (is_stopping) and its lease is not prolonged any more.
        batch: for how many jobs, at most, the function is called at a time.

    Raises:
        TypeError: the function is none that can be sent: its parameters have no names, types that JSON
            cannot hold, or the wrong kind of CurrentJob.
        ValueError: lease, time_limit or batch is out of range.
    """
    if name is not None and not isinstance(name, str) and not callable(name):
        raise TypeError(f"name is {name!r}, but it must be a text")
    settings: dict[str, Any] = {
        "name": name if isinstance(name, str) else None,
        "sent_with": JobOptions(
            channel_name=channel_name,
            channel_args=channel_args,
            retries=retries,
            retry_backoff=length_if_given(backoff_secs, "backoff_secs"),
            ordered=ordered,
            priority=priority,
            when_dead=when_dead,
        ),
        "proto": proto,
        "lease": length_if_given(lease, "lease"),
        "time_limit": length_if_given(time_limit, "time_limit"),
    }
    if callable(name):
        return _Decorator(settings)(name)
    return _Decorator(settings) if batch is None else _BatchDecorator(settings, batch)
