"""Oban for Python, as its command line runs it: uvloop, and orjson for psycopg."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
from oban import Oban, worker
from oban._query import Query
from oban.schema import install
from psycopg.types.json import set_json_dumps, set_json_loads
from psycopg_pool import AsyncConnectionPool

from bench.peers.peer import SQL_PAYLOAD, Connection, PythonPeer, Send, SendMany, Variant, one, payload
from bench.peers.progress import note_first_call, progress


class Noop:
    """The job."""

    async def process(self, job: Any) -> None:
        """What Oban calls."""
        progress.start(job.args["number"])


worker()(Noop)


class ObanPeer(PythonPeer):
    """A queue for each key, each with its own producer. Partitions of a queue are part of Oban Pro."""

    packages = ("oban", "psycopg", "psycopg-pool", "uvloop")
    key = "queue"

    @asynccontextmanager
    async def pool(self) -> AsyncIterator[AsyncConnectionPool[Any]]:
        """A pool as Oban.create_pool makes it."""
        set_json_dumps(orjson.dumps)
        set_json_loads(orjson.loads)
        pool = await Oban.create_pool(self.dsn, max_size=self.settings["pool"])
        try:
            yield pool
        finally:
            await pool.close()

    async def install(self, keys: int) -> None:
        """By its own function."""
        async with self.pool() as pool:
            await install(pool)

    def seed(self, session: Connection, first: int, jobs: int, keys: int, *, later: bool) -> None:
        """INSERT … SELECT of what its own insert, which takes a statement for each job, sets."""
        session.execute(
            f"""
            INSERT INTO oban_jobs (args, queue, worker, state, scheduled_at)
            SELECT {SQL_PAYLOAD}::jsonb, 'queue' || number %% %(keys)s, %(worker)s,
                   CASE WHEN %(later)s = 1 THEN 'scheduled' ELSE 'available' END::oban_job_state,
                   timezone('UTC', now()) + make_interval(days => 7 * %(later)s)
            FROM generate_series(%(first)s::int, %(end)s::int - 1) AS number
            """.encode(),
            {"keys": keys, "worker": f"{__name__}.Noop", "later": int(later), "first": first, "end": first + jobs},
        )

    def unfinished(self, session: Connection) -> int:
        """By state, which an index begins with."""
        return one(session, "SELECT count(*) FROM oban_jobs WHERE state IN ('available', 'executing', 'retryable')")

    def completed(self, session: Connection, seeded: int) -> int:
        """Completed jobs are kept: for a day, unless told otherwise."""
        return one(session, "SELECT count(*) FROM oban_jobs WHERE state = 'completed'")

    async def work(self, keys: int) -> None:
        """An embedded instance with a queue for each key."""
        note_first_call(Query, "fetch_jobs")
        queue = {"limit": self.settings["limit"], "debounce_interval": self.settings["debounce_interval"]}
        async with self.pool() as pool, Oban(pool=pool, queues={f"queue{key}": queue for key in range(keys)}):
            progress.claiming()  # an idle producer waits for a notification first
            await asyncio.Event().wait()

    @asynccontextmanager
    async def sender(self, keys: int) -> AsyncIterator[Send]:
        """Oban.enqueue, of an instance without queues."""
        async with self.pool() as pool, Oban(pool=pool) as oban:

            async def send(number: int) -> None:
                await oban.enqueue(Noop.new(payload(number), queue=f"queue{number % keys}"))  # type: ignore[attr-defined]

            yield send

    @asynccontextmanager
    async def bulk_sender(self, keys: int) -> AsyncIterator[SendMany]:
        """Oban.enqueue_many."""
        async with self.pool() as pool, Oban(pool=pool) as oban:

            async def send_many(numbers: Sequence[int]) -> None:
                new = Noop.new  # type: ignore[attr-defined]
                await oban.enqueue_many([new(payload(number), queue=f"queue{number % keys}") for number in numbers])

            yield send_many


PEER = ObanPeer

# The limit is that of each queue, and of each fetch. From 100 on nothing is gained, and 500 or more lose:
# completions are one statement each, in one transaction. Fewer connections than producers cost, more than
# its default of ten gain little, whatever the interval in which completions are gathered.
VARIANTS = {
    "oban": Variant(
        {"limit": 100, "pool": 10, "debounce_interval": 0.005, "uvloop": True},
        [
            {"limit": 10},
            {"limit": 20},
            {"limit": 50},
            {"limit": 200},
            {"limit": 500},
            {"limit": 1000},
            {"pool": 4},
            {"pool": 20},
            {"debounce_interval": 0.001},
            {"debounce_interval": 0.05},
            {"uvloop": False},
        ],
    )
}
