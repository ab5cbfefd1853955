"""PgQueuer, as its guide to performance has it: asyncpg, uvloop, its own autovacuum settings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
from pgqueuer import AsyncpgDriver, Job, PgQueuer, Queries
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment
from pgqueuer.domain.settings import DBSettings, Durability

from bench.peers.peer import PAYLOAD_BYTES, Connection, PythonPeer, Send, SendMany, Variant, asyncpg_arguments, one
from bench.peers.progress import note_first_call, progress


async def noop(job: Job) -> None:
    """The job. Its payload is bytes: the number, right-justified, saves it the parsing of JSON."""
    progress.start(int(job.payload))


class PgQueuerPeer(PythonPeer):
    """One worker process with as many queue managers as the settings say, each with its own connection."""

    packages = ("pgqueuer", "asyncpg", "uvloop")
    key = "entrypoint"

    async def connect(self) -> asyncpg.Connection:
        """A connection of asyncpg's."""
        return await asyncpg.connect(**asyncpg_arguments(self.dsn))

    async def install(self, keys: int) -> None:
        """As `pgq install` and `pgq autovac` do."""
        session = await self.connect()
        settings = DBSettings(durability=Durability(self.settings["durability"]))
        queries = Queries(AsyncpgDriver(session), qbe=QueryBuilderEnvironment(settings))
        await queries.install()
        await queries.optimize_autovacuum()
        await session.close()

    def seed(self, session: Connection, first: int, jobs: int, keys: int, *, later: bool) -> None:
        """INSERT … SELECT into the queue and its log, as its own enqueue does for many jobs."""
        session.execute(
            b"""
            WITH inserted AS (
                INSERT INTO pgqueuer (priority, entrypoint, payload, execute_after, headers, status)
                SELECT 0, 'entrypoint' || number %% %(keys)s, convert_to(lpad(number::text, %(bytes)s), 'UTF8'),
                       now() + make_interval(days => 7 * %(later)s), 'null', 'queued'
                FROM generate_series(%(first)s::int, %(end)s::int - 1) AS number
                RETURNING id, entrypoint, priority
            )
            INSERT INTO pgqueuer_log (job_id, status, entrypoint, priority)
            SELECT id, 'queued', entrypoint, priority FROM inserted
            """,
            {"keys": keys, "bytes": PAYLOAD_BYTES, "later": int(later), "first": first, "end": first + jobs},
        )

    def unfinished(self, session: Connection) -> int:
        """A job that is done has gone from the queue into the log."""
        return one(session, "SELECT count(*) FROM pgqueuer WHERE execute_after <= now()")

    def completed(self, session: Connection, seeded: int) -> int:
        """The log's entries."""
        return one(session, "SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'")

    async def work(self, keys: int) -> None:
        """PgQueuer.run, of each manager."""
        note_first_call(Queries, "dequeue")
        managers = [PgQueuer(AsyncpgDriver(await self.connect())) for _ in range(self.settings["managers"])]
        for manager in managers:
            for key in range(keys):
                manager.entrypoint(f"entrypoint{key}")(noop)
        await asyncio.gather(*(manager.run(batch_size=self.settings["batch_size"]) for manager in managers))

    @asynccontextmanager
    async def sender(self, keys: int) -> AsyncIterator[Send]:
        """Queries.enqueue."""
        queries = Queries(AsyncpgDriver(await self.connect()))

        async def send(number: int) -> None:
            await queries.enqueue(f"entrypoint{number % keys}", str(number).rjust(PAYLOAD_BYTES).encode())

        yield send

    @asynccontextmanager
    async def bulk_sender(self, keys: int) -> AsyncIterator[SendMany]:
        """Queries.enqueue, of lists."""
        queries = Queries(AsyncpgDriver(await self.connect()))

        async def send_many(numbers: Sequence[int]) -> None:
            entrypoints = [f"entrypoint{number % keys}" for number in numbers]
            payloads: list[bytes | None] = [str(number).rjust(PAYLOAD_BYTES).encode() for number in numbers]
            await queries.enqueue(entrypoints, payloads, [0] * len(numbers))

        yield send_many


PEER = PgQueuerPeer

# Plain: as it comes, with the event loop of its command line. Batches: its guide to performance has short
# jobs fetched in larger batches, completions go in batches of the same size; its own benchmark runs several
# managers in a process: two overlap claims and completions, more gain nothing. 500 are as good as 1,000
# over ten entrypoints, but not over 2,000. "balanced" logs the queue, but not the log of what has become
# of jobs, which this project does not keep at all.
VARIANTS = {
    "pgqueuer": Variant({"batch_size": 10, "managers": 1, "durability": "durable", "uvloop": True}),
    "pgqueuer-batch": Variant(
        {"batch_size": 1000, "managers": 2, "durability": "balanced", "uvloop": True},
        [
            {"batch_size": 100},
            {"batch_size": 500},
            {"batch_size": 2000},
            {"batch_size": 10, "managers": 5},
            {"batch_size": 100, "managers": 5},
            {"managers": 1},
            {"managers": 3},
            {"durability": "durable"},
            {"uvloop": False},
        ],
    ),
}
