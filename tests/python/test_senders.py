"""What is promised of sending, through everything that jobs can be sent through."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from datetime import date, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import sqlalchemy

import sqlxmq
from sqlxmq import (
    Batch,
    BatchItem,
    Checkpoint,
    CurrentJob,
    JobBuilder,
    JobOptions,
    LeaseLost,
    SyncBatch,
    SyncCurrentJob,
    job,
)
from sqlxmq._errors import sqlstate_of
from sqlxmq._senders import execute
from sqlxmq._statements import Statement
from tests.python.conftest import Database, create_database
from tests.python.senders import SENDERS, Sender, done
from tools.cluster import Cluster


@job("send_mail", channel_name="mail", retries=2, backoff_secs=5.0, priority=3)
async def send_mail(current_job: CurrentJob, to: str, day: date, subject: str = "Hello") -> None:
    """Not run here."""


TODAY = date(2026, 7, 9)


@pytest.fixture(scope="module")
def module_database(server: Cluster) -> Database:
    database = create_database(server, "with_sqlxmq")
    with database.connect() as session:
        session.execute("CREATE TABLE effects (what text)")
        session.execute(
            """CREATE FUNCTION fail_with(state text) RETURNS integer LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION USING ERRCODE = state, MESSAGE = 'as wanted'; END $$"""
        )
    return database


@pytest.fixture(scope="module")
def observing(module_database: Database) -> Iterator[psycopg.Connection[Any]]:
    with module_database.connect() as session:
        yield session


@pytest.fixture
def observer(observing: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """Another session, which sees what is committed; the queue is empty."""
    observing.execute("SELECT mq_clear_all()")
    observing.execute("TRUNCATE effects")
    return observing


@pytest.fixture(params=list(SENDERS))
async def sender(
    request: pytest.FixtureRequest,
    module_database: Database,
    observer: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Sender]:
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    async with SENDERS[request.param](module_database) as opened:
        yield opened


def ids(observer: psycopg.Connection[Any]) -> list[UUID]:
    return [row[0] for row in observer.execute("SELECT id FROM mq_msgs ORDER BY id")]


async def test_a_job_commits_with_the_transaction(sender: Sender, observer: psycopg.Connection[Any]) -> None:
    id = await done(send_mail.spawn(sender.through, "ä@b", day=TODAY))
    assert type(id) is UUID
    assert ids(observer) == ([] if sender.has_transaction else [id])
    await sender.committed()
    assert observer.execute(
        "SELECT id, name, channel_name, attempts_left, retry_backoff, priority, payload_json::text, headers"
        " FROM mq_jobs"
    ).fetchall() == [
        (id, "send_mail", "mail", 3, timedelta(seconds=5), 3, '{"to":"ä@b","day":"2026-07-09"}', None)
    ]  # fmt: skip


async def test_a_job_rolls_back_with_the_transaction(sender: Sender, observer: psycopg.Connection[Any]) -> None:
    id = await done(send_mail.spawn(sender.through, to="a@b", day=TODAY))
    await sender.rolled_back()
    await sender.committed()
    assert ids(observer) == ([] if sender.has_transaction else [id])


async def test_all_options(sender: Sender, observer: psycopg.Connection[Any]) -> None:
    id = uuid4()
    later = send_mail.options(
        channel_name="other", channel_args="ünï", delay=timedelta(days=1, microseconds=1), retries=0, backoff_secs=0.5,
        ordered=True, commit_interval=timedelta(hours=2), when_dead="pass", id=id,
    )  # fmt: skip
    assert await done(later.spawn(sender.through, to="c@d", day=TODAY)) == id
    await sender.committed()
    assert observer.execute(
        """SELECT id, state, channel_name, channel_args, attempts_left, retry_backoff, ordered, when_dead,
                  reserved_until - due_at
           FROM mq_jobs"""
    ).fetchall() == [
        (id, "scheduled", "other", "ünï", 1, timedelta(seconds=0.5), True, "pass", timedelta(hours=2))
    ]  # fmt: skip
    assert await done(sqlxmq.commit(sender.through, [str(id)])) == [id]
    await sender.committed()
    row = observer.execute("SELECT due_at - created_at FROM mq_jobs").fetchone()
    assert row == (timedelta(days=1, microseconds=1),)


async def test_what_the_database_refuses_is_the_drivers_error(
    sender: Sender, observer: psycopg.Connection[Any]
) -> None:
    with pytest.raises(sender.error, match="retries is -1, but it must be between 0 and") as refused:
        await done(send_mail.options(retries=-1).spawn(sender.through, to="a@b", day=TODAY))
    assert sqlstate_of(refused.value) == "22003"
    assert not sqlxmq.should_retry(refused.value)
    await sender.rolled_back()
    once = send_mail.options(id=uuid4())
    await done(once.spawn(sender.through, to="a@b", day=TODAY))
    await sender.committed()
    with pytest.raises(sender.error, match="another job has this id") as refused:
        await done(once.spawn(sender.through, to="a@b", day=TODAY))
    assert sqlstate_of(refused.value) == "23505"
    await sender.rolled_back()
    builders = [send_mail.prepare("a@b", TODAY), send_mail.options(priority=40_000).prepare("a@b", TODAY)]
    with pytest.raises(sender.error, match="priority of message 2 is 40000"):
        await done(sqlxmq.spawn_many(sender.through, builders))
    await sender.rolled_back()
    assert len(ids(observer)) == 1


async def test_what_can_succeed_when_tried_again(sender: Sender) -> None:
    for state in ("40001", "40P01"):
        conflict = Statement("SELECT fail_with($1::text)", [state], list)
        with pytest.raises(sender.error, match="as wanted") as failed:
            await done(execute(sender.through, conflict))
        assert sqlxmq.should_retry(failed.value)
        await sender.rolled_back()


async def test_many_jobs(sender: Sender, observer: psycopg.Connection[Any]) -> None:
    assert await done(sqlxmq.spawn_many(sender.through, [])) == []
    [one] = await done(sqlxmq.spawn_many(sender.through, [send_mail.prepare("a@b", TODAY)]))
    assert type(one) is UUID
    wanted = [uuid4() if number % 3 == 0 else None for number in range(1000)]
    builders = [
        send_mail.options(
            id=wanted[number],
            ordered=True if number % 5 == 0 else None,
            delay=timedelta(hours=number) if number % 7 == 0 else None,
            channel_args=str(number) if number % 2 else None,
        ).prepare(f"{number}@b", TODAY)
        for number in range(999)
    ]
    builders.append(JobBuilder("raw", wanted[999]).set_raw_bytes(b"\0\xff"))
    sent = await done(sqlxmq.spawn_many(sender.through, iter(builders)))
    await sender.committed()
    assert [type(id) for id in sent] == [UUID] * 1000
    assert all(id == chosen for id, chosen in zip(sent, wanted, strict=True) if chosen is not None)
    rows = observer.execute(
        "SELECT id, payload_json->>'to', ordered, round(extract(epoch FROM due_at - created_at) / 3600)::int,"
        "       channel_args FROM mq_jobs WHERE name = 'send_mail' AND id <> %s",
        [one],
    ).fetchall()
    assert {row[0]: row[1:] for row in rows} == {
        id: (f"{n}@b", n % 5 == 0, n if n % 7 == 0 else 0, str(n) if n % 2 else "") for n, id in enumerate(sent[:999])
    }
    assert observer.execute(
        "SELECT id, payload_bytes, payload_json, channel_name, attempts_left FROM mq_jobs WHERE name = 'raw'"
    ).fetchall() == [(sent[999], b"\0\xff", None, "", 5)]


async def test_raw_payloads_and_headers(sender: Sender, observer: psycopg.Connection[Any]) -> None:
    text = '{"a": 1.50,  "a":"\\u0000 %s $1"}'
    builder = JobBuilder("other's").set_raw_json(text).set_raw_bytes(bytes(range(256))).set_headers({"ä": "%s €"})
    id = await done(builder.spawn(sender.through))
    await sender.committed()
    row = observer.execute(
        "SELECT id, name, payload_json, payload_bytes, headers::jsonb->>'ä' FROM mq_poll(NULL, 1)"
    ).fetchone()
    assert row == (id, "other's", text, bytes(range(256)), "%s €")
    with pytest.raises(sender.error) as refused:
        await done(JobBuilder("bad").set_raw_json("{").spawn(sender.through))
    assert sqlstate_of(refused.value) == "22P02"


async def test_the_queue_is_looked_at_and_changed(sender: Sender, observer: psycopg.Connection[Any]) -> None:
    through = sender.through
    reserve = send_mail.options(commit_interval=timedelta(hours=1))
    reserved = await done(reserve.spawn(through, to="a@b", day=TODAY))
    assert await done(sqlxmq.commit(through, [reserved, uuid4()])) == [reserved]
    assert await done(sqlxmq.commit(through, [reserved])) == []
    assert await done(sqlxmq.exists(through, reserved)) is True
    assert await done(sqlxmq.exists(through, str(uuid4()))) is False
    assert await done(sqlxmq.cancel(through, [reserved, uuid4()])) == {reserved: "removed"}
    assert await done(sqlxmq.exists(through, reserved)) is False
    for channel in ("one", "two", "three"):
        await done(send_mail.options(channel_name=channel).spawn(through, to="a@b", day=TODAY))
    await done(sqlxmq.clear(through, ["one", "two"]))
    await sender.committed()
    assert observer.execute("SELECT channel_name FROM mq_jobs").fetchall() == [("three",)]
    assert await done(sqlxmq.clear_all(through)) is None
    await sender.committed()
    assert ids(observer) == []


async def test_a_dead_job_is_retried(sender: Sender, observer: psycopg.Connection[Any]) -> None:
    id = await done(send_mail.options(retries=0).spawn(sender.through, to="a@b", day=TODAY))
    await sender.committed()
    observer.execute("SELECT mq_fail(id, attempt, 'no') FROM mq_poll(NULL, 1)")
    assert await done(sqlxmq.retry(sender.through, [id, uuid4()], retries=3, delay=timedelta(hours=1))) == [id]
    await sender.committed()
    assert observer.execute("SELECT state, attempts_left FROM mq_jobs").fetchall() == [("scheduled", 4)]
    running = await done(send_mail.spawn(sender.through, to="a@b", day=TODAY))
    await sender.committed()
    observer.execute("SELECT FROM mq_poll(NULL, 1)")
    assert await done(sqlxmq.cancel(sender.through, [running])) == {running: "requested"}


# Jobs that complete through what they were given


def claimed(observer: psycopg.Connection[Any], sender: Sender) -> Any:
    """A job that runs, as its function would see it."""
    row = observer.execute(
        "SELECT id, name, payload_json, payload_bytes, attempt, attempts_allowed, channel_name, channel_args, headers"
        " FROM mq_poll(NULL, 1, '1 hour')"
    ).fetchone()
    assert row is not None
    return (CurrentJob if sender.is_async else SyncCurrentJob)(lambda kind: None, *row)


def lose(observer: psycopg.Connection[Any], current: Any) -> None:
    """Somebody else gets the job."""
    observer.execute("SELECT mq_fail(%s, %s, 'lost', retry_in => '0')", [current.id, current.attempt])


def effects(observer: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return observer.execute("SELECT what FROM effects").fetchall()


async def test_effects_and_completion_are_one(sender: Sender, observer: psycopg.Connection[Any]) -> None:
    send_mail.spawn(observer, to="a@b", day=TODAY)
    current = claimed(observer, sender)
    await done(sender.execute("INSERT INTO effects VALUES ('mail')"))
    await done(current.complete(sender.through))
    assert current.is_settled
    if sender.has_transaction:
        assert effects(observer) == []
        assert ids(observer) == [current.id]
    await sender.committed()
    assert effects(observer) == [("mail",)]
    assert ids(observer) == []


async def test_completion_with_a_lost_lease(sender: Sender, observer: psycopg.Connection[Any]) -> None:
    send_mail.spawn(observer, to="a@b", day=TODAY)
    current = claimed(observer, sender)
    lose(observer, current)
    if sender.has_transaction:
        await done(sender.execute("INSERT INTO effects VALUES ('mail')"))
    with pytest.raises(LeaseLost, match=f"job {current.id} is not held at attempt 1 any more") as lost:
        await done(current.complete(sender.through))
    assert (lost.value.id, lost.value.attempt) == (current.id, 1)
    assert isinstance(lost.value.__cause__, sender.error)
    assert not current.is_settled
    assert not sqlxmq.should_retry(lost.value)
    await sender.rolled_back()
    await done(send_mail.spawn(sender.through, to="again", day=TODAY))
    await sender.committed()
    assert effects(observer) == []
    assert len(ids(observer)) == 2


async def test_a_checkpoint(sender: Sender, observer: psycopg.Connection[Any]) -> None:
    send_mail.spawn(observer, to="a@b", day=TODAY)
    current = claimed(observer, sender)
    await done(
        current.checkpoint(json_payload={"to": "c"}, raw_bytes=b"\0", extra_retries=2, connection=sender.through)
    )
    await sender.committed()
    row = observer.execute("SELECT payload_json::text, payload_bytes, attempts_allowed FROM mq_msgs").fetchone()
    assert row == ('{"to":"c"}', b"\0", 5)
    await done(current.checkpoint(Checkpoint(raw_json="[1]"), connection=sender.through))
    await sender.rolled_back()
    lose(observer, current)
    with pytest.raises(LeaseLost):
        await done(current.checkpoint(json_payload={"to": "d"}, connection=sender.through))
    await sender.rolled_back()
    row = observer.execute("SELECT payload_json::text, payload_bytes FROM mq_msgs").fetchone()
    assert row == ('{"to":"c"}' if sender.has_transaction else "[1]", b"\0")


def claimed_batch(observer: psycopg.Connection[Any], sender: Sender) -> Any:
    rows = observer.execute(
        "SELECT id, name, payload_json, payload_bytes, attempt, attempts_allowed, channel_name, channel_args, headers"
        " FROM mq_poll(NULL, 10, '1 hour')"
    ).fetchall()
    batch: Any = Batch() if sender.is_async else SyncBatch()
    for row in rows:
        item: BatchItem[Any] = BatchItem(lambda kind: None, *row)
        item.outcome = None
        batch.append(item)
    return batch


async def test_a_batch_is_completed_all_or_none(sender: Sender, observer: psycopg.Connection[Any]) -> None:
    sqlxmq.spawn_many(observer, [send_mail.prepare("a@b", TODAY) for _ in range(5)])
    batch = claimed_batch(observer, sender)
    lose(observer, batch[3])
    with pytest.raises(LeaseLost) as lost:
        await done(batch.complete(sender.through))
    assert lost.value.id == batch[3].id
    assert not any(item.is_settled for item in batch)
    await sender.rolled_back()
    assert len(ids(observer)) == 5, "some were completed although one was lost"
    await done(batch.complete(sender.through, items=[*batch[:3], batch[4]]))
    await sender.committed()
    assert ids(observer) == [batch[3].id]
    assert [item.is_settled for item in batch] == [True, True, True, False, True]
    await done(batch.complete(sender.through, items=[]))


# What is nothing to send through


class Lookalike:
    """Has what connections have, and is none."""

    def cursor(self) -> None: ...

    def execute(self, query: str) -> None: ...


@pytest.mark.parametrize(
    "through",
    ["postgresql://localhost", None, 5, object(), Lookalike(), psycopg, send_mail, psycopg.Connection],
    ids=repr,
)
def test_what_jobs_cannot_be_sent_through(through: Any) -> None:
    with pytest.raises(
        TypeError, match=r"cannot send through .*: it must be a connection, cursor or pool of psycopg, a"
    ):
        send_mail.spawn(through, to="a@b", day=TODAY)
    with pytest.raises(TypeError, match="a connection of Django"):
        sqlxmq.clear_all(through)


def test_what_drivers_have_beside_senders() -> None:
    with pytest.raises(TypeError, match=r"cannot send through sqlalchemy.*MetaData: it must be"):
        send_mail.spawn(sqlalchemy.MetaData(), to="a@b", day=TODAY)  # type: ignore[call-overload]
    with sqlite3.connect(":memory:") as connection, pytest.raises(TypeError, match="cannot send through sqlite3"):
        send_mail.spawn(connection, to="a@b", day=TODAY)  # type: ignore[call-overload]
    connection.close()


def test_other_databases() -> None:
    engine = sqlalchemy.create_engine("sqlite://")
    with pytest.raises(TypeError, match="cannot send through a connection of SQLAlchemy to sqlite"):
        send_mail.spawn(engine, to="a@b", day=TODAY)
    engine.dispose()


def test_a_class_of_ones_own(module_database: Database, observer: psycopg.Connection[Any]) -> None:
    class Own(psycopg.Connection[Any]):
        """A connection with something added."""

    with Own.connect(module_database.dsn) as connection:
        id = send_mail.spawn(connection, to="a@b", day=TODAY)
    assert ids(observer) == [id]


def test_the_cursors_own_result_stays(module_database: Database, observer: psycopg.Connection[Any]) -> None:
    with psycopg.connect(module_database.dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 3)")
        assert cursor.fetchone() == (1,)
        send_mail.spawn(cursor, to="a@b", day=TODAY)
        assert cursor.fetchall() == [(2,), (3,)]


def test_malformed_ids_are_named(observer: psycopg.Connection[Any]) -> None:
    with pytest.raises(ValueError, match="'x' is not an id: it must be a UUID"):
        sqlxmq.cancel(observer, ["x"])
    with pytest.raises(ValueError, match="'x' is not an id: it must be a UUID"):
        sqlxmq.exists(observer, "x")
    with pytest.raises(TypeError, match=r"ids is '.*', but it must be a list of ids"):
        sqlxmq.commit(observer, str(uuid4()))
    with pytest.raises(TypeError, match="channel_names is 'one', but it must be a list of names"):
        sqlxmq.clear(observer, "one")
    with pytest.raises(TypeError, match=r"jobs must be builders, as prepare.. returns them, not <Job send_mail>"):
        sqlxmq.spawn_many(observer, [send_mail])  # type: ignore[list-item]


def test_options_in_one_object(observer: psycopg.Connection[Any]) -> None:
    id = send_mail.options(JobOptions(channel_name="a", priority=1), channel_name="b").spawn(
        observer, to="a@b", day=TODAY
    )
    assert observer.execute("SELECT id, channel_name, priority, attempts_left FROM mq_jobs").fetchall() == [
        (id, "b", 1, 3)
    ]
