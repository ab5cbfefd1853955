"""One worker process of this project beside one of each other queue for Python or Node, on the same fresh cluster.

Measures how fast a backlog is drained (over few keys, over many, beside jobs for next week), how soon a
job starts on an idle worker and, of this project's runner alone, its memory over a million jobs and its
share of what SQL and event loop allow. Jobs do nothing and carry 50 bytes. Prints medians and ranges with
the versions and settings that they belong to; it asserts that all jobs were done, but no times.

How a drain is measured: a database is seeded once and copied for each run, with whatever autovacuum has
done to it until then; nothing else vacuums or analyses. The time goes from the worker's first claim to the
moment at which the database shows no due job that is not completed. Runs of the systems alternate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import sql

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.common import SETTINGS, console, new_parser, new_table, percentile, write_json
from bench.peers import MODULES, alternatives, load, variant
from bench.peers.peer import Connection, Peer
from tools.cluster import ROOT, Cluster, cluster, install_extension

MEASURES = ("drain", "scheduled", "keys", "latency", "memory", "sql")
OURS = "sqlxmq"


@dataclass(frozen=True)
class Sizes:
    """How much is measured. Durations in seconds."""

    runs: int
    jobs: int
    keys: int
    many_keys: int
    scheduled: int
    limit: float
    rate: int
    paced: int
    settle: float
    memory_jobs: int
    memory_sample: int
    memory_backlog: int
    autovacuum_wait: float


FULL = Sizes(
    runs=3, jobs=50_000, keys=10, many_keys=2_000, scheduled=500_000, limit=60, rate=50, paced=20, settle=5,
    memory_jobs=1_000_000, memory_sample=50_000, memory_backlog=20_000, autovacuum_wait=180,
)  # fmt: skip
QUICK = Sizes(
    runs=1, jobs=300, keys=10, many_keys=50, scheduled=1_000, limit=20, rate=50, paced=1, settle=0.5,
    memory_jobs=5_000, memory_sample=1_000, memory_backlog=1_000, autovacuum_wait=0,
)  # fmt: skip


class WorkerFailed(Exception):
    """The worker's process has ended, or has not said what was expected of it in time."""


