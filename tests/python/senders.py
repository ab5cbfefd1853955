"""Everything that jobs can be sent through, each in the ways in which applications use it."""

from __future__ import annotations

import inspect
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import asyncpg
import django
import django.db
import django.test.utils
import psycopg
import psycopg_pool
import sqlalchemy
import sqlalchemy.exc
from django.conf import settings
from django.db import transaction
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from tests.python.conftest import Database

Act: TypeAlias = Callable[[], Any]


async def done(result: Any) -> Any:
    """What a call returned, awaited where that is what it wants."""
    return await result if inspect.isawaitable(result) else result


@dataclass
class Sender:
    """Something to send through.

    Attributes: through, the driver's object; error, the class of what the driver raises; is_async;
    execute, runs a statement of the application's own in the same transaction; commit and roll_back end
    the transaction, None where each statement is one of its own.
    """

    through: Any
    error: type[Exception]
    is_async: bool
    execute: Callable[[str], Any]
    commit: Act | None = None
    roll_back: Act | None = None

    @property
    def has_transaction(self) -> bool:
        return self.commit is not None

    async def committed(self) -> None:
        if self.commit is not None:
            await done(self.commit())

    async def rolled_back(self) -> None:
        if self.roll_back is not None:
            await done(self.roll_back())


Opened: TypeAlias = AbstractAsyncContextManager[Sender]
SENDERS: dict[str, Callable[[Database], Opened]] = {}


def sender(name: str, **settings: Any) -> Callable[[Callable[..., AsyncIterator[Sender]]], Any]:
    """Adds a sender to the list, under one name for each use of the decorator."""

    def add(function: Callable[..., AsyncIterator[Sender]]) -> Any:
        opened = asynccontextmanager(function)
        SENDERS[name] = partial(opened, **settings) if settings else opened
        return function

    return add


# psycopg


@sender("psycopg connection")
@sender("psycopg connection, rows as dictionaries", row_factory=dict_row)
@sender("psycopg connection, raw cursors", cursor_factory=psycopg.RawCursor)
@sender("psycopg connection, client-side cursors", cursor_factory=psycopg.ClientCursor)
@sender("psycopg connection, autocommit", autocommit=True)
@sender("psycopg cursor", cursor={"row_factory": dict_row})
@sender("psycopg raw cursor", cursor={}, cursor_factory=psycopg.RawCursor)
@sender("psycopg server-side cursor", cursor={"name": "named"})
async def psycopg_connection(
    database: Database, cursor: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Sender]:
    with psycopg.connect(database.dsn, **options) as connection:
        through: Any = connection if cursor is None else connection.cursor(**cursor)
        made = Sender(through, psycopg.Error, False, connection.execute)
        if not connection.autocommit:
            made.commit, made.roll_back = connection.commit, connection.rollback
        yield made
        if cursor is not None:
            through.close()
        connection.rollback()


@sender("psycopg async connection")
@sender("psycopg async connection, rows as dictionaries", row_factory=dict_row)
@sender("psycopg async connection, raw cursors", cursor_factory=psycopg.AsyncRawCursor)
@sender("psycopg async connection, autocommit", autocommit=True)
@sender("psycopg async cursor", cursor={})
@sender("psycopg async server-side cursor", cursor={"name": "named"})
async def psycopg_async_connection(
    database: Database, cursor: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Sender]:
    async with await psycopg.AsyncConnection.connect(database.dsn, **options) as connection:
        through: Any = connection if cursor is None else connection.cursor(**cursor)
        made = Sender(through, psycopg.Error, True, connection.execute)
        if not connection.autocommit:
            made.commit, made.roll_back = connection.commit, connection.rollback
        yield made
        if cursor is not None:
            await through.close()
        await connection.rollback()


class _Left(Exception):
    """Leaves a block in which a transaction is open, so that it is rolled back."""


@sender("psycopg transaction block", pipeline=False)
@sender("psycopg pipeline", pipeline=True)
async def psycopg_transaction_block(database: Database, pipeline: bool) -> AsyncIterator[Sender]:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        blocks = AsyncExitStack()

        def begin() -> None:
            if pipeline:
                blocks.enter_context(connection.pipeline())
            blocks.enter_context(connection.transaction())

        async def commit() -> None:
            await blocks.aclose()
            begin()

        async def roll_back() -> None:
            left = _Left()
            try:
                if not await blocks.__aexit__(_Left, left, None):
                    raise left
            except (_Left, psycopg.errors.PipelineAborted):
                pass
            begin()

        begin()
        yield Sender(connection, psycopg.Error, False, connection.execute, commit, roll_back)
        await roll_back()
        await blocks.aclose()


