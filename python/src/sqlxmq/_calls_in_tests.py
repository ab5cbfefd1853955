"""Calls the functions of jobs for a test: of both kinds, from programs of both kinds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias

import psycopg

from sqlxmq import _tracing
from sqlxmq._async.current_job import Batch, CurrentJob
from sqlxmq._async.lent import AsyncLentPool
from sqlxmq._delivery import Delivery
from sqlxmq._job import AnyJob, BatchJob
from sqlxmq._registry import JobRegistry
from sqlxmq._sync.current_job import SyncBatch, SyncCurrentJob
from sqlxmq._sync.lent import LentPool
from sqlxmq._threads import Threads

# The same session, for functions of both kinds.
Faces: TypeAlias = "tuple[psycopg.AsyncConnection[Any], psycopg.Connection[Any]]"


def current_job(job: AnyJob, registry: JobRegistry, row: Sequence[Any], faces: Faces) -> CurrentJob | SyncCurrentJob:
    """The CurrentJob, of the kind that the function takes, for a row of a poll."""
    if job.is_async:
        pool = AsyncLentPool(faces[0])
        for_async = CurrentJob(registry.context, *row[:9])
        for_async._find_pool = lambda: pool
        return for_async
    lent = LentPool(faces[1])
    for_threads = SyncCurrentJob(registry.context, *row[:9])
    for_threads._find_pool = lambda: lent
    return for_threads


def empty_batch(job: AnyJob, faces: Faces) -> Batch[Any] | SyncBatch[Any]:
    """A batch, of the kind that the function takes, without items yet."""
    if job.is_async:
        pool = AsyncLentPool(faces[0])
        for_async: Batch[Any] = Batch()
        for_async._find_pool = lambda: pool
        return for_async
    lent = LentPool(faces[1])
    for_threads: SyncBatch[Any] = SyncBatch()
    for_threads._find_pool = lambda: lent
    return for_threads


async def called_async(job: AnyJob, current: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Calls the function in this event loop, a plain one in a thread; its time limit is kept as the runner
    keeps it. Returns what it returns, raises what it raises."""
    if not job.is_async:
        threads = Threads()
        try:
            with _time_limit(job, current):
                return await threads.run(lambda: job.function(*args, **kwargs))
        finally:
            threads.close()

    if job.time_limit is None:
        return await job.function(*args, **kwargs)
    task = asyncio.ensure_future(job.function(*args, **kwargs))
    loop = asyncio.get_running_loop()
    with _time_limit(job, current, lambda: loop.call_soon_threadsafe(task.cancel)):
        return await task


def called(job: AnyJob, current: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Calls the function in this thread, an asynchronous one in an event loop of its own; its time limit is
    kept as the runner keeps it. Returns what it returns, raises what it raises."""
    if not job.is_async:
        with _time_limit(job, current):
            return job.function(*args, **kwargs)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(called_async(job, current, args, kwargs))
    raise RuntimeError(
        f"job {job.name} is asynchronous, and an event loop is running here already: give an asynchronous connection"
    )


def traced(job: AnyJob, deliveries: Sequence[Delivery]) -> AbstractContextManager[_tracing.Running | None]:
    """Goes on with the senders' trace, if there is a tracer."""
    if _tracing.tracer is None:
        return nullcontext()
    return _tracing.tracer.running(deliveries, is_batch=isinstance(job, BatchJob))


@contextmanager
def _time_limit(job: AnyJob, current: Any, cancel: Callable[[], Any] = lambda: None) -> Iterator[None]:
    """Tells the deliveries when their time is over, and cancels what can be cancelled."""
    if job.time_limit is None:
        yield
        return

    def time_is_over() -> None:
        deliveries: Sequence[Delivery] = [current] if isinstance(current, Delivery) else current
        for delivery in deliveries:
            delivery._stop("time limit")
        cancel()

    timer = threading.Timer(job.time_limit.total_seconds(), time_is_over)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
