"""What a runner says at its start, and what it takes."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import psycopg
import psycopg_pool
import pytest

from sqlxmq import (
    Batch,
    ChannelGroup,
    CurrentJob,
    JobOptions,
    JobRegistry,
    QueueNotFoundError,
    Retry,
    Snooze,
    from_context,
    job,
)
from tests.python.conftest import Database, until

Pool = psycopg_pool.AsyncConnectionPool[Any]
Session = psycopg.Connection[Any]


@job("nothing")
async def nothing() -> None:
    pass


async def test_a_database_without_a_queue(empty_database: Database) -> None:
    runner = JobRegistry([nothing]).runner(empty_database.dsn)
    with pytest.raises(QueueNotFoundError, match="there is no queue in this database"):
        await runner.start()
    with pytest.raises(QueueNotFoundError), JobRegistry([nothing]).sync_runner(empty_database.dsn):
        pass


async def test_a_queue_of_an_older_version(empty_database: Database) -> None:
    with empty_database.connect() as session:
        session.execute("CREATE EXTENSION sqlxmq VERSION '0.1.0'")
    with pytest.raises(QueueNotFoundError, match=r"is of version 0\.1\.0, but 0\.3\.0 or later is needed"):
        await JobRegistry([nothing]).runner(empty_database.dsn).start()


async def test_a_role_without_rights(database: Database) -> None:
    with database.connect() as session:
        session.execute("CREATE ROLE stranger LOGIN")
    try:
        with pytest.raises(QueueNotFoundError, match="mq_grant"):
            await JobRegistry([nothing]).runner(database.server.dsn(database.name, "stranger")).start()
    finally:
        with database.connect() as session:
            session.execute("DROP ROLE stranger")


async def test_a_pool_that_is_not_open(database: Database) -> None:
    pool: Pool = psycopg_pool.AsyncConnectionPool(database.dsn, open=False, name="forgotten")
    with pytest.raises(ValueError, match="the pool 'forgotten' is not open"):
        await JobRegistry([nothing]).runner(pool).start()


def test_groups_have_their_own_concurrency() -> None:
    with pytest.raises(TypeError, match="groups and max_concurrency were given"):
        JobRegistry().runner("", groups=[ChannelGroup()], max_concurrency=5)
    with pytest.raises(TypeError, match="groups and channel_names were given"):
        JobRegistry().runner("", groups=[ChannelGroup()], channel_names=["a"])


async def test_a_batch_that_can_never_be_full_is_warned_of(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    @job("many", batch=100)
    async def many(batch: Batch[int]) -> None:
        pass

    async with JobRegistry([many]).runner(database.dsn):
        assert "job many takes batches of 100, but no more than 32 jobs run at a time" in caplog.text
    caplog.clear()
    async with JobRegistry([many]).runner(database.dsn, max_concurrency=100):
        assert "batches" not in caplog.text


async def test_durations_can_be_seconds(pool: Pool, session: Session) -> None:
    await nothing.options(JobOptions(retry_backoff=2), delay=100, commit_interval=50.5).spawn(pool)
    await nothing.builder().set_delay(0.5).set_retry_backoff(3).set_commit_interval(timedelta(seconds=1)).spawn(pool)
    rows = session.execute("SELECT retry_backoff, due_at > now() + interval '90 s' FROM mq_jobs ORDER BY position")
    assert rows.fetchall() == [(timedelta(seconds=2), True), (timedelta(seconds=3), False)]
    with pytest.raises(TypeError, match="delay is 'soon', but it must be a timedelta or a number of seconds"):
        nothing.options(delay="soon")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="lease is 'long'"):
        JobRegistry().runner(pool, lease="long")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="grace is -1 day"):
        JobRegistry().runner(pool, grace=-1)


async def test_a_shorter_lease_than_the_runners_takes_nothing_away(pool: Pool, session: Session) -> None:
    starts = 0

    @job("short", lease=0.2)
    async def short() -> None:
        nonlocal starts
        starts += 1
        # Beyond the lease of the claim: from then on the one that keep-alive asks for has to hold.
        await asyncio.sleep(5)

    async with JobRegistry([short]).runner(pool, lease=3):
        await short.spawn(pool)
        await until(lambda: session.execute("SELECT count(*) FROM mq_msgs").fetchone() == (0,), "it is completed")
    assert starts == 1


async def test_a_job_that_is_added_later_gets_its_context(pool: Pool) -> None:
    got: asyncio.Queue[int] = asyncio.Queue()

    @job("later")
    async def later(*, number: int = from_context()) -> None:
        got.put_nowait(number)

    registry = JobRegistry([nothing]).set_context(7)
    async with registry.runner(pool):
        registry.add(later)
        await later.spawn(pool)
        assert await asyncio.wait_for(got.get(), 60) == 7


async def test_attempts_left_count_what_attempts_do_not(pool: Pool) -> None:
    seen: asyncio.Queue[tuple[int, int]] = asyncio.Queue()

    @job("counts", retries=2)
    async def counts(current_job: CurrentJob) -> Snooze | Retry:
        seen.put_nowait((current_job.attempt, current_job.attempts_left))
        return Snooze(0) if seen.qsize() == 1 else Retry(in_=0)

    async with JobRegistry([counts]).runner(pool):
        await counts.spawn(pool)
        await until(lambda: seen.qsize() == 4, "three attempts, and one that does not count")
    assert [seen.get_nowait() for _ in range(4)] == [(1, 2), (2, 2), (3, 1), (4, 0)]
