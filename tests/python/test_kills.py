"""Workers that are killed, paused or lose their server, with a ledger of what was sent and what was done."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from datetime import timedelta

import psycopg
import pytest

from sqlxmq import CurrentJob, JobRegistry, Observer, SyncCurrentJob, job, spawn_many
from sqlxmq._delivery import Delivery
from tests.python.conftest import ROOT, Database, until
from tests.python.test_runner import Pool, Session, is_empty, rows
from tools.cluster import cluster, debian_bindir, install_extension

# With the variable SQLXMQ_LONG set, the proofs take more jobs and more crashes.
IS_LONG = bool(os.environ.get("SQLXMQ_LONG"))

LEDGER = "CREATE TABLE effect (id uuid, stage text); CREATE TABLE sent (id uuid, stage text)"

# The stages of a job at which its worker is killed, at the first attempt.
TRANSACTIONAL = ["claimed", "running", "before commit", "after commit", "in a thread, before commit"]
PLAIN = ["claimed, plain", "before the report"]


def die(stage: str | None = None) -> None:
    if stage is not None:
        print(f"dies: {stage}", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


class Killer(Observer):
    """Kills where no function of a job can."""

    def started(self, delivery: Delivery) -> None:
        stage = delivery.json()["stage"]
        if delivery.attempt == 1 and stage.startswith("claimed"):
            die(stage)

    def ended(self, delivery: Delivery, outcome: str, seconds: float) -> None:
        stage = delivery.json()["stage"]
        if delivery.attempt == 1 and stage == "before the report":
            die(stage)


INSERT = "INSERT INTO effect VALUES (%s, %s)"


@job("transactional", backoff_secs=0, retries=10_000)
async def transactional(current_job: CurrentJob, stage: str) -> None:
    is_to_die = current_job.attempt == 1
    if is_to_die and stage == "running":
        die(stage)
    async with current_job.transaction() as connection:
        await connection.execute(INSERT, (current_job.id, stage))
        if is_to_die and stage in ("before commit", "after commit"):
            await current_job.complete(connection)
            if stage == "after commit":
                print(f"dies: {stage}", file=sys.stderr, flush=True)
                # The server commits, and this process never learns of it.
                connection.pgconn.send_query(b"COMMIT")
                connection.pgconn.flush()
                # The pool has no second one: it is as large as jobs can run.
                async with await psycopg.AsyncConnection.connect(sys.argv[1], autocommit=True) as other:
                    query = "SELECT FROM mq_msgs WHERE id = %s"
                    is_there = True
                    while is_there:
                        is_there = (await other.execute(query, (current_job.id,))).rowcount == 1
                die()
            die(stage)


@job("in a thread", backoff_secs=0, retries=10_000)
def in_thread(current_job: SyncCurrentJob, stage: str) -> None:
    with current_job.transaction() as connection:
        connection.execute(INSERT, (current_job.id, stage))
        if current_job.attempt == 1 and stage == "in a thread, before commit":
            current_job.complete(connection)
            die(stage)


@job("plain", backoff_secs=0, retries=10_000)
async def plain(current_job: CurrentJob, stage: str) -> None:
    async with current_job.pool.connection() as connection:
        await connection.execute(INSERT, (current_job.id, stage))


@job("paused", backoff_secs=0, retries=10_000)
async def paused(current_job: CurrentJob) -> None:
    async with current_job.pool.connection() as connection:
        await connection.execute("INSERT INTO started VALUES (%s, %s)", (current_job.attempt, os.getpid()))
    while True:
        async with current_job.pool.connection() as connection:
            if (await connection.execute("SELECT FROM may_end WHERE pid = %s", (os.getpid(),))).rowcount:
                break
        await asyncio.sleep(0.01)
    async with current_job.transaction() as connection:
        await connection.execute("INSERT INTO effect VALUES (%s, %s)", (current_job.id, str(os.getpid())))


registry = JobRegistry([transactional, in_thread, plain, paused])

WORKER = """
import asyncio, logging, sys
from datetime import timedelta
from tests.python.test_kills import Killer, registry