@sender("psycopg async transaction block", pipeline=False)
@sender("psycopg async pipeline", pipeline=True)
async def psycopg_async_transaction_block(database: Database, pipeline: bool) -> AsyncIterator[Sender]:
    async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as connection:
        blocks = AsyncExitStack()

        async def begin() -> None:
            if pipeline:
                await blocks.enter_async_context(connection.pipeline())
            await blocks.enter_async_context(connection.transaction())

        async def commit() -> None:
            await blocks.aclose()
            await begin()

        async def roll_back() -> None:
            left = _Left()
            try:
                if not await blocks.__aexit__(_Left, left, None):
                    raise left
            except (_Left, psycopg.errors.PipelineAborted):
                pass
            await begin()

        await begin()
        yield Sender(connection, psycopg.Error, True, connection.execute, commit, roll_back)
        await roll_back()
        await blocks.aclose()


@sender("psycopg pool", kind=psycopg_pool.ConnectionPool)
@sender("psycopg null pool", kind=psycopg_pool.NullConnectionPool)
async def psycopg_pools(database: Database, kind: type[psycopg_pool.ConnectionPool]) -> AsyncIterator[Sender]:
    with kind(database.dsn, min_size=0, max_size=2, open=True) as pool:

        def execute(text: str) -> None:
            with pool.connection() as connection:
                connection.execute(text.encode())

        yield Sender(pool, psycopg.Error, False, execute)


@sender("psycopg async pool")
async def psycopg_async_pool(database: Database) -> AsyncIterator[Sender]:
    async with psycopg_pool.AsyncConnectionPool(database.dsn, min_size=0, max_size=2, open=False) as pool:

        async def execute(text: str) -> None:
            async with pool.connection() as connection:
                await connection.execute(text.encode())

        yield Sender(pool, psycopg.Error, True, execute)


# asyncpg


def _address(database: Database) -> dict[str, Any]:
    return {"host": str(database.server.directory), "user": database.server.superuser, "database": database.name}


