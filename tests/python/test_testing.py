"""The helpers for applications' tests, against a real server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
import psycopg_pool
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from psycopg.rows import dict_row

from sqlxmq import (
    Batch,
    Cancel,
    CurrentJob,
    DecodingError,
    Fail,
    JobRegistry,
    LeaseLost,
    MissingContextError,
    Observer,
    Outcome,
    Retry,
    Snooze,
    SyncBatch,
    SyncCurrentJob,
    TimeLimitExceeded,
    UnknownJobError,
    clear_all,
    from_context,
    job,
)
from sqlxmq._delivery import Delivery
from sqlxmq.opentelemetry import instrument, uninstrument
from sqlxmq.testing import AsyncQueueInTest, QueueInTest, RanJob, drain, run_one, spawned
from tests.python.conftest import Database

Connection = psycopg.Connection[Any]
AsyncConnection = psycopg.AsyncConnection[Any]


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    """A transaction that is rolled back; nothing of it may be left."""
    with psycopg.connect(database.dsn) as opened:
        yield opened
        opened.rollback()
    with database.connect() as session:
        assert session.execute("SELECT count(*) FROM mq_msgs").fetchone() == (0,)
        assert session.execute("SELECT count(*) FROM mq_claims").fetchone() == (0,)


@pytest.fixture
async def async_connection(database: Database) -> Any:
    async with await psycopg.AsyncConnection.connect(database.dsn) as opened:
        yield opened
        await opened.rollback()
    with database.connect() as session:
        assert session.execute("SELECT count(*) FROM mq_msgs").fetchone() == (0,)


def state_of(connection: Connection) -> list[tuple[Any, ...]]:
    return connection.execute("SELECT name, state, attempts_made, last_error FROM mq_jobs ORDER BY position").fetchall()


# What runs, and where


@job("add")
async def add(current_job: CurrentJob, number: int) -> int:
    async with current_job.transaction() as connection:
        await connection.execute("INSERT INTO effect VALUES (%s)", (number,))
    return number


@job("add in a thread")
def add_in_thread(current_job: SyncCurrentJob, number: int) -> int:
    with current_job.pool.connection() as connection:
        connection.execute("INSERT INTO effect VALUES (%s)", (number,))
    return threading.get_ident()


BOTH = JobRegistry([add, add_in_thread])


def test_functions_of_both_kinds_run_for_a_sync_connection(connection: Connection) -> None:
    connection.execute("CREATE TABLE effect (number integer)")
    assert run_one(BOTH, connection) is None
    id = add.spawn(connection, 1)
    add_in_thread.spawn(connection, 2)
    ran = run_one(BOTH, connection)
    assert ran == RanJob(id, "add", 1, "completed", None, 1)
    (ran,) = drain(BOTH, connection)
    assert (ran.name, ran.outcome, ran.result) == ("add in a thread", "completed", threading.get_ident())
    assert connection.execute("SELECT number FROM effect ORDER BY 1").fetchall() == [(1,), (2,)]
    assert state_of(connection) == []


async def test_functions_of_both_kinds_run_for_an_async_connection(async_connection: AsyncConnection) -> None:
    await async_connection.execute("CREATE TABLE effect (number integer)")
    assert await run_one(BOTH, async_connection) is None
    await add.spawn(async_connection, 1)
    await add_in_thread.spawn(async_connection, 2)
    first, second = await drain(BOTH, async_connection)
    assert (first.outcome, first.result, second.outcome) == ("completed", 1, "completed")
    assert second.result != threading.get_ident()
    cursor = await async_connection.execute("SELECT number FROM effect ORDER BY 1")
    assert await cursor.fetchall() == [(1,), (2,)]
    assert await spawned(async_connection) == []


@pytest.mark.parametrize("prepare_threshold", [0, None])
def test_whatever_the_connections_settings(database: Database, prepare_threshold: int | None) -> None:
    with psycopg.connect(database.dsn, row_factory=dict_row, prepare_threshold=prepare_threshold) as opened:
        opened.execute("CREATE TABLE effect (number integer)")
        seen: list[Any] = []

        @job("look")
        async def look(current_job: CurrentJob) -> None:
            async with current_job.pool.connection() as connection:
                assert connection is not opened
                seen.append(await (await connection.execute("SELECT 1 AS one")).fetchone())

        notices: list[str | None] = []
        opened.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        for number in range(12):
            look.spawn(opened)
            add.spawn(opened, number)
            assert len(drain(JobRegistry([look, add]), opened)) == 2
        assert seen == [{"one": 1}] * 12
        opened.execute("DO $$ BEGIN RAISE NOTICE 'still heard'; END $$")
        assert notices == ["still heard"]
        opened.rollback()


def test_a_job_spawns_jobs(connection: Connection) -> None:
    order: list[int] = []

    @job("count down")
    def count_down(current_job: SyncCurrentJob, number: int) -> None:
        order.append(number)
        if number > 0:
            with current_job.transaction() as own:
                count_down.spawn(own, number - 1)

    count_down.spawn(connection, 3)
    assert [one.outcome for one in drain(JobRegistry([count_down]), connection)] == ["completed"] * 4
    assert order == [3, 2, 1, 0]


def test_a_drain_without_end_is_noticed(connection: Connection) -> None:
    @job("for ever")
    def for_ever(current_job: SyncCurrentJob) -> None:
        for_ever.spawn(current_job.pool)

    for_ever.spawn(connection)
    with pytest.raises(AssertionError, match="after 7 jobs there was still one due, for ever; the last were for ever"):
        drain(JobRegistry([for_ever]), connection, limit=7)
    assert [state for _, state, _, _ in state_of(connection)] == ["ready"]
    with pytest.raises(ValueError, match="limit is 0, but it must be at least 1"):
        drain(JobRegistry([for_ever]), connection, limit=0)


def test_only_the_channels_that_were_named(connection: Connection) -> None:
    @job("work", channel_name="a")
    def work() -> None: ...

    work.spawn(connection)
    work.options(channel_name="b").spawn(connection)
    registry = JobRegistry([work])
    assert len(drain(registry, connection, channel_names=["b"])) == 1
    assert run_one(registry, connection, channel_names=["b"]) is None
    assert [one.channel_name for one in spawned(connection)] == ["a"]
    with pytest.raises(TypeError, match="channel_names is 'a'"):
        drain(registry, connection, channel_names="a")


def test_delayed_jobs_are_not_due(connection: Connection) -> None:
    @job("later")
    def later() -> None: ...

    later.options(delay=timedelta(hours=1)).spawn(connection)
    assert drain(JobRegistry([later]), connection) == []
    (there,) = spawned(connection, later)
    assert (there.state, there.delay) == ("scheduled", timedelta(hours=1))


def test_context_and_observers(connection: Connection) -> None:
    told: list[tuple[str, str]] = []

    class Told(Observer):
        def started(self, delivery: Delivery) -> None:
            told.append((delivery.name, "started"))

        def ended(self, delivery: Delivery, outcome: str, seconds: float) -> None:
            told.append((delivery.name, outcome))

    @job("greet")
    def greet(current_job: SyncCurrentJob, name: str, *, greeting: str = from_context()) -> str:
        assert current_job.context(str) == greeting
        return f"{greeting} {name}"

    greet.spawn(connection, "Ann")
    with pytest.raises(MissingContextError, match="job greet: no context of type str"):
        run_one(JobRegistry([greet]), connection)
    ran = run_one(JobRegistry([greet]).set_context("Hello").add_observer(Told()), connection)
    assert ran is not None
    assert ran.result == "Hello Ann"
    assert told == [("greet", "started"), ("greet", "completed")]


# How jobs end


def test_an_error_is_reported_and_raised(connection: Connection) -> None:
    connection.execute("CREATE TABLE effect (number integer)")

    @job("break", retries=1, backoff_secs=600)
    def broken(current_job: SyncCurrentJob) -> None:
        with current_job.pool.connection() as own:
            own.execute("INSERT INTO effect VALUES (1)")
        with current_job.transaction() as own:
            own.execute("INSERT INTO effect VALUES (2)")
            raise LookupError("nothing there")

    @job("fine")
    def fine() -> None: ...

    broken.spawn(connection)
    fine.spawn(connection)
    with pytest.raises(LookupError, match="nothing there"):
        drain(JobRegistry([broken, fine]), connection)
    assert connection.execute("SELECT number FROM effect").fetchall() == [(1,)], "what was committed stays, only that"
    (name, state, attempts, error), other = state_of(connection)
    assert (name, state, attempts) == ("break", "scheduled", 1)
    assert "LookupError: nothing there" in error
    assert other == ("fine", "ready", 0, None)
    assert [one.name for one in drain(JobRegistry([broken, fine]), connection)] == ["fine"]


def test_an_error_goes_to_the_error_handler_instead(connection: Connection) -> None:
    told: list[tuple[str, BaseException]] = []

    @job("break", retries=0)
    async def broken() -> None:
        raise LookupError("nothing there")

    registry = JobRegistry([broken]).set_error_handler(lambda name, error: told.append((name, error)))
    broken.spawn(connection)
    ran = run_one(registry, connection, raise_errors=False)
    assert ran is not None
    assert (ran.outcome, str(ran.error)) == ("failed", "nothing there")
    assert told == [("break", ran.error)]
    assert [state for _, state, _, _ in state_of(connection)] == ["dead"]


def test_a_job_can_end_its_test(connection: Connection) -> None:
    @job("refuse", backoff_secs=600)
    def refuse() -> None:
        pytest.fail("not this one")

    refuse.spawn(connection)
    with pytest.raises(pytest.fail.Exception, match="not this one"):
        run_one(JobRegistry([refuse]), connection)
    assert [state for _, state, _, _ in state_of(connection)] == ["scheduled"]


def test_a_statement_that_fails_leaves_the_transaction_usable(connection: Connection) -> None:
    @job("break on the test's own connection", retries=0)
    def broken() -> None:
        connection.execute("SELECT 1 / 0")

    broken.spawn(connection)
    with pytest.raises(psycopg.errors.DivisionByZero):
        run_one(JobRegistry([broken]), connection)
    assert [state for _, state, _, _ in state_of(connection)] == ["dead"]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("is_raised", [False, True])
@pytest.mark.parametrize(
    ("outcome", "named", "state", "attempts"),
    [
        (Retry("not yet", in_=60), "retried", "scheduled", 1),
        (Retry("at once", in_=0), "retried", "ready", 1),
        (Snooze(timedelta(minutes=1)), "snoozed", "scheduled", 1),
        (Fail("never"), "failed", "dead", 1),
        (Cancel("no more"), "cancelled", None, 1),
    ],
)
def test_outcomes(
    connection: Connection, outcome: Outcome, named: str, state: str | None, attempts: int, is_raised: bool,
    is_async: bool,
) -> None:  # fmt: skip
    def end() -> Outcome:
        if is_raised:
            raise outcome
        return outcome

    @job("end")
    async def end_async() -> Outcome:
        return end()

    end_job = end_async if is_async else job("end")(end)
    registry = JobRegistry([end_job]).set_error_handler(lambda name, error: None)
    end_job.spawn(connection)
    ran = run_one(registry, connection)
    assert ran is not None
    assert ran.outcome == named
    assert [(row[1], row[2]) for row in state_of(connection)] == ([] if state is None else [(state, attempts)])
    if state is not None and not isinstance(outcome, Snooze):
        assert state_of(connection)[0][3] == outcome.reason


def test_what_the_database_refuses_is_raised(connection: Connection) -> None:
    @job("end")
    def end() -> Outcome:
        return Retry(in_=-1)

    end.spawn(connection)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="retry_in is "):
        run_one(JobRegistry([end]), connection)
    assert [state for _, state, _, _ in state_of(connection)] == ["running"]


def test_an_unknown_job_and_a_payload_that_does_not_fit(connection: Connection) -> None:
    @job("picky")
    def picky(number: int) -> None: ...

    connection.execute(
        "SELECT mq_enqueue(name, '{\"number\": \"x\"}', retry_backoff => '10 minutes') "
        "FROM unnest(ARRAY['nobody knows me', 'picky']) AS name"
    )
    registry = JobRegistry([picky])
    errors = []
    for _ in range(2):
        with pytest.raises((UnknownJobError, DecodingError)) as caught:
            run_one(registry, connection)
        errors.append(caught.type)
    assert set(errors) == {UnknownJobError, DecodingError}
    assert [state for _, state, _, _ in state_of(connection)] == ["scheduled", "scheduled"]
    assert drain(registry, connection) == []


def test_a_lost_lease(connection: Connection) -> None:
    connection.execute("CREATE TABLE effect (number integer)")

    @job("lose")
    def lose(current_job: SyncCurrentJob) -> None:
        clear_all(connection)
        with current_job.transaction() as own:
            own.execute("INSERT INTO effect VALUES (1)")

    lose.spawn(connection)
    with pytest.raises(LeaseLost):
        run_one(JobRegistry([lose]), connection)
    lose.spawn(connection)
    ran = run_one(JobRegistry([lose]), connection, raise_errors=False)
    assert ran is not None
    assert (ran.outcome, type(ran.error)) == ("lost", LeaseLost)
    assert connection.execute("SELECT count(*) FROM effect").fetchone() == (0,)


def test_a_report_that_comes_too_late(connection: Connection, caplog: pytest.LogCaptureFixture) -> None:
    @job("lose")
    def lose() -> None:
        clear_all(connection)

    lose.spawn(connection)
    ran = run_one(JobRegistry([lose]), connection)
    assert ran is not None
    assert ran.outcome == "lost"
    assert "too late: its lease was lost" in caplog.text


def test_a_checkpoint_is_seen_by_the_next_attempt(connection: Connection) -> None:
    seen: list[Any] = []

    @job("long", retries=0)
    async def long(current_job: CurrentJob, done: int) -> Outcome | None:
        seen.append((current_job.attempt, done))
        await current_job.keep_alive(timedelta(minutes=1))
        if done == 0:
            await current_job.checkpoint(json_payload={"done": 1}, extra_retries=1)
            return Retry(in_=0)
        await current_job.complete()
        return None

    long.spawn(connection, 0)
    assert [one.outcome for one in drain(JobRegistry([long]), connection)] == ["retried", "completed"]
    assert seen == [(1, 0), (2, 1)]
    assert state_of(connection) == []


def test_a_transaction_that_fails_completes_nothing(connection: Connection) -> None:
    @job("swallow")
    def swallow(current_job: SyncCurrentJob) -> Outcome:
        try:
            with current_job.transaction():
                raise KeyError
        except KeyError:
            return Retry("rolled back", in_=60)

    swallow.spawn(connection)
    assert [one.outcome for one in drain(JobRegistry([swallow]), connection)] == ["retried"]
    assert [state for _, state, _, _ in state_of(connection)] == ["scheduled"]


async def test_time_limits(async_connection: AsyncConnection, connection: Connection) -> None:
    @job("slow", time_limit=0.05, backoff_secs=600)
    async def slow() -> None:
        await asyncio.Event().wait()

    @job("slow in a thread", time_limit=0.05, backoff_secs=600)
    def slow_in_thread(current_job: SyncCurrentJob) -> None:
        assert current_job.wait_until_stopped(60)
        current_job.raise_if_stopped()

    registry = JobRegistry([slow, slow_in_thread])
    for one in (slow, slow_in_thread):
        await one.spawn(async_connection)
        with pytest.raises(TimeLimitExceeded, match=r"longer than its time limit, 0:00:00\.05"):
            await drain(registry, async_connection)
    assert [one.state for one in await spawned(async_connection)] == ["scheduled", "scheduled"]

    def in_sync_program() -> None:
        for one in (slow, slow_in_thread):
            one.spawn(connection)
            with pytest.raises(TimeLimitExceeded, match=r"longer than its time limit, 0:00:00\.05"):
                drain(registry, connection)

    await asyncio.to_thread(in_sync_program)


async def test_a_test_that_is_cancelled_stays_cancelled(async_connection: AsyncConnection) -> None:
    started = asyncio.Event()

    @job("wait")
    async def wait() -> None:
        started.set()
        await asyncio.Event().wait()

    await wait.spawn(async_connection)
    task = asyncio.ensure_future(drain(JobRegistry([wait]), async_connection, raise_errors=False))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_async_job_needs_an_async_connection_inside_of_a_loop(connection: Connection) -> None:
    connection.execute("CREATE TABLE effect (number integer)")
    add.spawn(connection, 1)
    with pytest.raises(RuntimeError, match="job add is asynchronous, and an event loop is running here already"):
        drain(BOTH, connection)


# Batches


@dataclass
class Parcel:
    weight: float


@pytest.mark.parametrize("is_async", [False, True])
def test_batches(connection: Connection, is_async: bool) -> None:
    calls: list[list[float]] = []

    @job("weigh", batch=3)
    async def weigh_async(batch: Batch[Parcel]) -> None:
        calls.append([item.payload.weight for item in batch])
        async with batch.transaction() as own:
            await own.execute("SELECT 1")

    @job("weigh", batch=3)
    def weigh_in_thread(batch: SyncBatch[Parcel]) -> None:
        calls.append([item.payload.weight for item in batch])
        with batch.transaction() as own:
            own.execute("SELECT 1")

    @job("between")
    def between() -> None: ...

    weigh = weigh_async if is_async else weigh_in_thread
    registry = JobRegistry([weigh, between])
    for weight in range(7):
        weigh.spawn(connection, Parcel(weight))
    between.spawn(connection)
    ran = drain(registry, connection)
    assert len(ran) == 8
    assert {one.outcome for one in ran} == {"completed"}
    assert sorted(weight for call in calls for weight in call) == [0, 1, 2, 3, 4, 5, 6]
    assert max(map(len, calls)) == 3
    weigh.spawn(connection, Parcel(9))
    assert run_one(registry, connection) is not None
    assert calls[-1] == [9]


def test_what_is_said_of_items(connection: Connection) -> None:
    @job("weigh", batch=10)
    def weigh(batch: SyncBatch[Parcel]) -> None:
        for item in batch:
            if item.payload.weight < 0:
                item.fail_for_good("too light")
            elif item.payload.weight > 9:
                item.retry("too heavy", in_=60)

    for weight in (1.0, -1.0, 99.0):
        weigh.spawn(connection, Parcel(weight))
    registry = JobRegistry([weigh]).set_error_handler(lambda name, error: None)
    assert [one.outcome for one in drain(registry, connection)] == ["completed", "failed", "retried"]
    assert [(row[1], row[3]) for row in state_of(connection)] == [("dead", "too light"), ("scheduled", "too heavy")]


def test_a_bad_item_spoils_no_other(connection: Connection) -> None:
    seen: list[float] = []

    @job("weigh", batch=10)
    def weigh(batch: SyncBatch[Parcel]) -> None:
        seen.extend(item.payload.weight for item in batch)

    for payload in ('{"weight": 1}', '"heavy"', '{"weight": 2}', "7"):
        connection.execute("SELECT mq_enqueue('weigh', %s::jsonb, retry_backoff => '10 minutes')", (payload,))
    with pytest.raises(DecodingError, match='"heavy"'):
        drain(JobRegistry([weigh]), connection)
    assert seen == [1, 2]
    assert [row[1] for row in state_of(connection)] == ["scheduled", "scheduled"]


def test_an_error_gives_the_rest_back(connection: Connection) -> None:
    @job("weigh", batch=10)
    def weigh(batch: SyncBatch[Parcel]) -> None: ...

    @job("break", backoff_secs=600)
    def broken() -> None:
        raise LookupError

    for _ in range(3):
        broken.spawn(connection)
    with pytest.raises(LookupError):
        drain(JobRegistry([weigh, broken]), connection)
    assert [(row[1], row[3] is not None) for row in state_of(connection)] == [
        ("scheduled", True), ("ready", False), ("ready", False),
    ]  # fmt: skip


# Connections


def test_nothing_is_run_where_it_would_stay(database: Database, session: Connection) -> None:
    add.spawn(session, 1)
    with pytest.raises(ValueError, match="the connection is in autocommit mode, and no transaction is open"):
        drain(BOTH, session)
    session.execute("CREATE TABLE effect (number integer)")
    with session.transaction(force_rollback=True):
        assert len(drain(BOTH, session)) == 1
    assert [one.state for one in spawned(session)] == ["ready"]
    with psycopg_pool.ConnectionPool(database.dsn, min_size=1, open=True) as pool:
        with pytest.raises(TypeError, match=r"connection is a psycopg_pool\.pool\.ConnectionPool, but jobs"):
            drain(BOTH, pool)  # type: ignore[call-overload]
        assert len(spawned(pool)) == 1


@pytest.mark.parametrize("is_async", [False, True])
def test_a_pools_connection_is_a_transaction_of_its_own(connection: Connection, is_async: bool) -> None:
    connection.execute("CREATE TABLE effect (number integer)")

    @job("go on")
    async def go_on_async(current_job: CurrentJob) -> None:
        with suppress(psycopg.errors.DivisionByZero):
            async with current_job.pool.connection() as own:
                await own.execute("INSERT INTO effect VALUES (1)")
                await own.execute("SELECT 1 / 0")
        async with current_job.pool.connection() as own:
            await own.execute("INSERT INTO effect VALUES (2)")

    @job("go on")
    def go_on_in_thread(current_job: SyncCurrentJob) -> None:
        with suppress(psycopg.errors.DivisionByZero), current_job.pool.connection() as own:
            own.execute("INSERT INTO effect VALUES (1)")
            own.execute("SELECT 1 / 0")
        with current_job.pool.connection() as own:
            own.execute("INSERT INTO effect VALUES (2)")

    go_on = go_on_async if is_async else go_on_in_thread
    go_on.spawn(connection)
    assert [one.outcome for one in drain(JobRegistry([go_on]), connection)] == ["completed"]
    assert connection.execute("SELECT number FROM effect").fetchall() == [(2,)]


@pytest.mark.parametrize("is_async", [False, True])
def test_the_transaction_is_the_tests(connection: Connection, is_async: bool) -> None:
    @job("commit")
    async def commit_async(current_job: CurrentJob) -> None:
        async with current_job.pool.connection() as own:
            await own.commit()

    @job("commit")
    def commit_in_thread(current_job: SyncCurrentJob) -> None:
        with current_job.pool.connection() as own:
            own.commit()

    @job("take")
    def take(current_job: SyncCurrentJob) -> None:
        current_job.pool.getconn()

    commit = commit_async if is_async else commit_in_thread
    commit.spawn(connection)
    with pytest.raises(psycopg.ProgrammingError, match="forbidden"):
        run_one(JobRegistry([commit]), connection)
    take.spawn(connection)
    with pytest.raises(psycopg.NotSupportedError, match="use the pool's connection"):
        run_one(JobRegistry([take]), connection)


def test_sqlalchemy(database: Database) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    from sqlalchemy.orm import Session

    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(database.dsn))
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE effect (number integer)")
        add.spawn(connection, 1)
        assert [one.result for one in drain(BOTH, connection)] == [1]
        with Session(connection) as orm:
            add.spawn(orm, 2)
            assert [one.result for one in drain(BOTH, orm)] == [2]
        assert QueueInTest(connection).spawned() == []
        connection.rollback()
    engine.dispose()
    with database.connect() as session:
        assert session.execute("SELECT to_regclass('effect')").fetchone() == (None,)


async def test_sqlalchemy_async(database: Database) -> None:
    pytest.importorskip("sqlalchemy")
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    engine = create_async_engine(
        "postgresql+psycopg://", async_creator=lambda: psycopg.AsyncConnection.connect(database.dsn)
    )
    async with engine.connect() as connection:
        await connection.exec_driver_sql("CREATE TABLE effect (number integer)")
        await add.spawn(connection, 1)
        assert [one.result for one in await drain(BOTH, connection)] == [1]
        async with AsyncSession(connection) as orm:
            await add.spawn(orm, 2)
            assert [one.result for one in await drain(BOTH, orm)] == [2]
        assert await AsyncQueueInTest(connection).spawned() == []
        await connection.rollback()
    await engine.dispose()


def test_another_driver(database: Database) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    engine = sqlalchemy.create_engine("sqlite://")
    with (
        engine.connect() as connection,
        pytest.raises(TypeError, match=r"is a sqlalchemy\.engine\.base\.Connection on sqlite3, but jobs"),
    ):
        drain(BOTH, connection)
    engine.dispose()


def test_django(database: Database) -> None:
    import django
    from django.conf import settings
    from django.db.utils import ConnectionHandler

    if not settings.configured:
        settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql"}}, USE_TZ=True)
        django.setup()
    handler = ConnectionHandler(
        {
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": database.name,
                "HOST": str(database.server.directory),
                "USER": database.server.superuser,
            }
        }
    )
    django_connection = handler["default"]
    try:
        with pytest.raises(ValueError, match="autocommit mode"):
            drain(BOTH, django_connection)
        django_connection.set_autocommit(False)
        with django_connection.cursor() as cursor:
            cursor.execute("CREATE TABLE effect (number integer)")
        add.spawn(django_connection, 1)
        add_in_thread.spawn(django_connection, 2)
        queue = QueueInTest(django_connection)
        queue.assert_spawned(add, number=1)
        assert {one.outcome for one in queue.drain(BOTH)} == {"completed"}
        with django_connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM effect")
            assert cursor.fetchone() == (2,)
        django_connection.rollback()
    finally:
        django_connection.close()
    with database.connect() as session:
        assert session.execute("SELECT to_regclass('effect')").fetchone() == (None,)


# What was sent


@job("send_mail", channel_name="mail", retries=2, priority=3)
async def send_mail(
    current_job: CurrentJob, to: str, parcel: Parcel | None = None, wait: timedelta | None = None
) -> None:
    """Not run here."""


@job("weigh", batch=3)
def weigh_parcels(batch: SyncBatch[Parcel]) -> None:
    """Not run here."""


def test_spawned_jobs(connection: Connection) -> None:
    id = send_mail.options(channel_args="x", delay=timedelta(hours=1)).spawn(connection, "a@b", Parcel(2.5))
    weigh_parcels.spawn(connection, Parcel(1))
    send_mail.prepare("c@d").set_headers({"who": "me"}).set_raw_bytes(b"\0\1").spawn(connection)
    first, second = spawned(connection, send_mail)
    assert (first.id, first.name, first.state) == (id, "send_mail", "scheduled")
    assert first.arguments == {"to": "a@b", "parcel": Parcel(2.5), "wait": None}
    assert (first.channel_name, first.channel_args, first.delay) == ("mail", "x", timedelta(hours=1))
    assert (first.priority, first.attempts_made, first.attempts_left, first.ordered) == (3, 0, 3, False)
    assert (second.headers, second.raw_bytes, second.payload) == ({"who": "me"}, b"\0\1", {"to": "c@d"})
    assert [one.payload for one in spawned(connection, weigh_parcels)] == [Parcel(1)]
    assert [one.name for one in spawned(connection)] == ["send_mail", "weigh", "send_mail"]
    assert [one.arguments for one in spawned(connection, "send_mail")][1] == {"to": "c@d"}


def test_assertions_that_hold(connection: Connection) -> None:
    queue = QueueInTest(connection)
    queue.assert_not_spawned(send_mail)
    id = send_mail.spawn(connection, "a@b", Parcel(2.5), wait=timedelta(minutes=1))
    send_mail.spawn(connection, "c@d")
    weigh_parcels.spawn(connection, Parcel(1))
    assert [one.id for one in queue.assert_spawned(send_mail, to="a@b")] == [id]
    queue.assert_spawned(send_mail, "a@b", Parcel(2.5), count=1)
    queue.assert_spawned(send_mail, wait=timedelta(minutes=1), count=1)
    queue.assert_spawned(send_mail, parcel=None, count=1)
    queue.assert_spawned(send_mail, count=2)
    queue.assert_spawned(weigh_parcels, Parcel(1), count=1)
    queue.assert_spawned("send_mail", to="c@d", count=1)
    queue.assert_spawned("weigh", {"weight": 1}, count=1)
    queue.assert_not_spawned(send_mail, to="e@f")
    queue.assert_not_spawned(weigh_parcels, Parcel(3))
    queue.assert_not_spawned("another")
    queue.assert_spawned(send_mail, to="e@f", count=0)


def test_failing_assertions_show_what_is_there(connection: Connection) -> None:
    queue = QueueInTest(connection)
    with pytest.raises(AssertionError) as caught:
        queue.assert_spawned(send_mail, to="a@b")
    assert str(caught.value) == "send_mail(to='a@b') was not sent. There is no job in the queue."
    send_mail.spawn(connection, "c@d")
    weigh_parcels.options(delay=timedelta(hours=1)).spawn(connection, Parcel(1))
    connection.execute("SELECT mq_enqueue('other', '7')")
    there = (
        "\nIn the queue:\n"
        "  send_mail(to='c@d')  ready, channel 'mail'\n"
        "  weigh(weight=1)  scheduled, channel ''\n"
        "  other(7)  ready, channel ''"
    )
    with pytest.raises(AssertionError) as caught:
        queue.assert_spawned(send_mail, "a@b")
    assert str(caught.value) == "send_mail('a@b') was not sent." + there
    with pytest.raises(AssertionError) as caught:
        queue.assert_spawned(weigh_parcels, Parcel(1), count=2)
    assert str(caught.value) == "weigh(Parcel(weight=1)) was sent 1 times, not 2." + there
    with pytest.raises(AssertionError) as caught:
        queue.assert_not_spawned("send_mail")
    assert str(caught.value) == "send_mail() was sent." + there
    for _ in range(30):
        send_mail.spawn(connection, "c@d")
    with pytest.raises(AssertionError, match=r"\n  and 13 more$"):
        queue.assert_spawned("none")
    with pytest.raises(TypeError, match="job send_mail: got an unexpected keyword argument 'too'"):
        queue.assert_spawned(send_mail, too="a@b")
    with pytest.raises(TypeError, match="job weigh: give one value, its payload"):
        queue.assert_spawned(weigh_parcels, weight=1)


async def test_assertions_of_an_async_test(async_connection: AsyncConnection) -> None:
    queue = AsyncQueueInTest(async_connection)
    await send_mail.spawn(async_connection, "a@b")
    (there,) = await queue.assert_spawned(send_mail, to="a@b")
    assert there.arguments["to"] == "a@b"
    await queue.assert_not_spawned(send_mail, to="c@d")
    with pytest.raises(AssertionError, match=r"send_mail\(to='c@d'\) was not sent.\nIn the queue:"):
        await queue.assert_spawned(send_mail, to="c@d")
    with pytest.raises(AssertionError, match="was sent"):
        await queue.assert_not_spawned(send_mail)
    assert len(await queue.spawned(send_mail)) == 1
    registry = JobRegistry([send_mail])
    assert await queue.run_one(registry) is not None
    assert await queue.drain(registry) == []


async def test_what_was_sent_is_seen_through_every_driver(database: Database) -> None:
    asyncpg = pytest.importorskip("asyncpg")
    connection = await asyncpg.connect(
        host=str(database.server.directory), database=database.name, user=database.server.superuser
    )
    await send_mail.options(delay=timedelta(seconds=5)).spawn(connection, "a@b", Parcel(2.5))
    (there,) = await spawned(connection, send_mail)
    assert (there.arguments["parcel"], there.delay) == (Parcel(2.5), timedelta(seconds=5))
    with pytest.raises(TypeError, match=r"connection is a asyncpg\.\S+, but jobs are run on an open connection"):
        await drain(JobRegistry([send_mail]), connection)
    await connection.close()


# What looks on


@pytest.mark.parametrize("time_limit", [None, 60])
def test_traces_go_on(connection: Connection, time_limit: float | None) -> None:
    provider = TracerProvider()
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    inside: list[Any] = []

    @job("look", time_limit=time_limit)
    async def look() -> None:
        inside.append(trace.get_current_span().get_span_context().trace_id)

    @job("look in a thread", time_limit=time_limit)
    def look_in_thread() -> Outcome:
        inside.append(trace.get_current_span().get_span_context().trace_id)
        return Retry("again", in_=60)

    instrument(provider)
    try:
        look.spawn(connection)
        look_in_thread.spawn(connection)
        drain(JobRegistry([look, look_in_thread]), connection)
    finally:
        uninstrument()
    sent = [span for span in exporter.get_finished_spans() if span.kind is SpanKind.PRODUCER]
    ran = [span for span in exporter.get_finished_spans() if span.kind is SpanKind.CONSUMER]
    assert inside == [span.context.trace_id for span in ran] == [span.context.trace_id for span in sent]
    outcomes = [dict(span.attributes or {})["messaging.sqlxmq.job.outcome"] for span in ran]
    assert outcomes == ["completed", "retried"]