logging.basicConfig(level=logging.INFO)
registry.add_observer(Killer())
# One job at a time: no first attempt ends by the death of another.
runner = registry.runner(sys.argv[1], min_concurrency=1, max_concurrency=1, lease=timedelta(seconds=1))
asyncio.run(runner.run())
"""


def worker(database: Database) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WORKER, database.dsn], cwd=ROOT, stderr=subprocess.PIPE, text=True)


@pytest.mark.long
@pytest.mark.timeout(900 if IS_LONG else 170)
async def test_a_worker_killed_at_any_stage_loses_and_doubles_nothing(
    database: Database, session: Session, pool: Pool
) -> None:
    session.execute(LEDGER)
    each = 10 if IS_LONG else 1
    builders = [
        (in_thread if stage.startswith("in a thread") else transactional if stage in TRANSACTIONAL else plain, stage)
        for stage in TRANSACTIONAL + PLAIN
    ]
    for kind, stage in builders * each + [(transactional, "none")] * 10 * each:
        id = await kind.spawn(pool, stage)
        session.execute("INSERT INTO sent VALUES (%s, %s)", (id, stage))
    killed_at: list[str] = []
    while not is_empty(session)():
        child = worker(database)
        try:
            await until(lambda child=child: child.poll() is not None or is_empty(session)(), "it ends or is killed")  # type: ignore[misc]
        finally:
            child.kill()
            _, errors = child.communicate()
        assert child.returncode == -signal.SIGKILL, errors
        assert "Traceback" not in errors
        killed_at += [line.removeprefix("dies: ") for line in errors.splitlines() if line.startswith("dies: ")]
    done = dict(rows(session, "SELECT id, count(*) FROM effect GROUP BY id"))
    for id, stage in rows(session, "SELECT id, stage FROM sent"):
        times = done.pop(id, 0)
        assert times == 1 or (times > 1 and stage in PLAIN), f"{stage}: {times} times"
    assert not done
    assert sorted(killed_at) == sorted(stage for _, stage in builders * each)


@pytest.mark.long
@pytest.mark.timeout(600 if IS_LONG else 170)
async def test_runners_go_on_though_the_server_crashes() -> None:
    install_extension(debian_bindir())
    jobs, crashes = (20_000, 8) if IS_LONG else (1_600, 2)
    with cluster() as server:

        async def left() -> int:
            try:
                async with await psycopg.AsyncConnection.connect(server.dsn()) as session:
                    row = await (await session.execute("SELECT count(*) FROM mq_msgs")).fetchone()
            except psycopg.OperationalError:
                return jobs
            assert row is not None
            count: int = row[0]
            return count

        async def at_most(number: int) -> bool:
            return await left() <= number

        with psycopg.connect(server.dsn(), autocommit=True) as session:
            session.execute("CREATE EXTENSION sqlxmq; " + LEDGER)
            for kind, share in ((transactional, 2), (in_thread, 1), (plain, 1)):
                ids = spawn_many(session, [kind.prepare("none") for _ in range(jobs * share // 4)])
                session.execute("INSERT INTO sent SELECT unnest(%s::uuid[]), %s", (ids, kind.name))
        quiet = JobRegistry([transactional, in_thread, plain]).set_error_handler(lambda name, error: None)
        runners = [
            quiet.runner(server.dsn(), min_concurrency=8, max_concurrency=8, lease=timedelta(seconds=2))
            for _ in range(2)
        ]
        async with runners[0], runners[1]:
            for number in range(crashes):
                goal = jobs - jobs * (number + 1) // (crashes + 1)
                await until(lambda goal=goal: at_most(goal), f"{goal} jobs are left")  # type: ignore[misc]
                await asyncio.to_thread(server.restart, "immediate")
            await until(lambda: at_most(0), "no job is left", seconds=120)
        with psycopg.connect(server.dsn()) as session:
            ledger = {
                name: (count, least, most)
                for name, count, least, most in session.execute(
                    """
                    SELECT sent.stage, count(*), min(times), max(times)
                    FROM sent, LATERAL (SELECT count(*) AS times FROM effect WHERE effect.id = sent.id) AS done
                    GROUP BY 1
                    """
                )
            }
            strange = session.execute("SELECT count(*) FROM effect WHERE id NOT IN (SELECT id FROM sent)").fetchone()
            assert strange == (0,)
    assert ledger["transactional"] == (jobs // 2, 1, 1)
    assert ledger["in a thread"] == (jobs // 4, 1, 1)
    assert ledger["plain"][:2] == (jobs // 4, 1)


async def test_a_worker_paused_beyond_its_lease_is_too_late(database: Database, session: Session, pool: Pool) -> None:
    session.execute(LEDGER)
    session.execute("CREATE TABLE started (attempt integer, pid integer); CREATE TABLE may_end (pid integer)")
    await paused.spawn(pool)
    children = [worker(database)]
    try:
        await until(lambda: rows(session, "SELECT attempt FROM started") == [(1,)], "the first worker has it")
        children[0].send_signal(signal.SIGSTOP)
        children.append(worker(database))
        await until(lambda: len(rows(session, "SELECT FROM started")) == 2, "the second worker has it, too")
        session.execute("INSERT INTO may_end VALUES (%s)", (children[0].pid,))
        children[0].send_signal(signal.SIGCONT)
        await until(lambda: told_late(children[0]), "the first worker is told")
        assert rows(session, "SELECT * FROM effect") == []
        session.execute("INSERT INTO may_end VALUES (%s)", (children[1].pid,))
        await until(is_empty(session), "the second worker did it")
    finally:
        for child in children:
            child.send_signal(signal.SIGCONT)
            child.kill()
            child.communicate()
    assert rows(session, "SELECT stage FROM effect") == [(str(children[1].pid),)]


def told_late(child: subprocess.Popen[str]) -> bool:
    assert child.stderr is not None
    while line := child.stderr.readline():
        if "lease lost" in line or "LeaseLost" in line or "not held at attempt" in line:
            return True
    raise AssertionError("the worker has ended without a word")
