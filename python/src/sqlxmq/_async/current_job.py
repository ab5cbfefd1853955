"""The job that a function is running for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar

import psycopg
import psycopg_pool

from sqlxmq import _statements
from sqlxmq._delivery import BatchItem, Checkpoint, Delivery
from sqlxmq._options import Duration, length_of
from sqlxmq._payload import to_json
from sqlxmq._senders import AsyncSender, execute
from sqlxmq._statements import Statement

T = TypeVar("T")


class CurrentJob(Delivery):
    """The job that a function is running for: one delivery of it, and the function's first parameter, if that is
    annotated so.

    Attributes:
        id (UUID): the job's id, the same over all attempts.
        name (str): the job's name.
        attempt (int): the number of this delivery, from 1: the fence.
        attempts_allowed (int): how many there can be.
        channel_name (str): the channel's name.
        channel_args (str): the channel's arguments.
        raw_json (str | None): the JSON payload as it was sent (None: there is none).
        raw_bytes (bytes | None): the binary payload (None: there is none).
        stop_reason (str | None): why the job is to stop: "lease lost", "cancelled", "time limit" or "worker ends"
            (None: it is not to).
        is_settled (bool): whether the function has completed the job itself.
    """

    __slots__ = ("_find_pool",)

    _find_pool: Callable[[], psycopg_pool.AsyncConnectionPool[Any]]

    @property
    def pool(self) -> psycopg_pool.AsyncConnectionPool[Any]:
        """The runner's connection pool."""
        return self._find_pool()

    async def complete(self, connection: AsyncSender | None = None) -> None:
        """Completes the job; the runner will not do it again. With a connection, commit afterwards, or raise.

        Args:
            connection: where it is to be part of the open transaction, so that the job is done if, and
                only if, that commits: whatever Job.spawn takes. None: at once, in a transaction of its own.

        Raises:
            LeaseLost: somebody else may have the job. Let it pass, so that the transaction rolls back.
        """
        # Before it is: from then on, keep-alive can find the job gone.
        self.is_settled = True
        try:
            await self._execute(connection, _statements.complete(self.id, self.attempt))
        except BaseException:
            self.is_settled = False
            raise

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """A transaction in which the job is completed on leaving: its effects happen exactly once.

        Raises:
            LeaseLost: on leaving, if somebody else may have the job; the transaction is rolled back.
        """
        try:
            async with self.pool.connection() as connection, connection.transaction():
                yield connection
                await self.complete(connection)
        except BaseException:
            # Nothing is completed: a commit, too, can fail.
            self.is_settled = False
            raise

    async def checkpoint(
        self,
        checkpoint: Checkpoint | None = None,
        *,
        duration: Duration = timedelta(0),
        json_payload: Any = None,
        raw_bytes: bytes | None = None,
        extra_retries: int = 0,
        connection: AsyncSender | None = None,
    ) -> None:
        """Saves progress: the next attempt, if there is one, starts from this payload.

        Args:
            checkpoint: the progress; the other arguments but the connection are then not looked at.
            duration: keeps the job alive for at least so long from now, a timedelta or seconds.
            json_payload: replaces the JSON payload (None: leave it).
            raw_bytes: replaces the binary payload (None: leave it).
            extra_retries: attempts to add.
            connection: where it is to be part of the open transaction: whatever Job.spawn takes. None:
                at once, in a transaction of its own.

        Raises:
            LeaseLost: somebody else may have the job.
            TypeError, ValueError: the JSON payload cannot be written as JSON.
        """
        if checkpoint is None:
            checkpoint = Checkpoint(
                duration=duration, json_payload=json_payload, raw_bytes=raw_bytes, extra_retries=extra_retries
            )
        raw_json = checkpoint.raw_json
        if checkpoint.json_payload is not None:
            raw_json = to_json(checkpoint.json_payload)
        await self._execute(
            connection,
            _statements.checkpoint(
                self.id,
                self.attempt,
                length_of(checkpoint.duration),
                raw_json,
                checkpoint.raw_bytes,
                checkpoint.extra_retries,
            ),
        )

    async def keep_alive(self, duration: Duration) -> None:
        """Pushes the lease to at least now plus duration. The runner does so by itself, too.

        Args:
            duration: a timedelta or seconds.

        Raises:
            LeaseLost: somebody else may have the job.
        """
        await self._execute(None, _statements.keep_alive(self.id, self.attempt, length_of(duration)))

    async def _execute(self, connection: AsyncSender | None, statement: Statement[None]) -> None:
        if connection is not None:
            await execute(connection, statement)
            return
        async with self.pool.connection() as own:
            await execute(own, statement)


class Batch(list[BatchItem[T]]):
    """The jobs that a function with @job(batch=…) is running for: a list of BatchItem."""

    _find_pool: Callable[[], psycopg_pool.AsyncConnectionPool[Any]]

    @property
    def pool(self) -> psycopg_pool.AsyncConnectionPool[Any]:
        """The runner's connection pool."""
        return self._find_pool()

    async def complete(
        self, connection: AsyncSender | None = None, *, items: Sequence[BatchItem[T]] | None = None
    ) -> None:
        """Completes jobs of the batch, all or none; the runner will not do it again.

        Args:
            connection: where it is to be part of the open transaction, so that the jobs are done if, and
                only if, that commits: whatever Job.spawn takes. None: at once, in a transaction of its own.
            items: the jobs. None: all of which nothing else was said.

        Raises:
            LeaseLost: somebody else may have one of the jobs. Let it pass, so that the transaction rolls back.
        """
        if items is None:
            items = [item for item in self if item.outcome is None and not item.is_settled]
        statement = _statements.complete_many([(item.id, item.attempt) for item in items])
        settled_before = [item.is_settled for item in items]
        # Before they are: from then on, keep-alive can find the jobs gone.
        for item in items:
            item.is_settled = True
        try:
            if connection is not None:
                await execute(connection, statement)
            else:
                async with self.pool.connection() as own:
                    await execute(own, statement)
        except BaseException:
            for item, was_settled in zip(items, settled_before, strict=True):
                item.is_settled = was_settled
            raise

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """A transaction in which the batch is completed on leaving: its effects happen exactly once.

        Raises:
            LeaseLost: on leaving, if somebody else may have one of the jobs; the transaction is rolled back.
        """
        settled_before = [item.is_settled for item in self]
        try:
            async with self.pool.connection() as connection, connection.transaction():
                yield connection
                await self.complete(connection)
        except BaseException:
            for item, was_settled in zip(self, settled_before, strict=True):
                item.is_settled = was_settled
            raise
