"""chancy: its asyncio executor, eager polling, and completions written in batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone

from chancy import Chancy, Job, Queue, Worker
from chancy.plugins.leadership import Leadership
from chancy.plugins.metrics import Metrics
from chancy.plugins.pruner import Pruner
from chancy.plugins.recovery import Recovery
from chancy.plugins.workflow import WorkflowPlugin
from chancy.utils import chancy_uuid
from psycopg.types.json import Jsonb

from bench.peers.peer import Connection, PythonPeer, Send, SendMany, Variant, one, payload
from bench.peers.progress import note_first_call, progress

# All that chancy enables unless told otherwise. The first three keep a queue in order: a worker that
# ran without them would leave lost jobs lost and finished ones for ever.
MAINTENANCE = ["leadership", "pruner", "recovery"]
PLUGINS = {
    "leadership": Leadership,
    "pruner": Pruner,
    "recovery": Recovery,
    "metrics": Metrics,
    "workflow": WorkflowPlugin,
}


async def noop(number: int, padding: str) -> None:
    """The job."""
    progress.start(number)


class ChancyPeer(PythonPeer):
    """A queue for each key, each with its own executor."""

    packages = ("chancy", "psycopg", "psycopg-pool")
    key = "queue"

    def app(self) -> Chancy:
        """The application, with the plugins of the settings. Its default logger prints a line for each job."""
        return Chancy(
            self.dsn,
            max_connection_pool_size=self.settings["pool"],
            plugins=[PLUGINS[name]() for name in self.settings["plugins"]],
            no_default_plugins=True,
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

    @asynccontextmanager
    async def bulk_sender(self, keys: int) -> AsyncIterator[SendMany]:
        """Chancy.push_many."""
        async with self.app() as app:

            async def send_many(numbers: Sequence[int]) -> None:
                jobs = [Job.from_func(noop, queue=f"queue{n % keys}", kwargs=payload(n)) for n in numbers]
                async for _ in app.push_many(jobs, batch_size=len(jobs)):
                    pass

            yield send_many


PEER = ChancyPeer

# What costs most is the plugin "metrics", more than half of the throughput: it is left out here, as is
# "workflow", which no job needs. Eager polling refills the executor as soon as a job is done: without, it
# would wait for a second, the shortest interval. Completions are gathered for as long as
# send_outgoing_interval says; shorter than 0.1 s gains nothing. Nor do more than 100, the default, at a
# time, another size of the pool, or uvloop.
VARIANTS = {
    "chancy": Variant(
        {
            "concurrency": 100,
            "pool": 10,
            "polling_interval": 1,
            "send_outgoing_interval": 0.1,
            "plugins": MAINTENANCE,
        },
        [
            {"concurrency": 20},
            {"concurrency": 500},
            {"concurrency": 1000},
            {"pool": 4},
            {"pool": 20},
            {"send_outgoing_interval": 1},
            {"send_outgoing_interval": 0.01},
            {"plugins": list(PLUGINS)},
            {"plugins": []},
            {"uvloop": True},
        ],
    )
}
