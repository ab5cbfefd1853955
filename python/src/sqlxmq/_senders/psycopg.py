"""psycopg 3: connections, cursors, pools."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, TypeVar

import psycopg
import psycopg_pool
from psycopg.rows import tuple_row

from sqlxmq._senders import Carrier
from sqlxmq._statements import Statement

T = TypeVar("T")


@lru_cache(maxsize=1000)
def with_percent_signs(text: str) -> bytes:
    """The statement with %s for each placeholder."""
    return re.sub(r"\$\d+", "%s", text).encode()


# Cursors are made by their own class: the connection's may be one with other placeholders or rows.


def through_connection(connection: psycopg.Connection[Any], statement: Statement[T]) -> T:
    """In the transaction of a connection."""
    with psycopg.Cursor(connection, row_factory=tuple_row) as cursor:
        cursor.execute(with_percent_signs(statement.text), statement.parameters)
        return statement.read(cursor.fetchall())


def through_cursor(cursor: psycopg.Cursor[Any], statement: Statement[T]) -> T:
    """In the transaction of a cursor's connection; the cursor's own result is left as it is."""
    return through_connection(cursor.connection, statement)


def through_pool(pool: psycopg_pool.ConnectionPool[Any], statement: Statement[T]) -> T:
    """In a transaction of its own."""
    with pool.connection() as connection:
        return through_connection(connection, statement)


async def through_async_connection(connection: psycopg.AsyncConnection[Any], statement: Statement[T]) -> T:
    """In the transaction of a connection."""
    async with psycopg.AsyncCursor(connection, row_factory=tuple_row) as cursor:
        await cursor.execute(with_percent_signs(statement.text), statement.parameters)
        return statement.read(await cursor.fetchall())


async def through_async_cursor(cursor: psycopg.AsyncCursor[Any], statement: Statement[T]) -> T:
    """In the transaction of a cursor's connection; the cursor's own result is left as it is."""
    return await through_async_connection(cursor.connection, statement)


async def through_async_pool(pool: psycopg_pool.AsyncConnectionPool[Any], statement: Statement[T]) -> T:
    """In a transaction of its own."""
    async with pool.connection() as connection:
        return await through_async_connection(connection, statement)


_CARRIERS: tuple[tuple[type[Any], Carrier], ...] = (
    (psycopg.Connection, through_connection),
    (psycopg.AsyncConnection, through_async_connection),
    (psycopg.Cursor, through_cursor),
    (psycopg.AsyncCursor, through_async_cursor),
    (psycopg_pool.ConnectionPool, through_pool),
    (psycopg_pool.AsyncConnectionPool, through_async_pool),
)


def carrier(sender_type: type[Any]) -> Carrier | None:
    """What carries out statements for objects of this class; None if nothing does."""
    return next((carry for kind, carry in _CARRIERS if issubclass(sender_type, kind)), None)