class Child:
    """A process of one of the peers, and the events that it prints."""

    def __init__(self, *command: str) -> None:
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "PYTHON"))}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._events.put(json.loads(line))
        self._events.put(None)

    def wait_for(self, event: str, timeout: float) -> dict[str, Any] | None:
        """The next such event, or None if there is none within so many seconds.

        Raises WorkerFailed if the process has ended instead.
        """
        until = time.monotonic() + timeout
        while True:
            try:
                found = self._events.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return None
            if found is None:
                raise WorkerFailed(f"the process has ended with exit code {self.process.wait()}")
            if found["event"] == event:
                return found

    def say(self, word: str) -> None:
        """Writes a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def stop(self) -> int:
        """Ends a worker; returns how many jobs it has started."""
        self.process.terminate()
        stopped = self.wait_for("stopped", 10)
        return 0 if stopped is None else int(stopped["count"])

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()


def worker(peer: Peer, keys: int, every: int, *, times: bool = False) -> Child:
    """A process with a worker, which says "started" after so many jobs."""
    return Child(*peer.command("work", keys, {"every": every, "times": times}))


class Bench:
    """The cluster, and the databases in it."""

    def __init__(self, server: Cluster, sizes: Sizes) -> None:
        self.server = server
        self.sizes = sizes
        self._admin: Connection = psycopg.connect(server.dsn(), autocommit=True)
        self._number = 0
        self._seeded: list[str] = []

    def _create(self, template: str | None = None) -> str:
        self._number += 1
        name = f"bench{self._number}"
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        self._admin.execute(statement.format(sql.Identifier(name), sql.Identifier(template or "template1")))
        return name

    def _drop(self, name: str) -> None:
        self._admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def seeded(
        self, name: str, keys: int, *, jobs: int = 0, scheduled: int = 0, settings: dict[str, object] | None = None
    ) -> str:
        """A new database with the queue in it, and jobs; copied() makes copies of it."""
        database = self._create()
        self._seeded.append(database)
        peer = load(name, self.server.dsn(database), settings)
        asyncio.run(peer.install(keys))
        with self.session(database) as session:
            if scheduled:
                peer.seed(session, jobs, scheduled, keys, later=True)
            if jobs:
                peer.seed(session, 0, jobs, keys, later=False)
        return database

    def settle(self) -> None:
        """Waits until autovacuum has analysed the jobs of all seeded databases."""
        until = time.monotonic() + self.sizes.autovacuum_wait
        waiting = list(self._seeded)
        while waiting and time.monotonic() < until:
            time.sleep(1)
            waiting = [database for database in waiting if not self._is_analysed(database)]
        if waiting and self.sizes.autovacuum_wait:
            console.print(f"autovacuum has not come to {len(waiting)} databases in {self.sizes.autovacuum_wait} s")

    def _is_analysed(self, database: str) -> bool:
        with self.session(database) as session:
            row = session.execute(
                "SELECT coalesce(bool_and(last_autoanalyze IS NOT NULL), true) FROM pg_stat_user_tables"
                " WHERE n_live_tup > 10000"
            ).fetchone()
            return row is not None and bool(row[0])

    def forget(self) -> None:
        """Drops the seeded databases."""
        while self._seeded:
            self._drop(self._seeded.pop())

    @contextmanager
    def copied(self, database: str) -> Iterator[str]:
        """The connection string of a copy of a seeded database, which is dropped on leaving."""
        copy = self._create(database)
        self._admin.execute("CHECKPOINT")
        try:
            yield self.server.dsn(copy)
        finally:
            self._drop(copy)

    @contextmanager
    def session(self, database: str) -> Iterator[Connection]:
        """A session in a database."""
        with psycopg.connect(self.server.dsn(database), autocommit=True) as session:
            yield session


# Drains


@dataclass(frozen=True)
class Drain:
    """How a drain went.

    Attributes: completed, the jobs; seconds; is_cut_off, whether the time was up before; runs_too_many, how
    many times a job was started that had been before.
    """

    completed: int
    seconds: float
    is_cut_off: bool
    runs_too_many: int

    @property
    def rate(self) -> float:
        """Jobs per second."""
        return self.completed / self.seconds


def drain(bench: Bench, name: str, database: str, keys: int, settings: dict[str, object] | None = None) -> Drain:
    """Has a worker complete the due jobs of a copy of a seeded database.

    Raises WorkerFailed if it does not begin, or if jobs are missing in the end.
    """
    jobs, limit = bench.sizes.jobs, bench.sizes.limit
    with bench.copied(database) as dsn:
        peer = load(name, dsn, settings)
        with psycopg.connect(dsn, autocommit=True) as session, worker(peer, keys, jobs) as process:
            claiming = process.wait_for("claiming", limit)
            if claiming is None:
                raise WorkerFailed(f"no claim within {limit} s")
            begin = claiming["time"]
            # No query disturbs the worker until all its jobs have been started.
            process.wait_for("started", begin + limit - time.time())
            is_done = wait_until_done(peer, session, begin + limit)
            seconds = time.time() - begin
            completed = peer.completed(session, jobs)
            if not is_done:
                return Drain(completed, time.time() - begin, True, 0)
            started = process.stop()
            if completed != jobs or started < jobs:
                raise WorkerFailed(f"{completed} jobs completed and {started} started of {jobs}")
            return Drain(completed, seconds, False, started - jobs)


def wait_until_done(peer: Peer, session: Connection, until: float) -> bool:
    """Waits until no due job is left to complete, but not beyond the time; returns whether none is."""
    while peer.unfinished(session):
        if time.time() >= until:
            return False
        time.sleep(0.01)
    return True


def drains(bench: Bench, names: Sequence[str], title: str, keys: int, scheduled: int = 0) -> list[dict[str, Any]]:
    """Drains by all systems in turn, as often as the sizes say; prints a table."""
    sizes = bench.sizes
    databases = {name: bench.seeded(name, keys, jobs=sizes.jobs, scheduled=scheduled) for name in names}
    bench.settle()
    results: dict[str, list[Drain]] = {name: [] for name in names}
    failures: dict[str, str] = {}
    for _ in range(sizes.runs):
        for name in names:
            if name not in failures:
                try:
                    results[name].append(drain(bench, name, databases[name], keys))
                except WorkerFailed as error:
                    failures[name] = str(error)
    bench.forget()
    medians = {name: statistics.median(run.rate for run in runs) for name, runs in results.items() if runs}
    table = new_table(title, "system", "jobs/s", "range", "jobs", "s", "ran twice", "a key is", texts=("a key is",))
    for name, runs in results.items():
        key = load(name, "").key
        if name in failures:
            table.add_row(name, "failed", failures[name], "", "", "", key)
            continue
        mark = "*" if any(run.is_cut_off for run in runs) else ""
        middle = sorted(runs, key=lambda run: run.rate)[len(runs) // 2]
        table.add_row(
            name,
            f"{medians[name]:,.0f}{mark}",
            f"{min(run.rate for run in runs):,.0f} – {max(run.rate for run in runs):,.0f}",
            f"{middle.completed:,}",
            f"{middle.seconds:.2f}",
            str(sum(run.runs_too_many for run in runs)),
            key,
        )
    console.print(table)
    print_ratio(medians, higher_is_better=True)
    return [
        {"system": name, "runs": [asdict(run) for run in runs], "failure": failures.get(name)}
        for name, runs in results.items()
    ]


# Latency


def latency(bench: Bench, names: Sequence[str]) -> list[dict[str, Any]]:
    """From commit to start, one job after the other at an even pace on an idle worker; prints a table."""
    sizes = bench.sizes
    title = f"Commit to start, {sizes.rate} jobs/s for {sizes.paced} s on an idle worker, after 1 s that does not count"
    table = new_table(title, "system", "p50 ms", "p99 ms", "max ms")
    results: list[dict[str, Any]] = []
    medians: dict[str, float] = {}
    for name in names:
        database = bench.seeded(name, sizes.keys)
        with bench.copied(database) as dsn:
            try:
                found = sorted(latencies(bench, load(name, dsn)))
            except WorkerFailed as error:
                table.add_row(name, "failed", str(error), "")
                results.append({"system": name, "milliseconds": [], "failure": str(error)})
                continue
        medians[name] = statistics.median(found)
        slow = percentile(found, 99)
        table.add_row(name, f"{medians[name]:.2f}", f"{slow:.2f}", f"{found[-1]:.2f}")
        results.append({"system": name, "milliseconds": found, "failure": None})
    bench.forget()
    console.print(table)
    print_ratio(medians, higher_is_better=False)
    return results


def latencies(bench: Bench, peer: Peer) -> list[float]:
    """The times from commit to start in ms. Raises WorkerFailed if jobs are missing."""
    sizes = bench.sizes
    jobs = sizes.rate * (sizes.paced + 1)
    with worker(peer, sizes.keys, jobs, times=True) as process:
        if process.wait_for("claiming", sizes.limit) is None:
            raise WorkerFailed(f"no claim within {sizes.limit} s")
        time.sleep(sizes.settle)
        with Child(*peer.command("send", sizes.keys, {"jobs": jobs, "rate": sizes.rate})) as sender:
            sent = sender.wait_for("sent", jobs / sizes.rate + sizes.limit)
        started = process.wait_for("started", sizes.limit)
        if sent is None or started is None:
            raise WorkerFailed("not all jobs were sent and started in time")
        counted = [str(number) for number in range(sizes.rate, jobs)]
        return [(started["times"][number] - sent["times"][number]) * 1000 for number in counted]


# This project alone


def memory(bench: Bench) -> list[dict[str, Any]]:
    """The runner's memory while it works off many jobs; prints the series."""
    sizes = bench.sizes
    chunk = sizes.memory_backlog // 2
    series: list[tuple[int, float]] = []
    with bench.copied(bench.seeded(OURS, sizes.keys)) as dsn:
        peer = load(OURS, dsn)
        with psycopg.connect(dsn, autocommit=True) as session:
            peer.seed(session, 0, sizes.memory_backlog, sizes.keys, later=False)
            with worker(peer, sizes.keys, chunk // 10) as process:
                rss = psutil.Process(process.process.pid)
                sent, sampled = sizes.memory_backlog, 0
                while sampled < sizes.memory_jobs:
                    told = process.wait_for("started", sizes.limit)
                    if told is None:
                        raise WorkerFailed(f"no progress within {sizes.limit} s, after {sampled} jobs")
                    if told["count"] >= sampled + sizes.memory_sample:
                        sampled += sizes.memory_sample
                        series.append((sampled, rss.memory_info().rss / 2**20))
                    while sent - told["count"] <= chunk and sent < sizes.memory_jobs:
                        peer.seed(session, sent, chunk, sizes.keys, later=False)
                        sent += chunk
                if not wait_until_done(peer, session, time.time() + sizes.limit):
                    raise WorkerFailed(f"not all jobs were completed within {sizes.limit} s after their start")
    bench.forget()
    table = new_table("Memory of the runner's process", "jobs", "MiB resident")
    for jobs, used in series:
        table.add_row(f"{jobs:,}", f"{used:.1f}")
    console.print(table)
    early = next(used for jobs, used in series if jobs >= sizes.memory_jobs / 5)
    growth = series[-1][1] - early
    console.print(f"growth between 20 % and 100 % of the jobs: {growth:+.1f} MiB ({growth / early:+.1%})\n")
    return [{"system": OURS, "jobs": jobs, "mebibytes": used} for jobs, used in series]


def against_sql(bench: Bench) -> list[dict[str, Any]]:
    """The runner's rate beside what SQL alone and an empty event loop allow; prints a table."""
    sizes = bench.sizes
    database = bench.seeded(OURS, sizes.keys, jobs=sizes.jobs)
    bench.settle()
    batch = int(load(OURS, "").settings["max_concurrency"])

    def seconds(what: str, dsn: str = "") -> float:
        arguments = {"dsn": dsn, "jobs": sizes.jobs, "batch": batch}
        with Child(sys.executable, "-m", "bench.peers.sqlxmq_sql", what, json.dumps(arguments)) as process:
            done = process.wait_for("done", 10 * sizes.limit)
            if done is None or done["jobs"] != sizes.jobs:
                raise WorkerFailed(f"{what}: {done}")
            return float(done["seconds"]) / sizes.jobs

    found: dict[str, list[float]] = {"runner": [], "turns": [], "side-by-side": [], "loop": []}
    for _ in range(sizes.runs):
        found["runner"].append(1 / drain(bench, OURS, database, sizes.keys).rate)
        for what in ("turns", "side-by-side"):
            with bench.copied(database) as dsn:
                found[what].append(seconds(what, dsn))
        found["loop"].append(seconds("loop"))
    bench.forget()
    each = {what: statistics.median(values) for what, values in found.items()}
    table = new_table(
        f"SQL alone and an empty loop, {sizes.jobs:,} jobs, batches of {batch}", "what", "µs/job", "jobs/s"
    )
    for what, label in (
        ("runner", "the runner"),
        ("turns", "SQL: one session polls and completes in turn"),
        ("side-by-side", "SQL: one session polls, another completes"),
        ("loop", "a task of asyncio for each job"),
    ):
        table.add_row(label, f"{each[what] * 1e6:.1f}", f"{1 / each[what]:,.0f}")
    console.print(table)
    for what, label in (("turns", "in turn"), ("side-by-side", "side by side")):
        console.print(
            f"the runner's rate is {(each[what] + each['loop']) / each['runner']:.0%} of that computed from"
            f" SQL {label} and the loop: {1 / (each[what] + each['loop']):,.0f} jobs/s"
        )
    console.print()
    return [{"what": what, "seconds_per_job": values} for what, values in found.items()]


# Settings


def tune(bench: Bench, names: Sequence[str]) -> list[dict[str, Any]]:
    """Drains with each of the settings that the peers list, in turn; prints a table for each peer."""
    sizes = bench.sizes
    results: list[dict[str, Any]] = []
    for name in names:
        keys = sizes.keys if meant_for("drain", [name]) else sizes.many_keys
        tried = [
            (settings, bench.seeded(name, keys, jobs=sizes.jobs, settings=settings), list[Drain]())
            for settings in alternatives(name)
        ]
        bench.settle()
        for _ in range(sizes.runs):
            for settings, database, runs in tried:
                runs.append(drain(bench, name, database, keys, settings))
        bench.forget()
        table = new_table(f"{name}: {sizes.jobs:,} jobs over {keys:,} keys", "settings", "jobs/s", "range")
        for settings, _, runs in tried:
            mark = "*" if any(run.is_cut_off for run in runs) else ""
            rates = sorted(run.rate for run in runs)
            table.add_row(
                str(settings), f"{statistics.median(rates):,.0f}{mark}", f"{rates[0]:,.0f} – {rates[-1]:,.0f}"
            )
            results.append({"system": name, "settings": settings, "runs": [asdict(run) for run in runs]})
        console.print(table)
        console.print()
    return results


# Printing


def print_ratio(values: dict[str, float], *, higher_is_better: bool) -> None:
    """This project's best variant beside the best of the others."""
    best = max if higher_is_better else min
    ours = {name: value for name, value in values.items() if name.startswith(OURS)}
    others = {name: value for name, value in values.items() if not name.startswith(OURS)}
    if ours and others:
        our, other = best(ours, key=ours.__getitem__), best(others, key=others.__getitem__)
        console.print(f"{our} / best of the others ({other}): {ours[our] / others[other]:.2f}")
    console.print()


def describe(bench: Bench, names: Sequence[str]) -> dict[str, Any]:
    """Prints what the figures belong to, and returns it."""
    with bench.session("postgres") as session:
        row = session.execute("SELECT version()").fetchone()
        assert row is not None
    peers = [load(name, "") for name in names]
    packages = {package: number for peer in peers for package, number in peer.versions().items()}
    console.print(f"{row[0]}\nPython {platform.python_version()}, {os.cpu_count()} processors, settings {SETTINGS}")
    console.print(", ".join(f"{package} {number}" for package, number in sorted(packages.items())))
    for peer in peers:
        console.print(f"{peer.name}: {peer.settings}")
    console.print()
    return {
        "postgresql": row[0],
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "packages": packages,
        "cluster": SETTINGS,
        "settings": {peer.name: peer.settings for peer in peers},
        "sizes": asdict(bench.sizes),
    }


def present(names: Sequence[str]) -> list[str]:
    """Those that can be run here; says why the others cannot."""
    reasons = {name: load(name, "").missing() for name in names}
    for name, reason in reasons.items():
        if reason is not None:
            console.print(f"{name} is left out: {reason}")
    return [name for name, reason in reasons.items() if reason is None]


def meant_for(measure: str, names: Sequence[str]) -> list[str]:
    """Those that this measure is made for."""
    limits = {name: variant(name).measures for name in names}
    return [name for name, measures in limits.items() if measures is None or measure in measures]


def one_of(allowed: Sequence[str]) -> Any:
    """A type of argument: names separated by commas."""

    def parse(given: str) -> list[str]:
        names = given.split(",")
        for name in names:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(allowed)}")
        return names

    return parse


