"""chancy: its asyncio executor, eager polling, and completions written in batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone

from chancy import Chancy, Job, Queue, Worker
from chancy.utils import chancy_uuid
from psycopg.types.json import Jsonb

from bench.peers.peer import Connection, Peer, Send, Variant, one, payload
from bench.peers.progress import note_first_call, progress


async def noop(number: int, padding: str) -> None:
    """The job."""
    progress.start(number)


class ChancyPeer(Peer):
    """A queue for each key, each with its own executor."""

    packages = ("chancy", "psycopg", "psycopg-pool")
    key = "queue"
    tables = ("chancy_jobs",)

    def app(self) -> Chancy:
        """The application. Its default logger would print a line for each job."""
        return Chancy(
            self.dsn,
            max_connection_pool_size=self.settings["pool"],
            no_default_plugins=not self.settings["plugins"],
            log=logging.getLogger("chancy"),
        )

    async def install(self, keys: int) -> None:
        """Its own migrations, and its own declaration of each queue; the worker adds "default" itself,
        with a pool of processes, unless it is there."""
        async with self.app() as app:
            await app.migrate()
            for name in ("default", *(f"queue{key}" for key in range(keys))):
                await app.declare(
                    Queue(
                        name,
                        concurrency=self.settings["concurrency"],
                        executor=Chancy.Executor.Async,
                        polling_interval=self.settings["polling_interval"],
                        eager_polling=True,
                    )
                )

    def seed(self, session: Connection, first: int, jobs: int, keys: int, *, later: bool) -> None:
        """COPY, with ids of its own kind."""
        due = datetime.now(timezone.utc) + timedelta(days=7 * later)
        with (
            session.cursor() as cursor,
            cursor.copy("COPY chancy_jobs (id, queue, func, kwargs, scheduled_at) FROM STDIN") as copy,
        ):
            for number in range(first, first + jobs):
                arguments = Jsonb(payload(number))
                copy.write_row((chancy_uuid(), f"queue{number % keys}", f"{__name__}.noop", arguments, due))

    def unfinished(self, session: Connection) -> int:
        """By state."""
        return one(
            session,
            """
            SELECT count(*) FROM chancy_jobs
            WHERE state IN ('pending', 'running', 'retrying') AND scheduled_at <= now()
            """,
        )

    def completed(self, session: Connection, seeded: int) -> int:
        """Completed jobs are kept: for a day, unless told otherwise."""
        return one(session, "SELECT count(*) FROM chancy_jobs WHERE state = 'succeeded'")

    async def work(self, keys: int) -> None:
        """A worker; how often it writes completions is an attribute that its documentation names."""
        note_first_call(Worker, "fetch_jobs")
        async with self.app() as app:
            worker = Worker(app, register_signal_handlers=False)
            worker.send_outgoing_interval = self.settings["send_outgoing_interval"]
            async with worker:
                await asyncio.Event().wait()

    @asynccontextmanager
    async def sender(self, keys: int) -> AsyncIterator[Send]:
        """Chancy.push."""
        async with self.app() as app:

            async def send(number: int) -> None:
                await app.push(Job.from_func(noop, queue=f"queue{number % keys}", kwargs=payload(number)))

            yield send


PEER = ChancyPeer

VARIANTS = {
    "chancy": Variant(
        {"concurrency": 100, "pool": 10, "polling_interval": 1, "send_outgoing_interval": 0.1, "plugins": True},
        [
            {"concurrency": 20},
            {"concurrency": 500},
            {"concurrency": 1000},
            {"pool": 4},
            {"pool": 20},
            {"send_outgoing_interval": 1},
            {"send_outgoing_interval": 0.01},
            {"plugins": False},
            {"uvloop": True},
        ],
    )
}
