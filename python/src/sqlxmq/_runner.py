"""The runner: polls, runs, keeps alive, reports."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
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
    It uses up to four connections of its own (to poll, report, keep alive, listen), made like the pool's but
    without its configure hook, beside those that jobs take from the pool.
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
            pool: an open pool, for jobs that want connections: let it have as many as jobs can run at a
                time if all use one.
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
        # One each, so that neither a slow poll nor a report that waits for a lock holds up keep-alive.
        self._polls = Link(pool)
        self._reports = Link(pool)
        self._alive = Link(pool)
        # Ended, but not reported yet: kept alive still.
        self._unreported: set[tuple[UUID, int]] = set()
        self._closed = False
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
        poll = self._tasks[0]
        await self._unless_in_a_hurry(asyncio.wait([poll], timeout=self._grace.total_seconds()))
        poll.cancel()
        await asyncio.wait([poll])
        await self._unless_in_a_hurry(self.wait_for_jobs(self._grace))
        keys = list(self._running)
        unfinished = [task for _, task in self._running.values()]
        for key, task in zip(keys, unfinished, strict=True):
            self._lost.add(key)
            task.cancel()
        if unfinished:
            await asyncio.wait(unfinished, timeout=LAST_WORDS)
        assert self._reporter is not None
        self._closed = True
        self._something_to_report.set()
        await self._reporter
        if keys:
            await self._report(self._report_released, keys)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for link in (self._polls, self._reports, self._alive):
            await link.close()

    async def _unless_in_a_hurry(self, waiting: Coroutine[Any, Any, Any]) -> None:
        """Waits for something, or for the second signal."""
        waits = {asyncio.ensure_future(waiting), asyncio.ensure_future(self._hurry.wait())}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

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
                stopping = asyncio.create_task(self._stopping.wait())
                await asyncio.wait([stopping, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
                stopping.cancel()
                for task in self._tasks:
                    # None of them ends by itself: a worker that lost one is to end, not to idle.
                    if task.done() and not task.cancelled() and (error := task.exception()):
                        raise error
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
                except Exception as error:
                    # Whatever it is: a worker that does not poll any more must not look alive.
                    wait = pauses.next()
                    logger.warning("a poll failed, next try in %.1f s: %s", wait, error)
            if wait != 0:
                limit = LONGEST_SLEEP if self._listen else 1.0
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), min(limit, limit if wait is None else wait))

    async def _poll_once(self) -> float | None:
        """Claims jobs and starts them; returns how many seconds to wait for more (None: until woken)."""
        wanted = self._max_concurrency - len(self._running)
        rows = await self._polls.fetch(POLL, (self._channel_names, wanted, self._lease, self._worker))
        if rows[0][0] is None:
            wait: timedelta | None = rows[0][-1]
            return None if wait is None else wait.total_seconds()
        for id, name, raw_json, raw_bytes, attempt, attempts_allowed, channel_name, channel_args, _ in rows:
            current_job = CurrentJob(
                id, name, attempt, attempts_allowed, channel_name, channel_args, raw_json, raw_bytes,
                self._pool, self._registry.context,
            )  # fmt: skip
            task = asyncio.create_task(self._run(current_job), name=f"sqlxmq job {id}")
            if not task.done():  # as it can be with an eager task factory
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
        except (Exception, SystemExit) as error:
            self._registry.report(current_job.name, error)
            self._fail(current_job, error)
        else:
            if not current_job.is_settled:
                self._completed.append(key)
                self._unreported.add(key)
                self._something_to_report.set()
        finally:
            self._lost.discard(key)
            self._running.pop(key, None)
            if len(self._running) < self._min_concurrency:
                self._wake.set()

    def _fail(self, current_job: CurrentJob, error: BaseException) -> None:
        # PostgreSQL's text holds neither NUL nor half a surrogate pair.
        text = "".join(traceback.format_exception(error)).replace("\0", "\\0")
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
        self._failed.append((current_job.id, current_job.attempt, text))
        self._unreported.add((current_job.id, current_job.attempt))
        self._something_to_report.set()

    # Reporting: whatever has gathered while the last statement was under way goes into the next.

    async def _report_for_ever(self) -> None:
        while not self._closed or self._completed or self._failed:
            await self._something_to_report.wait()
            self._something_to_report.clear()
            completed, self._completed = self._completed, []
            failed, self._failed = self._failed, []
            await self._report(self._report_completed, completed)
            await self._report(self._report_failed, failed)
            self._unreported -= {(id, attempt) for id, attempt, *_ in (*completed, *failed)}
            if self._closed:
                self._something_to_report.set()

    async def _report(self, report: Callable[[list[T]], Awaitable[None]], batch: list[T]) -> None:
        """Sends a report: again and again while the database is out of reach, since the fence makes
        a repetition harmless; one by one if it is refused, so that one bad item spoils no other."""
        if not batch:
            return
        pauses = Pauses()
        tries_at_the_end = 0
        while True:
            try:
                await report(batch)
                return
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                tries_at_the_end += self._closed
                if tries_at_the_end > 5:
                    logger.error("a report was given up; its jobs will run again: %s", error)
                    return
                pause = pauses.next()
                logger.warning("a report failed, next try in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)
            except Exception as error:
                if len(batch) == 1:
                    logger.exception("a report was refused; its job will run again: %s", error)
                    return
                for one in batch:
                    await self._report(report, [one])
                return

    async def _report_completed(self, batch: list[tuple[UUID, int]]) -> None:
        ids, attempts = zip(*batch, strict=True)
        held = await self._reports.fetch(COMPLETE, (list(ids), list(attempts)))
        self._warn_of_late_ones("was finished", batch, held)

    async def _report_failed(self, batch: list[tuple[UUID, int, str]]) -> None:
        ids, attempts, errors = zip(*batch, strict=True)
        held = await self._reports.fetch(FAIL, (list(ids), list(attempts), list(errors)))
        self._warn_of_late_ones("failed", zip(ids, attempts, strict=True), held)

    def _warn_of_late_ones(
        self, what: str, reported: Iterable[tuple[UUID, int]], held_rows: list[tuple[Any, ...]]
    ) -> None:
        held = {row[0] for row in held_rows}
        for id, attempt in reported:
            if id not in held:
                logger.warning("job %s %s too late: attempt %d had lost its lease", id, what, attempt)

    async def _report_released(self, batch: list[tuple[UUID, int]]) -> None:
        ids, attempts = zip(*batch, strict=True)
        released = await self._reports.fetch(RELEASE, (list(ids), list(attempts)))
        logger.info("gave back %d unfinished jobs", len(released))

    # Keeping alive

    async def _keep_alive_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._lease.total_seconds() / 3)
            latest: dict[UUID, int] = {}
            for id, attempt in (*self._running, *self._unreported):
                latest[id] = max(attempt, latest.get(id, 0))
            if not latest:
                continue
            try:
                rows = await self._alive.fetch(KEEP_ALIVE, (list(latest), self._lease, list(latest.values())))
            except Exception as error:
                logger.warning("keep-alive failed: %s", error)
                continue
            held = {id for id, is_held, _ in rows if is_held}
            cancelled = {id for id, _, is_cancelled in rows if is_cancelled}
            for key, (current_job, task) in list(self._running.items()):
                id, attempt = key
                if current_job.is_settled or id not in latest:
                    continue
                if id not in held or attempt < latest[id]:
                    logger.warning("job %s has lost its lease and is stopped", id)
                    self._lost.add(key)
                    task.cancel()
                elif id in cancelled:
                    # Reported as failed, it is let go of, and removed.
                    task.cancel()
