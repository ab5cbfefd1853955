"""A connection that a test has open, lent to the jobs that it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import psycopg_pool
from psycopg.adapt import AdaptersMap


class AsyncLentConnection(psycopg.AsyncConnection[Any]):
    """The same session as the owner's connection, for functions that need the other kind of connection. Only
    one of the two is used at a time, and the transaction is the owner's to end."""

    def __init__(self, owner: psycopg.BaseConnection[Any]) -> None:
        super().__init__(owner.pgconn, row_factory=owner.row_factory)  # type: ignore[attr-defined]
        # The two would give their prepared statements the same names.
        self.prepare_threshold = None
        self._adapters = AdaptersMap(owner.adapters)

    def __del__(self, *_: Any) -> None:
        """It is the owner who closes the session."""

    async def commit(self) -> None:
        """Raises ProgrammingError, as in a block of transaction()."""
        raise psycopg.ProgrammingError("commit() is forbidden here: the transaction is the test's")

    async def rollback(self) -> None:
        """Raises ProgrammingError, as in a block of transaction()."""
        raise psycopg.ProgrammingError("rollback() is forbidden here: the transaction is the test's")


class AsyncLentPool(psycopg_pool.AsyncConnectionPool[Any]):
    """Gives out a test's connection: what a pool does in a transaction happens in a savepoint."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        super().__init__(min_size=0, max_size=1, open=False, name="sqlxmq testing")
        self._lent = connection

    @asynccontextmanager
    async def connection(self, timeout: float | None = None) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """The test's connection; what happens in the block is rolled back if it raises. There is nothing
        to wait for."""
        async with self._lent.transaction():
            yield self._lent

    async def getconn(self, timeout: float | None = None) -> psycopg.AsyncConnection[Any]:
        """Raises NotSupportedError: it would not be known when the savepoint ends."""
        raise psycopg.NotSupportedError("in a test, use the pool's connection() instead of getconn()")
