"""The claim path: this extension's SQL against the crate's.

Both queues are in databases of their own of one fresh cluster, are seeded by the same calls of mq_insert and
driven by the same program: claim, then complete, each a transaction. Runs alternate; after each, as many jobs
are sent as were done. What counts as done are the jobs that are gone: the crate's polls can hand one out twice,
and deadlock with each other, after which they are repeated. Prints medians and ratios with the versions and
settings that they belong to; it asserts nothing about them.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.common import (
    CRATE,
    EXTENSION,
    Drive,
    console,
    new_crate_queue,
    new_parser,
    new_queue,
    new_table,
    one,
    percentile,
    seed_alike,
    settle,
    side_by_side,
    started,
    write_json,
)
from tools.cluster import Cluster


@dataclass(frozen=True)
class Backlog:
    """A backlog of ready jobs, and the (sessions, batch) that work on it."""

    jobs: int
    channels: int
    drives: tuple[tuple[int, int], ...]


FULL = (
    Backlog(100_000, 100, ((1, 1), (1, 10), (1, 100))),
    Backlog(1_000_000, 1_000, ((1, 1), (1, 100), (2, 1), (2, 100))),
)
QUICK = (Backlog(5_000, 50, ((1, 10), (2, 100))),)


def measure(server: Cluster, backlog: Backlog, runs: int, seconds: float) -> list[dict[str, Any]]:
    """Jobs/s of claim and complete, both queues in turn; prints a table, returns its rows."""
    name = f"backlog{backlog.jobs}"
    queues = [(EXTENSION, new_queue(server, f"{name}_extension"))]
    crate = new_crate_queue(server, f"{name}_crate")
    if crate is not None:
        queues.append((CRATE, crate))
    for _, session in queues:
        seed_alike(session, backlog.jobs, backlog.channels)
        settle(session)
    sent = {dialect.label: backlog.jobs for dialect, _ in queues}
    table = new_table(
        f"{backlog.jobs:,} ready jobs in {backlog.channels:,} channels, medians of {runs} runs of {seconds:g} s",
        "sessions, batch", "queue", "jobs/s", "range", "poll p50 ms", "poll p99 ms", "deadlocks", "ratio",
    )  # fmt: skip
    results: list[dict[str, Any]] = []
    for sessions, batch in backlog.drives:
        drives: dict[str, list[Drive]] = {dialect.label: [] for dialect, _ in queues}
        for _ in range(runs):
            for dialect, session in queues:
                before: int = one(session, "SELECT count(*) FROM mq_msgs")
                drive = side_by_side(session.info.dsn, dialect, batch, seconds, sessions)
                drive.jobs = before - one(session, "SELECT count(*) FROM mq_msgs")
                drives[dialect.label].append(drive)
                seed_alike(session, drive.jobs, backlog.channels, first=sent[dialect.label])
                sent[dialect.label] += drive.jobs
                settle(session)
        rates = {label: statistics.median(drive.rate for drive in found) for label, found in drives.items()}
        for label, found in drives.items():
            polls = [poll for drive in found for poll in drive.polls]
            result: dict[str, Any] = {
                "jobs": backlog.jobs,
                "channels": backlog.channels,
                "sessions": sessions,
                "batch": batch,
                "queue": label,
                "rates": [drive.rate for drive in found],
                "p50": percentile(polls, 50),
                "p99": percentile(polls, 99),
                "deadlocks": sum(drive.deadlocks for drive in found),
                "ratio": rates[EXTENSION.label] / rates[label],
            }
            results.append(result)
            table.add_row(
                f"{sessions}, {batch}",
                label,
                f"{rates[label]:,.0f}",
                f"{min(result['rates']):,.0f} – {max(result['rates']):,.0f}",
                f"{result['p50']:.2f}",
                f"{result['p99']:.2f}",
                str(result["deadlocks"]),
                "" if label == EXTENSION.label else f"{result['ratio']:.1f}",
            )
    for _, session in queues:
        session.close()
    console.print(table)
    console.print()
    return results


def main() -> None:
    """Measures all backlogs."""
    options = new_parser(__doc__).parse_args()
    with started() as (server, about):
        runs, seconds = (1, 0.5) if options.quick else (3, 5)
        found = [measure(server, backlog, runs, seconds) for backlog in (QUICK if options.quick else FULL)]
    write_json(options.json, {**about, "claim_path": [result for results in found for result in results]})


if __name__ == "__main__":
    main()
