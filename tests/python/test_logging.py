"""What a worker logs, and the fields that its records carry."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Any

import psycopg
import psycopg_pool
import pytest

from sqlxmq import Batch, CurrentJob, Fail, JobRegistry, Retry, Snooze, job
from tests.python.conftest import until

Pool = psycopg_pool.AsyncConnectionPool[Any]
Session = psycopg.Connection[Any]

FIELDS = ("job_id", "job_name", "attempt", "channel_name", "channel_args")


def about(caplog: pytest.LogCaptureFixture, id: object, level: int) -> list[logging.LogRecord]:
    """The records of a level about a job; each of them carries all fields."""
    records = [record for record in caplog.records if record.name == "sqlxmq" and str(id) in vars(record).values()]
    for record in records:
        assert set(FIELDS) <= vars(record).keys(), record.getMessage()
    return [record for record in records if record.levelno == level]


def fields(record: logging.LogRecord) -> tuple[Any, ...]:
    return tuple(vars(record)[name] for name in FIELDS)


@pytest.fixture
def debug(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "sqlxmq")
    return caplog


async def is_gone(session: Session) -> None:
    await until(lambda: session.execute("SELECT count(*) FROM mq_msgs").fetchone() == (0,), "all jobs are complete")


@job("fine", channel_name="c", channel_args="a")
async def fine() -> None: ...


async def test_a_jobs_start_and_end(pool: Pool, session: Session, debug: pytest.LogCaptureFixture) -> None:
    id = await fine.spawn(pool)
    async with JobRegistry([fine]).runner(pool, worker="w"):
        await is_gone(session)
    start, end = about(debug, id, logging.DEBUG)
    assert fields(start) == fields(end) == (str(id), "fine", 1, "c", "a")
    assert start.getMessage() == f"job {id} of fine starts"
    assert end.getMessage().startswith(f"job {id} of fine was completed after ")
    assert vars(end)["outcome"] == "completed"
    assert vars(end)["seconds"] >= 0
    worker = [r.getMessage() for r in debug.records if vars(r).get("worker") == "w" and r.levelno == logging.INFO]
    assert worker == ["worker w has started", "worker w has stopped"]


async def test_usual_jobs_are_not_worth_a_word(pool: Pool, session: Session, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sqlxmq")
    await fine.spawn(pool)
    async with JobRegistry([fine]).runner(pool):
        await is_gone(session)
    assert [record for record in caplog.records if "job_id" in vars(record)] == []


async def test_what_a_job_asks_for(pool: Pool, session: Session, debug: pytest.LogCaptureFixture) -> None:
    @job("ask")
    async def ask(current_job: CurrentJob) -> None:
        # A snooze gives the attempt number up: attempts 1, 2, 3 all the same.
        asked.append(current_job.attempt)
        if len(asked) == 1:
            raise Retry("busy", in_=0)
        if len(asked) == 2:
            raise Snooze(0, "not yet")

    asked: list[int] = []
    id = await ask.spawn(pool)
    async with JobRegistry([ask]).runner(pool):
        await is_gone(session)
    retried, snoozed = about(debug, id, logging.INFO)
    assert retried.getMessage().endswith(" s: busy")
    assert snoozed.getMessage().endswith(" s: not yet")
    assert [vars(record)["outcome"] for record in (retried, snoozed)] == ["retried", "snoozed"]
    assert [vars(record)["attempt"] for record in (retried, snoozed)] == asked[:2]


async def test_failures(pool: Pool, session: Session, debug: pytest.LogCaptureFixture) -> None:
    @job("raise", retries=0)
    async def raising() -> None:
        raise RuntimeError("no")

    @job("fail")
    async def failing() -> None:
        raise Fail("never")

    @job("batch", retries=0, batch=5)
    async def batch(items: Batch[int]) -> None: ...

    ids = [await raising.spawn(pool), await failing.spawn(pool)]
    for name in ("unknown", "raise", "batch"):
        row = session.execute("SELECT mq_enqueue(%s, '[1]', retries => 0)", (name,)).fetchone()
        assert row is not None
        ids.append(row[0])
    async with JobRegistry([raising, failing, batch]).runner(pool):
        await until(
            lambda: session.execute("SELECT count(*) FROM mq_dead_jobs").fetchone() == (5,), "all of them are dead"
        )
    names = ["raise", "fail", "unknown", "raise", "batch"]
    for id, name in zip(ids, names, strict=True):
        (record,) = about(debug, id, logging.ERROR)
        assert fields(record) == (str(id), name, 1, "", "")
        assert record.exc_info


async def test_a_broken_error_handler(pool: Pool, session: Session, debug: pytest.LogCaptureFixture) -> None:
    @job("raise", retries=0)
    async def raising() -> None:
        raise RuntimeError("no")

    def broken(name: str, error: BaseException) -> None:
        raise ValueError("broken")

    id = await raising.spawn(pool)
    async with JobRegistry([raising]).set_error_handler(broken).runner(pool):
        await until(lambda: session.execute("SELECT count(*) FROM mq_dead_jobs").fetchone() == (1,), "it is dead")
    (record,) = about(debug, id, logging.ERROR)
    assert record.getMessage() == "the error handler failed for job raise"


async def test_a_lease_that_is_lost(pool: Pool, session: Session, debug: pytest.LogCaptureFixture) -> None:
    @job("late", channel_name="c")
    async def late(current_job: CurrentJob) -> None:
        session.execute("DELETE FROM mq_msgs WHERE id = %s", (current_job.id,))

    @job("held")
    async def held(current_job: CurrentJob) -> None:
        session.execute("DELETE FROM mq_msgs WHERE id = %s", (current_job.id,))
        await asyncio.sleep(3600)

    late_id, held_id = await late.spawn(pool), await held.spawn(pool)
    async with JobRegistry([late, held]).runner(pool, lease=timedelta(seconds=0.5)):
        await until(lambda: len(about(debug, held_id, logging.DEBUG)) == 2, "the keeper has told the job to stop")
        await until(lambda: len(about(debug, late_id, logging.WARNING)) == 1, "the late report was noticed")
    (record,) = about(debug, late_id, logging.WARNING)
    assert record.getMessage() == f"job {late_id} was finished too late: its lease was lost"
    assert fields(record) == (str(late_id), "late", 1, "c", "")
    (record,) = about(debug, held_id, logging.WARNING)
    assert record.getMessage() == f"job {held_id} is told to stop: lease lost"
