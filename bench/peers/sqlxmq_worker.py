"""This project's own runner."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypedDict

import psycopg
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from bench.peers.peer import SQL_PAYLOAD, Connection, PythonPeer, Send, SendMany, Variant, one, payload
from bench.peers.progress import progress, tell
from sqlxmq import Batch, JobRegistry, job

# The ids of jobs that are due are below this one, those of jobs for next week are not.
FIRST_LATER = "00000001-0000-7000-8000-000000000000"


@job("noop")
async def noop(number: int, padding: str) -> None:
    """A job that takes one at a time."""
    progress.start(number)


class Payload(TypedDict):
    """What each job carries."""

    number: int
    padding: str


@job("noop", batch=1000)
async def noop_batch(batch: Batch[Payload]) -> None:
    """A job that takes as many as there are."""
    for item in batch:
        progress.start(item.payload["number"])


class SqlxmqPeer(PythonPeer):
    """Jobs go by mq_insert and mq_enqueue; the registry holds the handler that the settings name."""

    packages = ("sqlxmq", "psycopg", "psycopg-pool")
    key = "channel arguments"

    async def install(self, keys: int) -> None:
        """CREATE EXTENSION: the server's directory has its files."""
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as session:
            await session.execute("CREATE EXTENSION sqlxmq")

    def seed(self, session: Connection, first: int, jobs: int, keys: int, *, later: bool) -> None:
        """mq_insert, 5,000 jobs a call, with ascending ids, as those are that the extension makes itself."""
        for start in range(first, first + jobs, 5_000):
            session.execute(
                f"""
                SELECT mq_insert(array_agg((('0000000' || %(later)s || '-0000-7000-8000-'
                                             || lpad(to_hex(number), 12, '0'))::uuid,
                                            make_interval(days => 7 * %(later)s), 4, '1 second', 'bench',
                                            (number %% %(keys)s)::text, NULL, false, 'noop', {SQL_PAYLOAD},
                                            NULL)::mq_new_t))
                FROM generate_series(%(start)s::int, %(end)s::int - 1) AS number
                """.encode(),
                {"later": int(later), "keys": keys, "start": start, "end": min(start + 5_000, first + jobs)},
            )

    def unfinished(self, session: Connection) -> int:
        """A job that is done is gone."""
        return one(session, "SELECT count(*) FROM mq_msgs WHERE id < %s", FIRST_LATER)

    def completed(self, session: Connection, seeded: int) -> int:
        """What is neither there nor dead has been completed; a dead job would still be there."""
        return seeded - self.unfinished(session)

    async def work(self, keys: int) -> None:
        """The runner as in the README. Its first claim is taken to begin before it connects."""
        size = 2  # for the jobs, which want none: the runner makes its own connections
        async with AsyncConnectionPool(self.dsn, min_size=1, max_size=size, open=False) as pool:
            runner = JobRegistry([noop_batch if self.settings["is_batch"] else noop]).runner(
                pool,
                min_concurrency=self.settings["min_concurrency"],
                max_concurrency=self.settings["max_concurrency"],
            )
            progress.claiming()
            async with runner:
                await asyncio.Event().wait()

    async def work_elsewhere(self) -> None:
        """A runner that listens and has polled, on a channel name of which there are no jobs."""
        async with JobRegistry([noop]).runner(self.dsn, channel_names=["elsewhere"]):
            async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as session:
                while True:
                    cursor = await session.execute(
                        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle'"
                        " AND (query LIKE 'LISTEN%' OR query LIKE 'NOTIFY%')"
                    )
                    if await cursor.fetchone() is not None:
                        break
                    await asyncio.sleep(0.05)
            tell("listening")
            await asyncio.Event().wait()

    @asynccontextmanager
    async def sender(self, keys: int) -> AsyncIterator[Send]:
        """mq_enqueue in a transaction of its own."""
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as session:

            async def send(number: int) -> None:
                await session.execute(
                    "SELECT mq_enqueue('noop', %s, channel_name => 'bench', channel_args => %s)",
                    (Jsonb(payload(number)), str(number % keys)),
                    prepare=True,
                )

            yield send

    @asynccontextmanager
    async def bulk_sender(self, keys: int) -> AsyncIterator[SendMany]:
        """mq_enqueue_many, whose payloads are text."""
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as session:

            async def send_many(numbers: Sequence[int]) -> None:
                size = len(numbers)
                await session.execute(
                    "SELECT mq_enqueue_many(%s::text[], %s::text[], channel_names => %s::text[],"
                    " channel_args => %s::text[])",
                    (
                        ["noop"] * size,
                        [json.dumps(payload(number)) for number in numbers],
                        ["bench"] * size,
                        [str(number % keys) for number in numbers],
                    ),
                    prepare=True,
                )

            yield send_many


PEER = SqlxmqPeer

# A poll takes what is missing to the maximum: larger batches cost less a job, and above 1,000 nothing is
# gained. uvloop gains nothing either.
VARIANTS = {
    "sqlxmq": Variant(
        {"min_concurrency": 500, "max_concurrency": 1000, "is_batch": False},
        [
            {"min_concurrency": 16, "max_concurrency": 32},
            {"min_concurrency": 100, "max_concurrency": 200},
            {"min_concurrency": 1000, "max_concurrency": 2000},
            {"uvloop": True},
        ],
    ),
    "sqlxmq-batch": Variant(
        {"min_concurrency": 500, "max_concurrency": 1000, "is_batch": True},
        [{"min_concurrency": 1000, "max_concurrency": 2000}, {"uvloop": True}],
    ),
}
