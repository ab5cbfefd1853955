"""How fast this project and other queues for Python and Node take jobs in, on the same fresh cluster.

Measures sends of one job a transaction, from several processes with a connection each, and sends of many
jobs in one call, from one process; each by the queue's own call, this project's by its SQL functions, too.
Jobs carry 50 bytes and are due at once. No worker runs meanwhile but, once more for this project, an idle
one: it waits for jobs of another channel name, and is told of none. Prints medians and ranges with the
versions and settings that they belong to; it asserts no times.

How a rate is measured: the processes connect, begin at the same word and send one call after the other for
so many seconds. The time goes from that word to the last "sent"; each run has a new database.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.common import SETTINGS, console, new_parser, new_table, write_json
from bench.peers import load
from bench.peers.peer import Peer
from bench.workers import FULL as WORKERS
from bench.workers import (
    OURS,
    Bench,
    Child,
    WorkerFailed,
    describe,
    one_of,
    present,
    print_ratio,
)
from tools.cluster import cluster, install_extension

# Of variants that differ in their worker alone, one; of PgQueuer's the one whose tables are sooner written.
SENDERS = (
    OURS,
    "sqlxmq-sdk",
    "sqlxmq-sdk-asyncpg",
    "procrastinate",
    "pgqueuer-batch",
    "oban",
    "chancy",
    "pgmq",
    "graphile-worker",
    "pg-boss",
)
MEASURES = ("single", "beside-idle", "bulk")
KEYS = 10


@dataclass(frozen=True)
class Sizes:
    """How much is measured. Durations in seconds; batch: jobs a call."""

    runs: int
    seconds: float
    processes: int
    batch: int
    limit: float


FULL = Sizes(runs=3, seconds=5, processes=8, batch=1_000, limit=60)
QUICK = Sizes(runs=1, seconds=0.3, processes=2, batch=100, limit=20)

# So far apart are the numbers of the jobs of two processes.
APART = 10_000_000


def flood(bench: Bench, sizes: Sizes, peer: Peer, processes: int, batch: int) -> float:
    """Sends from so many processes, so many jobs a call; returns jobs per second. Raises WorkerFailed."""
    with ExitStack() as stack:
        children = []
        for number in range(processes):
            arguments = {"seconds": sizes.seconds, "batch": batch, "first": number * APART}
            children.append(stack.enter_context(Child(*peer.command("flood", KEYS, arguments))))
        for child in children:
            if child.wait_for("ready", sizes.limit) is None:
                raise WorkerFailed(f"a sender was not ready within {sizes.limit} s")
        begin = time.time()
        for child in children:
            child.say("go")
        count, end = 0, begin
        for child in children:
            sent = child.wait_for("sent", sizes.seconds + sizes.limit)
            if sent is None:
                raise WorkerFailed(f"a sender did not end within {sizes.limit} s")
            count += sent["count"]
            end = max(end, sent["time"])
        return count / (end - begin)


@contextmanager
def idle_worker(bench: Bench, peer: Peer) -> Iterator[None]:
    """This project's runner, which listens for jobs of a channel that gets none."""
    with Child(*peer.command("idle", KEYS, {})) as process:
        if process.wait_for("listening", bench.sizes.limit) is None:
            raise WorkerFailed(f"the idle worker did not listen within {bench.sizes.limit} s")
        yield


def rates(
    bench: Bench, sizes: Sizes, names: list[str], title: str, *, processes: int, batch: int, beside_idle: bool = False
) -> list[dict[str, Any]]:
    """The rates of all systems in turn, as often as the sizes say; prints a table."""
    found: dict[str, list[float]] = {name: [] for name in names}
    failures: dict[str, str] = {}
    for _ in range(sizes.runs):
        for name in names:
            if name in failures:
                continue
            database = bench.seeded(name, KEYS)
            peer = load(name, bench.server.dsn(database))
            try:
                with ExitStack() as stack:
                    if beside_idle:
                        stack.enter_context(idle_worker(bench, load(OURS, peer.dsn)))
                    found[name].append(flood(bench, sizes, peer, processes, batch))
            except WorkerFailed as error:
                failures[name] = str(error)
            finally:
                bench.forget()
    medians = {name: statistics.median(values) for name, values in found.items() if values}
    fastest = max((value for name, value in medians.items() if not name.startswith(OURS)), default=None)
    table = new_table(title, "system", "jobs/s", "range", "of the fastest other")
    for name, values in found.items():
        if name in failures:
            table.add_row(name, "failed", failures[name], "")
            continue
        ratio = "" if fastest is None else f"{medians[name] / fastest:.2f}"
        table.add_row(name, f"{medians[name]:,.0f}", f"{min(values):,.0f} – {max(values):,.0f}", ratio)
    console.print(table)
    print_ratio(medians, higher_is_better=True)
    return [
        {"system": name, "jobs_per_second": values, "failure": failures.get(name)} for name, values in found.items()
    ]


def main() -> None:
    """Measures, and prints."""
    parser = new_parser(__doc__)
    parser.add_argument("--peers", type=one_of(SENDERS), default=list(SENDERS), help="default: all")
    parser.add_argument("--measures", type=one_of(MEASURES), default=list(MEASURES), help="default: all")
    parser.add_argument("--runs", type=int, help="how often each rate is measured")
    options = parser.parse_args()
    sizes = QUICK if options.quick else FULL
    if options.runs:
        sizes = Sizes(**{**asdict(sizes), "runs": options.runs})
    names = present(options.peers)
    ours = [name for name in names if name.startswith(OURS)]
    with cluster(settings=SETTINGS) as server:
        install_extension(server.bindir)
        bench = Bench(server, WORKERS)
        results: dict[str, Any] = {**describe(bench, names), "sizes": asdict(sizes)}
        for measure in options.measures:
            many, batch = sizes.processes, sizes.batch
            if measure == "single":
                title = f"One job a transaction, {many} processes with a connection each"
                results[measure] = rates(bench, sizes, names, title, processes=many, batch=1)
            elif measure == "beside-idle" and ours:
                title = f"The same beside an idle worker of {OURS}"
                results[measure] = rates(bench, sizes, ours, title, processes=many, batch=1, beside_idle=True)
            elif measure == "bulk":
                title = f"{batch:,} jobs a call, one process"
                results[measure] = rates(bench, sizes, names, title, processes=1, batch=batch)
        write_json(options.json, results)


if __name__ == "__main__":
    main()
