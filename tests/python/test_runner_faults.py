"""What goes wrong between a runner and its database, and in the runner's own process."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from datetime import timedelta
from typing import Any

import psycopg_pool
import pytest

from sqlxmq import CurrentJob, Job, JobRegistry, SyncCurrentJob, job, spawn_many
from sqlxmq._threads import Threads
from tests.python.conftest import Database, until
from tests.python.proxies import free_port, pgbouncer, proxy
from tests.python.test_kills import IS_LONG
from tests.python.test_runner import Pool, Session, is_empty, rows, runner_of

LISTENERS = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'NOTIFY \"mq_echo%%' AND datname = current_database()"


def quick_job(done: list[int]) -> Job[Any, Any, Any]:
    @job("quick")
    async def quick(number: int = 0) -> None:
        done.append(number)

    return quick


@pytest.fixture
def quick_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener that looks sooner whether it hears."""
    monkeypatch.setattr("sqlxmq._listener.QUIET", 0.5)
    monkeypatch.setattr("sqlxmq._listener.ECHO", 0.7)
    monkeypatch.setattr("sqlxmq._listener.ANSWER", 1.0)


async def is_heard(runner: Any, heard: bool = True) -> None:
    await until(lambda: runner._loops[0]._listener.is_heard is heard, f"is_heard is {heard}")


async def test_the_listener_reconnects(pool: Pool, session: Session) -> None:
    done: list[int] = []
    quick = quick_job(done)
    async with runner_of(pool, quick) as runner:
        await is_heard(runner)
        for _ in range(3):
            # The echo of another session has come: the listener itself is the one that waits.
            listening = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"
            killed = rows(session, f"SELECT pg_terminate_backend(pid) FROM ({listening}) AS l")
            assert killed == [(True,)]
            began = time.monotonic()
            await quick.spawn(pool)
            await until(is_empty(session), "it ran meanwhile")
            assert time.monotonic() - began < 15
            await is_heard(runner)


