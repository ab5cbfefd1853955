"""Strict order: how fast one ordered channel is drained, and many of them against as many jobs without order.

One session polls and completes in turn. The drains of many channels, with order and without, take turns, each in a
database of its own. Prints jobs/s and ratios; it asserts nothing about them, but that all jobs were done.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.common import (
    EXTENSION,
    Drive,
    claim_and_complete,
    console,
    drop,
    new_parser,
    new_queue,
    new_table,
    one,
    percentile,
    seed,
    settle,
    started,
    write_json,
)
from tools.cluster import Cluster

FOREVER = 3_600.0


def drain(server: Cluster, name: str, jobs: int, channels: int, batch: int, *, ordered: bool) -> Drive:
    """Seeds a queue and drains it. Raises RuntimeError if jobs are left."""
    session = new_queue(server, name)
    seed(session, jobs, channels, ordered=ordered)
    settle(session)
    drive = claim_and_complete(session, EXTENSION, batch, FOREVER)
    left: int = one(session, "SELECT count(*) FROM mq_msgs")
    if left or drive.jobs != jobs:
        raise RuntimeError(f"{drive.jobs} of {jobs} jobs were done, {left} are left")
    drop(server, session)
    return drive


def main() -> None:
    """Drains all queues, and prints two tables."""
    options = new_parser(__doc__).parse_args()
    quick = options.quick
    runs, jobs, channels, each = (1, 300, 100, 5) if quick else (3, 20_000, 10_000, 10)
    results: list[dict[str, Any]] = []
    table = new_table(
        f"Drains, medians of {runs}", "queue", "batch asked for", "jobs/s", "range", "jobs a poll", "poll p50 ms",
        "poll p99 ms",
    )  # fmt: skip

    def add(label: str, batch: int, drives: list[Drive]) -> float:
        polls = [poll for drive in drives for poll in drive.polls]
        rates = [drive.rate for drive in drives]
        results.append({"queue": label, "batch": batch, "rates": rates, "polls": len(polls)})
        results[-1].update(p50=percentile(polls, 50), p99=percentile(polls, 99))
        table.add_row(
            label, str(batch), f"{statistics.median(rates):,.0f}", f"{min(rates):,.0f} – {max(rates):,.0f}",
            f"{sum(drive.jobs for drive in drives) / len(polls):.1f}", f"{percentile(polls, 50):.2f}",
            f"{percentile(polls, 99):.2f}",
        )  # fmt: skip
        return statistics.median(rates)

    with started() as (server, about):
        one_channel: list[Drive] = []
        with_order: list[Drive] = []
        without: list[Drive] = []
        for run in range(runs):
            one_channel.append(drain(server, f"one{run}", jobs, 1, 10, ordered=True))
            with_order.append(drain(server, f"ordered{run}", channels * each, channels, 100, ordered=True))
            without.append(drain(server, f"unordered{run}", channels * each, channels, 100, ordered=False))
    rate = add(f"{jobs:,} ordered jobs in one channel", 10, one_channel)
    ordered = add(f"{channels:,} channels of {each} ordered jobs", 100, with_order)
    unordered = add(f"{channels:,} channels of {each} jobs without order", 100, without)
    console.print(table)
    console.print(
        f"one ordered channel: {rate:,.0f} jobs/s; many: without order / with order {unordered / ordered:.2f}"
    )
    write_json(options.json, {**about, "ordered": results, "unordered_of_ordered": unordered / ordered})


if __name__ == "__main__":
    main()
