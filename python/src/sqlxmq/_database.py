"""The runner's own connections: they heal by themselves."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
import psycopg_pool
from psycopg import sql

logger = logging.getLogger("sqlxmq")

# How long to wait after a failure of the database, in seconds: doubling, with jitter, so that a
# fleet of workers does not come back in step.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0


async def connect(pool: psycopg_pool.AsyncConnectionPool[Any]) -> psycopg.AsyncConnection[Any]:
    """A connection like the pool's, but not of it, in autocommit mode."""
    kwargs = pool.kwargs if isinstance(pool.kwargs, dict) else await _resolve(pool.kwargs)
    conninfo = pool.conninfo if isinstance(pool.conninfo, str) else await _resolve(pool.conninfo)
    connection: psycopg.AsyncConnection[Any] = await pool.connection_class.connect(
        conninfo, **{**kwargs, "autocommit": True}
    )
    connection.row_factory = psycopg.rows.tuple_row
    return connection


async def _resolve(given: Any) -> Any:
    if callable(given):
        given = given()
    if hasattr(given, "__await__"):
        given = await given
    return {} if given is None else given


class Pauses:
    """How long to wait after each failure in a row."""

    def __init__(self) -> None:
        self._next = FIRST_PAUSE

    def reset(self) -> None:
        """Things work again."""
        self._next = FIRST_PAUSE

    def next(self) -> float:
        """The time to wait now, in seconds."""
        pause = self._next * random.uniform(0.5, 1.0)
        self._next = min(self._next * 2, LONGEST_PAUSE)
        return pause


class Link:
    """A connection for short statements in transactions of their own, one at a time. After a failure
    it is opened anew by the next statement."""

    def __init__(self, pool: psycopg_pool.AsyncConnectionPool[Any]) -> None:
        self._pool = pool
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._turn = asyncio.Lock()

    async def fetch(self, query: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Runs a statement and returns all of its rows. Raises psycopg.Error."""
        async with self._turn:
            if self._connection is None or self._connection.closed:
                self._connection = await connect(self._pool)
            try:
                cursor = await self._connection.execute(query, parameters, prepare=True)
                return await cursor.fetchall()
            except (psycopg.OperationalError, psycopg.InterfaceError, asyncio.CancelledError):
                await self._drop()
                raise

    async def close(self) -> None:
        """Closes the connection."""
        async with self._turn:
            await self._drop()

    async def _drop(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                await self._connection.close()
            self._connection = None


async def listen(
    pool: psycopg_pool.AsyncConnectionPool[Any], channel_names: Sequence[str] | None, wake: Callable[[], None]
) -> None:
    """Calls wake whenever jobs are announced; and once after each (re)connect, since announcements
    may have been missed before. Returns never; reconnects for ever."""
    pauses = Pauses()
    while True:
        try:
            async with _listening(pool, channel_names) as connection:
                pauses.reset()
                wake()
                async for _ in connection.notifies():
                    wake()
        except psycopg.Error as error:
            pause = pauses.next()
            logger.warning("the listener lost its connection, next try in %.1f s: %s", pause, error)
            await asyncio.sleep(pause)


@asynccontextmanager
async def _listening(
    pool: psycopg_pool.AsyncConnectionPool[Any], channel_names: Sequence[str] | None
) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    connection = await connect(pool)
    try:
        if channel_names is None:
            channels = ["mq"]
        else:
            cursor = await connection.execute(
                "SELECT mq_notify_channel(name) FROM unnest(%s::text[]) AS name", (list(channel_names),)
            )
            channels = [row[0] for row in await cursor.fetchall()]
        for channel in channels:
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        yield connection
    finally:
        await connection.close()
