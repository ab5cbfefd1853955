"""The runner, against a real server."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import psycopg_pool
import pytest

from sqlxmq import (
    BatchJob,
    CurrentJob,
    Job,
    JobRegistry,
    JobRunner,
    LeaseLost,
    UnknownJobError,
    job,
    spawn_many,
)
from tests.python.conftest import Database, until

Pool = psycopg_pool.AsyncConnectionPool[Any]
Session = psycopg.Connection[Any]


def rows(session: Session, query: str) -> list[tuple[Any, ...]]:
    return session.execute(query.encode()).fetchall()


def is_empty(session: Session) -> Callable[[], bool]:
    return lambda: rows(session, "SELECT count(*) FROM mq_msgs") == [(0,)]


def runner_of(pool: Pool, *jobs: Job[Any, Any, Any] | BatchJob[Any, Any], **options: Any) -> JobRunner:
    return JobRegistry(jobs).runner(pool, **options)


async def test_a_job_that_returns_is_complete(pool: Pool, session: Session) -> None:
    seen: list[tuple[int, str]] = []

    @job("add", channel_name="c")
    async def add(current_job: CurrentJob, number: int, text: str = "default") -> None:
        assert (current_job.attempt, current_job.attempts_allowed, current_job.channel_name) == (1, 5, "c")
        seen.append((number, text))

    async with runner_of(pool, add):
        await add.spawn(pool, 1)
        await add.spawn(pool, number=2, text="x")
        await until(is_empty(session), "both jobs are complete")
    assert sorted(seen) == [(1, "default"), (2, "x")]


async def test_jobs_of_other_names_are_left_alone(pool: Pool, session: Session) -> None:
    @job("mine", channel_name="mine")
    async def mine() -> None: ...

    other = mine.options(channel_name="x" * 900)
    async with runner_of(pool, mine, channel_names=["mine", "none at all"]):
        await other.spawn(pool)
        await mine.spawn(pool)
        await until(
            lambda: rows(session, "SELECT count(*) FROM mq_jobs WHERE channel_name = 'mine'") == [(0,)], "mine ran"
        )
    assert rows(session, "SELECT state FROM mq_jobs") == [("ready",)]
    # A name that NOTIFY cannot hold wakes its workers all the same.
    async with runner_of(pool, mine, channel_names=["x" * 900]):
        await until(is_empty(session), "the long name's job ran")
        await other.spawn(pool)
        await until(is_empty(session), "a job sent later ran", seconds=20)


async def test_a_failure_keeps_its_traceback_and_is_retried(pool: Pool, session: Session) -> None:
    told: list[tuple[str, BaseException]] = []
    attempts: list[int] = []

    @job("shaky", backoff_secs=0.2)
    async def shaky(current_job: CurrentJob) -> None:
        attempts.append(current_job.attempt)
        if current_job.attempt == 1:
            raise RuntimeError("not\0today")
        kept = rows(session, "SELECT last_error FROM mq_jobs")[0][0]
        assert "in shaky" in kept
        assert "RuntimeError: not\\0today" in kept

    registry = JobRegistry([shaky]).set_error_handler(lambda name, error: told.append((name, error)))
    async with registry.runner(pool):
        await shaky.spawn(pool)
        await until(is_empty(session), "the second attempt succeeded")
    assert attempts == [1, 2]
    assert [(name, str(error)) for name, error in told] == [("shaky", "not\0today")]


async def test_a_broken_error_handler_breaks_nothing(
    pool: Pool, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    @job("hopeless", retries=0)
    async def hopeless() -> None:
        raise RuntimeError("no")

    def handler(name: str, error: BaseException) -> None:
        raise ValueError("the handler is broken")

    async with JobRegistry([hopeless]).set_error_handler(handler).runner(pool):
        await hopeless.spawn(pool)
        await until(lambda: rows(session, "SELECT count(*) FROM mq_dead_jobs") == [(1,)], "the job died")
    assert "the error handler failed for job hopeless" in caplog.text


async def test_an_unknown_job_is_neither_lost_nor_hot(pool: Pool, session: Session) -> None:
    told: list[BaseException] = []
    session.execute("SELECT mq_enqueue('nobody knows me', retries => 1, retry_backoff => '0.3 seconds')")
    async with JobRegistry([]).set_error_handler(lambda name, error: told.append(error)).runner(pool):
        await until(lambda: rows(session, "SELECT count(*) FROM mq_dead_jobs") == [(1,)], "its retries are used up")
    assert [type(error) for error in told] == [UnknownJobError, UnknownJobError]
    assert "no job named 'nobody knows me' is registered" in rows(session, "SELECT last_error FROM mq_dead_jobs")[0][0]


@pytest.mark.parametrize("payload", ["[1]", "7", '{"colour": "red"}', "{}"])
async def test_a_payload_that_does_not_fit_fails_the_job_not_the_worker(
    pool: Pool, session: Session, payload: str
) -> None:
    @job("picky", retries=0)
    async def picky(number: int) -> None: ...

    session.execute("SELECT mq_enqueue('picky', %s::jsonb, retries => 0)", (payload,))
    async with runner_of(pool, picky):
        await until(lambda: rows(session, "SELECT count(*) FROM mq_dead_jobs") == [(1,)], "the job died")
        await picky.spawn(pool, 1)
        await until(lambda: rows(session, "SELECT count(*) FROM mq_msgs") == [(1,)], "the next one ran")
    assert "DecodingError: the payload" in rows(session, "SELECT last_error FROM mq_dead_jobs")[0][0]


async def test_effects_and_completion_in_one_transaction(pool: Pool, session: Session) -> None:
    session.execute("CREATE TABLE effect (attempt integer)")

    @job("work", backoff_secs=0.2)
    async def work(current_job: CurrentJob) -> None:
        async with current_job.transaction() as connection:
            await connection.execute("INSERT INTO effect VALUES (%s)", (current_job.attempt,))
            if current_job.attempt == 1:
                raise RuntimeError("after the effect")

    async with runner_of(pool, work):
        await work.spawn(pool)
        await until(is_empty(session), "the job is complete")
    assert rows(session, "SELECT attempt FROM effect") == [(2,)], "the failed attempt left its effect"


async def test_a_lost_lease_rolls_the_effects_back(pool: Pool, session: Session) -> None:
    session.execute("CREATE TABLE effect (attempt integer)")
    told: list[BaseException] = []
    claimed = asyncio.Event()
    taken_over = asyncio.Event()

    @job("slow", backoff_secs=1000)
    async def slow(current_job: CurrentJob) -> None:
        claimed.set()
        await taken_over.wait()
        async with current_job.transaction() as connection:
            await connection.execute("INSERT INTO effect VALUES (%s)", (current_job.attempt,))

    registry = JobRegistry([slow]).set_error_handler(lambda name, error: told.append(error))
    async with registry.runner(pool, keep_alive=False, channel_names=[""], max_concurrency=1, min_concurrency=1):
        await slow.spawn(pool)
        await claimed.wait()
        session.execute("UPDATE mq_claims SET deadline = now(), leased_until = now()")
        other = session.execute("SELECT id, attempt FROM mq_poll(NULL)").fetchone()
        assert other is not None
        assert other[1] == 2
        taken_over.set()
        await until(lambda: bool(told), "the late holder was told")
    assert isinstance(told[0], LeaseLost)
    assert rows(session, "SELECT * FROM effect") == []
    session.execute("SELECT mq_complete(%s, 2)", other[:1])


async def test_explicit_completion_and_check_points(pool: Pool, session: Session) -> None:
    seen: list[Any] = []

    @job("steps", backoff_secs=0.2, retries=1)
    async def steps(current_job: CurrentJob, done: int = 0) -> None:
        seen.append((done, current_job.raw_bytes, current_job.attempts_allowed))
        if current_job.attempt == 1:
            await current_job.checkpoint(json_payload={"done": 7}, raw_bytes=b"\x00\xff", extra_retries=1)
            raise RuntimeError("interrupted")
        await current_job.keep_alive(timedelta(minutes=1))
        await current_job.complete()
        with pytest.raises(LeaseLost):
            await current_job.keep_alive(timedelta(minutes=1))
        with pytest.raises(LeaseLost):
            await current_job.checkpoint(extra_retries=1)

    async with runner_of(pool, steps):
        await steps.spawn(pool)
        await until(is_empty(session), "the job is complete")
    assert seen == [(0, None, 2), (7, b"\x00\xff", 3)]


async def test_jobs_behind_one_that_blocks_the_event_loop_are_kept_alive(pool: Pool, session: Session) -> None:
    lease = 0.5
    are_held: list[bool] = []

    def wait_for_longer_than_the_lease() -> bool:
        begin = time.monotonic()
        while time.monotonic() < begin + 15:
            time.sleep(0.01)
            held = rows(session, "SELECT count(*) FROM mq_running_jobs WHERE leased_until > clock_timestamp()")
            if time.monotonic() > begin + 2 * lease and held == [(3,)]:
                return True
        return False

    @job("blocks")
    async def blocks() -> None:
        if not are_held:
            are_held.append(wait_for_longer_than_the_lease())

    await spawn_many(pool, [blocks.prepare() for _ in range(3)])
    async with runner_of(pool, blocks, lease=timedelta(seconds=lease)):
        await until(is_empty(session), "all ran")
    assert are_held == [True]


async def test_keep_alive_holds_jobs_that_outlast_their_lease(pool: Pool, session: Session) -> None:
    attempts: list[int] = []
    may_end = asyncio.Event()

    @job("long", backoff_secs=0)
    async def long(current_job: CurrentJob) -> None:
        attempts.append(current_job.attempt)
        await may_end.wait()

    async with runner_of(pool, long, lease=timedelta(seconds=1)):
        await long.spawn(pool)
        # A poll that finds the claim's deadline passed writes a claim anew for what was kept alive.
        await until(
            lambda: rows(session, "SELECT max(claim) > 1 FROM mq_claims") == [(True,)], "the first lease is over"
        )
        assert rows(session, "SELECT state FROM mq_jobs") == [("running",)]
        may_end.set()
        await until(is_empty(session), "the job is complete")
    assert attempts == [1]


async def test_a_cancelled_job_is_stopped(pool: Pool, session: Session) -> None:
    started = asyncio.Event()
    stopped = asyncio.Event()

    @job("endless")
    async def endless() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with runner_of(pool, endless, lease=timedelta(seconds=0.5)):
        id = await endless.spawn(pool)
        await started.wait()
        assert session.execute("SELECT outcome FROM mq_cancel(ARRAY[%s])", (id,)).fetchone() == ("requested",)
        await asyncio.wait_for(stopped.wait(), 30)
        await until(is_empty(session), "the job is removed, not retried")


async def test_a_job_whose_lease_is_lost_is_stopped(
    pool: Pool, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    started = asyncio.Event()
    stopped = asyncio.Event()

    @job("endless")
    async def endless() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with runner_of(pool, endless, lease=timedelta(seconds=0.5)):
        id = await endless.spawn(pool)
        await started.wait()
        session.execute("SELECT mq_delete(ARRAY[%s])", (id,))
        await asyncio.wait_for(stopped.wait(), 30)
    assert f"job {id} is told to stop: lease lost" in caplog.text


async def test_concurrency_stays_within_its_limits(pool: Pool, session: Session) -> None:
    running = most = 0

    @job("busy")
    async def busy() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    with session.transaction():
        for _ in range(300):
            busy.spawn(session)
    runner = runner_of(pool, busy, min_concurrency=3, max_concurrency=7)
    async with runner:
        await until(is_empty(session), "all jobs are complete")
        assert runner.number_running == 0
    assert 3 <= most <= 7


async def test_stopping_gives_unfinished_jobs_back_at_once(pool: Pool, session: Session) -> None:
    started = asyncio.Event()

    @job("endless", backoff_secs=1000)
    async def endless() -> None:
        started.set()
        await asyncio.Event().wait()

    runner = runner_of(pool, endless, grace=timedelta(0))
    async with runner:
        await endless.spawn(pool)
        await started.wait()
    assert rows(session, "SELECT state, attempts_left, last_error FROM mq_jobs") == [("ready", 5, None)]
    with pytest.raises(RuntimeError, match="has been started before"):
        await runner.start()


async def test_stopping_lets_jobs_finish(pool: Pool, session: Session) -> None:
    started = asyncio.Event()
    may_end = asyncio.Event()

    @job("slow")
    async def slow() -> None:
        started.set()
        await may_end.wait()

    runner = runner_of(pool, slow)
    await runner.start()
    await slow.spawn(pool)
    await started.wait()
    stop = asyncio.create_task(runner.stop())
    await slow.spawn(pool)
    may_end.set()
    await stop
    assert rows(session, "SELECT state, attempts_made FROM mq_jobs") == [("ready", 0)], (
        "a stopping runner claims no more"
    )


async def test_without_listen_it_polls(pool: Pool, session: Session) -> None:
    @job("polled")
    async def polled() -> None: ...

    async with runner_of(pool, polled, listen=False):
        for _ in range(2):
            await polled.spawn(pool)
            await until(is_empty(session), "the job is complete")


async def test_delayed_jobs_start_when_they_are_due(pool: Pool, session: Session) -> None:
    @job("later")
    async def later() -> None: ...

    async with runner_of(pool, later):
        await later.options(delay=timedelta(seconds=0.4)).spawn(pool)
        await until(is_empty(session), "the job is complete", seconds=30)


async def test_ordered_jobs_run_one_after_the_other(pool: Pool, session: Session) -> None:
    seen: list[int] = []
    running = 0

    @job("step", ordered=True, channel_name="steps", retries=10, backoff_secs=0.01)
    async def step(current_job: CurrentJob, number: int) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0)
        running -= 1
        if number % 5 == 0 and current_job.attempt == 1:
            raise RuntimeError("once more")
        seen.append(number)

    registry = JobRegistry([step]).set_error_handler(lambda name, error: None)
    async with registry.runner(pool), registry.runner(pool):
        for number in range(50):
            await step.spawn(pool, number)
        await until(is_empty(session), "all jobs are complete")
    assert seen == list(range(50))


async def test_many_runners_do_each_job_once(pool: Pool, session: Session, database: Database) -> None:
    session.execute("CREATE TABLE effect (number integer)")

    @job("count")
    async def count(current_job: CurrentJob, number: int) -> None:
        async with current_job.transaction() as connection:
            await connection.execute("INSERT INTO effect VALUES (%s)", (number,))

    session.execute(
        """
        SELECT mq_enqueue('count', jsonb_build_object('number', n), channel_args => (n % 7)::text)
        FROM generate_series(1, 500) AS n
        """
    )
    async with runner_of(pool, count), runner_of(pool, count), runner_of(pool, count):
        await until(is_empty(session), "all jobs are complete")
    assert rows(session, "SELECT number FROM effect ORDER BY number") == [(n,) for n in range(1, 501)]


async def test_it_survives_the_loss_of_its_connections(
    pool: Pool, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    done: list[int] = []

    @job("hardy")
    async def hardy(number: int) -> None:
        done.append(number)

    async with runner_of(pool, hardy):
        for number in range(3):
            hardy.spawn(session, number)
            await until(is_empty(session), f"job {number} is complete")
            session.execute(
                """
                SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE pid <> pg_backend_pid() AND datname = current_database()
                """
            )
    assert done == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_concurrency": 0}, "min_concurrency is 0 "),
        ({"min_concurrency": 5, "max_concurrency": 4}, "max_concurrency 4, but"),
        ({"max_concurrency": 20_000}, "max_concurrency 20000, but"),
        ({"lease": timedelta(0)}, "lease is 0:00:00, but it must be positive"),
    ],
)
async def test_bad_options(pool: Pool, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        runner_of(pool, **options)


async def test_an_error_that_text_cannot_hold_is_reported(pool: Pool, session: Session) -> None:
    @job("odd", retries=0)
    async def odd() -> None:
        raise ValueError("no such file: b\udcff")

    @job("fine")
    async def fine() -> None: ...

    async with runner_of(pool, odd, fine):
        await odd.spawn(pool)
        await until(lambda: rows(session, "SELECT count(*) FROM mq_dead_jobs") == [(1,)], "the job died")
        await fine.spawn(pool)
        await until(lambda: rows(session, "SELECT count(*) FROM mq_msgs") == [(1,)], "others are still reported")
    assert "no such file: b\\udcff" in rows(session, "SELECT last_error FROM mq_dead_jobs")[0][0]


async def test_a_job_that_exits_does_not_take_the_worker_along(pool: Pool, session: Session) -> None:
    @job("quitter", retries=0)
    async def quitter() -> None:
        raise SystemExit(3)

    async with runner_of(pool, quitter):
        await quitter.spawn(pool)
        await until(lambda: rows(session, "SELECT count(*) FROM mq_dead_jobs") == [(1,)], "the job died")


async def test_stopping_does_not_wait_for_ever_for_a_job_that_will_not_stop(
    pool: Pool, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sqlxmq._runner.LAST_WORDS", 0.1)
    started = asyncio.Event()
    may_end = asyncio.Event()

    @job("stubborn")
    async def stubborn() -> None:
        started.set()
        while not may_end.is_set():
            try:
                await may_end.wait()
            except asyncio.CancelledError:
                continue

    runner = runner_of(pool, stubborn, grace=timedelta(0))
    await runner.start()
    await stubborn.spawn(pool)
    await started.wait()
    try:
        await asyncio.wait_for(runner.stop(), 30)
        # While it goes on, nobody else is to begin; but its lease is not prolonged any more.
        assert rows(session, "SELECT state, attempts_left FROM mq_jobs") == [("running", 4)]
    finally:
        may_end.set()


async def test_a_hurry_does_not_wait_for_a_poll_that_is_held_up(
    pool: Pool, session: Session, database: Database
) -> None:
    runner = runner_of(pool)
    with database.connect() as other, other.transaction():
        other.execute("LOCK TABLE mq_claims")
        await runner.start()
        blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%mq_poll%'"
        await until(lambda: rows(session, blocked) == [(1,)], "the poll is held up")
        runner._hurry.set()
        await asyncio.wait_for(runner.stop(), 30)


async def test_a_commit_that_fails_completes_nothing(pool: Pool, session: Session) -> None:
    session.execute(
        "CREATE TABLE effect (n integer UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO effect VALUES (1)"
    )

    @job("clash", retries=0)
    async def clash(current_job: CurrentJob) -> None:
        with pytest.raises(psycopg.errors.UniqueViolation):
            async with current_job.transaction() as connection:
                await connection.execute("INSERT INTO effect VALUES (1)")
        assert not current_job.is_settled

    async with runner_of(pool, clash):
        await clash.spawn(pool)
        await until(is_empty(session), "the job returned, and is completed by that")


async def test_a_locked_job_does_not_keep_others_from_being_kept_alive(
    pool: Pool, session: Session, database: Database
) -> None:
    attempts: list[int] = []
    started = asyncio.Event()
    may_end = asyncio.Event()

    @job("first")
    async def first() -> None:
        started.set()
        await may_end.wait()

    @job("second")
    async def second(current_job: CurrentJob) -> None:
        attempts.append(current_job.attempt)
        await asyncio.Event().wait()

    async with runner_of(pool, first, second, lease=timedelta(seconds=0.6), grace=timedelta(0)):
        id = await first.spawn(pool)
        await started.wait()
        await second.options(backoff_secs=0).spawn(pool)
        await until(lambda: attempts == [1], "the second has started")
        with database.connect() as other, other.transaction():
            other.execute("SELECT id FROM mq_msgs WHERE id = %s FOR UPDATE", (id,))
            may_end.set()
            # Longer than the leases that both had when the row was locked.
            session.execute("CREATE TABLE mark AS SELECT max(leased_until) AS over FROM mq_running_jobs")
            over = "SELECT clock_timestamp() > over + interval '0.5 seconds' FROM mark"
            await until(lambda: rows(session, over) == [(True,)], "the leases of the time are over")
        assert attempts == [1], "the second job was handed out again, for want of a keep-alive"
