"""Sending jobs from Python."""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import psycopg_pool
import pytest

from sqlxmq import CurrentJob, EncodingError, JobRegistry, job
from tests.python.conftest import Database


@job("send_mail", channel_name="mail", retries=2, backoff_secs=5.0, priority=3)
async def send_mail(current_job: CurrentJob, to: str, subject: str = "Hello") -> None:
    """Not run here."""


@job()
async def plain(number: int) -> int:
    return number * 2


def jobs(session: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return session.execute(
        "SELECT name, channel_name, attempts_left, retry_backoff, priority, payload_json FROM mq_jobs"
    ).fetchall()


MAIL = ("send_mail", "mail", 3, timedelta(seconds=5), 3, {"to": "a@b"})


def test_through_a_connection(session: psycopg.Connection[Any]) -> None:
    id = send_mail.spawn(session, to="a@b")
    assert isinstance(id, UUID)
    assert jobs(session) == [MAIL]


def test_positional_arguments_have_names_in_the_payload(session: psycopg.Connection[Any]) -> None:
    send_mail.spawn(session, "a@b", "Bye")
    assert jobs(session)[0][-1] == {"to": "a@b", "subject": "Bye"}


def test_through_a_pool(database: Database, session: psycopg.Connection[Any]) -> None:
    with psycopg_pool.ConnectionPool(database.dsn, min_size=1, open=True) as pool:
        send_mail.spawn(pool, to="a@b")
    assert jobs(session) == [MAIL]


async def test_through_an_async_connection(database: Database, session: psycopg.Connection[Any]) -> None:
    async with await psycopg.AsyncConnection.connect(database.dsn) as connection:
        assert isinstance(await send_mail.spawn(connection, to="a@b"), UUID)
        assert jobs(session) == [], "the job is there before its transaction has committed"
    assert jobs(session) == [MAIL]


async def test_through_an_async_pool(
    pool: psycopg_pool.AsyncConnectionPool[Any], session: psycopg.Connection[Any]
) -> None:
    await send_mail.spawn(pool, to="a@b")
    assert jobs(session) == [MAIL]


def test_rolled_back_with_the_transaction(session: psycopg.Connection[Any]) -> None:
    with session.transaction(force_rollback=True):
        send_mail.spawn(session, to="a@b")
    assert jobs(session) == []


def test_whatever_the_connections_row_factory(database: Database) -> None:
    with psycopg.connect(database.dsn, row_factory=psycopg.rows.dict_row) as connection:
        assert isinstance(send_mail.spawn(connection, to="a@b"), UUID)


def test_options(session: psycopg.Connection[Any]) -> None:
    id = uuid4()
    later = send_mail.options(
        channel_name="other", channel_args="x", delay=timedelta(hours=1), retries=0, backoff_secs=0.5,
        ordered=True, when_dead="pass", id=id,
    )  # fmt: skip
    assert later.spawn(session, to="c@d") == id
    row = session.execute(
        "SELECT state, channel_name, channel_args, attempts_left, retry_backoff, ordered, when_dead FROM mq_jobs"
    ).fetchone()
    assert row == ("scheduled", "other", "x", 1, timedelta(seconds=0.5), True, "pass")
    assert send_mail.sent_with.channel_name == "mail", "options changed the job itself"


def test_an_id_can_be_sent_once(session: psycopg.Connection[Any]) -> None:
    once = send_mail.options(id=uuid4())
    once.spawn(session, to="a@b")
    with pytest.raises(psycopg.errors.UniqueViolation, match="another job has this id"):
        once.spawn(session, to="a@b")


def test_arguments_must_be_the_functions(session: psycopg.Connection[Any]) -> None:
    with pytest.raises(TypeError, match="job send_mail: missing a required argument: 'to'"):
        send_mail.spawn(session)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="job send_mail: got an unexpected keyword argument 'colour'"):
        send_mail.spawn(session, to="x", colour="red")  # type: ignore[call-overload]
    assert jobs(session) == []


@pytest.mark.parametrize("value", [object(), {1, 2}, float("nan"), uuid4()])
def test_arguments_that_json_cannot_hold_are_named(session: psycopg.Connection[Any], value: Any) -> None:
    with pytest.raises(EncodingError, match="job send_mail: argument subject is "):
        send_mail.spawn(session, to="a@b", subject=value)
    assert jobs(session) == []


def test_bad_options_are_the_databases_to_refuse(session: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.errors.NumericValueOutOfRange, match="retries is -1, but it must be between 0 and"):
        send_mail.options(retries=-1).spawn(session, to="a@b")
    assert jobs(session) == []


def test_through_something_else() -> None:
    with pytest.raises(TypeError, match="it is no psycopg connection or pool"):
        send_mail.spawn("postgresql://localhost", to="a@b")  # type: ignore[call-overload]


async def test_a_job_is_still_a_function() -> None:
    assert await plain(21) == 42
    assert plain.name == f"{__name__}.plain"


def test_a_job_must_be_async() -> None:
    def plain_function() -> None: ...

    with pytest.raises(TypeError, match="takes an async function"):
        job()(plain_function)  # type: ignore[arg-type]


def test_arguments_must_have_names() -> None:
    async def nameless(*paths: str) -> None: ...

    async def open_ended(**paths: str) -> None: ...

    assert inspect.iscoroutinefunction(nameless)
    with pytest.raises(TypeError, match="argument paths must have a name"):
        job()(open_ended)
    with pytest.raises(TypeError, match="argument paths must have a name"):
        job()(nameless)


def test_two_jobs_of_one_name() -> None:
    with pytest.raises(ValueError, match="two jobs are named 'send_mail'"):
        JobRegistry([send_mail, send_mail])


def test_missing_context() -> None:
    with pytest.raises(LookupError, match="no context of type int has been set"):
        JobRegistry([]).set_context("text").context(int)
