"""Which jobs a worker knows, and what it gives them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from types import ModuleType
from typing import Any

from sqlxmq._connections import Database
from sqlxmq._context import Context
from sqlxmq._delivery import Delivery
from sqlxmq._errors import MissingContextError, UnknownJobError
from sqlxmq._group import ChannelGroup
from sqlxmq._job import AnyJob, BatchJob
from sqlxmq._observers import Observer
from sqlxmq._options import Duration
from sqlxmq._runner import JobRunner
from sqlxmq._sync_runner import SyncJobRunner

logger = logging.getLogger("sqlxmq")

ErrorHandler = Callable[[str, BaseException], None]


class JobRegistry:
    """The jobs that a worker knows, by name, and the context that it gives them.

    Attributes:
        observers (list[Observer]): those of add_observer.
    """

    def __init__(self, jobs: Iterable[AnyJob | ModuleType] = ()) -> None:
        """
        Args:
            jobs: jobs, and modules whose jobs are meant.

        Raises:
            ValueError: two jobs have the same name.
        """
        self._jobs: dict[str, AnyJob] = {}
        self._context = Context()
        self._error_handler: ErrorHandler | None = None
        self.observers: list[Observer] = []
        for job in jobs:
            self.add(job)

    def add(self, job: AnyJob | ModuleType) -> JobRegistry:
        """Adds a job, or all jobs that a module has; returns the registry.

        Args:
            job: the job, or the module.

        Raises:
            ValueError: another job has the same name.
            TypeError: it is neither.
        """
        if isinstance(job, ModuleType):
            for value in list(vars(job).values()):
                if isinstance(value, AnyJob) and self._jobs.get(value.name) is not value:
                    self.add(value)
            return self
        if not isinstance(job, AnyJob):
            raise TypeError(f"{job!r} is no job: decorate it with @job")
        if job.name in self._jobs:
            raise ValueError(f"two jobs are named {job.name!r}")
        self._jobs[job.name] = job
        return self

    @property
    def names(self) -> list[str]:
        """The names of the jobs."""
        return list(self._jobs)

    def set_context(self, value: Any, *, name: str | None = None) -> JobRegistry:
        """Makes a value available to jobs: for parameters with the default from_context(), and as
        current_job.context(type of the value). One of the same type or name is replaced. To be called before the
        runner starts; returns the registry.

        Args:
            value: any object.
            name: under which it is found. None: by its type.
        """
        self._context.add(value, name)
        return self

    def set_error_handler(self, handler: ErrorHandler) -> JobRegistry:
        """Has a function called whenever a job fails; returns the registry. Without one, failures are logged.

        Args:
            handler: takes the job's name and the exception; called in the event loop.
        """
        self._error_handler = handler
        return self

    def add_observer(self, observer: Observer) -> JobRegistry:
        """Has an observer told of the jobs that run; returns the registry."""
        self.observers.append(observer)
        return self

    def context(self, kind: type[Any]) -> Any:
        """What set_context was given of this type.

        Args:
            kind: the type; a value of exactly this type goes before an instance of it.

        Raises:
            LookupError: nothing was given.
        """
        return self._context.by_type(kind)

    def arguments_from_context(self, job: AnyJob) -> dict[str, Any]:
        """What a job's parameters with the default from_context() get.

        Args:
            job: the job.

        Raises:
            MissingContextError: something was not set; the message names the job and the parameter.
        """
        try:
            return self._context.for_parameters(job.context_parameters)
        except LookupError as error:
            raise MissingContextError(f"job {job.name}: {error}") from None

    def check_context(self) -> None:
        """Looks whether each job's parameters with the default from_context() would get something.

        Raises:
            MissingContextError: one would not; the message names the job and the parameter.
        """
        for job in self._jobs.values():
            self.arguments_from_context(job)

    @property
    def has_async_jobs(self) -> bool:
        """Whether there are jobs for the event loop."""
        return any(job.is_async for job in self._jobs.values())

    @property
    def has_thread_jobs(self) -> bool:
        """Whether there are jobs for threads."""
        return any(not job.is_async for job in self._jobs.values())

    @property
    def batch_jobs(self) -> list[BatchJob[Any, Any]]:
        """The jobs that are run in batches."""
        return [job for job in self._jobs.values() if isinstance(job, BatchJob)]

    def find(self, name: str) -> AnyJob | None:
        """The job of that name; None if there is none."""
        return self._jobs.get(name)

    def resolve(self, name: str) -> AnyJob:
        """The job of that name.

        Args:
            name: the job's name.

        Raises:
            UnknownJobError: there is none.
        """
        job = self._jobs.get(name)
        if job is None:
            raise UnknownJobError(name)
        return job

    def report(self, name: str, error: BaseException, delivery: Delivery | None = None) -> None:
        """Tells the error handler; an error of its own is logged, and goes no further. Without a handler, logs.

        Args:
            name: the job's name.
            error: why the job failed.
            delivery: of which job, for the fields of the log record.
        """
        extra = {"job_name": name} if delivery is None else delivery.log_fields()
        if self._error_handler is None:
            logger.error("job %s failed: %s", name, error, exc_info=error, extra=extra)
            return
        try:
            self._error_handler(name, error)
        except Exception:
            logger.exception("the error handler failed for job %s", name, extra=extra)

    def runner(
        self,
        database: Database,
        *,
        min_concurrency: int | None = None,
        max_concurrency: int | None = None,
        channel_names: Sequence[str] | None = None,
        groups: Sequence[ChannelGroup] | None = None,
        keep_alive: bool = True,
        lease: Duration = timedelta(seconds=30),
        listen: bool = True,
        listener_dsn: str | None = None,
        grace: Duration = timedelta(seconds=15),
        worker: str | None = None,
    ) -> JobRunner:
        """A runner for these jobs, not started yet; see JobRunner for the arguments."""
        return JobRunner(
            self,
            database,
            min_concurrency=min_concurrency,
            max_concurrency=max_concurrency,
            channel_names=channel_names,
            groups=groups,
            keep_alive=keep_alive,
            lease=lease,
            listen=listen,
            listener_dsn=listener_dsn,
            grace=grace,
            worker=worker,
        )

    def sync_runner(
        self,
        database: Database,
        *,
        min_concurrency: int | None = None,
        max_concurrency: int | None = None,
        channel_names: Sequence[str] | None = None,
        groups: Sequence[ChannelGroup] | None = None,
        keep_alive: bool = True,
        lease: Duration = timedelta(seconds=30),
        listen: bool = True,
        listener_dsn: str | None = None,
        grace: Duration = timedelta(seconds=15),
        worker: str | None = None,
    ) -> SyncJobRunner:
        """A runner for programs without asyncio, not started yet; see JobRunner for the arguments."""
        return SyncJobRunner(
            lambda: self.runner(
                database,
                min_concurrency=min_concurrency,
                max_concurrency=max_concurrency,
                channel_names=channel_names,
                groups=groups,
                keep_alive=keep_alive,
                lease=lease,
                listen=listen,
                listener_dsn=listener_dsn,
                grace=grace,
                worker=worker,
            )
        )
