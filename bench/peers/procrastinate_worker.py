"""procrastinate: one job a statement, as many at a time as `concurrency` says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from procrastinate import App, PsycopgConnector
from procrastinate.manager import JobManager

from bench.peers.peer import SQL_PAYLOAD, Connection, PythonPeer, Send, SendMany, Variant, one, payload
from bench.peers.progress import note_first_call, progress

NOTIFY_TRIGGER = "procrastinate_jobs_notify_queue_job_inserted_v1"


async def noop(number: int, padding: str) -> None:
    """The job."""
    progress.start(number)


class ProcrastinatePeer(PythonPeer):
    """A worker of every queue."""

    packages = ("procrastinate", "psycopg", "psycopg-pool")
    key = "queue"

    def app(self) -> App:
        """The application, with its one task."""
        size = self.settings["pool"]
        app = App(connector=PsycopgConnector(conninfo=self.dsn, min_size=size, max_size=size))
        app.task(name="noop")(noop)
        return app

    async def install(self, keys: int) -> None:
        """By its own schema manager."""
        async with self.app().open_async() as app:
            await app.schema_manager.apply_schema_async()

    def seed(self, session: Connection, first: int, jobs: int, keys: int, *, later: bool) -> None:
        """INSERT … SELECT, with the triggers that record events; without the one that notifies, since
        nobody listens."""
        with session.transaction():
            session.execute(f"ALTER TABLE procrastinate_jobs DISABLE TRIGGER {NOTIFY_TRIGGER}".encode())
            session.execute(
                f"""
                INSERT INTO procrastinate_jobs (queue_name, task_name, args, scheduled_at)
                SELECT 'queue' || number %% %s, 'noop', {SQL_PAYLOAD}::jsonb,
                       CASE WHEN %s THEN now() + interval '7 days' END
                FROM generate_series(%s::int, %s::int - 1) AS number
                """.encode(),
                (keys, later, first, first + jobs),
            )
            session.execute(f"ALTER TABLE procrastinate_jobs ENABLE TRIGGER {NOTIFY_TRIGGER}".encode())

    def unfinished(self, session: Connection) -> int:
        """Jobs that are done are kept, or not, as the settings say."""
        return one(
            session,
            "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing') AND scheduled_at IS NULL",
        )

    def completed(self, session: Connection, seeded: int) -> int:
        """Rows with the status "succeeded"; those that the worker deletes are the ones that did."""
        if self.settings["delete_jobs"] == "never":
            return one(session, "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'")
        return seeded - one(session, "SELECT count(*) FROM procrastinate_jobs WHERE scheduled_at IS NULL")

    async def work(self, keys: int) -> None:
        """App.run_worker_async."""
        note_first_call(JobManager, "fetch_job")
        async with self.app().open_async() as app:
            await app.run_worker_async(
                concurrency=self.settings["concurrency"],
                delete_jobs=self.settings["delete_jobs"],
                install_signal_handlers=False,
            )

    @asynccontextmanager
    async def sender(self, keys: int) -> AsyncIterator[Send]:
        """configure(queue=…).defer_async(…)."""
        async with self.app().open_async() as app:

            async def send(number: int) -> None:
                await app.configure_task("noop", queue=f"queue{number % keys}").defer_async(**payload(number))

            yield send

    @asynccontextmanager
    async def bulk_sender(self, keys: int) -> AsyncIterator[SendMany]:
        """batch_defer_async, whose jobs are those of one queue: each call goes to the next."""
        async with self.app().open_async() as app:

            async def send_many(numbers: Sequence[int]) -> None:
                queue = f"queue{numbers[0] // len(numbers) % keys}"
                await app.configure_task("noop", queue=queue).batch_defer_async(*map(payload, numbers))

            yield send_many


PEER = ProcrastinatePeer

# Its documentation knows the concurrency as the way to more throughput. It matters little here, since jobs
# are fetched one after the other; so does the size of the pool, whose connections are checked each time.
# To delete what has succeeded, documented too, keeps the table small, which gains most.
VARIANTS = {
    "procrastinate": Variant(
        {"concurrency": 30, "pool": 4, "delete_jobs": "successful"},
        [
            {"concurrency": 1},
            {"concurrency": 10},
            {"concurrency": 100},
            {"pool": 10},
            {"concurrency": 100, "pool": 30},
            {"delete_jobs": "never"},
            {"uvloop": True},
        ],
    )
}
