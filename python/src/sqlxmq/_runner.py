"""The runner: polls, runs, keeps alive, reports."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Coroutine, Iterable, Sequence
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

import psycopg
from typing_extensions import Self

from sqlxmq._connections import Database, Link, Source, end
from sqlxmq._errors import QueueNotFoundError
from sqlxmq._execution import Executor
from sqlxmq._group import ChannelGroup, GroupLoop, group_of
from sqlxmq._keeper import Keeper
from sqlxmq._listener import Listener
from sqlxmq._options import Duration, length_of
from sqlxmq._reporter import Key, Reporter

if TYPE_CHECKING:
    from sqlxmq._registry import JobRegistry

logger = logging.getLogger("sqlxmq")

# How long a job that is told to stop may take to do so, in seconds; and how long the last reports may take.
LAST_WORDS = 5.0

# The oldest version of the queue's SQL that has all that is called here.
OLDEST_QUEUE = (0, 3, 0)
LAST_REPORTS = 10.0


class JobRunner:
    """Runs jobs of a registry until it is stopped.

    Use it as an asynchronous context manager, which starts and stops it, or let run() do so until a signal
    comes. Beside those that jobs take from the pool it uses connections of its own, made like the pool's but
    without its configure hook: one for each group's polls, one each to report, to keep alive, and to listen.
    """

    def __init__(
        self,
        registry: JobRegistry,
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
    ) -> None:
        """
        Args:
            registry: the jobs.
            database: a connection string, or an open pool, psycopg_pool's AsyncConnectionPool or
                ConnectionPool. Jobs get connections from it as current_job.pool: from the pool itself if it
                is of the kind that they need, else from one that the runner makes for as many connections
                as jobs can run.
            min_concurrency, max_concurrency: with fewer jobs running than the minimum (None: 16, or the
                maximum if that is less), the runner claims more, up to the maximum (None: 32, or the minimum
                if that is more): batches of the difference, at least.
            channel_names: whose jobs to run (None: all).
            groups: several groups of channels, each with a concurrency of its own, instead of the three
                arguments above.
            keep_alive: whether to push the leases of running jobs, every third of the lease. Without, a
                job's own lease does not count either.
            lease: for how long the database holds a job for this runner without hearing of it, a timedelta
                or seconds.
            listen: whether to be woken by NOTIFY. Without (a transaction pooler), the runner polls
                every second, and prepares no statements.
            listener_dsn: a connection string for the listener, where the database is reached through
                a transaction pooler and this leads to the server itself.
            grace: how long a stopping runner lets jobs go on before it gives them back, a timedelta or
                seconds. Whoever ends the process should wait for 15 seconds more.
            worker: a name to be shown in mq_running_jobs and mq_workers (None: host and process id).

        Raises:
            ValueError: the concurrency is not 1 <= minimum <= maximum <= 10000, the lease is not
                positive, the grace is negative, or there are no groups.
            TypeError: database is none of those, or groups and one of the arguments before it were given.
        """
        given = {"channel_names": channel_names, "min_concurrency": min_concurrency, "max_concurrency": max_concurrency}
        for name, value in given.items():
            if groups is not None and value is not None:
                raise TypeError(f"groups and {name} were given, but each group has its own")
        lease = length_of(lease, "lease")
        grace = length_of(grace, "grace")
        if groups is not None and not groups:
            raise ValueError("groups is empty, but a runner needs at least one")
        if lease <= timedelta(0):
            raise ValueError(f"lease is {lease}, but it must be positive")
        if grace < timedelta(0):
            raise ValueError(f"grace is {grace}, but it must not be negative")
        self._registry = registry
        self._groups = groups or [group_of(channel_names, min_concurrency, max_concurrency)]
        self._keep_alive = keep_alive
        self._lease = lease
        self._grace = grace
        self._worker = worker or f"{socket.gethostname()}:{os.getpid()}"
        is_pooled = not listen or listener_dsn is not None
        self._source = Source(database, is_pooled=is_pooled)
        self._listener_source: Source | None = None
        if listen:
            self._listener_source = Source(listener_dsn or database, is_pooled=False)
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._stop_turn = asyncio.Lock()
        self._executor: Executor | None = None
        self._keeper: Keeper | None = None
        self._loops: list[GroupLoop] = []
        self._links: list[Link] = []
        self._polls: list[asyncio.Task[None]] = []
        self._listening: asyncio.Task[None] | None = None
        self._reporting: asyncio.Task[None] | None = None

    @property
    def number_running(self) -> int:
        """How many jobs are running."""
        return 0 if self._executor is None else self._executor.number_running

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # Starting

    async def start(self) -> None:
        """Starts claiming and running jobs, in the background of the running event loop.

        A database that is out of reach is waited for, in the background.

        Raises:
            MissingContextError: a job asks for context that the registry was not given.
            QueueNotFoundError: there is no queue in the database, or one of an older version.
            ValueError: the pool is not open.
            RuntimeError: it has been started before.
        """
        if self._executor is not None:
            raise RuntimeError("the runner has been started before; make a new one")
        self._registry.check_context()
        self._source.check_pool()
        # One each, so that neither a slow poll nor a report that waits for a lock holds up another.
        reports = self._link()
        try:
            await self._check_queue(reports)
        except BaseException:
            await reports.close()
            raise
        self._warn_of_batches()
        self._reporter = Reporter(reports, self._on_reported, self._log_fields)
        executor = Executor(self._registry, self._source, self._reporter, self._lease, self._keep_alive_soon)
        self._executor = executor
        try:
            await self._source.open_pools(
                sum(group.max_concurrency for group in self._groups),
                for_async=self._registry.has_async_jobs,
                for_threads=self._registry.has_thread_jobs,
            )
        except BaseException:
            await self._source.close_pools()
            await reports.close()
            raise
        listener = None
        if self._listener_source is not None:
            listener = Listener(
                self._listener_source.connect,
                [(group.channel_names, partial(self._wake, number)) for number, group in enumerate(self._groups)],
            )
        self._loops = [
            GroupLoop(
                group,
                self._link(application_name=f"sqlxmq {self._worker}"),
                executor,
                listener,
                self._lease,
                self._worker,
            )
            for group in self._groups
        ]
        if self._keep_alive:
            # A job's own lease counts where it is longer: the runner's is the shortest.
            self._keeper = Keeper(self._source, self._lease, executor.leases, executor.tell)
            self._keeper.start()
        self._polls = [asyncio.create_task(loop.poll_for_ever(), name="sqlxmq poll") for loop in self._loops]
        if listener is not None:
            self._listening = asyncio.create_task(listener.listen_for_ever(), name="sqlxmq listen")
        self._reporting = asyncio.create_task(self._reporter.report_for_ever(), name="sqlxmq report")
        logger.info("worker %s has started", self._worker, extra={"worker": self._worker})

    async def _check_queue(self, link: Link) -> None:
        try:
            rows = await link.fetch("SELECT mq_version()", ())
        except psycopg.errors.UndefinedFunction:
            raise QueueNotFoundError(
                "there is no queue in this database, or none on the search_path: "
                "CREATE EXTENSION sqlxmq, or sqlxmq install, makes one"
            ) from None
        except psycopg.errors.InsufficientPrivilege:
            raise QueueNotFoundError(
                "this role may not use the queue: its owner can call mq_grant(role, 'worker')"
            ) from None
        except psycopg.Error as error:
            logger.warning("the database is out of reach, which is waited for: %s", error)
            return
        version = rows[0][0]
        if tuple(map(int, version.split("."))) < OLDEST_QUEUE:
            oldest = ".".join(map(str, OLDEST_QUEUE))
            raise QueueNotFoundError(
                f"the queue in this database is of version {version}, but {oldest} or later is needed: "
                "ALTER EXTENSION sqlxmq UPDATE, or sqlxmq upgrade"
            )

    def _warn_of_batches(self) -> None:
        most = max(group.max_concurrency for group in self._groups)
        for job in self._registry.batch_jobs:
            if job.batch > most:
                logger.warning(
                    "job %s takes batches of %d, but no more than %d jobs run at a time: raise max_concurrency",
                    job.name, job.batch, most, extra={"job_name": job.name},
                )  # fmt: skip

    def _link(self, **extra: Any) -> Link:
        link = Link(partial(self._source.connect, **extra))
        self._links.append(link)
        return link

    def _wake(self, number: int) -> None:
        self._loops[number].wake()

    def _keep_alive_soon(self) -> None:
        if self._keeper is not None:
            self._keeper.hurry()

    def _on_reported(self, keys: Iterable[Key]) -> None:
        assert self._executor is not None
        self._executor.reported(keys)
        for loop in self._loops:
            loop.reports_went_out()

    def _log_fields(self, key: Key) -> dict[str, Any]:
        assert self._executor is not None
        return self._executor.log_fields(key)

    # Stopping

    async def stop(self) -> None:
        """Claims no more, lets running jobs finish within the grace period, and gives the rest back,
        for others to run at once. Can be called again; ends the runner for good."""
        self._stopping.set()
        async with self._stop_turn:
            if self._executor is not None and self._reporting is not None:
                await self._stop(self._executor, self._reporting)
                self._reporting = None

    async def _stop(self, executor: Executor, reporting: asyncio.Task[None]) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._grace.total_seconds()
        for loop in self._loops:
            loop.stop()
        # Polls may be under way: whatever they claim still belongs to the jobs to be finished.
        await self._unless_in_a_hurry(asyncio.wait(self._polls, timeout=deadline - clock()))
        await end(*self._polls)
        await self._unless_in_a_hurry(executor.wait(deadline - clock()))
        given_back = executor.number_running
        executor.stop_all()
        await executor.wait(LAST_WORDS)
        left = executor.abandon()
        if given_back > len(left):
            logger.info("gave back %d unfinished jobs", given_back - len(left), extra={"worker": self._worker})
        for delivery in left:
            logger.warning("job %s does not stop; its lease runs out", delivery.id, extra=delivery.log_fields())
        self._reporter.close()
        # The database may be gone, or somebody's lock in the way.
        await asyncio.wait([reporting], timeout=LAST_REPORTS)
        if not reporting.done():
            logger.error("the last reports do not get through; their jobs will run again")
        await end(reporting)
        if self._keeper is not None:
            await asyncio.to_thread(self._keeper.close)
        if self._listening is not None:
            await end(self._listening)
        for link in self._links:
            await link.close()
        await self._source.close_pools()
        logger.info("worker %s has stopped", self._worker, extra={"worker": self._worker})

    async def _unless_in_a_hurry(self, waiting: Coroutine[Any, Any, Any]) -> None:
        """Waits for something, or for the second signal."""
        waits = {asyncio.ensure_future(waiting), asyncio.ensure_future(self._hurry.wait())}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def wait_for_jobs(self, timeout: Duration | None = None) -> None:
        """Waits until no job is running, but not longer than the timeout, a timedelta or seconds."""
        if self._executor is not None:
            await self._executor.wait(None if timeout is None else length_of(timeout, "timeout").total_seconds())

    def stop_soon(self) -> None:
        """Lets run() and until_stopped() end, as the first signal does; called again, it ends the grace
        period, as the second does. To be called in the runner's event loop."""
        if self._stopping.is_set():
            self._hurry.set()
        else:
            logger.info("stopping; a second signal gives unfinished jobs back now", extra={"worker": self._worker})
            self._stopping.set()

    async def until_stopped(self) -> None:
        """Waits until somebody calls stop_soon(), or until something that should not end has ended: whatever
        ended it is raised."""
        stopping = asyncio.create_task(self._stopping.wait())
        tasks = [*self._polls, self._reporting, self._listening]
        running = [task for task in tasks if task is not None]
        await asyncio.wait([stopping, *running], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        for task in running:
            # None of them ends by itself: a worker that lost one is to end, not to idle.
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise error

    async def run(self) -> None:
        """Starts the runner, and stops it at SIGTERM or SIGINT; a second signal ends the grace period."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop_soon)
        try:
            async with self:
                await self.until_stopped()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