async def _set_codecs(connection: asyncpg.Connection[Any]) -> None:
    for name in ("json", "jsonb"):
        await connection.set_type_codec(name, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    await connection.set_type_codec(
        "uuid",
        encoder=lambda id: id.bytes,
        decoder=lambda data: uuid.UUID(bytes=data).hex.upper(),
        schema="pg_catalog",
        format="binary",
    )


@sender("asyncpg connection")
@sender("asyncpg connection, codecs of its own", codecs=True)
async def asyncpg_connection(database: Database, codecs: bool = False) -> AsyncIterator[Sender]:
    connection = await asyncpg.connect(**_address(database))
    if codecs:
        await _set_codecs(connection)
    open = connection.transaction()
    await open.start()

    async def end(how: str) -> None:
        nonlocal open
        await getattr(open, how)()
        open = connection.transaction()
        await open.start()

    try:
        yield Sender(
            connection,
            asyncpg.PostgresError,
            True,
            connection.execute,
            partial(end, "commit"),
            partial(end, "rollback"),
        )
    finally:
        await connection.close()


@sender("asyncpg connection, autocommit")
async def asyncpg_autocommit(database: Database) -> AsyncIterator[Sender]:
    connection = await asyncpg.connect(**_address(database))
    try:
        yield Sender(connection, asyncpg.PostgresError, True, connection.execute)
    finally:
        await connection.close()


@sender("asyncpg pool")
@sender("asyncpg pool, codecs of its own", init=_set_codecs)
async def asyncpg_pool(database: Database, **options: Any) -> AsyncIterator[Sender]:
    async with asyncpg.create_pool(**_address(database), min_size=1, max_size=2, **options) as pool:
        yield Sender(pool, asyncpg.PostgresError, True, pool.execute)


@sender("asyncpg connection of a pool")
async def asyncpg_connection_of_pool(database: Database) -> AsyncIterator[Sender]:
    async with (
        asyncpg.create_pool(**_address(database), min_size=1, max_size=1) as pool,
        pool.acquire() as connection,
    ):
        yield Sender(connection, asyncpg.PostgresError, True, connection.execute)


# SQLAlchemy


def _url(database: Database, driver: str) -> sqlalchemy.URL:
    return sqlalchemy.URL.create(
        f"postgresql+{driver}",
        username=database.server.superuser,
        database=database.name,
        query={"host": str(database.server.directory)},
    )


@sender("SQLAlchemy connection, psycopg", driver="psycopg", kind="connection")
@sender("SQLAlchemy connection, psycopg2", driver="psycopg2", kind="connection")
@sender("SQLAlchemy connection, autocommit", driver="psycopg", kind="connection", isolation_level="AUTOCOMMIT")
@sender("SQLAlchemy session, psycopg", driver="psycopg", kind="session")
@sender("SQLAlchemy scoped session", driver="psycopg", kind="scoped session")
@sender("SQLAlchemy engine, psycopg", driver="psycopg", kind="engine")
async def sqlalchemy_senders(database: Database, driver: str, kind: str, **options: Any) -> AsyncIterator[Sender]:
    engine = sqlalchemy.create_engine(_url(database, driver), **options)
    error = sqlalchemy.exc.DBAPIError

    def execute(text: str) -> None:
        with engine.begin() as own:
            own.exec_driver_sql(text)

    through: Any
    try:
        if kind == "engine":
            yield Sender(engine, error, False, execute)
        elif kind == "connection":
            with engine.connect() as through:
                made = Sender(through, error, False, through.exec_driver_sql)
                if not options:
                    made.commit, made.roll_back = through.commit, through.rollback
                yield made
        else:
            through = Session(engine) if kind == "session" else scoped_session(sessionmaker(engine))
            yield Sender(
                through,
                error,
                False,
                lambda text: through.execute(sqlalchemy.text(text)),
                through.commit,
                through.rollback,
            )
            through.close()
    finally:
        engine.dispose()


@sender("SQLAlchemy async connection, psycopg", driver="psycopg", kind="connection")
@sender("SQLAlchemy async connection, asyncpg", driver="asyncpg", kind="connection")
@sender("SQLAlchemy async session, psycopg", driver="psycopg", kind="session")
@sender("SQLAlchemy async session, asyncpg", driver="asyncpg", kind="session")
@sender("SQLAlchemy async scoped session", driver="asyncpg", kind="scoped session")
@sender("SQLAlchemy async engine, psycopg", driver="psycopg", kind="engine")
@sender("SQLAlchemy async engine, asyncpg", driver="asyncpg", kind="engine")
async def sqlalchemy_async_senders(database: Database, driver: str, kind: str) -> AsyncIterator[Sender]:
    engine = create_async_engine(_url(database, driver))
    error = sqlalchemy.exc.DBAPIError
    through: Any
    try:
        if kind == "engine":
            yield Sender(engine, error, True, partial(_execute_in, engine))
        elif kind == "connection":
            async with engine.connect() as through:
                yield Sender(through, error, True, through.exec_driver_sql, through.commit, through.rollback)
        else:
            through = (
                AsyncSession(engine)
                if kind == "session"
                else async_scoped_session(async_sessionmaker(engine), scopefunc=lambda: 1)
            )
            yield Sender(
                through,
                error,
                True,
                lambda text: through.execute(sqlalchemy.text(text)),
                through.commit,
                through.rollback,
            )
            await through.close()
    finally:
        await engine.dispose()


async def _execute_in(engine: AsyncEngine, text: str) -> None:
    async with engine.begin() as own:
        await own.exec_driver_sql(text)


# Django


def _django(database: Database) -> Any:
    """Django's own connection, to this database."""
    if not settings.configured:
        settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql"}}, USE_TZ=True)
        django.setup()
    connection = django.db.connection
    connection.close()
    connection.settings_dict.update(
        NAME=database.name, USER=database.server.superuser, HOST=str(database.server.directory)
    )
    return connection


def _django_execute(text: str) -> None:
    with django.db.connection.cursor() as cursor:
        cursor.execute(text)


@sender("Django atomic block")
@sender("Django atomic block, DEBUG", debug=True)
async def django_atomic_block(database: Database, debug: bool = False) -> AsyncIterator[Sender]:
    connection = _django(database)
    blocks = AsyncExitStack()
    blocks.enter_context(transaction.atomic())

    async def commit() -> None:
        await blocks.aclose()
        blocks.enter_context(transaction.atomic())

    async def roll_back() -> None:
        transaction.set_rollback(True)
        await commit()

    with django.test.utils.override_settings(DEBUG=debug):
        yield Sender(connection, django.db.DatabaseError, False, _django_execute, commit, roll_back)
        await roll_back()
        await blocks.aclose()
    assert bool(connection.queries) == debug
    django.db.reset_queries()
    connection.close()


@sender("Django autocommit")
async def django_autocommit(database: Database) -> AsyncIterator[Sender]:
    connection = _django(database)
    yield Sender(connection, django.db.DatabaseError, False, _django_execute)
    connection.close()


@sender("Django by alias, without autocommit")
async def django_by_alias(database: Database) -> AsyncIterator[Sender]:
    _django(database)
    connection = django.db.connections["default"]
    connection.set_autocommit(False)
    yield Sender(connection, django.db.DatabaseError, False, _django_execute, connection.commit, connection.rollback)
    connection.rollback()
    connection.close()
