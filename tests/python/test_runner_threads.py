"""Plain functions in threads, the runner without asyncio, and what can be given as the database."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from datetime import timedelta
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg_pool import ConnectionPool

from sqlxmq import (
    ChannelGroup,
    CurrentJob,
    JobRegistry,
    JobStopped,
    LeaseLost,
    MissingContextError,
    SyncCurrentJob,
    SyncJobRunner,
    from_context,
    job,
    spawn_many,
)
from sqlxmq._threads import Threads
from tests.python.conftest import ROOT, Database, until
from tests.python.test_runner import Pool, Session, is_empty, rows, runner_of


async def test_plain_functions_have_all_that_async_ones_have(pool: Pool, session: Session) -> None:
    session.execute("CREATE TABLE effect (n integer, attempt integer)")
    names: set[str] = set()

    @job("plain", backoff_secs=0)
    def plain(current_job: SyncCurrentJob, n: int, done: int = 0) -> None:
        names.add(threading.current_thread().name)
        assert isinstance(current_job.pool, psycopg_pool.ConnectionPool)
        if n == 1:
            with current_job.transaction() as connection:
                connection.execute("INSERT INTO effect VALUES (%s, %s)", (n, current_job.attempt))
                if current_job.attempt == 1:
                    raise RuntimeError("after the effect")
        elif n == 2:
            current_job.complete()
            with pytest.raises(LeaseLost):
                current_job.keep_alive(timedelta(minutes=1))
        elif current_job.attempt == 1:
            current_job.checkpoint(json_payload={"n": 3, "done": 7})
            raise RuntimeError("interrupted")
        else:
            assert done == 7

    async with runner_of(pool, plain):
        await spawn_many(pool, [plain.prepare(n) for n in (1, 2, 3)])
        await until(is_empty(session), "all are complete")
    assert rows(session, "SELECT n, attempt FROM effect") == [(1, 2)]
    assert all(name.startswith("sqlxmq job") for name in names)


async def test_threads_are_used_again(pool: Pool, session: Session) -> None:
    running = most = 0
    lock = threading.Lock()
    threads: set[int] = set()

    @job("busy")
    def busy() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            threads.add(threading.get_ident())
        time.sleep(0.0005)
        with lock:
            running -= 1

    await spawn_many(pool, [busy.prepare() for _ in range(400)])
    before = threading.active_count()
    async with runner_of(pool, busy, min_concurrency=3, max_concurrency=5):
        await until(is_empty(session), "all ran")
        assert len(threads) <= 5
    assert 2 <= most <= 5
    await until(lambda: threading.active_count() <= before + 3, "its threads have ended")


async def test_calls_in_turn_take_one_thread() -> None:
    threads = Threads()
    used: set[int] = set()
    for _ in range(1000):
        await threads.run(lambda: used.add(threading.get_ident()))
    threads.close()
    assert len(used) == 1


async def test_threads_are_told_to_stop(pool: Pool, session: Session) -> None:
    reasons: dict[str, str | None] = {}
    started = threading.Semaphore(0)

    @job("waits", backoff_secs=1000)
    def waits(current_job: SyncCurrentJob, how: str) -> None:
        started.release()
        if how == "flag":
            while not current_job.is_stopping:
                time.sleep(0.001)
        else:
            assert current_job.wait_until_stopped(60)
        reasons[how] = current_job.stop_reason
        current_job.raise_if_stopped()

    async with runner_of(pool, waits, lease=timedelta(seconds=0.5)):
        ids = [await waits.spawn(pool, how) for how in ("flag", "wait", "lost")]
        for _ in ids:
            await asyncio.to_thread(started.acquire)
        session.execute("SELECT mq_cancel(%s)", (ids[:2],))
        session.execute("SELECT mq_delete(%s)", (ids[2:],))
        await until(lambda: len(reasons) == 3, "they are told")
        await until(is_empty(session), "what was cancelled is removed")
    assert reasons == {"flag": "cancelled", "wait": "cancelled", "lost": "lease lost"}


async def test_a_thread_over_its_time_is_told_and_somebody_else_gets_the_job(pool: Pool, session: Session) -> None:
    session.execute("CREATE TABLE effect (attempt integer)")
    second_has_it = threading.Event()
    told: list[BaseException] = []
    reasons: list[str | None] = []

    @job("slow", time_limit=0.1, backoff_secs=0)
    def slow(current_job: SyncCurrentJob) -> None:
        if current_job.attempt == 1:
            assert current_job.wait_until_stopped(60)
            reasons.append(current_job.stop_reason)
            # It does not stop, and completes too late.
            assert second_has_it.wait(60)
        else:
            second_has_it.set()
        with current_job.transaction() as connection:
            connection.execute("INSERT INTO effect VALUES (%s)", (current_job.attempt,))

    registry = JobRegistry([slow]).set_error_handler(lambda name, error: told.append(error))
    options: Any = {"lease": timedelta(seconds=0.5), "min_concurrency": 1, "max_concurrency": 1}
    async with registry.runner(pool, **options), registry.runner(pool, **options):
        await slow.spawn(pool)
        await until(lambda: bool(told), "the first was told that it was late")
        await until(is_empty(session), "the second did it")
    assert reasons == ["time limit"]
    assert [type(error) for error in told] == [LeaseLost]
    assert rows(session, "SELECT attempt FROM effect") == [(2,)]


async def test_a_thread_that_heeds_its_time_limit_is_retried(pool: Pool, session: Session) -> None:
    @job("heeds", time_limit=0.05, retries=0)
    def heeds(current_job: SyncCurrentJob) -> None:
        while True:
            current_job.wait_until_stopped(60)
            current_job.raise_if_stopped()

    async with runner_of(pool, heeds):
        await heeds.spawn(pool)
        await until(lambda: rows(session, "SELECT count(*) FROM mq_dead_jobs") == [(1,)], "the job died")
    assert "TimeLimitExceeded" in rows(session, "SELECT last_error FROM mq_dead_jobs")[0][0]


async def test_stopping_gives_threads_back_that_stop_and_no_others(
    pool: Pool, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sqlxmq._runner.LAST_WORDS", 0.3)
    may_end = threading.Event()
    started = threading.Semaphore(0)

    @job("stops", backoff_secs=1000)
    def stops(current_job: SyncCurrentJob) -> None:
        started.release()
        current_job.wait_until_stopped(60)
        with pytest.raises(JobStopped, match="worker ends"):
            current_job.raise_if_stopped()
        current_job.raise_if_stopped()

    @job("goes on", backoff_secs=1000)
    def goes_on() -> None:
        started.release()
        may_end.wait(60)

    runner = runner_of(pool, stops, goes_on, grace=timedelta(0))
    try:
        await runner.start()
        await stops.spawn(pool)
        await goes_on.spawn(pool)
        for _ in range(2):
            await asyncio.to_thread(started.acquire)
        assert runner.number_running == 2
        await asyncio.gather(runner.stop(), runner.stop())
        await runner.stop()
        found = rows(session, "SELECT name, state, attempts_left FROM mq_jobs ORDER BY name")
        assert found == [("goes on", "running", 4), ("stops", "ready", 5)]
        # It can be claimed at once.
        assert rows(session, "SELECT name FROM mq_poll(NULL)") == [("stops",)]
    finally:
        may_end.set()


async def test_groups_have_limits_of_their_own(pool: Pool, session: Session) -> None:
    running = {"wide": 0, "narrow": 0}
    most = {"wide": 0, "narrow": 0}

    async def work(name: str) -> None:
        running[name] += 1
        most[name] = max(most[name], running[name])
        await asyncio.sleep(0.002)
        running[name] -= 1

    @job("wide", channel_name="wide")
    async def wide() -> None:
        await work("wide")

    @job("narrow", channel_name="narrow")
    async def narrow() -> None:
        await work("narrow")

    await spawn_many(pool, [wide.prepare() for _ in range(200)] + [narrow.prepare() for _ in range(50)])
    await narrow.options(channel_name="other").spawn(pool)
    groups = [
        ChannelGroup(channel_names=["wide"], min_concurrency=10, max_concurrency=20),
        ChannelGroup(channel_names=["narrow"], min_concurrency=1, max_concurrency=1),
    ]
    async with runner_of(pool, wide, narrow, groups=groups):
        left = "SELECT count(*) FROM mq_jobs WHERE channel_name <> 'other'"
        await until(lambda: rows(session, left) == [(0,)], "all of both ran")
        await wide.spawn(pool)
        await narrow.spawn(pool)
        await until(lambda: rows(session, left) == [(0,)], "each group is woken")
    assert 10 <= most["wide"] <= 20
    assert most["narrow"] == 1
    assert rows(session, "SELECT state FROM mq_jobs") == [("ready",)]


@pytest.mark.parametrize("kind", ["dsn", "AsyncConnectionPool", "ConnectionPool", "odd pool"])
async def test_what_can_be_the_database(database: Database, session: Session, kind: str) -> None:
    seen: list[Any] = []

    @job("in the loop")
    async def in_loop(current_job: CurrentJob) -> None:
        async with current_job.transaction() as connection:
            await connection.execute("SELECT 1")
        seen.append(current_job.pool)

    @job("in a thread")
    def in_thread(current_job: SyncCurrentJob) -> None:
        with current_job.transaction() as connection:
            connection.execute("SELECT 1")
        seen.append(current_job.pool)

    async def run(given: Any) -> None:
        async with JobRegistry([in_loop, in_thread]).runner(given, lease=timedelta(seconds=0.5)):
            for _ in range(3):
                in_loop.spawn(session)
                in_thread.spawn(session)
                await until(is_empty(session), "both ran")
        if not isinstance(given, str):
            assert given in seen
            assert not given.closed, "a pool that was given stays open"

    if kind == "dsn":
        await run(database.dsn)
    elif kind == "AsyncConnectionPool":
        async with psycopg_pool.AsyncConnectionPool(database.dsn, open=False, min_size=1) as given:
            await run(given)
    elif kind == "ConnectionPool":
        with ConnectionPool(database.dsn, open=True, min_size=1) as given_sync:
            await run(given_sync)
    else:
        # Cursors of its own kind, rows of its own, settings that are had by asking.
        settings: Any = {"cursor_factory": psycopg.ClientCursor, "row_factory": psycopg.rows.dict_row}
        conninfo: Any = database.dsn
        if hasattr(ConnectionPool, "_resolve_conninfo"):
            settings_now, dsn_now = dict(settings), conninfo
            settings, conninfo = (lambda: settings_now), (lambda: dsn_now)
        with ConnectionPool(conninfo, kwargs=settings, open=True, min_size=1) as given_sync:
            await run(given_sync)


@pytest.mark.parametrize("database", [None, 7, b"dsn"])
async def test_what_cannot_be_the_database(database: Any) -> None:
    with pytest.raises(TypeError, match="it must be a connection string"):
        JobRegistry([]).runner(database)


# The runner without asyncio


def wait_for(condition: Any, what: str) -> None:
    asyncio.run(until(condition, what))


def test_the_runner_without_asyncio(database: Database, session: Session) -> None:
    seen: list[int] = []
    may_end = threading.Event()

    @job("plain")
    def plain(number: int) -> None:
        seen.append(number)
        may_end.wait(60)

    @job("in the loop")
    async def in_loop() -> None:
        seen.append(0)

    with JobRegistry([plain, in_loop]).sync_runner(database.dsn) as runner:
        in_loop.spawn(session)
        plain.spawn(session, 1)
        wait_for(lambda: sorted(seen) == [0, 1], "both run")
        assert runner.number_running >= 1
        runner.wait_for_jobs(timedelta(seconds=0.05))
        assert seen
        may_end.set()
        runner.wait_for_jobs()
        assert runner.number_running == 0
        wait_for(is_empty(session), "both are reported")
        runner.stop()
        runner.stop()
        runner.wait_for_jobs()
    with pytest.raises(RuntimeError, match="has been started before"):
        runner.start()


def test_stopping_twice_does_not_cut_the_grace_period(database: Database, session: Session) -> None:
    started = threading.Event()
    may_end = threading.Event()

    @job("slow", backoff_secs=1000)
    def slow() -> None:
        started.set()
        may_end.wait(60)

    runner = JobRegistry([slow]).sync_runner(database.dsn)
    runner.start()
    slow.spawn(session)
    assert started.wait(60)
    stops = [threading.Thread(target=runner.stop) for _ in range(2)]
    for stop in stops:
        stop.start()
    wait_for(lambda: runner._runner is not None and runner._runner._stopping.is_set(), "it stops")
    time.sleep(0.1)  # so that a cut would show
    assert not runner._runner._hurry.is_set()  # type: ignore[union-attr]
    may_end.set()
    for stop in stops:
        stop.join()
    assert is_empty(session)()


VALUE: Any = from_context("value")


def test_errors_at_the_start_are_raised(database: Database) -> None:
    @job("needs")
    def needs(value: Any = VALUE) -> None: ...

    with pytest.raises(MissingContextError):
        JobRegistry([needs]).sync_runner(database.dsn).start()
    bad: dict[str, Any]
    for bad in ({"lease": timedelta(0)}, {"groups": []}):
        with pytest.raises(ValueError, match=r"it must be positive|at least one"):
            JobRegistry([]).sync_runner(database.dsn, **bad).start()
    runner = JobRegistry([]).sync_runner("no connection string")
    with pytest.raises(psycopg.Error):
        runner.start()
    runner.stop()
    assert isinstance(runner, SyncJobRunner)


SYNC_WORKER = """
import logging, sys
from sqlxmq import JobRegistry, SyncCurrentJob, job

