"""The runner's own connections, which heal by themselves, and the pools that jobs use."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import psycopg
import psycopg_pool
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import tuple_row

Database: TypeAlias = "str | psycopg_pool.AsyncConnectionPool[Any] | psycopg_pool.ConnectionPool[Any]"

# Of a statement: by position or by name.
Parameters: TypeAlias = Sequence[Any] | Mapping[str, Any]

# How long to wait after a failure of the database, in seconds: doubling, with jitter, so that a
# fleet of workers does not come back in step.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0

# A server that is gone without a word is to be noticed within seconds, not after the many minutes of
# TCP's own patience. What the connection string says goes first.
PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}


# How long a short statement may take, in seconds, before it is cancelled, and how long that may take before
# the connection is cut off: a proxy can be silent, and yet answer for TCP, for ever.
LONGEST_STATEMENT = 60.0
LONGEST_CANCEL = 10.0

# What a transaction pooler answers that knows nothing of prepared statements.
POOLED = (psycopg.errors.InvalidSqlStatementName, psycopg.errors.DuplicatePreparedStatement)


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


def cut(connection: psycopg.AsyncConnection[Any] | psycopg.Connection[Any]) -> None:
    """Ends a connection that does not answer, from any thread: whoever waits for it gets an OperationalError."""
    # The family is not looked at.
    with (
        suppress(OSError, psycopg.Error),
        socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as its_socket,
    ):
        its_socket.shutdown(socket.SHUT_RDWR)


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks until they have ended: on a silent connection, psycopg takes a cancellation to wait on."""
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=1.0)


async def _resolved(given: Any) -> Any:
    """A setting of a pool, which may be a function, and that an asynchronous one."""
    if callable(given):
        given = given()
    if hasattr(given, "__await__"):
        given = await given
    return given