def main() -> None:
    """Measures, and prints."""
    parser = new_parser(__doc__)
    parser.add_argument("--peers", type=one_of(tuple(MODULES)), default=list(MODULES), help="default: all")
    parser.add_argument("--measures", type=one_of(MEASURES), default=list(MEASURES), help="default: all")
    parser.add_argument("--runs", type=int, help="how often each drain is repeated")
    parser.add_argument("--tune", action="store_true", help="drain once with each of the settings that were tried")
    options = parser.parse_args()
    sizes = QUICK if options.quick else FULL
    if options.runs:
        sizes = Sizes(**{**asdict(sizes), "runs": options.runs})
    names = present([name for name in options.peers if any(meant_for(measure, [name]) for measure in MEASURES)])
    jobs, keys, many, scheduled = sizes.jobs, sizes.keys, sizes.many_keys, sizes.scheduled
    with cluster(settings=SETTINGS) as server:
        install_extension(server.bindir)
        bench = Bench(server, sizes)
        results: dict[str, Any] = describe(bench, names)
        measures: dict[str, Callable[[list[str]], list[dict[str, Any]]]] = {
            "drain": lambda names: drains(bench, names, f"Drain: {jobs:,} jobs over {keys} keys", keys),
            "scheduled": lambda names: drains(
                bench, names, f"The same beside {scheduled:,} jobs for next week", keys, scheduled
            ),
            "keys": lambda names: drains(bench, names, f"Drain: {jobs:,} jobs over {many:,} keys", many),
            "latency": lambda names: latency(bench, names),
            "memory": lambda names: memory(bench),
            "sql": lambda names: against_sql(bench),
        }
        if options.tune:
            results["tune"] = tune(bench, names)
        else:
            for measure in options.measures:
                if OURS in names or measure not in ("memory", "sql"):
                    results[measure] = measures[measure](meant_for(measure, names))
        write_json(options.json, results)


if __name__ == "__main__":
    main()
