"""SQLAlchemy: connections, sessions and engines, on whatever driver they use."""

from __future__ import annotations

from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from sqlxmq._senders import Carrier
from sqlxmq._senders.psycopg import with_percent_signs
from sqlxmq._statements import Statement

T = TypeVar("T")


def _written_for(connection: Connection | AsyncConnection, statement: Statement[Any]) -> str:
    if connection.dialect.name != "postgresql":
        raise TypeError(f"cannot send through a connection of SQLAlchemy to {connection.dialect.name}")
    if connection.dialect.paramstyle in ("format", "pyformat"):
        return with_percent_signs(statement.text).decode()
    return statement.text


def through_connection(connection: Connection, statement: Statement[T]) -> T:
    """In the transaction of a connection."""
    text = _written_for(connection, statement)
    return statement.read(connection.exec_driver_sql(text, tuple(statement.parameters)).fetchall())


def through_session(session: Session | scoped_session[Any], statement: Statement[T]) -> T:
    """In the transaction of a session, on the connection that it uses for what has no mapper."""
    return through_connection(session.connection(), statement)


def through_engine(engine: Engine, statement: Statement[T]) -> T:
    """In a transaction of its own."""
    with engine.begin() as connection:
        return through_connection(connection, statement)


async def through_async_connection(connection: AsyncConnection, statement: Statement[T]) -> T:
    """In the transaction of a connection."""
    text = _written_for(connection, statement)
    return statement.read((await connection.exec_driver_sql(text, tuple(statement.parameters))).fetchall())


async def through_async_session(session: AsyncSession | async_scoped_session[Any], statement: Statement[T]) -> T:
    """In the transaction of a session, on the connection that it uses for what has no mapper."""
    return await through_async_connection(await session.connection(), statement)


async def through_async_engine(engine: AsyncEngine, statement: Statement[T]) -> T:
    """In a transaction of its own."""
    async with engine.begin() as connection:
        return await through_async_connection(connection, statement)


_CARRIERS: tuple[tuple[tuple[type[Any], ...], Carrier], ...] = (
    ((Connection,), through_connection),
    ((Session, scoped_session), through_session),
    ((Engine,), through_engine),
    ((AsyncConnection,), through_async_connection),
    ((AsyncSession, async_scoped_session), through_async_session),
    ((AsyncEngine,), through_async_engine),
)


def carrier(sender_type: type[Any]) -> Carrier | None:
    """What carries out statements for objects of this class; None if nothing does."""
    return next((carry for kinds, carry in _CARRIERS if issubclass(sender_type, kinds)), None)