class Source:
    """Where connections come from: a connection string, or what a pool makes its own connections with."""

    def __init__(self, database: Database, *, is_pooled: bool) -> None:
        """
        Args:
            database: a connection string or an open pool.
            is_pooled: whether a transaction pooler may be between, so that statements must not be prepared.

        Raises TypeError if the database is something else.
        """
        if not isinstance(database, str | psycopg_pool.AsyncConnectionPool | psycopg_pool.ConnectionPool):
            raise TypeError(
                f"database is {database!r}, but it must be a connection string, an AsyncConnectionPool "
                "or a ConnectionPool"
            )
        self._database = database
        self._is_pooled = is_pooled
        self._async_pool: psycopg_pool.AsyncConnectionPool[Any] | None = None
        self._sync_pool: psycopg_pool.ConnectionPool[Any] | None = None

    async def _settings(self, extra: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        conninfo, kwargs = self._database, {}
        if not isinstance(conninfo, str):
            kwargs = dict(await _resolved(conninfo.kwargs) or {})
            conninfo = await _resolved(conninfo.conninfo) or ""
        given = conninfo_to_dict(conninfo).keys() | kwargs.keys()
        for name, value in PATIENCE.items():
            if name not in given:
                kwargs[name] = value
        if self._is_pooled:
            kwargs["prepare_threshold"] = None
        return conninfo, {**kwargs, **extra}

    async def _settings_now(self, extra: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        try:
            return await self._settings(extra)
        except Exception as error:
            # Who asks a service for a password can fail as a connection can, and is tried again as that.
            raise psycopg.OperationalError(f"the pool's connection settings cannot be had: {error!r}") from error

    async def connect(self, **extra: Any) -> psycopg.AsyncConnection[Any]:
        """A connection in autocommit mode. Raises psycopg.Error."""
        conninfo, kwargs = await self._settings_now(extra)
        kind = psycopg.AsyncConnection
        if isinstance(self._database, psycopg_pool.AsyncConnectionPool):
            kind = self._database.connection_class
        connection: psycopg.AsyncConnection[Any] = await kind.connect(conninfo, **{**kwargs, "autocommit": True})
        connection.row_factory = tuple_row
        connection.cursor_factory = psycopg.AsyncCursor
        return connection

    def connect_in_thread(self, **extra: Any) -> psycopg.Connection[Any]:
        """The same, for a thread without an event loop."""
        conninfo, kwargs = asyncio.run(self._settings_now(extra))
        kind = psycopg.Connection
        if isinstance(self._database, psycopg_pool.ConnectionPool):
            kind = self._database.connection_class
        connection: psycopg.Connection[Any] = kind.connect(conninfo, **{**kwargs, "autocommit": True})
        connection.row_factory = tuple_row
        connection.cursor_factory = psycopg.Cursor
        return connection

    def check_pool(self) -> None:
        """Raises ValueError if a pool was given that is not open."""
        if not isinstance(self._database, str) and self._database.closed:
            raise ValueError(f"the pool {self._database.name!r} is not open: open it, or enter its context, first")

    async def open_pools(self, size: int, *, for_async: bool, for_threads: bool) -> None:
        """Opens what jobs need and was not given: pools of at most this size, without idle connections."""
        conninfo, kwargs = await self._settings({})
        # What the one kind of pool makes cursors of does not fit the other's connections.
        kwargs.pop("cursor_factory", None)
        if isinstance(self._database, psycopg_pool.AsyncConnectionPool):
            self._async_pool = self._database
        elif for_async:
            self._async_pool = psycopg_pool.AsyncConnectionPool(
                conninfo, kwargs=kwargs, min_size=0, max_size=size, open=False, name="sqlxmq jobs"
            )
            await self._async_pool.open()
        if isinstance(self._database, psycopg_pool.ConnectionPool):
            self._sync_pool = self._database
        elif for_threads:
            self._sync_pool = psycopg_pool.ConnectionPool(
                conninfo, kwargs=kwargs, min_size=0, max_size=size, open=False, name="sqlxmq jobs"
            )
            self._sync_pool.open()

    async def close_pools(self) -> None:
        """Closes the pools that open_pools has opened."""
        if self._async_pool is not None and self._async_pool is not self._database:
            await self._async_pool.close()
        if self._sync_pool is not None and self._sync_pool is not self._database:
            # Waits for its own threads.
            await asyncio.to_thread(self._sync_pool.close)

    def async_pool(self) -> psycopg_pool.AsyncConnectionPool[Any]:
        """The pool for async functions. Raises RuntimeError if there were none when the runner was started."""
        if self._async_pool is None:
            raise RuntimeError("the runner has no pool for async functions: it knew of none when it was started")
        return self._async_pool

    def sync_pool(self) -> psycopg_pool.ConnectionPool[Any]:
        """The pool for functions in threads. Raises RuntimeError if there were none when the runner was started."""
        if self._sync_pool is None:
            raise RuntimeError("the runner has no pool for plain functions: it knew of none when it was started")
        return self._sync_pool


class Link:
    """A connection for short statements in transactions of their own, one at a time. After a failure
    it is opened anew by the next statement."""

    def __init__(self, connect: Callable[[], Awaitable[psycopg.AsyncConnection[Any]]]) -> None:
        self._connect = connect
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._turn = asyncio.Lock()
        self._prepares = True
        self._giving_up: asyncio.Task[None] | None = None

    @property
    def is_one_session(self) -> bool:
        """Whether the next statement runs in the session of the last one: no transaction pooler is between."""
        connection = self._connection
        return self._prepares and (connection is None or connection.prepare_threshold is not None)

    async def fetch(self, query: str, parameters: Parameters) -> list[tuple[Any, ...]]:
        """Runs a statement and returns all of its rows. Raises psycopg.Error: an OperationalError, too, if
        it takes longer than LONGEST_STATEMENT."""
        async with self._turn:
            try:
                return await self._fetch(query, parameters)
            except POOLED:
                # There is a pooler, though nobody said so.
                self._prepares = False
                return await self._fetch(query, parameters)

    async def _fetch(self, query: str, parameters: Parameters) -> list[tuple[Any, ...]]:
        if self._connection is None or self._connection.closed:
            self._connection = await self._connect()
            if not self._prepares:
                self._connection.prepare_threshold = None
        # Where preparing is switched off, asking for it would still do it.
        prepare = None if self._connection.prepare_threshold is None else True
        timer = asyncio.get_running_loop().call_later(LONGEST_STATEMENT, self._give_up, self._connection)
        try:
            cursor = await self._connection.execute(query.encode(), parameters, prepare=prepare)
            return await cursor.fetchall()
        except psycopg.DataError:
            # The statement is to blame, and nothing else.
            raise
        except BaseException:
            await self._drop()
            raise
        finally:
            timer.cancel()
            if self._giving_up is not None:
                self._giving_up.cancel()
                self._giving_up = None

    def _give_up(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._giving_up = asyncio.ensure_future(self._cancel(connection))

    async def _cancel(self, connection: psycopg.AsyncConnection[Any]) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LONGEST_CANCEL
        with suppress(psycopg.Error, OSError):
            await connection.cancel_safe(timeout=LONGEST_CANCEL)
        await asyncio.sleep(deadline - loop.time())
        cut(connection)

    async def close(self) -> None:
        """Closes the connection."""
        async with self._turn:
            await self._drop()

    async def _drop(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                await self._connection.close()
            self._connection = None
