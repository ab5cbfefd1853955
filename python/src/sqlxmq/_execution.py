"""Runs the functions of claimed jobs, and says how they ended."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlxmq import _tracing
from sqlxmq._async.current_job import Batch, CurrentJob
from sqlxmq._connections import Source
from sqlxmq._delivery import BatchItem, Delivery
from sqlxmq._ending import Report, ending_of, failed
from sqlxmq._errors import UnknownJobError
from sqlxmq._job import AnyJob, BatchJob, Job
from sqlxmq._outcomes import Outcome
from sqlxmq._reporter import Failure, Key, Reporter
from sqlxmq._sync.current_job import SyncBatch, SyncCurrentJob
from sqlxmq._threads import Threads

if TYPE_CHECKING:
    from sqlxmq._registry import JobRegistry

logger = logging.getLogger("sqlxmq")


class Call:
    """A function that is running for one job, or for a batch of them."""

    __slots__ = (
        "current",
        "deliveries",
        "has_ended",
        "is_over_time",
        "is_urgent",
        "job",
        "lease",
        "on_end",
        "started_at",
        "task",
        "traced",
    )

    def __init__(
        self,
        job: AnyJob,
        deliveries: Sequence[Delivery],
        current: Any,
        lease: timedelta,
        on_end: Callable[[int], None],
    ) -> None:
        self.job = job
        self.deliveries = deliveries
        # The CurrentJob or the Batch that the function may be called with.
        self.current = current
        self.lease = lease
        self.on_end = on_end
        self.is_over_time = False
        # Wants a longer lease than it was claimed with, and has not got it yet.
        self.is_urgent = False
        self.has_ended = False
        self.started_at = 0.0
        self.task: asyncio.Task[None] | None = None
        self.traced: _tracing.Running | None = None

    def is_stopping(self) -> bool:
        """Whether all of its deliveries are to stop."""
        return None not in [delivery.stop_reason for delivery in self.deliveries]


def arguments_of_call(job: AnyJob, current: Any, registry: JobRegistry) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a job's function is called with.

    Args:
        job: the job.
        current: its CurrentJob or its Batch, of either kind.
        registry: where the context is.

    Raises:
        DecodingError: the payload does not fit the function's arguments.
        MissingContextError: the registry was not given what the job asks for.
    """
    kwargs: dict[str, Any] = {}
    args: tuple[Any, ...] = (current,)
    if isinstance(job, Job):
        kwargs = job.arguments(current.raw_json)
        if not job.takes_current_job:
            args = ()
    if job.context_parameters:
        kwargs.update(registry.arguments_from_context(job))
    return args, kwargs


