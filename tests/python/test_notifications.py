"""What is announced, to whom, and that nobody sleeps through a job."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import psycopg
import psycopg_pool
import pytest

from sqlxmq import JobRegistry, job
from tests.python.conftest import Database, until

# With the variable SQLXMQ_LONG set, jobs are sent for a minute.
IS_LONG = bool(os.environ.get("SQLXMQ_LONG"))

LONG = "x" * 500
LONG_CHANNEL = "mq_" + hashlib.sha256(LONG.encode()).hexdigest()[:60]


def announced(
    session: psycopg.Connection[Any], listener: psycopg.Connection[Any], statement: str
) -> set[tuple[str, str]]:
    """Which notifications a statement sends."""
    session.execute(statement.encode())
    session.execute("NOTIFY the_end")
    heard: set[tuple[str, str]] = set()
    for notification in listener.notifies(timeout=30):
        if notification.channel == "the_end":
            return heard
        heard.add((notification.channel, notification.payload))
    raise AssertionError("the end was not announced within 30 s")


@pytest.fixture
def listener(database: Database) -> Any:
    with database.connect() as connection:
        for channel in ("mq", "mq_a", "mq_b", "mq_", f"{LONG_CHANNEL}", "the_end"):
            connection.execute(f'LISTEN "{channel}"'.encode())
        yield connection


def test_what_is_announced(session: psycopg.Connection[Any], listener: psycopg.Connection[Any]) -> None:
    def hear(statement: str) -> set[str]:
        heard = announced(session, listener, statement)
        assert {payload for _, payload in heard} <= {""}, "the payload is empty, always"
        return {channel for channel, _ in heard}

    # Somebody sleeps who does not say when he wakes up: every send notifies.
    session.execute("SELECT * FROM mq_poll(NULL)")
    both = {"mq", "mq_a"}
    assert hear("SELECT mq_enqueue('x', channel_name => 'a')") == both
    assert hear("SELECT mq_enqueue('x')") == {"mq", "mq_"}
    assert hear("SELECT mq_enqueue('x', channel_name => 'a', delay => '1 hour')") == both
    assert hear(f"SELECT mq_enqueue('x', channel_name => '{LONG}')") == {"mq", LONG_CHANNEL}
    assert hear("SELECT mq_insert(ARRAY[]::mq_new_t[])") == set()
    assert hear("BEGIN; SELECT mq_enqueue('x', channel_name => 'a'); ROLLBACK") == set()
    assert hear("SELECT mq_clear_all()") == set()
    # Of a chain of three, the first is completed, the second fails and dies, and is retried.
    assert hear(
        "SELECT mq_enqueue('x', channel_name => 'b', ordered => true, retries => 0) FROM generate_series(1, 3)"
    ) == {"mq", "mq_b"}
    assert hear("SELECT count(*) FROM mq_poll(NULL)") == set()
    session.execute("UPDATE mq_msgs SET id = '00000000-0000-0000-0000-000000000001' WHERE false")
    assert hear("SELECT mq_complete(id, 1) FROM mq_running_jobs") == {"mq", "mq_b"}, (
        "the next job of the chain is ready"
    )
    assert hear("SELECT mq_fail(id, attempt, 'x') FROM mq_poll(NULL)") == set(), "a death makes nothing ready"
    assert hear("SELECT mq_retry(ARRAY(SELECT id FROM mq_dead_jobs))") == {"mq", "mq_b"}
    assert hear("SELECT mq_release(ARRAY[id], ARRAY[attempt]) FROM mq_poll(NULL)") == {"mq", "mq_b"}
    assert hear("SELECT mq_delete(ARRAY[id]) FROM mq_poll(NULL)") == {"mq", "mq_b"}, "as the crate does it"
    assert hear("SELECT mq_clear_all()") == set()
    assert hear("SELECT mq_enqueue('x', channel_name => 'a', commit_interval => '1 hour')") == both
    assert hear("SELECT mq_commit(ARRAY(SELECT id FROM mq_msgs))") == both
    assert hear("SELECT mq_fail(id, attempt, 'x') FROM mq_poll(NULL)") == both, (
        "whoever sleeps learns when it is due again"
    )


Heard = Callable[[str], set[str]]
A, B = "SELECT mq_enqueue('x', channel_name => 'a')", "SELECT mq_enqueue('x', channel_name => 'b')"


@pytest.fixture
def hear(session: psycopg.Connection[Any], listener: psycopg.Connection[Any]) -> Heard:
    return lambda statement: {channel for channel, _ in announced(session, listener, statement)}


@pytest.fixture
def worker(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with database.connect() as connection:
        yield connection


def poll(worker: psycopg.Connection[Any], channel_names: list[str] | None, notify_me: str) -> tuple[bool, Any]:
    """Whether a poll has found something, and the wait_time that it returned."""
    row = worker.execute(
        "SELECT bool_or(id IS NOT NULL), min(wait_time) FROM mq_poll(%s, 10, notify_me => %s)",
        (channel_names, notify_me),
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def test_nobody_is_notified_while_nobody_sleeps(
    session: psycopg.Connection[Any], hear: Heard, worker: psycopg.Connection[Any]
) -> None:
    assert hear(A) == set(), "on a fresh queue"
    assert poll(worker, None, "asleep") == (True, timedelta(milliseconds=5)), "there was less than it asked for"
    assert hear(A) == set(), "beside a session that has found something"
    session.execute("SELECT mq_clear_all()")
    assert not poll(worker, None, "never")[0]
    assert hear(A) == set(), "beside one that wants no notifications"
    session.execute("SELECT mq_clear_all()")
    worker.execute("SELECT * FROM mq_poll(NULL, 10)")
    assert hear(A) == {"mq", "mq_a"}, "beside one that has not said what it wants"


def test_who_sleeps_is_notified_until_he_finds_something(
    session: psycopg.Connection[Any], hear: Heard, worker: psycopg.Connection[Any], database: Database
) -> None:
    assert not poll(worker, ["a", LONG, "a"], "asleep")[0]
    assert hear(B) == set(), "jobs of other channels are not announced"
    assert hear(A) == {"mq_a"}
    assert hear(A) == {"mq_a"}, "as long as he has not looked"
    assert hear(f"SELECT mq_enqueue('x', channel_name => '{LONG}')") == {LONG_CHANNEL}
    assert poll(worker, ["a", LONG], "asleep")[0]
    assert hear(A) == set()
    session.execute("SELECT mq_clear_all()")
    # He falls asleep again, for others, and for all.
    assert not poll(worker, ["a"], "asleep")[0]
    assert not poll(worker, ["a"], "asleep")[0]
    assert not poll(worker, ["b"], "asleep")[0]
    assert (hear(A), hear(B)) == (set(), {"mq_b"})
    session.execute("SELECT mq_clear_all()")
    with database.connect() as other:
        assert not poll(other, None, "asleep")[0]
        assert (hear(A), hear(B)) == ({"mq"}, {"mq", "mq_b"})
        assert poll(other, None, "asleep")[0]
        assert (hear(A), hear(B)) == (set(), {"mq_b"})


def test_a_session_that_is_gone_is_not_notified(hear: Heard, database: Database) -> None:
    with database.connect() as worker:
        assert not poll(worker, None, "asleep")[0]
        assert hear(A + ", mq_clear_all()") == {"mq"}
    deadline = time.monotonic() + 10
    while hear(A):
        assert time.monotonic() < deadline, "it is still notified"


def test_who_falls_asleep_looks_again_as_long_as_somebody_may_not_have_seen_it(
    database: Database, worker: psycopg.Connection[Any]
) -> None:
    with database.connect() as open_before:
        open_before.execute("BEGIN; SELECT pg_current_xact_id()")
        began = time.monotonic()
        waits: list[timedelta] = []
        while time.monotonic() < began + 0.5 or len(waits) < 3:
            _, wait = poll(worker, ["a"], "asleep")
            # A poll may itself have taken a while.
            assert wait <= max(timedelta(milliseconds=5), timedelta(seconds=time.monotonic() - began) / 2)
            waits.append(wait)
            time.sleep(wait.total_seconds())
        assert waits[0] <= timedelta(milliseconds=5)
        assert waits[-1] > timedelta(milliseconds=50), "it looks less and less often"
        assert waits == sorted(waits)
        open_before.execute("COMMIT")
        open_before.execute("BEGIN; SELECT pg_current_xact_id()")
        assert poll(worker, ["a"], "asleep") == (False, timedelta(seconds=5)), "who comes now notifies"
        assert poll(worker, ["b"], "asleep")[1] <= timedelta(milliseconds=5), "… but not for other channels"


def test_a_job_that_is_committed_while_a_poll_looks_is_not_slept_through(
    database: Database, worker: psycopg.Connection[Any], hear: Heard
) -> None:
    with database.connect() as sender, database.connect() as lock, database.connect() as watch:
        sender.execute("BEGIN")
        sender.execute(A.encode())
        assert not poll(worker, ["a"], "asleep")[0]
        # The next poll is held up between its look at the tickets and its end.
        lock.execute("BEGIN; LOCK TABLE mq_settings")
        found: list[tuple[bool, Any]] = []
        thread = threading.Thread(target=lambda: found.append(poll(worker, ["a"], "asleep")))
        thread.start()
        deadline = time.monotonic() + 20
        while watch.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone() == (0,):
            assert time.monotonic() < deadline
        sender.execute("COMMIT")
        lock.execute("ROLLBACK")
        thread.join()
    assert found[0][0] or found[0][1] < timedelta(seconds=2)


def test_a_poll_that_is_undone_leaves_its_session_asleep(
    session: psycopg.Connection[Any], hear: Heard, worker: psycopg.Connection[Any]
) -> None:
    assert not poll(worker, ["a"], "asleep")[0]
    assert hear(A) == {"mq_a"}
    worker.execute("BEGIN")
    assert poll(worker, ["a"], "asleep")[0]
    worker.execute("ROLLBACK")
    session.execute("SELECT mq_clear_all()")
    assert not poll(worker, ["a"], "asleep")[0]
    assert hear(A) == {"mq_a"}


def test_a_poll_that_is_undone_leaves_its_session_awake(
    session: psycopg.Connection[Any], hear: Heard, worker: psycopg.Connection[Any]
) -> None:
    worker.execute("BEGIN")
    assert not poll(worker, ["a"], "asleep")[0]
    worker.execute("ROLLBACK")
    # The lock is still there, and is found by the next poll that finds no job.
    assert hear(A) == {"mq_a"}
    assert poll(worker, ["a"], "asleep")[0]
    assert not poll(worker, ["a"], "asleep")[0]
    hear(A)
    assert poll(worker, ["a"], "asleep")[0]
    assert hear(A) == set()


def test_who_sleeps_without_saying_so_is_notified_by_those_in_flight(
    database: Database, hear: Heard, worker: psycopg.Connection[Any]
) -> None:
    with database.connect() as sender:
        sender.execute("BEGIN")
        sender.execute(A.encode())
        row = worker.execute("SELECT id, wait_time FROM mq_poll('{a}', 10)").fetchone()
        assert row is not None
        assert row[0] is None
        assert row[1] is not None, "nor is it told to look again by itself"
        assert row[1] < timedelta(seconds=10)
        sender.execute("COMMIT")


SECONDS = 60 if IS_LONG else 8
# Generous: the machine may be busy with something else.
LONGEST = 2.0


async def send_slowly(
    database: Database,
    name: str,
    channel_names: list[str],
    started: dict[int, asyncio.Future[float]],
    numbers: Iterator[int],
) -> list[float]:
    """Sends a job after the other, each when the one before has started; how long each took to do so, in seconds."""
    took = []
    end = time.monotonic() + SECONDS
    async with await psycopg.AsyncConnection.connect(database.dsn) as session:
        while time.monotonic() < end:
            number = next(numbers)
            started[number] = asyncio.get_running_loop().create_future()
            await session.execute(
                "SELECT mq_enqueue(%s, jsonb_build_object('number', %s::integer), %s, retry_backoff => '1 hour')",
                (name, number, random.choice(channel_names)),
            )
            # Workers fall asleep after this transaction has looked whether any sleep.
            await asyncio.sleep(random.choice([0, random.uniform(0, 0.005), random.uniform(0, 0.05)]))
            committed = time.monotonic()
            await session.commit()
            # At once, so that some jobs are sent while their worker is about to fall asleep.
            took.append(await asyncio.wait_for(started[number], timeout=30) - committed)
            await asyncio.sleep(random.choice([0, random.uniform(0, 0.005), random.uniform(0, 0.05)]))
    return took


def check(took: list[float]) -> None:
    middle = sorted(took)[len(took) // 2]
    print(f"{len(took)} jobs, started after {max(took) * 1000:.0f} ms at most, {middle * 1000:.1f} in the middle")
    assert len(took) > 20 * SECONDS
    assert max(took) < LONGEST, "a job was slept through"


@pytest.mark.long
@pytest.mark.timeout(170)
async def test_runners_sleep_through_nothing(database: Database, pool: psycopg_pool.AsyncConnectionPool[Any]) -> None:
    started: dict[int, asyncio.Future[float]] = {}
    numbers = iter(range(10**9))

    @job("wake")
    async def wake(number: int) -> None:
        started[number].set_result(time.monotonic())

    registry = JobRegistry([wake])
    async with AsyncExitStack() as runners:
        for channel_names in (["a"], ["b", "c"], ["c", "d"]):
            await runners.enter_async_context(registry.runner(pool, channel_names=channel_names))
        took = await asyncio.gather(
            *(send_slowly(database, "wake", names, started, numbers) for names in (["a"], ["b", "c"], ["a", "d"]))
        )
    check([seconds for each in took for seconds in each])


@pytest.mark.long
@pytest.mark.timeout(170)
async def test_a_client_that_sleeps_until_it_is_notified_sleeps_through_nothing(database: Database) -> None:
    started: dict[int, asyncio.Future[float]] = {}
    notified = asyncio.Event()
    numbers = iter(range(10**9))

    async def listen() -> None:
        async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as listener:
            await listener.execute("LISTEN mq_a")
            notified.set()
            async for _ in listener.notifies():
                notified.set()

    async def work() -> None:
        async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as worker:
            while True:
                await notified.wait()
                notified.clear()
                while True:
                    cursor = await worker.execute("SELECT id, payload_json::json->'number' FROM mq_poll('{a}', 10)")
                    found = [row for row in await cursor.fetchall() if row[0] is not None]
                    if not found:
                        break
                    for id, number in found:
                        started[number].set_result(time.monotonic())
                        await worker.execute("SELECT mq_delete(ARRAY[%s])", (id,))

    tasks = [asyncio.create_task(listen()), asyncio.create_task(work())]
    try:
        # Its first poll has to be over before the first job is sent.
        async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as session:

            async def has_polled() -> bool:
                cursor = await session.execute("SELECT pg_sequence_last_value('mq_notified_until') > 0")
                return await cursor.fetchone() == (True,)

            await until(has_polled, "the client has polled")
        took = await asyncio.gather(*(send_slowly(database, "x", ["a"], started, numbers) for _ in range(2)))
        check([seconds for each in took for seconds in each])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
