"""What the benchmarks share: the cluster, queues, seeding, polls from processes, pgbench, and how figures are shown."""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from rich.console import Console
from rich.table import Table
from typing_extensions import LiteralString

from tools.cluster import Cluster, cluster, install_extension

SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "fsync": "on", "synchronous_commit": "on"}
PAYLOAD = '{"padding": "' + "x" * 35 + '"}'  # 50 bytes
Connection = psycopg.Connection[Any]

console = Console(width=None if sys.stdout.isatty() else 140, highlight=False, markup=False, soft_wrap=True)


# The program


def new_parser(description: str | None, *, plots: bool = False) -> argparse.ArgumentParser:
    """The arguments that all benchmarks take; plots: whether this one draws."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny numbers: proves that the program works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured into a file")
    if plots:
        parser.add_argument("--plots", type=Path, metavar="DIRECTORY", help="draw, into PNG files there")
    return parser


@contextmanager
def started(settings: Mapping[str, str] | None = None) -> Iterator[tuple[Cluster, dict[str, Any]]]:
    """A fresh cluster that has the extension's files; and what the figures belong to, which is printed.

    settings: configuration parameters besides SETTINGS.
    """
    configured = {**SETTINGS, **(settings or {})}
    with cluster(settings=configured) as server:
        install_extension(server.bindir)
        with psycopg.connect(server.dsn()) as session:
            row = session.execute("SELECT version()").fetchone()
            assert row is not None
        about = {
            "postgresql": row[0],
            "python": platform.python_version(),
            "psycopg": psycopg.__version__,
            "processors": os.cpu_count(),
            "cluster": configured,
        }
        console.print(about["postgresql"])
        console.print(
            f"psycopg {psycopg.__version__}, Python {about['python']}, {about['processors']} processors,"
            f" settings {configured}\n"
        )
        yield server, about


def write_json(file: Path | None, results: Mapping[str, Any]) -> None:
    """Writes the results into a file, if one was asked for."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(_without_nan(results), indent=2, allow_nan=False) + "\n")


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def new_table(title: str, *columns: str, texts: Sequence[str] = ()) -> Table:
    """A table whose columns but the first, and those named as texts, are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 or column in texts else "right")
    return table


def percentile(values: Sequence[float], percent: int) -> float:
    """The value below which so many percent (1 to 99) of the values lie; NaN if there are none."""
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def ratio(value: float, base: float) -> float:
    """The value as a multiple of the base; NaN where that is 0."""
    return value / base if base else float("nan")


# Queues


@dataclass(frozen=True)
class Dialect:
    """How a queue is asked for jobs, and told that they are done.

    Attributes: label; poll, a query with the batch size as parameter, whose rows begin with id and
    attempt; complete, a statement; is_fenced, whether it takes the attempts besides the ids.
    """

    label: str
    poll: LiteralString
    complete: LiteralString
    is_fenced: bool


EXTENSION = Dialect(
    "this extension",
    "SELECT id, attempt, name, payload_json, payload_bytes FROM mq_poll(NULL, %s)",
    "SELECT mq_complete(%s::uuid[], %s::integer[])",
    True,
)
CRATE = Dialect(
    "the crate's SQL",
    "SELECT id, NULL, name, payload_json, payload_bytes FROM mq_poll(NULL, %s)",
    "SELECT mq_delete(%s::uuid[])",
    False,
)
Claimed = tuple[list[Any], list[Any]]


def connect(dsn: str) -> Connection:
    """A session in which every statement is a transaction of its own."""
    return psycopg.connect(dsn, autocommit=True)


def _database(server: Cluster, name: str) -> Connection:
    with connect(server.dsn()) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return connect(server.dsn(name))


def new_queue(server: Cluster, name: str) -> Connection:
    """A new database with the extension in it, and a session there."""
    session = _database(server, name)
    session.execute("CREATE EXTENSION sqlxmq")
    return session


def new_crate_queue(server: Cluster, name: str) -> Connection | None:
    """A new database with the SQL of the sqlxmq crate, which cargo fetches; None, and said so, where it cannot."""
    migrations = _crate_migrations()
    if not migrations:
        return None
    session = _database(server, name)
    for migration in migrations:
        session.execute(migration.encode())
    return session


def _crate_migrations() -> list[str]:
    cargo = shutil.which("cargo")
    if cargo is None:
        console.print("the crate's SQL is left out: there is no cargo on this machine")
        return []
    with tempfile.TemporaryDirectory() as directory:
        for command in (
            ["init", "--quiet", "--name", "fetch"],
            ["add", "--quiet", "sqlxmq@0.6", "--no-default-features"],
            ["vendor", "--quiet", "vendored"],
        ):
            done = subprocess.run([cargo, *command], cwd=directory, capture_output=True, text=True)
            if done.returncode:
                said = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
                console.print(f"the crate's SQL is left out: cargo {command[0]} failed: {said}")
                return []
        migrations = (Path(directory) / "vendored" / "sqlxmq" / "migrations").glob("*.up.sql")
        return [migration.read_text() for migration in sorted(migrations)]


def drop(server: Cluster, session: Connection) -> None:
    """Ends the session, and drops its database."""
    name = session.info.dbname
    session.close()
    with connect(server.dsn()) as admin:
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def one(session: Connection, query: LiteralString, *parameters: object) -> Any:
    """The only value that a query returns."""
    row = session.execute(query, parameters or None).fetchone()
    assert row is not None
    return row[0]


# Sending

ENQUEUE_MANY: LiteralString = """
    SELECT count(*) FROM mq_enqueue_many(
        array_fill('no-op'::text, ARRAY[%(jobs)s::integer]),
        payloads => array_fill(%(payload)s::text, ARRAY[%(jobs)s::integer]),
        channel_names => array_fill('bench'::text, ARRAY[%(jobs)s::integer]),
        channel_args => ARRAY(SELECT (n %% %(channels)s::bigint)::text
                              FROM generate_series(%(first)s::bigint, %(first)s::bigint + %(jobs)s - 1) AS n
                              ORDER BY n),
        delays => ARRAY(SELECT CASE WHEN %(delayed_of_100)s::integer > n * 37 %% 100 THEN %(delay)s::interval END
                        FROM generate_series(%(first)s::bigint, %(first)s::bigint + %(jobs)s - 1) AS n
                        ORDER BY n),
        ordered => array_fill(%(ordered)s::boolean, ARRAY[%(jobs)s::integer]))
