"""Runs jobs inside the transaction that a test has open."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from sqlxmq._calls_in_tests import called_async, current_job, empty_batch, traced
from sqlxmq._connections import Parameters
from sqlxmq._delivery import BatchItem, Delivery
from sqlxmq._driver_connection import (
    AsyncTestConnection,
    async_driver_connection,
    both_faces,
    check_that_nothing_would_stay,
)
from sqlxmq._ending import Ending, ending_of, failed
from sqlxmq._errors import UnknownJobError
from sqlxmq._execution import arguments_of_call
from sqlxmq._group import POLL, ChannelGroup
from sqlxmq._job import AnyJob, BatchJob
from sqlxmq._outcomes import Outcome
from sqlxmq._registry import JobRegistry
from sqlxmq._reporter import COMPLETE, FAIL, RELEASE, Failure, columns_of
from sqlxmq._senders import execute
from sqlxmq._spawned import RanJob, SpawnedJob, check_not_spawned, check_spawned, in_queue

logger = logging.getLogger("sqlxmq")

# Nothing keeps the jobs of a test alive; whoever debugs one takes his time.
LEASE = timedelta(days=1)
WORKER = "sqlxmq.testing"

Row = Sequence[Any]


async def run_one(
    registry: JobRegistry,
    connection: AsyncTestConnection,
    *,
    channel_names: Sequence[str] | None = None,
    raise_errors: bool = True,
) -> RanJob | None:
    """Runs one job, if one is due; see sqlxmq.testing.run_one."""
    worker = _Worker(registry, await async_driver_connection(connection), channel_names, raise_errors)
    ran = await worker.run(await worker.poll(1))
    return ran[0] if ran else None


async def drain(
    registry: JobRegistry,
    connection: AsyncTestConnection,
    *,
    channel_names: Sequence[str] | None = None,
    limit: int = 1000,
    raise_errors: bool = True,
) -> list[RanJob]:
    """Runs jobs until none is due; see sqlxmq.testing.drain."""
    if limit < 1:
        raise ValueError(f"limit is {limit}, but it must be at least 1")
    worker = _Worker(registry, await async_driver_connection(connection), channel_names, raise_errors)
    jobs = [registry.find(name) for name in registry.names]
    largest_batch = max([1, *(job.batch for job in jobs if isinstance(job, BatchJob))])
    ran: list[RanJob] = []
    while rows := await worker.poll(max(1, min(largest_batch, limit - len(ran)))):
        if len(ran) == limit:
            await worker.release(rows)
            last = ", ".join(dict.fromkeys(one.name for one in ran[-10:]))
            raise AssertionError(f"after {limit} jobs there was still one due, {rows[0][1]}; the last were {last}")
        ran += await worker.run(rows)
    return ran


class _Worker:
    """Polls, runs and reports on one connection, in the transaction that is open there."""

    def __init__(
        self,
        registry: JobRegistry,
        connection: psycopg.AsyncConnection[Any],
        channel_names: Sequence[str] | None,
        raise_errors: bool,
    ) -> None:
        group = ChannelGroup(channel_names=channel_names)
        self._channel_names = None if group.channel_names is None else list(group.channel_names)
        self._registry = registry
        self._connection = connection
        self._raise_errors = raise_errors
        registry.check_context()

    async def poll(self, batch_size: int) -> list[Row]:
        """Claims jobs. Raises ValueError if they would stay claimed."""
        check_that_nothing_would_stay(self._connection)
        rows = await self._fetch(POLL, (self._channel_names, batch_size, LEASE, WORKER, "never"))
        return [row for row in rows if row[0] is not None]

    async def release(self, rows: Sequence[Row]) -> None:
        """Gives back claimed jobs."""
        if rows:
            keys = [(row[0], row[4]) for row in rows]
            await self._fetch(RELEASE, {**columns_of(keys), "due_in": timedelta(0)})

    async def run(self, rows: Sequence[Row]) -> list[RanJob]:
        """Runs claimed jobs one after the other, those of a batch together. If one raises, the ones that
        have not run are given back."""
        calls: list[list[Row]] = []
        batches: dict[BatchJob[Any, Any], list[Row]] = {}
        for row in rows:
            job = self._registry.find(row[1])
            if not isinstance(job, BatchJob):
                calls.append([row])
            elif job in batches and len(batches[job]) < job.batch:
                batches[job].append(row)
            else:
                batches[job] = [row]
                calls.append(batches[job])
        ran: list[RanJob] = []
        while calls:
            try:
                ran += await self._run_together(calls.pop(0))
            except BaseException:
                await self.release([row for some in calls for row in some])
                raise
        return ran

    async def _run_together(self, rows: Sequence[Row]) -> list[RanJob]:
        job = self._registry.find(rows[0][1])
        if job is None:
            delivery = Delivery(self._registry.context, *rows[0][:9])
            unknown = UnknownJobError(delivery.name)
            ran = [await self._fail_before_start(delivery, unknown)]
            if self._raise_errors:
                raise unknown
            return ran
        with both_faces(self._connection) as faces:
            if not isinstance(job, BatchJob):
                current = current_job(job, self._registry, rows[0], faces)
                return await self._run(job, current, [current])
            batch = empty_batch(job, faces)
            ran = []
            bad: list[Exception] = []
            for row in rows:
                item: BatchItem[Any] = BatchItem(self._registry.context, *row[:9])
                item.outcome = None
                try:
                    item.payload = job.decode(item.raw_json)
                except Exception as error:
                    # One bad payload spoils no other.
                    bad.append(error)
                    ran.append(await self._fail_before_start(item, error))
                else:
                    batch.append(item)
            if batch:
                ran += await self._run(job, batch, batch)
            if bad and self._raise_errors:
                raise bad[0]
            return ran

    async def _fail_before_start(self, delivery: Delivery, error: Exception) -> RanJob:
        if not self._raise_errors:
            self._registry.report(delivery.name, error, delivery)
        return await self._report(delivery, failed((delivery.id, delivery.attempt), error), None)

    async def _run(self, job: AnyJob, current: Any, deliveries: Sequence[Delivery]) -> list[RanJob]:
        observers = self._registry.observers
        for delivery in deliveries:
            for observer in observers:
                observer.started(delivery)
        started_at = time.perf_counter()
        ran = []
        to_raise: BaseException | None = None
        with traced(job, deliveries) as trace:
            result, raised = await self._call(job, current)
            ended = result if isinstance(result, Outcome) else raised
            for delivery in deliveries:
                ending = ending_of(delivery, ended, job.time_limit, deliveries)
                one = await self._report(delivery, ending, result)
                ran.append(one)
                for observer in observers:
                    observer.ended(delivery, one.outcome, time.perf_counter() - started_at)
                if trace is not None:
                    trace.ended(delivery, one.outcome, ending.ended)
                if ending.error is None:
                    continue
                was_said = isinstance(delivery, BatchItem) and delivery.outcome is not None
                if was_said or isinstance(ending.error, Outcome) or not self._is_to_raise(ending.error):
                    self._registry.report(delivery.name, ending.error, delivery)
                else:
                    to_raise = to_raise or ending.error
        if to_raise is not None:
            raise to_raise
        return ran

    async def _call(self, job: AnyJob, current: Any) -> tuple[Any, BaseException | None]:
        """What the function returns, and what it raises."""
        async with self._connection.transaction() as savepoint:
            result, raised = None, None
            try:
                args, kwargs = arguments_of_call(job, current, self._registry)
                result = await called_async(job, current, args, kwargs)
            except (KeyboardInterrupt, GeneratorExit):
                # The end of the test, not the job's.
                raise
            except BaseException as error:
                raised = error
            if self._connection.info.transaction_status == psycopg.pq.TransactionStatus.INERROR:
                # It has used the test's connection by itself, and left it unusable for a report.
                raise psycopg.Rollback(savepoint)
        return result, raised

    def _is_to_raise(self, error: BaseException) -> bool:
        # A test that is cancelled from outside stays cancelled.
        return self._raise_errors or isinstance(error, asyncio.CancelledError)

    async def _report(self, delivery: Delivery, ending: Ending, result: Any) -> RanJob:
        outcome = ending.outcome
        report = ending.report
        if report is not None:
            columns = columns_of([(delivery.id, delivery.attempt)])
            # In a savepoint: what the database refuses is to be seen by a test that can go on.
            async with self._connection.transaction():
                if report == "complete":
                    late = await self._fetch(COMPLETE, columns)
                elif isinstance(report, Failure):
                    how = {"errors": [report.error], "retry_in": [report.retry_in], "is_final": [report.is_final]}
                    late = await self._fetch(FAIL, {**columns, **how})
                else:
                    late = await self._fetch(RELEASE, {**columns, "due_in": report.due_in})
            if late:
                logger.warning(
                    "job %s was %s too late: its lease was lost", delivery.id, outcome, extra=delivery.log_fields()
                )
                outcome = "lost"
        return RanJob(delivery.id, delivery.name, delivery.attempt, outcome, ending.error, result)

    async def _fetch(self, query: str, parameters: Parameters) -> list[tuple[Any, ...]]:
        async with psycopg.AsyncCursor(self._connection, row_factory=tuple_row) as cursor:
            await cursor.execute(query.encode(), parameters)
            return await cursor.fetchall()


class AsyncQueueInTest:
    """The functions of sqlxmq.testing for one connection.

    Attributes:
        connection: the test's.
    """

    def __init__(self, connection: AsyncTestConnection) -> None:
        """
        Args:
            connection: as in sqlxmq.testing.run_one.
        """
        self.connection = connection

    async def run_one(
        self, registry: JobRegistry, *, channel_names: Sequence[str] | None = None, raise_errors: bool = True
    ) -> RanJob | None:
        """Runs one job, if one is due; see sqlxmq.testing.run_one."""
        return await run_one(registry, self.connection, channel_names=channel_names, raise_errors=raise_errors)

    async def drain(
        self,
        registry: JobRegistry,
        *,
        channel_names: Sequence[str] | None = None,
        limit: int = 1000,
        raise_errors: bool = True,
    ) -> list[RanJob]:
        """Runs jobs until none is due; see sqlxmq.testing.drain."""
        return await drain(
            registry, self.connection, channel_names=channel_names, limit=limit, raise_errors=raise_errors
        )

    async def spawned(self, job: AnyJob | str | None = None) -> list[SpawnedJob]:
        """The jobs in the queue; see sqlxmq.testing.spawned."""
        return await execute(self.connection, in_queue(job))

    async def assert_spawned(
        self, job: AnyJob | str, /, *args: Any, count: int | None = None, **arguments: Any
    ) -> list[SpawnedJob]:
        """Fails if no such job is in the queue; see sqlxmq.testing.assert_spawned."""
        __tracebackhide__ = True
        return check_spawned(await execute(self.connection, in_queue()), job, args, arguments, count)

    async def assert_not_spawned(self, job: AnyJob | str, /, *args: Any, **arguments: Any) -> None:
        """Fails if such a job is in the queue; see sqlxmq.testing.assert_not_spawned."""
        __tracebackhide__ = True
        check_not_spawned(await execute(self.connection, in_queue()), job, args, arguments)
