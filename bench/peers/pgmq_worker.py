"""PGMQ: functions in SQL, and a client in Python; a worker is whatever loop a program has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import psycopg
from pgmq import get_embedded_install_sql
from pgmq.async_queue import PGMQueue

from bench.peers.peer import (
    SQL_PAYLOAD,
    Connection,
    PythonPeer,
    Send,
    SendMany,
    Variant,
    asyncpg_arguments,
    one,
    payload,
)
from bench.peers.progress import note_first_call, progress

# A message that is read is out of sight for so many seconds.
OUT_OF_SIGHT = 30


class PgmqPeer(PythonPeer):
    """Loops that read a batch of each queue in turn, and delete it."""

    packages = ("pgmq", "asyncpg")
    key = "queue"

    @asynccontextmanager
    async def queue(self, connections: int) -> AsyncIterator[PGMQueue]:
        """Its asynchronous client."""
        sizes = {"min_size": connections, "max_size": connections}
        async with asyncpg.create_pool(**asyncpg_arguments(self.dsn), **sizes) as pool:
            queue = PGMQueue(pool=pool, init_extension=False)
            await queue.init()
            yield queue

    async def install(self, keys: int) -> None:
        """The SQL that the client brings along, and the queues."""
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as session:
            await session.execute(get_embedded_install_sql().encode())
            for key in range(keys):
                await session.execute("SELECT pgmq.create(%s)", (f"queue{key}",))

    def seed(self, session: Connection, first: int, jobs: int, keys: int, *, later: bool) -> None:
        """send_batch, a queue at a time."""
        session.execute(
            f"""
            SELECT pgmq.send_batch('queue' || key,
                                   ARRAY(SELECT {SQL_PAYLOAD}::jsonb
                                         FROM generate_series(%(first)s::int, %(end)s::int - 1) AS number
                                         WHERE number %% %(keys)s = key), %(delay)s::integer)
            FROM generate_series(0, %(keys)s::int - 1) AS key
            """.encode(),
            {"first": first, "end": first + jobs, "keys": keys, "delay": 7 * 86_400 * later},
        )

    def unfinished(self, session: Connection) -> int:
        """What is in sight, or will be before the messages of next week."""
        names = [row[0] for row in session.execute("SELECT queue_name FROM pgmq.meta")]
        counts = [f"SELECT count(*) FROM pgmq.q_{name} WHERE vt < now() + interval '1 day'" for name in names]
        return one(session, f"SELECT sum(count) FROM ({' UNION ALL '.join(counts)}) AS queues")

    def completed(self, session: Connection, seeded: int) -> int:
        """What is not there any more has been deleted."""
        return seeded - self.unfinished(session)

    async def work(self, keys: int) -> None:
        """Reads, and deletes what was read."""
        note_first_call(PGMQueue, "read_batch")
        loops = self.settings["loops"]
        async with self.queue(loops) as queue:

            async def loop(names: Sequence[str]) -> None:
                while True:
                    is_idle = True
                    for name in names:
                        messages = await queue.read_batch(name, OUT_OF_SIGHT, self.settings["batch_size"])
                        for message in messages:
                            progress.start(message.message["number"])
                        if messages:
                            is_idle = False
                            await queue.delete_batch(name, [message.msg_id for message in messages])
                    if is_idle:
                        await asyncio.sleep(self.settings["pause"])

            names = [f"queue{key}" for key in range(keys)]
            await asyncio.gather(*(loop(names[number::loops]) for number in range(loops)))

    @asynccontextmanager
    async def sender(self, keys: int) -> AsyncIterator[Send]:
        """send."""
        async with self.queue(1) as queue:

            async def send(number: int) -> None:
                await queue.send(f"queue{number % keys}", payload(number))

            yield send

    @asynccontextmanager
    async def bulk_sender(self, keys: int) -> AsyncIterator[SendMany]:
        """send_batch, whose messages are those of one queue: each call goes to the next."""
        async with self.queue(1) as queue:

            async def send_many(numbers: Sequence[int]) -> None:
                await queue.send_batch(f"queue{numbers[0] // len(numbers) % keys}", [*map(payload, numbers)])

            yield send_many


PEER = PgmqPeer
# There is no worker to have settings: these are the loop's. It has no retries, backoff or concurrency either, and
# nothing wakes it: the pause between rounds that found nothing is what its latency comes from. Large batches and a
# few loops that overlap are what counts.
VARIANTS = {
    "pgmq": Variant(
        {"batch_size": 2000, "loops": 3, "pause": 0.05, "uvloop": True},
        [{"batch_size": 500}, {"batch_size": 1000}, {"loops": 1}, {"loops": 2}, {"loops": 4}, {"uvloop": False}],
    )
}