class Executor:
    """Runs jobs and reports how they ended.

    A delivery is in hand from its claim until it is reported: so long its lease is kept alive.
    """

    def __init__(
        self, registry: JobRegistry, source: Source, reporter: Reporter, lease: timedelta, hurry: Callable[[], None]
    ) -> None:
        """
        Args:
            registry: the jobs and their context.
            source: the pools that jobs use.
            reporter: whom to report to.
            lease: the runner's.
            hurry: called when a job wants a longer lease than that.
        """
        self._registry = registry
        self._reporter = reporter
        self._lease = lease
        self._hurry = hurry
        self._observers = list(registry.observers)
        self._async_pool = source.async_pool
        self._sync_pool = source.sync_pool
        self._threads = Threads()
        self._loop = asyncio.get_running_loop()
        self._in_hand: dict[Key, Call] = {}
        self._calls: set[Call] = set()
        self.number_running = 0

    @property
    def unreported(self) -> int:
        """How many jobs have ended and are not reported yet."""
        return len(self._in_hand) - self.number_running

    # Starting

    def start(self, rows: Iterable[Sequence[Any]], on_end: Callable[[int], None]) -> int:
        """Starts the jobs of these rows: id, name, payloads, attempt, attempts_allowed, channel name and
        arguments, headers. Calls on_end with the number of jobs of each call that has ended.

        Returns how many have been started.
        """
        calls: list[Call] = []
        batches: dict[BatchJob[Any, Any], list[Sequence[Any]]] = {}
        for row in rows:
            job = self._registry.find(row[1])
            if job is None:
                self._fail_before_start(Delivery(self._registry.context, *row[:9]), UnknownJobError(row[1]))
            elif isinstance(job, BatchJob):
                batches.setdefault(job, []).append(row)
            else:
                calls.append(self._single(job, row, on_end))
        for batch_job, batch_rows in batches.items():
            for first in range(0, len(batch_rows), batch_job.batch):
                calls += self._batch(batch_job, batch_rows[first : first + batch_job.batch], on_end)
        # All of them are in hand, and kept alive, before the first function can hold up the event loop.
        for call in calls:
            self._begin(call)
        return sum(len(call.deliveries) for call in calls)

    def _single(self, job: Any, row: Sequence[Any], on_end: Callable[[int], None]) -> Call:
        current: CurrentJob | SyncCurrentJob
        if job.is_async:
            current = CurrentJob(self._registry.context, *row[:9])
            current._find_pool = self._async_pool
        else:
            current = SyncCurrentJob(self._registry.context, *row[:9])
            current._find_pool = self._sync_pool
        return self._take(job, (current,), current, on_end)

    def _batch(
        self, job: BatchJob[Any, Any], rows: Sequence[Sequence[Any]], on_end: Callable[[int], None]
    ) -> list[Call]:
        batch: Batch[Any] | SyncBatch[Any]
        if job.is_async:
            batch = Batch()
            batch._find_pool = self._async_pool
        else:
            batch = SyncBatch()
            batch._find_pool = self._sync_pool
        for row in rows:
            item: BatchItem[Any] = BatchItem(self._registry.context, *row[:9])
            item.outcome = None
            try:
                item.payload = job.decode(item.raw_json)
            except Exception as error:
                # One bad payload spoils no other.
                self._fail_before_start(item, error)
            else:
                batch.append(item)
        return [self._take(job, batch, batch, on_end)] if batch else []

    def _take(self, job: AnyJob, deliveries: Sequence[Delivery], current: Any, on_end: Callable[[int], None]) -> Call:
        # A job's own lease counts where it is the longer one.
        call = Call(job, deliveries, current, max(job.lease or self._lease, self._lease), on_end)
        self.number_running += len(deliveries)
        self._calls.add(call)
        for delivery in deliveries:
            self._in_hand[delivery.id, delivery.attempt] = call
        if call.lease > self._lease:
            call.is_urgent = True
            self._hurry()
        return call

    def _begin(self, call: Call) -> None:
        for delivery in call.deliveries:
            if self._observers:
                self._tell_observers("started", delivery)
            if logger.isEnabledFor(logging.DEBUG):
                logger.debug("job %s of %s starts", delivery.id, delivery.name, extra=delivery.log_fields())
        tracer = _tracing.tracer
        run = self._run(call) if tracer is None else self._run_traced(tracer, call)
        call.task = self._start_task(run)

    def _start_task(self, run: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # Who has set a factory of tasks gets its tasks. Elsewhere a function runs at once, as far as its first
        # wait: one that waits for nothing needs no turn of the event loop.
        if sys.version_info >= (3, 12) and self._loop.get_task_factory() is None:
            return asyncio.Task(run, loop=self._loop, eager_start=True)
        return self._loop.create_task(run)

    # Running

    async def _run_traced(self, tracer: _tracing.Tracer, call: Call) -> None:
        with ExitStack() as stack:
            try:
                call.traced = stack.enter_context(
                    tracer.running(call.deliveries, is_batch=isinstance(call.job, BatchJob))
                )
            except Exception:
                logger.exception("a call is not traced: tracing failed")
            await self._run(call)

    async def _run(self, call: Call) -> None:
        # An eager task runs before whoever made it knows it.
        call.task = asyncio.current_task()
        call.started_at = time.perf_counter()
        timer = None
        if call.job.time_limit is not None:
            timer = self._loop.call_later(call.job.time_limit.total_seconds(), self._time_is_over, call)
        ended: BaseException | None = None
        try:
            job = call.job
            if job.is_async and call.is_stopping():
                # It was told before there was a task to cancel.
                raise asyncio.CancelledError
            args, kwargs = arguments_of_call(job, call.current, self._registry)
            if job.is_async:
                result = await job.function(*args, **kwargs)
            else:
                result = await self._threads.run(partial(job.function, *args, **kwargs))
            if isinstance(result, Outcome):
                ended = result
        except (KeyboardInterrupt, GeneratorExit):
            # The end of the program, not the job's: nobody knows how that would have ended.
            self._let_go(call)
            raise
        except BaseException as error:
            ended = error
        finally:
            if timer is not None:
                timer.cancel()
            call.has_ended = True
            self._calls.discard(call)
            self.number_running -= len(call.deliveries)
        for delivery in call.deliveries:
            self._settle(call, delivery, ended)
        call.on_end(len(call.deliveries))

    def _time_is_over(self, call: Call) -> None:
        # A function in a thread cannot be ended; it is told, and its lease is not prolonged any more.
        call.is_over_time = True
        # Those that were told to stop before are not interrupted in doing so.
        told_now = [delivery for delivery in call.deliveries if not delivery.is_stopping]
        if told_now:
            self._stop(call, told_now, "time limit")

    # Ending

    def _settle(self, call: Call, delivery: Delivery, ended: BaseException | None) -> None:
        ending = ending_of(delivery, ended, call.job.time_limit, call.deliveries)
        if ending.error is not None:
            self._registry.report(delivery.name, ending.error, delivery)
        self._report((delivery.id, delivery.attempt), ending.report)
        seconds = time.perf_counter() - call.started_at
        if self._observers:
            self._tell_observers("ended", delivery, ending.outcome, seconds)
        # What the function has asked for is worth a word where nothing else tells of it.
        level = logging.INFO if ending.outcome in ("retried", "snoozed") else logging.DEBUG
        if logger.isEnabledFor(level):
            reason = f": {ending.ended}" if isinstance(ending.ended, Outcome) else ""
            logger.log(
                level, "job %s of %s was %s after %.3f s%s",
                delivery.id, delivery.name, ending.outcome, seconds, reason,
                extra={**delivery.log_fields(), "outcome": ending.outcome, "seconds": seconds},
            )  # fmt: skip
        if call.traced is not None:
            try:
                call.traced.ended(delivery, ending.outcome, ending.ended)
            except Exception:
                logger.exception("tracing failed for job %s", delivery.id, extra=delivery.log_fields())

    def _tell_observers(self, what: str, delivery: Delivery, *details: Any) -> None:
        for observer in self._observers:
            try:
                getattr(observer, what)(delivery, *details)
            except Exception:
                # Whoever only looks on must not keep a job from being run or reported.
                logger.exception("an observer failed for job %s", delivery.id, extra=delivery.log_fields())

    def _report(self, key: Key, report: Report) -> None:
        if report == "complete":
            self._reporter.complete(key)
        elif report is None:
            self.reported([key])
        elif isinstance(report, Failure):
            self._reporter.fail(report)
        else:
            self._reporter.release(report)

    def _fail_before_start(self, delivery: Delivery, error: Exception) -> None:
        self._registry.report(delivery.name, error, delivery)
        key = (delivery.id, delivery.attempt)
        self._report(key, failed(key, error).report)

    def reported(self, keys: Iterable[Key]) -> None:
        """These are off the runner's hands."""
        for key in keys:
            call = self._in_hand.get(key)
            # A job that was sent again under its id can be running already, as the same attempt.
            if call is not None and call.has_ended:
                del self._in_hand[key]

    def _let_go(self, call: Call) -> None:
        for delivery in call.deliveries:
            self._in_hand.pop((delivery.id, delivery.attempt), None)

    def log_fields(self, key: Key) -> dict[str, Any]:
        """Those of a delivery that is in hand; of any other, what its key says."""
        call = self._in_hand.get(key)
        for delivery in () if call is None else call.deliveries:
            if (delivery.id, delivery.attempt) == key:
                return delivery.log_fields()
        return {"job_id": str(key[0]), "attempt": key[1]}

    # Leases

    def leases(self, only_urgent: bool) -> dict[Key, timedelta]:
        """The leases of all that is in hand. Can be called from any thread.

        only_urgent: only of what wants a longer lease than the runner's, and has not been returned here before.
        """
        if self._loop.is_closed():
            # Nobody runs the jobs any more.
            return {}
        in_hand = list(self._in_hand.items())
        if only_urgent:
            in_hand = [(key, call) for key, call in in_hand if call.is_urgent]
        for _, call in in_hand:
            call.is_urgent = False
        return {key: call.lease for key, call in in_hand if not call.is_over_time}

    def tell(self, key: Key, reason: str) -> None:
        """A job is to stop. Can be called from any thread."""
        call = self._in_hand.get(key)
        if call is None or call.has_ended:
            return
        for delivery in call.deliveries:
            if (delivery.id, delivery.attempt) == key and not delivery.is_settled and delivery.stop_reason is None:
                logger.warning("job %s is told to stop: %s", delivery.id, reason, extra=delivery.log_fields())
                self._stop(call, [delivery], reason)

    def _stop(self, call: Call, deliveries: Iterable[Delivery], reason: str) -> None:
        for delivery in deliveries:
            delivery._stop(reason)
        # A batch goes on while any of its items is wanted.
        if call.job.is_async and call.is_stopping():
            task = call.task
            if task is not None:
                self._loop.call_soon_threadsafe(task.cancel)

    # Stopping

    async def wait(self, timeout: float | None) -> None:
        """Waits until nothing runs, but not longer than so many seconds."""
        deadline = None if timeout is None else self._loop.time() + timeout
        while tasks := [call.task for call in self._calls if call.task is not None]:
            left = None if deadline is None else deadline - self._loop.time()
            if left is not None and left <= 0:
                break
            await asyncio.wait(tasks, timeout=left)

    def stop_all(self) -> None:
        """Tells all that runs that the worker ends."""
        for call in self._calls:
            self._stop(call, call.deliveries, "worker ends")

    def abandon(self) -> list[Delivery]:
        """Lets go of what does not stop; its leases run out."""
        left = [delivery for call in self._calls for delivery in call.deliveries]
        for call in self._calls:
            self._let_go(call)
        self._threads.close()
        return left
