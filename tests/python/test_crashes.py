"""Crashes: workers killed and servers that go down, with a ledger of what was sent and what was done."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg
import psycopg_pool

from sqlxmq import CurrentJob, JobRegistry, job
from tests.python.conftest import ROOT, Database, until
from tools.cluster import cluster, debian_bindir, install_extension


def test_the_demonstration(tmp_path: Path, database: Database) -> None:
    for number in range(60):
        (tmp_path / f"file {number}.txt").write_text(f"words of file {number}\n" * number)
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, ROOT / "examples" / "demo.py", tmp_path],
            env={**os.environ, "DATABASE_URL": database.dsn, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        figures = dict(line.rsplit(maxsplit=1) for line in done.stdout.splitlines() if line[-1:].isdigit())
        assert figures["jobs sent"] == figures["rows"] == "60", done.stdout
        assert figures["missing"] == figures["doubled"] == figures["wrong"] == "0", done.stdout
        assert "Every file was indexed exactly once." in done.stdout


def claim_and_work(dsn: str, stop: threading.Event, late: list[int]) -> None:
    """A worker without any care: short leases, no keep-alive; effects and completion in one transaction."""
    while not stop.is_set():
        try:
            with psycopg.connect(dsn, autocommit=True) as session:
                while not stop.is_set():
                    rows = session.execute("SELECT id, attempt FROM mq_poll(NULL, 5, '0.02 seconds')").fetchall()
                    for id, attempt in rows:
                        if id is None:
                            continue
                        try:
                            with session.transaction():
                                session.execute("INSERT INTO effect VALUES (%s)", (id,))
                                session.execute("SELECT mq_complete(%s, %s)", (id, attempt))
                        except psycopg.Error as error:
                            if error.sqlstate != "MQ001":
                                raise
                            late.append(1)
        except psycopg.OperationalError:
            stop.wait(0.05)


def test_effects_happen_once_though_leases_are_lost_and_the_server_crashes() -> None:
    install_extension(debian_bindir())
    with cluster() as server:
        with psycopg.connect(server.dsn(), autocommit=True) as session:
            session.execute("CREATE EXTENSION sqlxmq; CREATE TABLE effect (id uuid); CREATE TABLE sent (id uuid)")
            session.execute(
                """
                INSERT INTO sent
                SELECT mq_enqueue('x', channel_args => (n % 9)::text, ordered => n % 4 = 0,
                                  retries => 1000000, retry_backoff => '0 s')
                FROM generate_series(1, 3000) AS n
                """
            )
        stop = threading.Event()
        late: list[int] = []
        workers = [threading.Thread(target=claim_and_work, args=(server.dsn(), stop, late)) for _ in range(6)]
        for worker in workers:
            worker.start()
        try:
            for left in (2000, 1000):
                asyncio.run(until(lambda left=left: waiting(server.dsn()) <= left, f"{left} jobs left"))  # type: ignore[misc]
                server.restart("immediate")
            asyncio.run(until(lambda: waiting(server.dsn()) == 0, "no job is left", seconds=120))
        finally:
            stop.set()
            for worker in workers:
                worker.join()
        with psycopg.connect(server.dsn()) as session:
            ledger = session.execute(
                """
                SELECT (SELECT count(*) FROM sent),
                       (SELECT count(*) FROM effect),
                       (SELECT count(*) FROM sent WHERE id NOT IN (SELECT id FROM effect)),
                       (SELECT count(*) FROM (SELECT FROM effect GROUP BY id HAVING count(*) > 1) AS doubled)
                """
            ).fetchone()
        assert ledger == (3000, 3000, 0, 0)


def waiting(dsn: str) -> int:
    """How many jobs are in the queue."""
    with psycopg.connect(dsn) as session:
        row = session.execute("SELECT count(*) FROM mq_msgs").fetchone()
    assert row is not None
    count: int = row[0]
    return count


WORKER = """
import asyncio, logging, sys
from psycopg_pool import AsyncConnectionPool
from tests.python.test_crashes import registry

logging.basicConfig(level=logging.INFO)

async def main():
    async with AsyncConnectionPool(sys.argv[1], min_size=1, open=False) as pool:
        await registry.runner(pool, worker="child").run()

asyncio.run(main())
"""


@job("wait", backoff_secs=1000)
async def wait(current_job: CurrentJob) -> None:
    async with current_job.pool.connection() as connection:
        await connection.execute("INSERT INTO started VALUES (%s)", (current_job.id,))
    while True:
        async with current_job.pool.connection() as connection:
            row = await (await connection.execute("SELECT count(*) FROM may_end")).fetchone()
        if row is not None and row[0]:
            return
        await asyncio.sleep(0.01)


registry = JobRegistry([wait])


async def test_sigterm_lets_jobs_finish_and_a_second_one_gives_them_back(
    database: Database, session: psycopg.Connection[Any], pool: psycopg_pool.AsyncConnectionPool[Any]
) -> None:
    session.execute("CREATE TABLE started (id uuid); CREATE TABLE may_end (so boolean)")

    def count(table: str) -> int:
        row = session.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
        assert row is not None
        number: int = row[0]
        return number

    for signals in (1, 2):
        await wait.spawn(pool)
        child = subprocess.Popen(
            [sys.executable, "-c", WORKER, database.dsn], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        assert child.stderr is not None
        try:
            await until(lambda: count("started") == 1, "the job has started")
            child.send_signal(signal.SIGTERM)
            while "stopping; a second signal gives unfinished jobs back" not in (line := child.stderr.readline()):
                assert line, "the worker has ended without a word"
            if signals == 1:
                session.execute("INSERT INTO may_end VALUES (true)")
            else:
                child.send_signal(signal.SIGTERM)
            await until(lambda child=child: child.poll() is not None, "the worker has ended")  # type: ignore[misc]
            assert child.returncode == 0
        finally:
            child.kill()
            child.communicate()
        left = session.execute("SELECT state, attempts_left FROM mq_jobs").fetchall()
        assert left == ([] if signals == 1 else [("ready", 5)])
        session.execute("SELECT mq_clear_all(); DELETE FROM started; DELETE FROM may_end")
