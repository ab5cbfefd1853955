"""What NOTIFY costs senders: one job a transaction, by many clients of pgbench.

Three variants, in databases of their own of one cluster, take turns: the extension as it is, while a busy runner works
on the jobs; the same with the announcement cut out of it, the runner polling every few milliseconds instead; and
the extension as it is without any runner. Between two runs the queue is emptied, vacuumed and a checkpoint made. The
runner is one process of the SDK, batch handlers, which do nothing. Prints transactions per second and ratios; it
asserts nothing about them, but that the runner worked and that nothing is announced where it is cut out.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from psycopg_pool import AsyncConnectionPool

import sqlxmq._group
from bench.common import (
    Connection,
    PgbenchResult,
    console,
    new_parser,
    new_queue,
    new_table,
    one,
    pgbench,
    started,
    write_json,
)
from sqlxmq import Batch, JobRegistry, job
from tools.cluster import Cluster

ANNOUNCED, SILENT, ALONE = "as it is, runner", "no NOTIFY, runner polls", "as it is, no runner"
VARIANTS = (ANNOUNCED, SILENT, ALONE)
POLL_EVERY = 0.005
DRAINED_WITHIN = 120.0

SENDER = "SELECT mq_enqueue('no-op', '{\"n\": 1}', channel_name => 'bench')\n"
# The announcement, and the look whether anybody sleeps.
WITHOUT_NOTIFY = (
    "CREATE OR REPLACE FUNCTION mq_notify(channel_names text[]) RETURNS void LANGUAGE plpgsql AS 'BEGIN END'",
    "CREATE OR REPLACE FUNCTION mq_somebody_may_sleep(channel_name text) RETURNS boolean LANGUAGE sql RETURN false",
)


def run_runner(dsn: str, announced: bool, done: Any) -> None:
    """A runner, until the process is ended. done: where the number of jobs goes that it was given."""

    @job("no-op", batch=1000)
    async def no_op(batch: Batch[dict[str, int]]) -> None:
        done.value += len(batch)

    async def run() -> None:
        async with AsyncConnectionPool(dsn, min_size=1, max_size=2, open=False) as pool:
            runner = JobRegistry([no_op]).runner(pool, min_concurrency=500, max_concurrency=1000, listen=announced)
            async with runner:
                await asyncio.Event().wait()

    if not announced:
        # No setting of the runner has it poll so often.
        assert isinstance(sqlxmq._group.LONGEST_SLEEP_UNHEARD, float)
        sqlxmq._group.LONGEST_SLEEP_UNHEARD = POLL_EVERY
    asyncio.run(run())


@contextmanager
def runner_of(session: Connection, variant: str) -> Iterator[Any]:
    """A runner on the session's database, in a process of its own, if the variant has one; yields its counter.

    Returns from the with statement once the queue is empty. Raises RuntimeError if it does not become so.
    """
    context = multiprocessing.get_context("spawn")
    done = context.RawValue("q", 0)
    if variant == ALONE:
        yield done
        session.execute("SELECT mq_clear_all()")
        return
    process = context.Process(target=run_runner, args=(session.info.dsn, variant == ANNOUNCED, done), daemon=True)
    process.start()
    try:
        session.execute(SENDER.encode())
        until = time.monotonic() + DRAINED_WITHIN
        wait_until_empty(session, until)
        # After its first job, a runner that listens takes a moment to find that announcements arrive.
        time.sleep(0.5)
        yield done
        wait_until_empty(session, time.monotonic() + DRAINED_WITHIN)
        if not process.is_alive():
            raise RuntimeError("the runner has ended")
    finally:
        process.kill()
        process.join()


def wait_until_empty(session: Connection, until: float) -> None:
    """Waits until no job is left, but not beyond the time, as time.monotonic() gives it."""
    while left := one(session, "SELECT count(*) FROM mq_msgs"):
        if time.monotonic() > until:
            raise RuntimeError(f"{left} jobs are left")
        time.sleep(0.02)


def measure(
    server: Cluster, session: Connection, variant: str, clients: int, seconds: float
) -> tuple[PgbenchResult, int]:
    """Has so many clients send; their result, and how many jobs the runner did meanwhile."""
    session.execute("VACUUM")
    session.execute("CHECKPOINT")
    with runner_of(session, variant) as done:
        before = done.value
        with pgbench(server, session.info.dbname, SENDER, clients, seconds) as wait:
            result = wait()
        worked = done.value - before
    if variant != ALONE and not worked:
        raise RuntimeError("the runner has done nothing while jobs were sent")
    return result, worked


def is_announced(session: Connection) -> bool:
    """Whether the session hears of a job that it sends, within a second; it is removed again."""
    session.execute("LISTEN mq")
    session.execute("LISTEN mq_bench")
    session.execute(SENDER.encode())
    heard = any(True for _ in session.notifies(timeout=1, stop_after=1))
    session.execute("UNLISTEN *")
    session.execute("SELECT mq_clear_all()")
    return heard


def main() -> None:
    """Measures all variants with all numbers of clients, and prints a table."""
    options = new_parser(__doc__).parse_args()
    quick = options.quick
    rounds, seconds, counts = (1, 1, (1, 4)) if quick else (5, 5, (1, 4, 16, 64))
    rates: dict[tuple[int, str], list[float]] = {(clients, variant): [] for clients in counts for variant in VARIANTS}
    shares: dict[tuple[int, str], list[float]] = {key: [] for key in rates}
    with started({"max_connections": "200"}) as (server, about):
        queues = {variant: new_queue(server, f"notify{number}") for number, variant in enumerate(VARIANTS)}
        for statement in WITHOUT_NOTIFY:
            queues[SILENT].execute(statement)
        if is_announced(queues[SILENT]):
            raise RuntimeError("jobs are announced although mq_notify does nothing")
        for clients in counts:
            for turn in range(rounds):
                # Whoever comes first in one round comes later in the next.
                for variant in (*VARIANTS[turn % 3 :], *VARIANTS[: turn % 3]):
                    result, worked = measure(server, queues[variant], variant, clients, seconds)
                    rates[clients, variant].append(result.rate)
                    shares[clients, variant].append(worked / result.transactions)
        for session in queues.values():
            session.close()
    table = new_table(
        f"One job a transaction, transactions/s, medians of {rounds} rounds of {seconds} s",
        "clients", *VARIANTS, "with / without NOTIFY", "with / no runner", "done meanwhile",
    )  # fmt: skip
    results: list[dict[str, Any]] = []
    for clients in counts:
        medians = {variant: statistics.median(rates[clients, variant]) for variant in VARIANTS}
        share = {variant: statistics.median(shares[clients, variant]) for variant in (ANNOUNCED, SILENT)}
        table.add_row(
            str(clients), *(f"{medians[variant]:,.0f}" for variant in VARIANTS),
            f"{medians[ANNOUNCED] / medians[SILENT]:.2f}", f"{medians[ANNOUNCED] / medians[ALONE]:.2f}",
            f"{share[ANNOUNCED]:.0%}, {share[SILENT]:.0%}",
        )  # fmt: skip
        results.append(
            {
                "clients": clients,
                "rates": {variant: rates[clients, variant] for variant in VARIANTS},
                "medians": medians,
                "done_meanwhile": share,
                "with_of_without": medians[ANNOUNCED] / medians[SILENT],
                "with_of_alone": medians[ANNOUNCED] / medians[ALONE],
            }
        )
    console.print(table)
    write_json(options.json, {**about, "notify": results})


if __name__ == "__main__":
    main()
