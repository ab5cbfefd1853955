"""Carries out statements through whatever connection an application has open.

Each driver has a module here, which is imported when one of its objects is met for the first time; its
function `carrier` finds, for a class of that driver, the function that carries out a statement.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from importlib import import_module
from typing import Any, Protocol, TypeAlias, TypeVar, cast, overload

import psycopg
import psycopg_pool

from sqlxmq._errors import LEASE_LOST, LeaseLost, sqlstate_of
from sqlxmq._statements import Statement

T = TypeVar("T")

Carrier: TypeAlias = Callable[[Any, Statement[Any]], Any]

# Where the classes of each driver are defined, and the module that knows them.
_DRIVERS = {
    "psycopg": "sqlxmq._senders.psycopg",
    "psycopg_pool": "sqlxmq._senders.psycopg",
    "asyncpg": "sqlxmq._senders.asyncpg",
    "sqlalchemy": "sqlxmq._senders.sqlalchemy",
    "django": "sqlxmq._senders.django",
}
_known: dict[type[Any], Carrier] = {}


# What optional drivers offer, by which type checkers tell the asynchronous ones from the others.


class AsyncpgSender(Protocol):
    """A connection or a pool of asyncpg."""

    def fetch(self, query: str, /, *args: Any) -> Coroutine[Any, Any, Any]:
        """Runs a statement."""
        ...


class AsyncSqlAlchemyConnection(Protocol):
    """An AsyncConnection of SQLAlchemy."""

    def exec_driver_sql(self, statement: str, /) -> Coroutine[Any, Any, Any]:
        """Runs a statement."""
        ...


class AsyncSqlAlchemySession(Protocol):
    """An AsyncSession of SQLAlchemy."""

    def connection(self) -> Coroutine[Any, Any, AsyncSqlAlchemyConnection]:
        """The session's connection."""
        ...


class AsyncSqlAlchemyEngine(Protocol):
    """An AsyncEngine of SQLAlchemy."""

    def begin(self) -> AbstractAsyncContextManager[AsyncSqlAlchemyConnection]:
        """A connection with a transaction."""
        ...


class _Result(Protocol):
    def fetchall(self) -> Any: ...


class SqlAlchemyConnection(Protocol):
    """A Connection of SQLAlchemy."""

    def exec_driver_sql(self, statement: str, /) -> _Result:
        """Runs a statement."""
        ...


class SqlAlchemySession(Protocol):
    """A Session of SQLAlchemy."""

    def connection(self) -> SqlAlchemyConnection:
        """The session's connection."""
        ...


class SqlAlchemyEngine(Protocol):
    """An Engine of SQLAlchemy."""

    def begin(self) -> AbstractContextManager[SqlAlchemyConnection]:
        """A connection with a transaction."""
        ...


class DjangoConnection(Protocol):
    """A connection of Django's django.db.connections."""

    in_atomic_block: bool

    def cursor(self) -> Any:
        """A cursor."""
        ...


class DjangoConnectionProxy(Protocol):
    """django.db.connection, which passes on whatever it is asked for to this thread's connection."""

    def __getattr__(self, item: str, /) -> Any: ...

    def __contains__(self, key: Any, /) -> bool: ...


# Unions, not texts: a checker that cannot read one takes anything for a sender of either kind.
AsyncSender: TypeAlias = (
    psycopg.AsyncConnection[Any]
    | psycopg.AsyncCursor[Any]
    | psycopg_pool.AsyncConnectionPool[Any]
    | AsyncpgSender
    | AsyncSqlAlchemyConnection
    | AsyncSqlAlchemySession
    | AsyncSqlAlchemyEngine
)
SyncSender: TypeAlias = (
    psycopg.Connection[Any]
    | psycopg.Cursor[Any]
    | psycopg_pool.ConnectionPool[Any]
    | SqlAlchemyConnection
    | SqlAlchemySession
    | SqlAlchemyEngine
    | DjangoConnection
    | DjangoConnectionProxy
)


def _carrier(sender_type: type[Any]) -> Carrier:
    found = _known.get(sender_type)
    if found is None:
        for base in sender_type.__mro__:
            module = _DRIVERS.get(base.__module__.partition(".")[0])
            if module is not None and (found := import_module(module).carrier(sender_type)) is not None:
                break
        else:
            raise TypeError(
                f"cannot send through {sender_type.__module__}.{sender_type.__qualname__}: it must be a connection, "
                "cursor or pool of psycopg, a connection or pool of asyncpg, a connection, session or engine of "
                "SQLAlchemy, or a connection of Django"
            )
        _known[sender_type] = found
    return found


def _translate(error: Exception, statement: Statement[Any]) -> None:
    if statement.fences and sqlstate_of(error) == LEASE_LOST:
        text = str(error)
        named = [fence for fence in statement.fences if str(fence[0]) in text]
        # The message names the job first; SQLAlchemy appends the parameters, with all the others.
        raise LeaseLost(*min(named or statement.fences, key=lambda fence: text.find(str(fence[0])))) from error


async def _awaited(result: Coroutine[Any, Any, T], statement: Statement[T]) -> T:
    try:
        return await result
    except Exception as error:
        _translate(error, statement)
        raise


@overload
def execute(sender: AsyncSender, statement: Statement[T]) -> Coroutine[Any, Any, T]: ...
@overload
def execute(sender: SyncSender, statement: Statement[T]) -> T: ...
def execute(sender: AsyncSender | SyncSender, statement: Statement[T]) -> Coroutine[Any, Any, T] | T:
    """Carries out a statement in the transaction that is open there (a pool or an engine: in one of its
    own). With something asynchronous, await the result.

    Raises:
        TypeError: the sender is nothing that can be sent through.
        LeaseLost: the statement is fenced, and its job is not held any more.
        Exception: what the driver raises.
    """
    carry = _carrier(type(sender))
    try:
        result = carry(sender, statement)
    except Exception as error:
        _translate(error, statement)
        raise
    if isinstance(result, Coroutine):
        return _awaited(result, statement)
    return cast(T, result)