async def test_a_listener_that_went_silent(
    pool: Pool, database: Database, session: Session, quick_listener: None, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[int] = []
    quick = quick_job(done)
    async with proxy(database) as between, runner_of(pool, quick, listener_dsn=between.dsn) as runner:
        await is_heard(runner)
        await quick.spawn(pool)
        await until(is_empty(session), "it hears")
        between.be_silent()
        await quick.spawn(pool)
        await until(is_empty(session), "it polls, once it has noticed", seconds=30)
        await is_heard(runner, False)
        # And goes on so while the listener cannot connect at all.
        between.refuses = True
        between.be_silent(False)
        between.cut()
        for _ in range(2):
            await quick.spawn(pool)
            await until(is_empty(session), "it polls every second", seconds=30)
        between.refuses = False
        await is_heard(runner)
    assert "the listener has no connection" in caplog.text


async def test_a_listener_that_cannot_come_back_wakes_those_who_sleep(
    pool: Pool, database: Database, session: Session
) -> None:
    done: list[int] = []
    quick = quick_job(done)
    async with proxy(database) as between, runner_of(pool, quick, listener_dsn=between.dsn) as runner:
        await is_heard(runner)
        await quick.spawn(pool)
        await until(is_empty(session), "it hears, and sleeps")
        # Until claims are forgotten, the database says when to poll next; then a minute is slept.
        await until(lambda: rows(session, "SELECT count(*) FROM mq_claims") == [(0,)], "no claim is left")
        between.refuses = True
        between.cut()
        await is_heard(runner, False)
        began = time.monotonic()
        await quick.spawn(pool)
        await until(is_empty(session), "it polls every second", seconds=30)
        assert time.monotonic() - began < 15


async def test_a_silent_database_is_noticed_by_polls_reports_and_keep_alive(
    database: Database, session: Session, monkeypatch: pytest.MonkeyPatch, quick_listener: None
) -> None:
    monkeypatch.setattr("sqlxmq._connections.LONGEST_STATEMENT", 0.5)
    monkeypatch.setattr("sqlxmq._connections.LONGEST_CANCEL", 0.5)
    monkeypatch.setattr("sqlxmq._connections.PATIENCE", {"connect_timeout": 2})
    monkeypatch.setattr("sqlxmq._keeper.LEAST_PATIENCE", 0.5)
    attempts: list[int] = []
    started = asyncio.Event()
    may_end = asyncio.Event()

    @job("long", backoff_secs=0)
    async def long(current_job: CurrentJob) -> None:
        attempts.append(current_job.attempt)
        started.set()
        await may_end.wait()

    done: list[int] = []
    quick = quick_job(done)
    async with proxy(database) as between:
        runner = JobRegistry([long, quick]).runner(between.dsn, lease=timedelta(seconds=12))
        async with runner:
            long.spawn(session)
            await started.wait()
            await is_heard(runner)
            between.be_silent()
            accepted = between.accepted
            await until(lambda: between.accepted >= accepted + 2, "connections are made anew")
            may_end.set()
            quick.spawn(session)
            # What was connected while it was silent stays so: no more can be done there.
            between.cut()
            between.be_silent(False)
            await until(is_empty(session), "it polls and reports again")
    assert attempts == [1]
    assert done == [0]


async def test_stopping_ends_though_the_database_is_gone(
    database: Database, session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sqlxmq._runner.LAST_REPORTS", 0.5)
    started = asyncio.Event()
    may_end = asyncio.Event()

    @job("waits")
    async def waits() -> None:
        started.set()
        await may_end.wait()

    for is_silent in (True, False):
        started.clear()
        may_end.clear()
        async with proxy(database) as between:
            runner = JobRegistry([waits]).runner(between.dsn, grace=timedelta(seconds=0.5))
            await runner.start()
            waits.spawn(session)
            await started.wait()
            if is_silent:
                between.be_silent()
            else:
                between.refuses = True
                between.cut()
            may_end.set()
            await asyncio.wait_for(runner.stop(), 40)
            assert "the last reports do not get through" in caplog.text
        caplog.clear()
        session.execute("SELECT mq_clear_all()")


async def test_a_stop_is_over_after_one_grace_period(pool: Pool, session: Session, database: Database) -> None:
    started = asyncio.Event()

    @job("endless", backoff_secs=1000)
    async def endless() -> None:
        started.set()
        await asyncio.Event().wait()

    runner = runner_of(pool, endless, min_concurrency=2, max_concurrency=2, grace=timedelta(seconds=3))
    await runner.start()
    await endless.spawn(pool)
    await started.wait()
    with database.connect() as other, other.transaction():
        other.execute("LOCK TABLE mq_ready")
        runner._loops[0].wake()
        blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%mq_poll%'"
        await until(lambda: rows(session, blocked) == [(1,)], "a poll is held up")
        began = time.monotonic()
        stop = asyncio.create_task(runner.stop())
        await until(lambda: runner.number_running == 0, "the job is told", seconds=30)
        assert time.monotonic() - began < 5.5, "the grace period was granted twice"
    await stop


async def test_a_blocked_event_loop_keeps_its_leases(pool: Pool, session: Session, database: Database) -> None:
    attempts: list[int] = []

    @job("blocks", backoff_secs=0)
    async def blocks(current_job: CurrentJob) -> None:
        attempts.append(current_job.attempt)
        time.sleep(2.5)  # noqa: ASYNC251 that is the point

    seen: list[int] = []
    stop = threading.Event()

    def other_worker() -> None:
        with database.connect() as other:
            while not stop.wait(0.05):
                seen.extend(row[1] for row in other.execute("SELECT id, attempt FROM mq_poll(NULL)") if row[0])

    async with runner_of(pool, blocks, lease=timedelta(seconds=0.5)):
        await blocks.spawn(pool)
        await until(lambda: rows(session, "SELECT state FROM mq_jobs") != [("ready",)], "it runs")
        thread = threading.Thread(target=other_worker)
        thread.start()
        try:
            await until(is_empty(session), "it is complete")
        finally:
            stop.set()
            thread.join()
    assert attempts == [1]
    assert seen == [], "another worker got the job within its lease"


async def test_a_lease_of_the_jobs_own_is_there_at_once(pool: Pool, session: Session) -> None:
    may_end = asyncio.Event()

    @job("patient", lease=1000)
    async def patient() -> None:
        await may_end.wait()

    async with runner_of(pool, patient):
        await patient.spawn(pool)
        held = "SELECT count(*) FROM mq_running_jobs WHERE leased_until > now() + interval '900 seconds'"
        # The runner's own keep-alive comes after ten seconds.
        await until(lambda: rows(session, held) == [(1,)], "the longer lease", seconds=8)
        may_end.set()


async def test_without_keep_alive_the_lease_runs_out(pool: Pool, session: Session) -> None:
    attempts: list[int] = []
    may_end = asyncio.Event()

    @job("slow", backoff_secs=0)
    async def slow(current_job: CurrentJob) -> None:
        attempts.append(current_job.attempt)
        await may_end.wait()

    async with runner_of(pool, slow, keep_alive=False, lease=timedelta(seconds=0.3)):
        await slow.spawn(pool)
        await until(lambda: attempts[:2] == [1, 2], "it is handed out again")
        may_end.set()
        await until(is_empty(session), "it is complete")


@pytest.mark.long
async def test_many_jobs_through_a_pool_of_two(database: Database, session: Session) -> None:
    session.execute("CREATE TABLE effect (n integer)")
    jobs = 10_000 if IS_LONG else 3_000

    @job("effect")
    async def effect(current_job: CurrentJob, n: int) -> None:
        async with current_job.transaction() as connection:
            await connection.execute("INSERT INTO effect VALUES (%s)", (n,))

    spawn_many(session, [effect.prepare(n) for n in range(jobs)])
    async with (
        psycopg_pool.AsyncConnectionPool(database.dsn, min_size=2, max_size=2, open=False) as small,
        runner_of(small, effect),
    ):
        await until(is_empty(session), "all are complete", seconds=120)
    assert rows(session, "SELECT count(*), count(DISTINCT n) FROM effect") == [(jobs, jobs)]


async def run_ten(database: str, session: Session, **options: Any) -> None:
    done: list[int] = []
    quick = quick_job(done)

    @job("plain")
    def plain(current_job: SyncCurrentJob, number: int) -> None:
        with current_job.transaction() as connection:
            connection.execute("SELECT 1")
        done.append(number)

    async with JobRegistry([quick, plain]).runner(database, **options) as runner:
        for number in range(0, 10, 2):
            quick.spawn(session, number)
            plain.spawn(session, number + 1)
            await until(is_empty(session), "both ran")
        if options.get("listener_dsn"):
            await is_heard(runner)
    assert sorted(done) == list(range(10))


async def test_polling_through_a_transaction_pooler(
    database: Database, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    async with pgbouncer(database) as pooled:
        await run_ten(pooled, session, listen=False)
        await run_ten(pooled, session, listener_dsn=database.dsn)
    assert "failed" not in caplog.text


async def test_listening_through_a_transaction_pooler_is_noticed(
    database: Database, session: Session, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sqlxmq._listener.ECHO", 1.0)
    done: list[int] = []
    quick = quick_job(done)
    async with pgbouncer(database) as pooled, JobRegistry([quick]).runner(pooled) as runner:
        await until(lambda: "NOTIFY does not arrive here" in caplog.text, "it warns")
        for number in range(8):
            began = time.monotonic()
            quick.spawn(session, number)
            await until(is_empty(session), "it polls every second", seconds=30)
            assert time.monotonic() - began < 15
        assert not runner._loops[0]._listener.is_heard  # type: ignore[union-attr]
    assert done == list(range(8))
    assert "refused" not in caplog.text


async def test_a_database_that_is_not_there_yet(database: Database, session: Session) -> None:
    done: list[int] = []
    quick = quick_job(done)
    async with proxy(database) as between:
        between.refuses = True
        async with JobRegistry([quick]).runner(between.dsn):
            quick.spawn(session)
            await until(lambda: between.accepted >= 6, "it has tried")
            between.refuses = False
            await until(is_empty(session), "it ran")
        async with JobRegistry([quick]).runner(f"{database.dsn} port={free_port()}"):
            await asyncio.sleep(0)
    assert done == [0]


async def test_settings_that_cannot_be_had_for_a_while(
    database: Database, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    """A pool that asks for its password: what that raises is no refusal of a report."""
    if not hasattr(psycopg_pool.AsyncConnectionPool, "_resolve_conninfo"):
        pytest.skip("this psycopg_pool takes no functions")
    is_out_of_order = False
    runs: list[int] = []
    started = asyncio.Event()
    may_end = asyncio.Event()

    @job("once", backoff_secs=0)
    async def once(current_job: CurrentJob) -> None:
        runs.append(current_job.attempt)
        started.set()
        await may_end.wait()

    def conninfo() -> str:
        if is_out_of_order:
            raise KeyError("no token")
        return database.dsn

    async with psycopg_pool.AsyncConnectionPool(conninfo, min_size=1, open=False) as asking:
        runner = runner_of(asking, once)
        async with runner:
            once.spawn(session)
            await started.wait()
            is_out_of_order = True
            session.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
            may_end.set()
            await until(lambda: runner.number_running == 0, "it has ended")
            await until(lambda: "a report failed, next try" in caplog.text, "a report is tried")
            is_out_of_order = False
            await until(is_empty(session), "it is reported")
            await until(lambda: runner._listening is not None and not runner._listening.done(), "it listens")
    assert runs == [1]


async def test_a_server_that_is_a_replica_for_a_while_loses_no_report(
    database: Database, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[int] = []

    @job("once", backoff_secs=0)
    async def once(current_job: CurrentJob) -> None:
        runs.append(current_job.attempt)
        if current_job.attempt == 1:
            session.execute(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on".encode())
            session.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )

    async with JobRegistry([once]).runner(database.dsn) as runner:
        once.spawn(session)
        await until(lambda: runs == [1] and runner.number_running == 0, "it has run")
        await until(lambda: "a report failed, next try" in caplog.text, "a report is tried")
        session.execute(f"ALTER DATABASE {database.name} SET default_transaction_read_only = off".encode())
        await until(is_empty(session), "it is reported")
    assert runs == [1]


def test_the_keeper_ends_with_its_loop(database: Database, session: Session, caplog: pytest.LogCaptureFixture) -> None:
    """A loop that ended without stop(): nobody runs its jobs, and nobody is to keep them."""
    runs: list[int] = []

    @job("left", backoff_secs=0)
    async def left(current_job: CurrentJob) -> None:
        runs.append(current_job.attempt)
        await asyncio.Event().wait()

    async def forget() -> None:
        await JobRegistry([left]).runner(database.dsn, lease=timedelta(seconds=0.5)).start()
        left.spawn(session)
        await until(lambda: runs == [1], "it runs")

    with caplog.at_level(logging.CRITICAL):
        asyncio.run(forget())
    expired = "SELECT count(*) FROM mq_msgs WHERE leased_until IS NULL OR leased_until < now()"
    asyncio.run(until(lambda: rows(session, expired) == [(1,)], "its lease runs out", seconds=20))


async def test_the_threads_of_a_closed_loop_end_quietly() -> None:
    may_end = threading.Event()
    called = threading.Event()

    def work() -> None:
        called.set()
        may_end.wait(60)

    async def begin() -> None:
        task = asyncio.ensure_future(threads.run(work))
        await asyncio.to_thread(called.wait, 60)
        task.cancel()

    threads = Threads()
    await asyncio.to_thread(asyncio.run, begin())
    before = [thread for thread in threading.enumerate() if thread.name.startswith("sqlxmq job")]
    may_end.set()
    threads.close()
    await until(lambda: not any(thread.is_alive() for thread in before), "the thread ends")


async def test_waiting_for_jobs_waits_for_those_that_come(pool: Pool, session: Session) -> None:
    order: list[int] = []
    may_end = asyncio.Event()

    @job("first")
    async def first() -> None:
        await second.spawn(pool)
        await until(lambda: bool(order), "the second has begun")

    @job("second")
    async def second() -> None:
        order.append(1)
        await may_end.wait()
        order.append(2)

    async with runner_of(pool, first, second) as runner:
        await first.spawn(pool)
        await until(lambda: runner.number_running > 0, "the first runs")
        waiting = asyncio.create_task(runner.wait_for_jobs())
        await until(lambda: rows(session, "SELECT name FROM mq_jobs") == [("second",)], "the first is done")
        assert not waiting.done()
        may_end.set()
        await waiting
        assert order == [1, 2]
