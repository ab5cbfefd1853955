"""pg-boss, which runs on Node."""

from __future__ import annotations

from typing import Any

from bench.peers.node_peer import NodePeer
from bench.peers.peer import SQL_PAYLOAD, Connection, Variant, one

# A worker polls for each queue: of thousands of keys nobody makes queues, but groups within some queues.
MOST_QUEUES = 10

ARE_DUE = "state IN ('created', 'retry', 'active') AND NOT blocked AND start_after <= now()"


class PgBossPeer(NodePeer):
    """Up to ten queues, each with workers of its own; further keys are groups of jobs within these."""

    packages = ("pg-boss", "pg")
    key = f"queue, or group above {MOST_QUEUES}"
    program = "pg_boss"

    def given(self, keys: int) -> dict[str, Any]:
        """With the number of queues."""
        return {**super().given(keys), "queues": min(keys, MOST_QUEUES)}

    def seed(self, session: Connection, first: int, jobs: int, keys: int, *, later: bool) -> None:
        """INSERT … SELECT of what its own insert sets."""
        session.execute(
            f"""
            INSERT INTO pgboss.job (name, data, start_after, keep_until, group_id, policy)
            SELECT 'queue' || number %% %(queues)s, {SQL_PAYLOAD}::jsonb, start_after,
                   start_after + interval '14 days',
                   CASE WHEN %(keys)s > %(queues)s THEN (number %% %(keys)s)::text END, 'standard'
            FROM generate_series(%(first)s::int, %(end)s::int - 1) AS number,
                 LATERAL (SELECT now() + make_interval(days => 7 * %(later)s)) AS due (start_after)
            """.encode(),
            {
                "queues": min(keys, MOST_QUEUES),
                "keys": keys,
                "later": int(later),
                "first": first,
                "end": first + jobs,
            },
        )

    def unfinished(self, session: Connection) -> int:
        """Queue by queue, as an index has them."""
        return one(
            session,
            f"""
            SELECT coalesce(sum(jobs), 0)
            FROM pgboss.queue, LATERAL (SELECT count(*) FROM pgboss.job WHERE job.name = queue.name AND {ARE_DUE})
                               AS due (jobs)
            """,
        )

    def completed(self, session: Connection, seeded: int) -> int:
        """Completed jobs are kept: for a week, unless told otherwise."""
        return one(session, "SELECT count(*) FROM pgboss.job WHERE state = 'completed'")


PEER = PgBossPeer

# A worker of a queue fetches, runs and completes one batch after the other; "burstWhenBatchFull" has it not wait in
# between while there is more. So the batch is what counts, up to some 1,000; ten queues overlap enough with
# one worker each, and on fewer connections than queues as well. A table for each queue gains nothing here.
VARIANTS = {
    "pg-boss": Variant(
        {"batch_size": 2000, "local_concurrency": 1, "pool": 4, "partition": False},
        [
            {"batch_size": 500},
            {"batch_size": 1000},
            {"batch_size": 5000},
            {"local_concurrency": 2},
            {"pool": 2},
            {"pool": 10},
            {"partition": True},
        ],
    )
}