logging.basicConfig(level=logging.INFO)

@job("wait", backoff_secs=1000)
def wait(current_job: SyncCurrentJob) -> None:
    with current_job.pool.connection() as connection:
        connection.execute("INSERT INTO started VALUES (%s)", (current_job.id,))
    while not current_job.wait_until_stopped(0.01):
        with current_job.pool.connection() as connection:
            if connection.execute("SELECT count(*) FROM may_end").fetchone()[0]:
                return
    current_job.raise_if_stopped()

JobRegistry([wait]).sync_runner(sys.argv[1]).run()
"""


@pytest.mark.parametrize("signals", [1, 2])
async def test_signals_stop_the_runner_without_asyncio(database: Database, session: Session, signals: int) -> None:
    session.execute("CREATE TABLE started (id uuid); CREATE TABLE may_end (so boolean); SELECT mq_enqueue('wait')")
    child = subprocess.Popen(
        [sys.executable, "-c", SYNC_WORKER, database.dsn], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    try:
        await until(lambda: rows(session, "SELECT count(*) FROM started") == [(1,)], "the job has started")
        child.terminate()
        while "stopping; a second signal" not in (line := child.stderr.readline()):
            assert line, "the worker has ended without a word"
        if signals == 1:
            session.execute("INSERT INTO may_end VALUES (true)")
        else:
            child.terminate()
        await until(lambda: child.poll() is not None, "the worker has ended")
        assert child.returncode == 0
    finally:
        child.kill()
        child.communicate()
    left = rows(session, "SELECT state, attempts_left FROM mq_jobs")
    assert left == ([] if signals == 1 else [("ready", 5)])
