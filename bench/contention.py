"""Many pollers at once, and beside senders: jobs/s that are claimed and completed.

The pollers are clients of pgbench, which costs little beside the server: each claims, then completes, two
transactions. They work on a backlog that lasts; after each run, as many jobs are sent as were done. Deadlocks are
those that PostgreSQL counts; pgbench repeats what they hit. Beside senders: so many more clients of pgbench that send
one job a transaction. Prints jobs/s and ratios; it asserts nothing about them.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.common import (
    Connection,
    console,
    new_parser,
    new_queue,
    new_table,
    one,
    pgbench,
    seed,
    settle,
    started,
    write_json,
)
from tools.cluster import Cluster

POLLER = """
SELECT coalesce(array_agg(id), '{{}}') AS ids, coalesce(array_agg(attempt), '{{}}') AS attempts
FROM mq_poll(NULL, {batch}) WHERE id IS NOT NULL
\\gset
SELECT count(*) FROM mq_complete(CAST(:ids AS uuid[]), CAST(:attempts AS integer[]))
"""

SENDER = """
\\set channel random(0, {channels} - 1)
SELECT mq_enqueue('no-op', '{{"padding": "{padding}"}}',
                  channel_name => 'bench', channel_args => CAST(:channel AS text))
"""


def deadlocks(session: Connection) -> int:
    """How many there have been in the database."""
    return int(one(session, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"))


def measure(
    server: Cluster, session: Connection, channels: int, pollers: int, batch: int, senders: int, seconds: float
) -> dict[str, Any]:
    """Has so many pollers and senders work for so long; returns the figures."""
    backlog: int = one(session, "SELECT count(*) FROM mq_msgs")
    met = deadlocks(session)
    database = session.info.dbname
    sent = None
    with ExitStack() as stack:
        if senders:
            script = SENDER.format(channels=channels, padding="x" * 35)
            sending = stack.enter_context(pgbench(server, database, script, senders, seconds))
        polling = stack.enter_context(pgbench(server, database, POLLER.format(batch=batch), pollers, seconds))
        polled = polling()
        if senders:
            sent = sending()
    left: int = one(session, "SELECT count(*) FROM mq_msgs")
    done = backlog + (0 if sent is None else sent.transactions) - left
    return {
        "pollers": pollers,
        "batch": batch,
        "senders": senders,
        "done": done,
        # pgbench says how many transactions there were and how many a second, hence for how long.
        "rate": done * polled.rate / polled.transactions if polled.transactions else 0.0,
        "sent_rate": None if sent is None else sent.rate,
        "jobs_a_poll": done / polled.transactions if polled.transactions else 0.0,
        "left": left,
        "deadlocks": deadlocks(session) - met,
        "failed": polled.failed + (0 if sent is None else sent.failed),
    }


def main() -> None:
    """Measures all numbers of pollers, alone and beside senders, and prints a table for each batch size."""
    options = new_parser(__doc__).parse_args()
    quick = options.quick
    jobs, channels, seconds = (10_000, 100, 1) if quick else (500_000, 1_000, 8)
    counts = (1, 4) if quick else (1, 2, 4, 8, 16, 32)
    senders = 2 if quick else 8
    results: list[dict[str, Any]] = []
    with started({"max_connections": "200"}) as (server, about), new_queue(server, "contention") as session:
        first = 0
        for batch in (10, 100):
            for beside in (0, senders):
                points: list[dict[str, Any]] = []
                for pollers in counts:
                    missing = max(0, jobs - one(session, "SELECT count(*) FROM mq_msgs"))
                    seed(session, missing, channels, first=first)
                    first += missing
                    settle(session)
                    points.append(measure(server, session, channels, pollers, batch, beside, seconds))
                best = max(point["rate"] for point in points)
                table = new_table(
                    f"{jobs:,} ready jobs in {channels:,} channels, batch {batch}, {beside} senders, {seconds} s",
                    "pollers", "jobs/s", "of the best", "jobs a poll", "sent/s", "deadlocks", "failed", "jobs left",
                )  # fmt: skip
                for point in points:
                    table.add_row(
                        str(point["pollers"]), f"{point['rate']:,.0f}", f"{point['rate'] / best:.2f}",
                        f"{point['jobs_a_poll']:.1f}",
                        "" if point["sent_rate"] is None else f"{point['sent_rate']:,.0f}", str(point["deadlocks"]),
                        str(point["failed"]), f"{point['left']:,}{'*' if point['left'] < jobs / 50 else ''}",
                    )  # fmt: skip
                console.print(table)
                if any(point["left"] < jobs / 50 for point in points):
                    console.print("*: the jobs did not last; the pollers could do more than that")
                console.print()
                results.extend(points)
    write_json(options.json, {**about, "contention": results})


if __name__ == "__main__":
    main()
