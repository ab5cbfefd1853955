"""What this project's SQL and an empty loop of asyncio allow: the floors under the runner's time.

python -m bench.peers.sqlxmq_sql turns|side-by-side|loop ARGUMENTS, the arguments as JSON; prints a line
of JSON with the jobs and the seconds that they took.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import timedelta
from queue import SimpleQueue
from threading import Thread
from typing import Any

import psycopg

from bench.peers.progress import tell

# As the runner asks for them, which parses the payloads, too.
POLL = """
    SELECT id, name, payload_json, payload_bytes, attempt, attempts_allowed, channel_name, channel_args, headers
    FROM mq_poll(NULL, %s, %s, 'bench')
"""
COMPLETE = "SELECT mq_complete(%s::uuid[], %s::integer[])"
LEASE = timedelta(seconds=30)
Batch = tuple[list[Any], list[int]]


def poll(session: psycopg.Connection[Any], size: int) -> Batch:
    """Claims up to so many jobs: their ids and attempts."""
    rows = session.execute(POLL, (size, LEASE), prepare=True).fetchall()
    return [row[0] for row in rows if row[0] is not None], [row[4] for row in rows if row[0] is not None]


def complete(session: psycopg.Connection[Any], batch: Batch) -> None:
    """Completes a batch."""
    session.execute(COMPLETE, batch, prepare=True)


def turns(dsn: str, size: int) -> int:
    """One session polls and completes in turn."""
    jobs = 0
    with psycopg.connect(dsn, autocommit=True) as session:
        while (batch := poll(session, size))[0]:
            complete(session, batch)
            jobs += len(batch[0])
    return jobs


def side_by_side(dsn: str, size: int) -> int:
    """One session polls while another completes, each in a thread."""
    polled: SimpleQueue[Batch | None] = SimpleQueue()

    def complete_all() -> None:
        with psycopg.connect(dsn, autocommit=True) as session:
            while batch := polled.get():
                complete(session, batch)

    thread = Thread(target=complete_all)
    thread.start()
    jobs = 0
    try:
        with psycopg.connect(dsn, autocommit=True) as session:
            while (batch := poll(session, size))[0]:
                polled.put(batch)
                jobs += len(batch[0])
    finally:
        polled.put(None)
        thread.join()
    return jobs


async def noop() -> None:
    """Nothing."""


async def loop(jobs: int, size: int) -> int:
    """A task for each job, that awaits a coroutine which does nothing."""

    async def run() -> None:
        await noop()

    for start in range(0, jobs, size):
        await asyncio.wait([asyncio.create_task(run()) for _ in range(min(size, jobs - start))])
    return jobs


def main() -> None:
    """Does what the command line says."""
    what, given = sys.argv[1:]
    arguments = json.loads(given)
    begin = time.perf_counter()
    if what == "loop":
        jobs = asyncio.run(loop(arguments["jobs"], arguments["batch"]))
    else:
        jobs = {"turns": turns, "side-by-side": side_by_side}[what](arguments["dsn"], arguments["batch"])
    tell("done", jobs=jobs, seconds=time.perf_counter() - begin)


if __name__ == "__main__":
    main()
