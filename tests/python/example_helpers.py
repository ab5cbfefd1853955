"""What the examples of several pages use: their hidden blocks begin with `from example_helpers import …`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from sqlxmq import JobRegistry

DSN = ""  # wherever PGHOST, PGDATABASE … point

# What is due, or soon will be.
LEFT = """SELECT count(*) FROM mq_jobs
          WHERE state IN ('ready', 'running') OR state = 'scheduled' AND due_at < now() + interval '10 s'"""


def rows(query: str) -> list[tuple[Any, ...]]:
    """What a query returns; what it writes is committed."""
    with psycopg.connect(DSN, autocommit=True) as connection:
        cursor = connection.execute(query)
        return cursor.fetchall() if cursor.description else []


async def work(*jobs: Any, **options: Any) -> None:
    """A worker that runs these jobs until none is due, or soon will be."""
    async with (
        await psycopg.AsyncConnection.connect(DSN, autocommit=True) as watcher,
        JobRegistry(jobs).runner(DSN, **options),
    ):
        while await (await watcher.execute(LEFT)).fetchone() != (0,):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def mails() -> list[tuple[str, str]]:
    """What was sent since the last call, in a table that pages name mail."""
    return sorted(rows("DELETE FROM mail RETURNING recipient, subject"))


def wait_until_empty(worker: subprocess.Popen[str], query: str = "SELECT count(*) FROM mq_jobs") -> None:
    """Waits until a worker has left nothing of what the query counts."""
    deadline = time.monotonic() + 60
    while rows(query) != [(0,)]:
        assert worker.poll() is None
        assert time.monotonic() < deadline, rows("SELECT name, state, last_error FROM mq_jobs")
        time.sleep(0.02)


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A worker, started by a Python program; it is stopped by SIGTERM on leaving, and has to end well."""
    worker = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    try:
        yield worker
        worker.terminate()
        assert worker.wait(timeout=30) == 0
    finally:
        worker.kill()
        worker.communicate()


def run_until_empty(*command: str) -> str:
    """Runs a worker until the queue is empty, and returns what it printed."""
    with running(*command) as worker:
        wait_until_empty(worker)
        worker.terminate()
        printed, _ = worker.communicate(timeout=30)
    return printed