"""

# The call that both queues know, with the ids that both queues' users give.
MQ_INSERT: LiteralString = """
    SELECT mq_insert(array_agg((gen_random_uuid(), '0'::interval, 4, '60 seconds', 'bench',
                                (n %% %(channels)s)::text, NULL, false, 'no-op', %(payload)s, NULL)::mq_new_t))
    FROM generate_series(%(first)s::bigint, %(first)s::bigint + %(jobs)s - 1) AS n
"""


def enqueue(
    session: Connection,
    first: int,
    jobs: int,
    channels: int,
    *,
    delay: str = "0",
    delayed_of_100: int = 100,
    ordered: bool = False,
) -> None:
    """Sends jobs first, first + 1, … in one call, in turn to so many channels.

    delay: an interval, for so many of 100 jobs, which are spread evenly.
    """
    session.execute(
        ENQUEUE_MANY,
        {
            "first": first,
            "jobs": jobs,
            "channels": channels,
            "delay": delay,
            "delayed_of_100": delayed_of_100 if delay != "0" else 0,
            "ordered": ordered,
            "payload": PAYLOAD,
        },
        prepare=True,
    )


def seed(
    session: Connection, jobs: int, channels: int, *, first: int = 0, delay: str = "0", ordered: bool = False
) -> None:
    """Sends many jobs, 10,000 a call; settle() belongs after it."""
    for start in range(first, first + jobs, 10_000):
        enqueue(session, start, min(10_000, first + jobs - start), channels, delay=delay, ordered=ordered)


def seed_alike(session: Connection, jobs: int, channels: int, *, first: int = 0, batch: int = 5_000) -> None:
    """Sends many jobs by mq_insert, as this extension and the crate both take them; settle() belongs after it."""
    for start in range(first, first + jobs, batch):
        size = min(batch, first + jobs - start)
        session.execute(
            MQ_INSERT, {"first": start, "jobs": size, "channels": channels, "payload": PAYLOAD}, prepare=True
        )


def settle(session: Connection) -> None:
    """Does what autovacuum and the checkpointer would do to what was just sent, so that they do not do it later."""
    session.execute("VACUUM (ANALYZE)")
    session.execute("CHECKPOINT")


# Claiming


@dataclass
class Drive:
    """How fast sessions claimed and completed.

    Attributes: jobs, completed by all of them; seconds, of the one that took longest; polls, the
    duration of each in milliseconds, empty ones left out; deadlocks, how many statements were repeated
    for one.
    """

    jobs: int = 0
    seconds: float = 0.0
    polls: list[float] = field(default_factory=list)
    deadlocks: int = 0

    @property
    def rate(self) -> float:
        """Jobs per second."""
        return self.jobs / self.seconds


def claim(session: Connection, dialect: Dialect, batch: int) -> tuple[Claimed, float]:
    """Claims up to so many jobs: their ids and attempts, and the milliseconds that the poll took."""
    before = time.perf_counter()
    rows = session.execute(dialect.poll, (batch,), prepare=True, binary=True).fetchall()
    took = (time.perf_counter() - before) * 1000
    if rows and rows[0][0] is None:
        rows = []
    return ([row[0] for row in rows], [row[1] for row in rows]), took


def complete(session: Connection, dialect: Dialect, claimed: Claimed) -> None:
    """Completes what was claimed."""
    session.execute(dialect.complete, claimed if dialect.is_fenced else claimed[:1], prepare=True)


def claim_and_complete(session: Connection, dialect: Dialect, batch: int, seconds: float) -> Drive:
    """Claims and completes in turn for so long, or until nothing is left to claim."""
    drive = Drive()
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        try:
            claimed, took = claim(session, dialect, batch)
        except psycopg.errors.DeadlockDetected:
            drive.deadlocks += 1
            continue
        if not claimed[0]:
            break
        while True:
            try:
                complete(session, dialect, claimed)
                break
            except psycopg.errors.DeadlockDetected:
                drive.deadlocks += 1
        drive.polls.append(took)
        drive.jobs += len(claimed[0])
    drive.seconds = time.perf_counter() - begin
    return drive


_start: Any = None  # the barrier at which the processes of side_by_side() wait for each other


def _set_start(barrier: Any) -> None:
    global _start
    _start = barrier


def _drive(dsn: str, dialect: Dialect, batch: int, seconds: float) -> Drive:
    with connect(dsn) as session:
        one(session, "SELECT 1")
        _start.wait(60)
        return claim_and_complete(session, dialect, batch, seconds)


def side_by_side(dsn: str, dialect: Dialect, batch: int, seconds: float, sessions: int = 1) -> Drive:
    """Claims and completes for so long, in so many processes that begin at the same moment."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(sessions, context, _set_start, (context.Barrier(sessions),)) as pool:
        futures = [pool.submit(_drive, dsn, dialect, batch, seconds) for _ in range(sessions)]
        drives = [future.result() for future in futures]
    return Drive(
        sum(drive.jobs for drive in drives),
        max(drive.seconds for drive in drives),
        [poll for drive in drives for poll in drive.polls],
        sum(drive.deadlocks for drive in drives),
    )


