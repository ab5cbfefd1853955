"""The runner: polls, runs, keeps alive, reports."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import psycopg
import psycopg_pool
from typing_extensions import Self

from sqlxmq._current_job import CurrentJob
from sqlxmq._database import Link, Pauses, listen
from sqlxmq._errors import LeaseLost

if TYPE_CHECKING:
    from sqlxmq._registry import JobRegistry

logger = logging.getLogger("sqlxmq")
T = TypeVar("T")

POLL = """
    SELECT id, name, payload_json, payload_bytes, attempt, attempts_allowed, channel_name, channel_args, wait_time
    FROM mq_poll(%s, %s, %s, %s)
"""
COMPLETE = "SELECT mq_complete(%s::uuid[], %s::integer[])"
FAIL = "SELECT msg_id FROM mq_fail(%s::uuid[], %s::integer[], %s::text[])"
KEEP_ALIVE = "SELECT msg_id, is_held, is_cancelled FROM mq_keep_alive(%s::uuid[], %s, %s::integer[])"
RELEASE = "SELECT mq_release(%s::uuid[], %s::integer[])"

# Without any announcement, poll at least so often, in seconds: as the crate's runner does.
LONGEST_SLEEP = 60.0

# How long a job that is told to stop may take to do so, in seconds.
LAST_WORDS = 5.0


class JobRunner:
    """Runs jobs of a registry until it is stopped.

    Use it as a context manager, which starts and stops it, or let run() do so until a signal comes.
    It uses two connections of its own (one without LISTEN), beside those that jobs take from the pool.
    """

    def __init__(
        self,
        registry: JobRegistry,
        pool: psycopg_pool.AsyncConnectionPool[Any],
        *,
        min_concurrency: int,
        max_concurrency: int,
        channel_names: Sequence[str] | None,
        keep_alive: bool,
        lease: timedelta,
        listen: bool,
        grace: timedelta,
        worker: str | None,
    ) -> None:
        """
        Args:
            registry: the jobs.
            pool: an open pool, for jobs that want connections; the runner's own are made like its.
            min_concurrency, max_concurrency: with fewer jobs running than the minimum, the runner
                claims more, up to the maximum: batches of the difference, at least.
            channel_names: whose jobs to run (None: all).
            keep_alive: whether to push the leases of running jobs, every third of the lease.
            lease: for how long the database holds a job for this runner without hearing of it.
            listen: whether to be woken by NOTIFY. Without (a transaction pooler), the runner polls
                every second.
            grace: how long a stopping runner lets jobs go on before it gives them back.
            worker: a name to be shown in mq_running_jobs (None: host and process id).

        Raises:
            ValueError: the concurrency is not 1 <= minimum <= maximum <= 10000, or the lease is not
                positive.
        """
        if not 1 <= min_concurrency <= max_concurrency <= 10_000:
            raise ValueError(
                f"min_concurrency is {min_concurrency} and max_concurrency {max_concurrency}, "
                "but it must be 1 <= min_concurrency <= max_concurrency <= 10000"
            )
        if lease <= timedelta(0):
            raise ValueError(f"lease is {lease}, but it must be positive")
        self._registry = registry
        self._pool = pool
        self._min_concurrency = min_concurrency
        self._max_concurrency = max_concurrency
        self._channel_names = None if channel_names is None else list(channel_names)
        self._keep_alive = keep_alive
        self._lease = lease
        self._listen = listen
        self._grace = grace
        self._worker = worker or f"{socket.gethostname()}:{os.getpid()}"
        self._running: dict[tuple[UUID, int], tuple[CurrentJob, asyncio.Task[None]]] = {}
        self._lost: set[tuple[UUID, int]] = set()
        self._completed: list[tuple[UUID, int]] = []
        self._failed: list[tuple[UUID, int, str]] = []
        self._wake = asyncio.Event()
        self._something_to_report = asyncio.Event()
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._link: Link | None = None
        self._reports: Link | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._reporter: asyncio.Task[None] | None = None

    @property
    def number_running(self) -> int:
        """How many jobs are running."""
        return len(self._running)

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def start(self) -> None:
        """Starts claiming and running jobs, in the background of the running event loop."""
        if self._tasks:
            raise RuntimeError("the runner has been started before; make a new one")
        self._link = Link(self._pool)
        self._reports = Link(self._pool)
        self._tasks = [asyncio.create_task(self._poll_for_ever(), name="sqlxmq poll")]
        if self._listen:
            self._tasks.append(
                asyncio.create_task(listen(self._pool, self._channel_names, self._wake.set), name="sqlxmq listen")
            )
        if self._keep_alive:
            self._tasks.append(asyncio.create_task(self._keep_alive_for_ever(), name="sqlxmq keep-alive"))
        self._reporter = asyncio.create_task(self._report_for_ever(), name="sqlxmq report")

    async def stop(self) -> None:
        """Claims no more, lets running jobs finish within the grace period, and gives the rest back,
        for others to run at once. Can be called again; ends the runner for good."""
        self._stopping.set()
        self._wake.set()
        if not self._tasks:
            return
        # The poll may be under way: whatever it claims still belongs to the jobs to be finished.
        await asyncio.wait([self._tasks[0]])
        waits = {asyncio.create_task(self.wait_for_jobs(self._grace)), asyncio.create_task(self._hurry.wait())}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        keys = list(self._running)
        unfinished = [task for _, task in self._running.values()]
        for key, task in zip(keys, unfinished, strict=True):
            self._lost.add(key)
            task.cancel()
        if unfinished:
            await asyncio.wait(unfinished, timeout=LAST_WORDS)
        assert self._reporter is not None
        self._something_to_report.set()
        await self._reporter
        if keys:
            assert self._reports is not None
            with suppress(psycopg.Error):
                await self._reports.fetch(RELEASE, ([id for id, _ in keys], [attempt for _, attempt in keys]))
            logger.info("gave back %d unfinished jobs", len(keys))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for link in (self._link, self._reports):
            if link is not None:
                await link.close()

    async def wait_for_jobs(self, timeout: timedelta) -> None:
        """Waits until no job is running, but not longer than the timeout."""
        if self._running:
            await asyncio.wait([task for _, task in self._running.values()], timeout=timeout.total_seconds())

    async def run(self) -> None:
        """Starts the runner, and stops it at SIGTERM or SIGINT; a second signal ends the grace period."""
        loop = asyncio.get_running_loop()
        signals = 0

        def on_signal() -> None:
            nonlocal signals
            signals += 1
            if signals == 1:
                logger.info("stopping; a second signal gives unfinished jobs back now")
                self._stopping.set()
            else:
                self._hurry.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        try:
            async with self:
                await self._stopping.wait()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    # Claiming

    async def _poll_for_ever(self) -> None:
        pauses = Pauses()
        while not self._stopping.is_set():
            self._wake.clear()
            wait: float | None = None
            if len(self._running) < self._min_concurrency:
                try:
                    wait = await self._poll_once()
                    pauses.reset()
                except psycopg.Error as error:
                    wait = pauses.next()
                    logger.warning("a poll failed, next try in %.1f s: %s", wait, error)
            if wait != 0:
                limit = LONGEST_SLEEP if self._listen else 1.0
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), min(limit, limit if wait is None else wait))

    async def _poll_once(self) -> float | None:
        """Claims jobs and starts them; returns how many seconds to wait for more (None: until woken)."""
        assert self._link is not None
        wanted = self._max_concurrency - len(self._running)
        rows = await self._link.fetch(POLL, (self._channel_names, wanted, self._lease, self._worker))
        if rows[0][0] is None:
            wait: timedelta | None = rows[0][-1]
            return None if wait is None else wait.total_seconds()
        for id, name, raw_json, raw_bytes, attempt, attempts_allowed, channel_name, channel_args, _ in rows:
            current_job = CurrentJob(
                id, name, attempt, attempts_allowed, channel_name, channel_args, raw_json, raw_bytes,
                self._pool, self._registry.context,
            )  # fmt: skip
            task = asyncio.create_task(self._run(current_job), name=f"sqlxmq job {id}")
            self._running[id, attempt] = (current_job, task)
        return 0

    # Running

    async def _run(self, current_job: CurrentJob) -> None:
        key = (current_job.id, current_job.attempt)
        try:
            await self._registry.resolve(current_job.name).run(current_job)
        except LeaseLost as error:
            # Somebody else has the job: there is nothing to report, nobody to give it back to.
            self._registry.report(current_job.name, error)
        except asyncio.CancelledError as error:
            if key not in self._lost:
                self._fail(current_job, error)
        except Exception as error:
            self._registry.report(current_job.name, error)
            self._fail(current_job, error)
        else:
            if not current_job.is_settled:
                self._completed.append(key)
                self._something_to_report.set()
        finally:
            self._lost.discard(key)
            del self._running[key]
            if len(self._running) < self._min_concurrency:
                self._wake.set()

    def _fail(self, current_job: CurrentJob, error: BaseException) -> None:
        text = "".join(traceback.format_exception(error))
        self._failed.append((current_job.id, current_job.attempt, text.replace("\0", "\\0")))
        self._something_to_report.set()

    # Reporting: whatever has gathered while the last statement was under way goes into the next.

    async def _report_for_ever(self) -> None:
        while not (self._stopping.is_set() and not self._running and not self._completed and not self._failed):
            await self._something_to_report.wait()
            self._something_to_report.clear()
            if completed := self._completed:
                self._completed = []
                await self._insist(lambda batch=completed: self._report_completed(batch))  # type: ignore[misc]
            if failed := self._failed:
                self._failed = []
                await self._insist(lambda batch=failed: self._report_failed(batch))  # type: ignore[misc]

    async def _report_completed(self, batch: list[tuple[UUID, int]]) -> None:
        assert self._reports is not None
        ids, attempts = zip(*batch, strict=True)
        held = {row[0] for row in await self._reports.fetch(COMPLETE, (list(ids), list(attempts)))}
        for id, attempt in batch:
            if id not in held:
                logger.warning("job %s was finished too late: attempt %d had lost its lease", id, attempt)

    async def _report_failed(self, batch: list[tuple[UUID, int, str]]) -> None:
        assert self._reports is not None
        ids, attempts, errors = zip(*batch, strict=True)
        held = {row[0] for row in await self._reports.fetch(FAIL, (list(ids), list(attempts), list(errors)))}
        for id, attempt in zip(ids, attempts, strict=True):
            if id not in held:
                logger.warning("job %s failed too late: attempt %d had lost its lease", id, attempt)

    async def _insist(self, report: Callable[[], Awaitable[T]]) -> T | None:
        """Repeats a report until the database takes it: the fence makes a repetition harmless. Gives
        up after the lease, when it would come too late anyway."""
        pauses = Pauses()
        deadline = asyncio.get_running_loop().time() + self._lease.total_seconds()
        while True:
            try:
                return await report()
            except psycopg.Error as error:
                if asyncio.get_running_loop().time() > deadline:
                    logger.error("a report was given up; its jobs will run again: %s", error)
                    return None
                pause = pauses.next()
                logger.warning("a report failed, next try in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)

    # Keeping alive

    async def _keep_alive_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._lease.total_seconds() / 3)
            if not self._running:
                continue
            keys = list(self._running)
            assert self._reports is not None
            try:
                rows = await self._reports.fetch(
                    KEEP_ALIVE, ([id for id, _ in keys], self._lease, [attempt for _, attempt in keys])
                )
            except psycopg.Error as error:
                logger.warning("keep-alive failed: %s", error)
                continue
            attempts = dict(keys)
            for id, is_held, is_cancelled in rows:
                current_job, task = self._running.get((id, attempts[id]), (None, None))
                if task is not None and current_job is not None and not current_job.is_settled:
                    if not is_held:
                        logger.warning("job %s has lost its lease and is stopped", id)
                        self._lost.add((id, attempts[id]))
                        task.cancel()
                    elif is_cancelled:
                        # Reported as failed, it is let go of, and removed.
                        task.cancel()
