"""What checkers make of spawn, with each thing that jobs can be sent through. Lines with the comment
"error" are wrong on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import psycopg_pool
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session
from typing_extensions import assert_type

import sqlxmq
from sqlxmq import Batch, BatchItem, Checkpoint, CurrentJob, SyncCurrentJob, job


@job("send_mail")
async def send_mail(current_job: CurrentJob, to: str, subject: str = "Hello") -> None: ...


@job(batch=10)
async def many(batch: Batch[int]) -> None: ...


def through_psycopg(
    connection: psycopg.Connection,
    dictionaries: psycopg.Connection[dict[str, Any]],
    cursor: psycopg.Cursor[dict[str, Any]],
    pool: psycopg_pool.ConnectionPool,
) -> None:
    assert_type(send_mail.spawn(connection, "a"), UUID)
    assert_type(send_mail.spawn(dictionaries, to="a"), UUID)
    assert_type(send_mail.spawn(cursor, "a", subject="b"), UUID)
    assert_type(send_mail.spawn(pool, "a"), UUID)
    assert_type(send_mail.options(retries=1).spawn(connection, "a"), UUID)
    assert_type(send_mail.prepare("a").spawn(connection), UUID)
    assert_type(many.spawn(connection, 1), UUID)
    assert_type(many.options(priority=3).spawn(connection, payload=1), UUID)
    assert_type(sqlxmq.spawn_many(connection, [send_mail.prepare("a"), many.prepare(1)]), list[UUID])
    send_mail.spawn(connection)  # error
    send_mail.spawn(connection, 1)  # error
    send_mail.spawn(connection, "a", colour="red")  # error
    send_mail.options(retries=1).spawn(connection, 1)  # error
    many.spawn(connection, "a")  # error
    many.spawn(connection)  # error
    sqlxmq.spawn_many(connection, [send_mail])  # error
    send_mail.spawn("postgresql://localhost", "a")  # error
    send_mail.spawn(None, "a")  # error


def the_queue(connection: psycopg.Connection, id: UUID) -> None:
    assert_type(sqlxmq.commit(connection, [id, str(id)]), list[UUID])
    assert_type(sqlxmq.exists(connection, id), bool)
    assert_type(sqlxmq.cancel(connection, [id]), Mapping[UUID, str])
    assert_type(sqlxmq.retry(connection, [id], retries=1, delay=timedelta(1)), list[UUID])
    sqlxmq.clear(connection, ["a"])
    sqlxmq.clear_all(connection)
    sqlxmq.exists(connection, 5)  # error


async def through_async_psycopg(
    connection: psycopg.AsyncConnection, cursor: psycopg.AsyncCursor[Any], pool: psycopg_pool.AsyncConnectionPool
) -> None:
    assert_type(await send_mail.spawn(connection, "a"), UUID)
    assert_type(await send_mail.spawn(cursor, to="a"), UUID)
    assert_type(await send_mail.spawn(pool, "a"), UUID)
    assert_type(await send_mail.options(retries=1).spawn(connection, "a"), UUID)
    assert_type(await send_mail.prepare("a").spawn(connection), UUID)
    assert_type(await many.spawn(connection, 1), UUID)
    assert_type(await sqlxmq.spawn_many(connection, [send_mail.prepare("a")]), list[UUID])
    assert_type(await sqlxmq.exists(connection, "a"), bool)
    assert_type(await sqlxmq.clear_all(connection), None)
    assert_type(await asyncio.create_task(send_mail.spawn(pool, "a")), UUID)
    send_mail.spawn(connection, "a")  # error
    sqlxmq.clear_all(connection)  # error
    id: UUID = send_mail.spawn(connection, "a")  # error
    await send_mail.spawn(connection, 1)  # error
    await send_mail.spawn(connection)  # error
    print(id)


def through_sqlalchemy(
    connection: sqlalchemy.Connection,
    engine: sqlalchemy.Engine,
    session: Session,
    scoped: scoped_session[Session],
) -> None:
    assert_type(send_mail.spawn(connection, "a"), UUID)
    assert_type(send_mail.spawn(engine, "a"), UUID)
    assert_type(send_mail.spawn(session, "a"), UUID)
    assert_type(send_mail.spawn(scoped, "a"), UUID)
    assert_type(sqlxmq.spawn_many(session, []), list[UUID])
    assert_type(many.spawn(session, 1), UUID)
    send_mail.spawn(session, 1)  # error
    send_mail.spawn(sqlalchemy.MetaData(), "a")  # error


async def through_async_sqlalchemy(
    connection: AsyncConnection,
    engine: AsyncEngine,
    session: AsyncSession,
    scoped: async_scoped_session[AsyncSession],
) -> None:
    assert_type(await send_mail.spawn(connection, "a"), UUID)
    assert_type(await send_mail.spawn(engine, "a"), UUID)
    assert_type(await send_mail.spawn(session, "a"), UUID)
    assert_type(await send_mail.spawn(scoped, "a"), UUID)
    assert_type(await sqlxmq.spawn_many(session, []), list[UUID])
    assert_type(await many.spawn(session, 1), UUID)
    send_mail.spawn(session, "a")  # error
    await send_mail.spawn(session, 1)  # error


async def completing(
    current: CurrentJob, connection: psycopg.AsyncConnection, session: AsyncSession, wrong: psycopg.Connection
) -> None:
    await current.complete(connection)
    await current.checkpoint(Checkpoint(extra_retries=1), connection=session)
    await current.complete(wrong)  # error


def completing_in_a_thread(
    current: SyncCurrentJob, connection: psycopg.Connection, session: Session, wrong: psycopg.AsyncConnection
) -> None:
    current.complete(connection)
    current.checkpoint(json_payload={"a": 1}, connection=session)
    current.complete(wrong)  # error


async def a_batch(batch: Batch[int], connection: psycopg.AsyncConnection) -> None:
    await batch.complete(connection, items=batch[:2])
    assert_type(batch[0], BatchItem[int])