# pgbench


@dataclass(frozen=True)
class PgbenchResult:
    """What pgbench says.

    Attributes: transactions, that were done; rate, of them per second; failed, that were not.
    """

    transactions: int
    rate: float
    failed: int


@contextmanager
def pgbench(
    server: Cluster, database: str, script: str, clients: int, seconds: float
) -> Iterator[Callable[[], PgbenchResult]]:
    """Starts pgbench with a script, prepared, for so many seconds (at least 1); yields what waits for its result.

    That raises RuntimeError if pgbench fails. It is ended on leaving, if it still runs.
    """
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "script.sql"
        file.write_text(script)
        process = subprocess.Popen(
            [
                server.bindir / "pgbench", "--no-vacuum", "--protocol=prepared", f"--client={clients}",
                f"--jobs={min(clients, os.cpu_count() or 1)}", f"--time={max(1, round(seconds))}",
                "--max-tries=100", f"--file={file}",
            ],
            env=server.environment(database), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, cwd="/",
        )  # fmt: skip

        def result() -> PgbenchResult:
            said, _ = process.communicate()
            if process.returncode:
                raise RuntimeError(f"pgbench: exit {process.returncode}\n{said}")
            return PgbenchResult(
                int(_said(r"number of transactions actually processed: (\d+)", said)),
                float(_said(r"tps = ([\d.]+)", said)),
                int(_said(r"number of failed transactions: (\d+)", said)),
            )

        try:
            yield result
        finally:
            process.kill()
            process.wait()


def _said(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"pgbench does not say {pattern!r}:\n{text}")
    return found[1]
