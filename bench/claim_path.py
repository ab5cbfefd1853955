"""The claim path: this extension's SQL against the crate's, and against itself on larger queues.

Starts a fresh cluster (fsync and synchronous_commit on), seeds both queues in databases of their own,
and drives them with the same program: one session, batches, claim then complete. Prints jobs/s,
medians and ratios with the versions and settings that they belong to; it asserts nothing.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from typing_extensions import LiteralString

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.cluster import Cluster, cluster, install_extension

SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "fsync": "on", "synchronous_commit": "on"}
Connection = psycopg.Connection[Any]


def crate_migrations() -> list[str]:
    """The SQL of the sqlxmq crate, which cargo fetches; empty, and said so, where it cannot."""
    cargo = shutil.which("cargo")
    if cargo is None:
        print("the crate's SQL is left out: there is no cargo on this machine")
        return []
    with tempfile.TemporaryDirectory() as directory:
        for command in (
            ["init", "--quiet", "--name", "fetch"],
            ["add", "--quiet", "sqlxmq@0.6", "--no-default-features"],
            ["vendor", "--quiet", "vendored"],
        ):
            done = subprocess.run([cargo, *command], cwd=directory, capture_output=True, text=True)
            if done.returncode:
                print(f"the crate's SQL is left out: cargo {command[0]} failed: {done.stderr.strip().splitlines()[-1]}")
                return []
        migrations = (Path(directory) / "vendored" / "sqlxmq" / "migrations").glob("*.up.sql")
        return [migration.read_text() for migration in sorted(migrations)]


def database(server: Cluster, name: str) -> Connection:
    """A new database, and a session in it."""
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return psycopg.connect(server.dsn(name), autocommit=True)


def seed(session: Connection, jobs: int, channels: int, delay: str = "0", first: int = 0) -> None:
    """Sends jobs of 50 bytes, spread over channels (by argument), with the crate's own call."""
    for start in range(first, first + jobs, 1000):
        session.execute(
            """
            SELECT mq_insert(array_agg((gen_random_uuid(), %s::interval, 4, '60 seconds', 'bench',
                                        (n %% %s)::text, NULL, false, 'no-op', %s, NULL)::mq_new_t))
            FROM generate_series(%s::int, %s::int) AS n
            """,
            (delay, channels, '{"padding": "' + "x" * 35 + '"}', start, min(start + 1000, first + jobs) - 1),
        )
    session.execute("VACUUM (ANALYZE)")
    session.execute("CHECKPOINT")


def drive(session: Connection, batch: int, seconds: float, complete: LiteralString) -> tuple[float, list[float]]:
    """Claims and completes for so long; returns jobs/s and the durations of the polls in ms."""
    polls: list[float] = []
    done = 0
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        before = time.perf_counter()
        rows: Sequence[Any] = session.execute("SELECT * FROM mq_poll(NULL, %s)", (batch,)).fetchall()
        polls.append((time.perf_counter() - before) * 1000)
        ids = [row[0] for row in rows if row[0] is not None]
        if not ids:
            break
        parameters = (ids,) if "mq_delete" in complete else (ids, [row[7] for row in rows])
        session.execute(complete, parameters, prepare=True)
        done += len(ids)
    return done / (time.perf_counter() - begin), polls


def against_the_crate(server: Cluster, jobs: int, channels: int, seconds: float, batches: Sequence[int]) -> None:
    """Jobs/s of claim and complete, both queues in turn, three times each; the medians count."""
    migrations = crate_migrations()
    ours = database(server, "ours")
    ours.execute("CREATE EXTENSION sqlxmq")
    theirs = None
    if migrations:
        theirs = database(server, "theirs")
        for migration in migrations:
            theirs.execute(migration.encode())
    for batch in batches:
        rates: dict[str, list[float]] = {"ours": [], "theirs": []}
        latencies: dict[str, float] = {}
        for _ in range(3):
            if theirs is not None:
                theirs.execute(b"TRUNCATE mq_payloads; DELETE FROM mq_msgs WHERE id <> uuid_nil()")
                seed(theirs, jobs, channels)
                rate, polls = drive(theirs, batch, seconds, "SELECT mq_delete(%s)")
                rates["theirs"].append(rate)
                latencies["theirs"] = statistics.median(polls)
            ours.execute("SELECT mq_clear_all()")
            seed(ours, jobs, channels)
            rate, polls = drive(ours, batch, seconds, "SELECT mq_complete(%s::uuid[], %s::int[])")
            rates["ours"].append(rate)
            latencies["ours"] = statistics.median(polls)
        print(
            f"{jobs} ready jobs in {channels} channels, one session, batch {batch}, median of 3 runs of {seconds:g} s:"
        )
        print(f"  this extension  {statistics.median(rates['ours']):8.0f} jobs/s, poll p50 {latencies['ours']:.2f} ms")
        if theirs is not None:
            ratio = statistics.median(rates["ours"]) / statistics.median(rates["theirs"])
            rate = statistics.median(rates["theirs"])
            print(f"  the crate's SQL {rate:8.0f} jobs/s, poll p50 {latencies['theirs']:.2f} ms")
            print(f"  ratio           {ratio:8.1f}")
    ours.close()
    if theirs is not None:
        theirs.close()


def flatness(server: Cluster, scale: float) -> None:
    """The median of a poll of 10 beside larger and larger queues; all but the first shrink with the scale."""
    base: float | None = None
    large, many, later = (max(5_000, int(jobs * scale)) for jobs in (500_000, 50_000, 300_000))
    queues = ((5_000, 100, 0), (large, 100, 0), (5_000, 100, later), (many, many, 0))
    for number, (ready, channels, scheduled) in enumerate(queues):
        session = database(server, f"flat{number}")
        session.execute("CREATE EXTENSION sqlxmq")
        seed(session, ready, channels)
        if scheduled:
            seed(session, scheduled, channels, delay="7 days", first=ready)
        polls: list[float] = []
        for _ in range(200):
            before = time.perf_counter()
            rows = session.execute("SELECT * FROM mq_poll(NULL, 10)").fetchall()
            polls.append((time.perf_counter() - before) * 1000)
            session.execute("SELECT mq_complete(%s::uuid[], %s::int[])", ([r[0] for r in rows], [r[7] for r in rows]))
        median, slow = statistics.median(polls), statistics.quantiles(polls, n=100)[98]
        base = base or median
        label = f"{ready} ready in {channels} channels, {scheduled} scheduled"
        print(f"  {label:<52} poll p50 {median:.2f} ms, p99 {slow:.2f} ms, ratio of p50 {median / base:.2f}")
        session.close()


def main() -> None:
    """Runs both comparisons and prints them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="small queues and short runs: proves that the program works"
    )
    quick = parser.parse_args().quick
    with cluster(settings=SETTINGS) as server:
        install_extension(server.bindir)
        with psycopg.connect(server.dsn()) as session:
            row = session.execute("SELECT version()").fetchone()
            assert row is not None
            print(row[0])
        print(f"psycopg {psycopg.__version__}, Python {platform.python_version()}, settings {SETTINGS}")
        if quick:
            against_the_crate(server, 10_000, 100, 1, [10])
        else:
            against_the_crate(server, 100_000, 100, 5, [1, 10, 100])
        print("Poll of 10 (this extension), beside:", flush=True)
        flatness(server, 0.02 if quick else 1)


if __name__ == "__main__":
    main()
