"""Graphile Worker, which runs on Node."""

from __future__ import annotations

from bench.peers.node_peer import NodePeer
from bench.peers.peer import SQL_PAYLOAD, Connection, Variant, one

# The ids of jobs for next week begin here: so the others are counted without a look at these.
FIRST_LATER = 10_000_000_000


class GraphileWorkerPeer(NodePeer):
    """One pool of workers, with a local queue that fetches for all of them."""

    packages = ("graphile-worker", "pg")
    key = "task, or named queue"
    program = "graphile_worker"

    def seed(self, session: Connection, first: int, jobs: int, keys: int, *, later: bool) -> None:
        """INSERT … SELECT of what its add_jobs sets."""
        is_named = self.settings["named_queues"]
        values = {"keys": keys, "later": int(later), "first": first, "end": first + jobs, "later_id": FIRST_LATER}
        values["tasks"] = 1 if is_named else keys
        session.execute(
            b"""
            INSERT INTO graphile_worker._private_tasks (identifier)
            SELECT 'task' || key FROM generate_series(0, %(tasks)s::int - 1) AS key ON CONFLICT DO NOTHING
            """,
            values,
        )
        if is_named:
            session.execute(
                b"""
                INSERT INTO graphile_worker._private_job_queues (queue_name)
                SELECT 'queue' || key FROM generate_series(0, %(keys)s::int - 1) AS key ON CONFLICT DO NOTHING
                """,
                values,
            )
        session.execute(
            f"""
            INSERT INTO graphile_worker._private_jobs (id, task_id, job_queue_id, payload, run_at)
            OVERRIDING SYSTEM VALUE
            SELECT number + 1 + %(later)s * %(later_id)s::bigint, tasks.id, queues.id, {SQL_PAYLOAD}::json,
                   now() + make_interval(days => 7 * %(later)s)
            FROM generate_series(%(first)s::int, %(end)s::int - 1) AS number
            JOIN graphile_worker._private_tasks AS tasks ON tasks.identifier = 'task' || number %% %(tasks)s
            LEFT JOIN graphile_worker._private_job_queues AS queues ON queues.queue_name = 'queue' || number %% %(keys)s
            ORDER BY number
            """.encode(),
            values,
        )

    def unfinished(self, session: Connection) -> int:
        """A job that is done is gone."""
        return one(session, "SELECT count(*) FROM graphile_worker._private_jobs WHERE id < %s", FIRST_LATER)

    def completed(self, session: Connection, seeded: int) -> int:
        """What is not there has been completed; a job that failed would still be there."""
        return seeded - self.unfinished(session)


PEER = GraphileWorkerPeer

# Tasks as keys, whose jobs run side by side; its guide to performance has jobs fetched into a local queue and
# completions gathered. The queue's size is what counts, up to 2,000; how long completions are gathered does
# not, nor does the pool. The runner's poll interval matters only where nobody tells of new jobs.
#
# Named queues as keys, which is its way to keep the work of customers or the like apart: the jobs of one run
# one after the other. A fetch takes one job of each queue that is free, and the worker polls again only after
# its interval unless the local queue was filled, so that it must not be large. Without one, each job is
# fetched by itself, which is slower by far.
VARIANTS = {
    "graphile-worker": Variant(
        {
            "concurrent_jobs": 24,
            "pool": 10,
            "local_queue": 2000,
            "batch_delay": 0,
            "poll_interval": 2000,
            "named_queues": False,
        },
        [
            {"concurrent_jobs": 10},
            {"concurrent_jobs": 100},
            {"concurrent_jobs": 500},
            {"local_queue": 500},
            {"local_queue": 1000},
            {"local_queue": 5000},
            {"pool": 4},
            {"batch_delay": 10},
            {"batch_delay": 250},
        ],
    ),
    "graphile-worker-queues": Variant(
        {
            "concurrent_jobs": 100,
            "pool": 10,
            "local_queue": 500,
            "batch_delay": 0,
            "poll_interval": 100,
            "named_queues": True,
        },
        [
            {"local_queue": 1000},
            {"local_queue": 2000},
            {"concurrent_jobs": 24},
            {"poll_interval": 10},
            {"poll_interval": 2000},
            {"local_queue": -1, "batch_delay": -1, "concurrent_jobs": 10, "pool": 12},
        ],
        measures=("keys",),
    ),
}
