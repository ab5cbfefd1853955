"""Which jobs a worker knows, and what it gives them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

import psycopg_pool

from sqlxmq._errors import UnknownJobError
from sqlxmq._job import Job
from sqlxmq._runner import JobRunner

logger = logging.getLogger("sqlxmq")

ErrorHandler = Callable[[str, BaseException], None]


def log_error(name: str, error: BaseException) -> None:
    """The error handler that a registry has from the start: logs the error with its traceback."""
    logger.error("job %s failed: %s", name, error, exc_info=error)


class JobRegistry:
    """The jobs that a worker knows, by name, and the context that it gives them, by type."""

    def __init__(self, jobs: Iterable[Job[Any, Any]]) -> None:
        """Raises ValueError if two jobs have the same name."""
        self._jobs: dict[str, Job[Any, Any]] = {}
        self._context: dict[type[Any], Any] = {}
        self._error_handler: ErrorHandler = log_error
        for job in jobs:
            if job.name in self._jobs:
                raise ValueError(f"two jobs are named {job.name!r}")
            self._jobs[job.name] = job

    def set_context(self, value: Any) -> JobRegistry:
        """Makes a value available to jobs as current_job.context(type of the value)."""
        self._context[type(value)] = value
        return self

    def set_error_handler(self, handler: ErrorHandler) -> JobRegistry:
        """Has a function called, with the job's name and the exception, whenever a job fails."""
        self._error_handler = handler
        return self

    def context(self, kind: type[Any]) -> Any:
        """What set_context was given of this type. Raises LookupError if nothing was."""
        try:
            return self._context[kind]
        except KeyError:
            raise LookupError(f"no context of type {kind.__qualname__} has been set in the registry") from None

    def resolve(self, name: str) -> Job[Any, Any]:
        """The job of that name. Raises UnknownJobError if there is none."""
        try:
            return self._jobs[name]
        except KeyError:
            raise UnknownJobError(name) from None

    def report(self, name: str, error: BaseException) -> None:
        """Tells the error handler; an error of its own is logged, and goes no further."""
        try:
            self._error_handler(name, error)
        except Exception:
            logger.exception("the error handler failed for job %s", name)

    def runner(
        self,
        pool: psycopg_pool.AsyncConnectionPool[Any],
        *,
        min_concurrency: int = 16,
        max_concurrency: int = 32,
        channel_names: Sequence[str] | None = None,
        keep_alive: bool = True,
        lease: timedelta = timedelta(seconds=30),
        listen: bool = True,
        grace: timedelta = timedelta(seconds=25),
        worker: str | None = None,
    ) -> JobRunner:
        """A runner for these jobs, not started yet; see JobRunner for the arguments."""
        return JobRunner(
            self,
            pool,
            min_concurrency=min_concurrency,
            max_concurrency=max_concurrency,
            channel_names=channel_names,
            keep_alive=keep_alive,
            lease=lease,
            listen=listen,
            grace=grace,
            worker=worker,
        )
