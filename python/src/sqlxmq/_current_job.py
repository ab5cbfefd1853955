"""The job that a function is running for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast
from uuid import UUID

import psycopg
import psycopg_pool

from sqlxmq._errors import LeaseLost, fenced

C = TypeVar("C")


@dataclass
class CurrentJob:
    """The job that a function is running for: one delivery of it.

    Attributes: id; name; attempt, the number of this delivery, which is the fence; attempts_allowed,
    how many there can be; channel_name, channel_args; raw_json and raw_bytes, the payload as it was
    sent (None: that part was not); pool, the runner's connection pool.
    """

    id: UUID
    name: str
    attempt: int
    attempts_allowed: int
    channel_name: str
    channel_args: str
    raw_json: str | None
    raw_bytes: bytes | None
    pool: psycopg_pool.AsyncConnectionPool[Any]
    find_context: Callable[[type[Any]], Any] = field(repr=False)
    is_settled: bool = field(default=False, init=False)

    def json(self) -> Any:
        """The JSON payload, decoded; None if there is none."""
        return None if self.raw_json is None else json.loads(self.raw_json)

    def context(self, kind: type[C]) -> C:
        """What the registry was given with set_context, by its type. Raises LookupError if nothing was."""
        return cast(C, self.find_context(kind))

    async def complete(self, connection: psycopg.AsyncConnection[Any] | None = None) -> None:
        """Completes the job; the runner will not do it again.

        connection: where it is to be part of the open transaction, so that the job is done if, and
        only if, that commits. None: at once, in a transaction of its own.

        Raises:
            LeaseLost: somebody else may have the job. Let it pass, so that the transaction rolls back.
        """
        if connection is None:
            async with self.pool.connection() as own:
                await self.complete(own)
            return
        with fenced(self.id, self.attempt):
            await connection.execute("SELECT mq_complete(%s, %s)", (self.id, self.attempt))
        self.is_settled = True

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
        duration: timedelta = timedelta(0),
        *,
        json_payload: Any = None,
        raw_bytes: bytes | None = None,
        extra_retries: int = 0,
        connection: psycopg.AsyncConnection[Any] | None = None,
    ) -> None:
        """Saves progress: the next attempt, if there is one, starts from this payload.

        Args:
            duration: keeps the job alive for at least so long from now.
            json_payload: replaces the JSON payload (None: leave it).
            raw_bytes: replaces the binary payload (None: leave it).
            extra_retries: attempts to add.
            connection: where it is to be part of the open transaction (None: one of its own).

        Raises:
            LeaseLost: somebody else may have the job.
        """
        if connection is None:
            async with self.pool.connection() as own:
                await self.checkpoint(
                    duration,
                    json_payload=json_payload,
                    raw_bytes=raw_bytes,
                    extra_retries=extra_retries,
                    connection=own,
                )
            return
        document = None if json_payload is None else json.dumps(json_payload)
        with fenced(self.id, self.attempt):
            await connection.execute(
                "SELECT mq_checkpoint(%s, %s, %s, %s, %s, %s)",
                (self.id, duration, document, raw_bytes, extra_retries, self.attempt),
            )

    async def keep_alive(self, duration: timedelta) -> None:
        """Pushes the lease to at least now plus duration. The runner does so by itself, too.

        Raises:
            LeaseLost: somebody else may have the job.
        """
        async with self.pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT is_held FROM mq_keep_alive(%s, %s, %s)", ([self.id], duration, [self.attempt])
            )
            row = await cursor.fetchone()
        if row is None or not row[0]:
            raise LeaseLost(self.id, self.attempt)
