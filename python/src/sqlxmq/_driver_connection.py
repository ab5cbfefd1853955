"""Finds psycopg's own connection in whatever connection a test has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import psycopg

from sqlxmq._async.lent import AsyncLentConnection
from sqlxmq._senders import (
    AsyncSqlAlchemyConnection,
    AsyncSqlAlchemySession,
    DjangoConnection,
    SqlAlchemyConnection,
    SqlAlchemySession,
)
from sqlxmq._sync.lent import LentConnection

AsyncTestConnection: TypeAlias = "psycopg.AsyncConnection[Any] | AsyncSqlAlchemyConnection | AsyncSqlAlchemySession"
TestConnection: TypeAlias = "psycopg.Connection[Any] | SqlAlchemyConnection | SqlAlchemySession | DjangoConnection"


def is_async(connection: object) -> bool:
    """Whether it is psycopg's or SQLAlchemy's asynchronous kind."""
    return isinstance(connection, psycopg.AsyncConnection) or _defined_in(connection, "sqlalchemy.ext.asyncio")


def driver_connection(connection: Any) -> psycopg.Connection[Any]:
    """The psycopg connection of one of psycopg, SQLAlchemy (also a session) or Django.

    Raises:
        TypeError: there is none: it is something else, or on another driver.
    """
    found = connection
    if _defined_in(connection, "sqlalchemy"):
        if callable(getattr(found, "connection", None)):  # a session
            found = found.connection()
        found = getattr(getattr(found, "connection", None), "driver_connection", None)
    elif _defined_in(connection, "django"):
        found.ensure_connection()
        found = found.connection
    if not isinstance(found, psycopg.Connection):
        raise _not_usable(connection, found)
    return found


async def async_driver_connection(connection: Any) -> psycopg.AsyncConnection[Any]:
    """The same for the asynchronous kinds, of psycopg or SQLAlchemy. Raises TypeError."""
    found = connection
    if _defined_in(connection, "sqlalchemy"):
        if not hasattr(found, "get_raw_connection"):  # a session
            found = await found.connection()
        found = (await found.get_raw_connection()).driver_connection
    if not isinstance(found, psycopg.AsyncConnection):
        raise _not_usable(connection, found)
    return found


@contextmanager
def both_faces(
    connection: psycopg.AsyncConnection[Any] | psycopg.Connection[Any],
) -> Iterator[tuple[psycopg.AsyncConnection[Any], psycopg.Connection[Any]]]:
    """The connection, and the same session for functions of the other kind; to be used by turns."""
    pgconn = connection.pgconn
    handlers = pgconn.notice_handler, pgconn.notify_handler
    try:
        if isinstance(connection, psycopg.AsyncConnection):
            yield connection, LentConnection(connection)
        else:
            yield AsyncLentConnection(connection), connection
    finally:
        pgconn.notice_handler, pgconn.notify_handler = handlers


def check_that_nothing_would_stay(connection: psycopg.BaseConnection[Any]) -> None:
    """Raises ValueError if what happens on the connection would be committed at once."""
    is_idle = connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    if connection.autocommit and is_idle:
        raise ValueError(
            "the connection is in autocommit mode, and no transaction is open: what the jobs do would stay in the "
            "database; open one, for example by connection.transaction(force_rollback=True)"
        )


def _defined_in(connection: object, package: str) -> bool:
    return any(f"{base.__module__}.".startswith(f"{package}.") for base in type(connection).__mro__)


def _not_usable(connection: object, found: object) -> TypeError:
    kind = type(connection)
    what = f"connection is a {kind.__module__}.{kind.__qualname__}"
    if found is not connection and found is not None:
        what += f" on {type(found).__module__.partition('.')[0]}"
    return TypeError(
        f"{what}, but jobs are run on an open connection of psycopg 3: give that, or a connection or session of "
        "SQLAlchemy or a connection of Django that uses it"
    )
