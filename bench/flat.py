"""What a claim costs beside larger queues: polls of 10 jobs, against those of a base of 1,000 jobs in 100 channels.

Each queue is in a database of its own, seeded, vacuumed and analysed. Polls of the base and of the larger queue
take turns; what was claimed is completed, and as many jobs are sent to the same channels, so that both stay as they
are. Only the poll is timed. Prints p50 and p99 with their ratios to the base's; it asserts nothing about them.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.common import (
    Connection,
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

POLLED = 10


@dataclass(frozen=True)
class Queue:
    """A queue to poll from.

    Attributes: label; ready, so many jobs, in turn over so many channels; scheduled, so many jobs for
    next week; in_flight, so many that are claimed and not finished; these in other channels, rest_channels.
    """

    label: str
    ready: int
    channels: int
    scheduled: int = 0
    in_flight: int = 0
    rest_channels: int = 100

    def make(self, server: Cluster, name: str) -> Connection:
        """The queue, in a new database."""
        session = new_queue(server, name)
        if self.in_flight:
            seed(session, self.in_flight, self.rest_channels, first=10_000_001)
            while one(session, "SELECT count(id) FROM mq_poll(NULL, 100, '1 hour')"):
                pass
        if self.scheduled:
            seed(session, self.scheduled, self.rest_channels, first=10_000_001, delay="7 days")
        seed(session, self.ready, self.channels)
        settle(session)
        return session


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes: large, a backlog; many, channels; base, the jobs of the base, in 100 channels; polls, at least so
    many of each queue; seconds, for at least so long.
    """

    large: int
    many: int
    base: int
    polls: int
    seconds: float

    @property
    def base_queue(self) -> Queue:
        """What the others are compared with."""
        return Queue(f"{self.base:,} ready, 100 channels", self.base, 100)

    @property
    def queues(self) -> list[Queue]:
        """The larger queues."""
        large, many, base = self.large, self.many, self.base
        rest = f"{many - 1:,} channels"
        # The numbers of the rest's channels begin with 10,000,001 modulo their number, so the last one left is 0:
        # the one that has ready jobs.
        return [
            *(
                Queue(f"{jobs:,} ready, 100 channels", jobs, 100)
                for jobs in (large // 100, large // 10, large)
                if jobs > base
            ),
            Queue(f"{base:,} ready, 100 channels; {large:,} scheduled", base, 100, scheduled=large),
            *(Queue(f"{jobs:,} channels of one ready job", jobs, jobs) for jobs in (many // 100, many // 10, many)),
            Queue(f"{base:,} ready in one channel; {rest} scheduled", base, 1, scheduled=many - 1, rest_channels=many),
            Queue(f"{base:,} ready in one channel; {rest} in flight", base, 1, in_flight=many - 1, rest_channels=many),
            Queue(f"one ready; {rest} scheduled", 1, 1, scheduled=many - 1, rest_channels=many),
            Queue(f"one ready; {rest} in flight", 1, 1, in_flight=many - 1, rest_channels=many),
        ]


FULL = Sizes(large=1_000_000, many=100_000, base=1_000, polls=2_000, seconds=25)
QUICK = Sizes(large=5_000, many=500, base=200, polls=40, seconds=0)


def poll(session: Connection) -> float:
    """Claims and completes, and sends as many jobs to the same channels; how many milliseconds the claim took."""
    before = time.perf_counter()
    rows = session.execute(
        "SELECT id, attempt, name, payload_json, channel_name, channel_args FROM mq_poll(NULL, %s)",
        (POLLED,),
        prepare=True,
        binary=True,
    ).fetchall()
    took = (time.perf_counter() - before) * 1000
    rows = [row for row in rows if row[0] is not None]
    if not rows:
        raise RuntimeError("a poll claimed nothing, although there is always something ready")
    ids, attempts, names, payloads, channel_names, channel_args = (list(column) for column in zip(*rows, strict=True))
    session.execute("SELECT mq_complete(%s::uuid[], %s::integer[])", (ids, attempts), prepare=True)
    session.execute(
        "SELECT count(*) FROM mq_enqueue_many(%s::text[], payloads => %s::text[], channel_names => %s::text[],"
        " channel_args => %s::text[])",
        (names, payloads, channel_names, channel_args),
        prepare=True,
    )
    return took


def measure(base: Connection, other: Connection, sizes: Sizes) -> tuple[list[float], list[float]]:
    """The milliseconds of each poll of both queues, which take turns of 100."""
    of_base: list[float] = []
    of_other: list[float] = []
    turn = min(100, sizes.polls)
    begin = time.perf_counter()
    while len(of_other) < sizes.polls or time.perf_counter() - begin < sizes.seconds:
        of_base.extend(poll(base) for _ in range(turn))
        of_other.extend(poll(other) for _ in range(turn))
    return of_base, of_other


def plot(directory: Path, results: list[dict[str, Any]]) -> None:
    """Draws the cost of a poll against the backlog, and against the channels."""
    from bench.plots import Line, draw

    for file, title, label, x, points in (
        (
            "poll-by-backlog.png",
            f"Poll of {POLLED} jobs beside a backlog in 100 channels",
            "ready jobs",
            "ready",
            [result for result in results if result["channels"] == 100 and not result["scheduled"]],
        ),
        (
            "poll-by-channels.png",
            f"Poll of {POLLED} jobs over channels of one ready job each",
            "channels",
            "channels",
            [result for result in results if result["ready"] == result["channels"] > 1],
        ),
    ):
        points.sort(key=lambda point: point[x])
        lines = [
            Line(percent, [point[x] for point in points], [point[percent] for point in points])
            for percent in ("p50", "p99")
        ]
        draw(directory / file, title, label, "ms", lines, x_is_logarithmic=True)


def main() -> None:
    """Measures all queues, and prints a table."""
    options = new_parser(__doc__, plots=True).parse_args()
    sizes = QUICK if options.quick else FULL
    base_polls: list[float] = []
    results: list[dict[str, Any]] = []
    table = new_table(
        f"Poll of {POLLED}, at least {sizes.polls:,} of each queue and {sizes.seconds:g} s",
        "queue", "polls", "p50 ms", "p99 ms", "max ms", "base p50", "base p99", "ratio p50", "ratio p99",
    )  # fmt: skip
    with started() as (server, about):
        base = sizes.base_queue.make(server, "base")
        for number, queue in enumerate(sizes.queues):
            session = queue.make(server, f"queue{number}")
            of_base, polls = measure(base, session, sizes)
            base_polls.extend(of_base)
            drop(server, session)
            p50, p99, base_p50, base_p99 = (percentile(of, n) for of in (polls, of_base) for n in (50, 99))
            results.append(
                {
                    "queue": queue.label,
                    "ready": queue.ready,
                    "channels": queue.channels,
                    "scheduled": queue.scheduled,
                    "in_flight": queue.in_flight,
                    "polls": len(polls),
                    "p50": p50,
                    "p99": p99,
                    "max": max(polls),
                    "base_p50": base_p50,
                    "base_p99": base_p99,
                    "ratio_p50": p50 / base_p50,
                    "ratio_p99": p99 / base_p99,
                }
            )
            table.add_row(
                queue.label, f"{len(polls):,}", f"{p50:.2f}", f"{p99:.2f}", f"{max(polls):.2f}", f"{base_p50:.2f}",
                f"{base_p99:.2f}", f"{p50 / base_p50:.2f}", f"{p99 / base_p99:.2f}",
            )  # fmt: skip
        base.close()
    p50, p99 = percentile(base_polls, 50), percentile(base_polls, 99)
    table.add_row(
        f"base: {sizes.base_queue.label}", f"{len(base_polls):,}", f"{p50:.2f}", f"{p99:.2f}", f"{max(base_polls):.2f}"
    )
    console.print(table)
    base_result = {
        "queue": sizes.base_queue.label,
        "ready": sizes.base,
        "channels": 100,
        "scheduled": 0,
        "in_flight": 0,
        "polls": len(base_polls),
        "p50": p50,
        "p99": p99,
        "max": max(base_polls),
    }
    write_json(options.json, {**about, "flat": [base_result, *results]})
    if options.plots:
        plot(options.plots, [base_result, *results])


if __name__ == "__main__":
    main()
