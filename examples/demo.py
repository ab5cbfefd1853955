"""Real work through the queue, while a worker is killed: an index of the files of a directory.

One job a file, sent in equal parts from SQL, by a trigger on a table, and from Python. Each job reads
its file and writes a row (size, lines, words, SHA-256) in the transaction that completes it. Two
worker processes share the work; one of them is killed with SIGKILL while it holds jobs. In the end the
table is compared with the files themselves.

Uses the database that DATABASE_URL names, in a schema of its own, else an embedded PostgreSQL.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import psycopg_pool
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from sqlxmq import CurrentJob, JobRegistry, job

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.cluster import embedded_cluster  # noqa: E402

LEASE = timedelta(seconds=2)
console = Console()

SCHEMA = """
DROP SCHEMA IF EXISTS sqlxmq_demo CASCADE;
CREATE SCHEMA sqlxmq_demo;
CREATE TABLE sqlxmq_demo.wanted (path text);
CREATE TABLE sqlxmq_demo.delivery (job uuid, attempt integer, worker text);
-- No unique key on purpose: a file that is indexed twice is to be seen.
CREATE TABLE sqlxmq_demo.file_index (path text, size bigint, lines bigint, words bigint, sha256 text);
CREATE TRIGGER index_it AFTER INSERT ON sqlxmq_demo.wanted FOR EACH ROW
    EXECUTE FUNCTION mq_enqueue_trigger('index_wanted_file', 'channel_name=sqlxmq_demo', 'columns=path');
"""


class Facts(NamedTuple):
    """What the index holds of a file."""

    size: int
    lines: int
    words: int
    sha256: str


def facts(path: Path) -> Facts:
    """Reads a file and counts."""
    content = path.read_bytes()
    return Facts(len(content), content.count(b"\n"), len(content.split()), hashlib.sha256(content).hexdigest())


def files_of(directory: Path) -> list[Path]:
    """All files below a directory, but those in hidden directories and caches."""
    found = []
    for parent, directories, names in os.walk(directory):
        directories[:] = [d for d in directories if not d.startswith(".") and d != "__pycache__"]
        found += [Path(parent) / name for name in names]
    return sorted(path for path in found if path.is_file() and path.as_posix().isprintable())


# The worker's side


async def index(current_job: CurrentJob, path: str) -> None:
    """Indexes a file: its row, and the job's completion, in one transaction."""
    async with current_job.pool.connection() as connection:
        await connection.execute(
            "INSERT INTO sqlxmq_demo.delivery VALUES (%s, %s, %s)",
            (current_job.id, current_job.attempt, current_job.context(str)),
        )
    found = await asyncio.to_thread(facts, Path(path))
    async with current_job.transaction() as connection:
        await connection.execute("INSERT INTO sqlxmq_demo.file_index VALUES (%s, %s, %s, %s, %s)", (path, *found))


@job("index_file", channel_name="sqlxmq_demo")
async def index_file(current_job: CurrentJob, path: str) -> None:
    """Sent from SQL and from Python."""
    await index(current_job, path)


@job("index_wanted_file", channel_name="sqlxmq_demo")
async def index_wanted_file(
    current_job: CurrentJob, operation: str, schema: str, table: str, new: dict[str, Any], old: None
) -> None:
    """Sent by the trigger: the new row says which file."""
    await index(current_job, new["path"])


async def work(dsn: str, name: str) -> None:
    """A worker process: runs jobs until SIGTERM."""
    registry = JobRegistry([index_file, index_wanted_file]).set_context(name)
    async with psycopg_pool.AsyncConnectionPool(dsn, min_size=2, max_size=4, open=False) as pool:
        runner = registry.runner(
            pool, channel_names=["sqlxmq_demo"], min_concurrency=4, max_concurrency=8, lease=LEASE, worker=name
        )
        await runner.run()


# The demonstration


@contextmanager
def database() -> Iterator[str]:
    """A connection string: DATABASE_URL's, or that of an embedded server that is gone afterwards."""
    if url := os.environ.get("DATABASE_URL"):
        console.print("Using the database that DATABASE_URL names.")
        yield url
        return
    with ExitStack() as stack:
        with console.status("Starting an embedded PostgreSQL …"):
            server = stack.enter_context(embedded_cluster())
        yield server.dsn()


def prepare(session: psycopg.Connection[Any]) -> None:
    """The extension, and empty tables. Exits, saying what to do, where the extension cannot be created."""
    try:
        session.execute("CREATE EXTENSION IF NOT EXISTS sqlxmq")
    except psycopg.Error as error:
        sys.exit(
            f"CREATE EXTENSION sqlxmq failed: {error}\nInstall its files on the server (make install) and try again."
        )
    session.execute("SELECT mq_clear('{sqlxmq_demo}')")
    session.execute(SCHEMA)


def send(session: psycopg.Connection[Any], paths: list[str]) -> None:
    """One job for each path: a third of them each way."""
    from_sql, by_trigger, from_python = paths[::3], paths[1::3], paths[2::3]
    session.execute(
        """
        SELECT mq_enqueue('index_file', jsonb_build_object('path', path), channel_name => 'sqlxmq_demo')
        FROM unnest(%s::text[]) AS path
        """,
        (from_sql,),
    )
    session.execute("INSERT INTO sqlxmq_demo.wanted SELECT unnest(%s::text[])", (by_trigger,))
    with session.transaction():
        for path in from_python:
            index_file.spawn(session, path)
    console.print(
        f"Sent {len(from_sql)} jobs from SQL, {len(by_trigger)} by a trigger, {len(from_python)} from Python."
    )


def start_worker(dsn: str, name: str) -> subprocess.Popen[bytes]:
    """A worker in a process of its own."""
    return subprocess.Popen([sys.executable, __file__, "--worker", name], env={**os.environ, "SQLXMQ_DEMO_DSN": dsn})


def kill_when_it_holds_jobs(session: psycopg.Connection[Any], victim: subprocess.Popen[bytes], name: str) -> int:
    """Kills a worker at a moment when it holds jobs; how many it held, 0 if it was not killed.

    It is halted first, so that what it holds cannot change between the look and the kill.
    """
    victim.send_signal(signal.SIGSTOP)
    row = session.execute("SELECT count(*) FROM mq_running_jobs WHERE worker = %s", (name,)).fetchone()
    held: int = row[0] if row else 0
    if held:
        victim.kill()
        victim.wait()
    else:
        victim.send_signal(signal.SIGCONT)
    return held


def run_to_the_end(session: psycopg.Connection[Any], dsn: str, sent: int) -> int:
    """Works off all jobs with two workers, one of which is killed; how many jobs that one held."""
    workers = {name: start_worker(dsn, name) for name in ("worker 1", "worker 2")}
    victim = workers["worker 1"]
    held = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    try:
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task("Indexing", total=sent)
            done = 0
            while done < sent:
                row = session.execute("SELECT count(*) FROM sqlxmq_demo.file_index").fetchone()
                done = row[0] if row else 0
                progress.update(bar, completed=done)
                if not held and done >= sent // 4 and done < sent:
                    held = kill_when_it_holds_jobs(session, victim, "worker 1")
                    if held:
                        progress.console.print(
                            f"Killed worker 1 (SIGKILL) after {done} files, while it held {held} jobs."
                        )
                if all(worker.poll() is not None for worker in workers.values()):
                    sys.exit("both workers have ended; their messages are above")
                time.sleep(0.01)
    finally:
        for worker in workers.values():
            if worker.poll() is None:
                worker.terminate()
        for worker in workers.values():
            worker.wait()
    return held


def report(session: psycopg.Connection[Any], paths: list[Path], sent: int) -> bool:
    """Compares the index with the files; prints the figures; returns whether all is well."""
    rows = session.execute("SELECT path, size, lines, words, sha256 FROM sqlxmq_demo.file_index").fetchall()
    indexed = {row[0]: Facts(*row[1:]) for row in rows}
    expected = {str(path): facts(path) for path in paths}
    row = session.execute("SELECT count(*), count(*) FILTER (WHERE attempt > 1) FROM sqlxmq_demo.delivery").fetchone()
    left = session.execute("SELECT count(*) FROM mq_jobs WHERE channel_name = 'sqlxmq_demo'").fetchone()
    figures = {
        "jobs sent": sent,
        "attempts": row[0] if row else 0,
        "redeliveries": row[1] if row else 0,
        "rows": len(rows),
        "missing": len(expected.keys() - indexed.keys()),
        "doubled": len(rows) - len(indexed),
        "wrong": sum(indexed[path] != expected[path] for path in indexed.keys() & expected.keys()),
        "jobs left": left[0] if left else 0,
    }
    for name, figure in figures.items():
        console.print(f"{name:<14}{figure:>8}")
    return not any(figures[name] for name in ("missing", "doubled", "wrong", "jobs left"))


def main() -> int:
    """Runs the demonstration; 0 if every file was indexed exactly once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "directory", nargs="?", type=Path, default=ROOT, help="whose files to index (default: this repository)"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        logging.basicConfig(level=logging.WARNING, format=f"{arguments.worker}: %(message)s")
        asyncio.run(work(os.environ["SQLXMQ_DEMO_DSN"], arguments.worker))
        return 0
    if not arguments.directory.is_dir():
        parser.error(f"directory is {arguments.directory}, but there is no such directory")
    paths = files_of(arguments.directory.resolve())
    with database() as dsn, psycopg.connect(dsn, autocommit=True) as session:
        prepare(session)
        send(session, [str(path) for path in paths])
        held = run_to_the_end(session, dsn, len(paths))
        well = report(session, paths, len(paths))
        session.execute("DROP SCHEMA sqlxmq_demo CASCADE")
    if not held:
        console.print("(The work was done before worker 1 could be killed while it held jobs; try a larger directory.)")
    console.print("Every file was indexed exactly once." if well else "[bold red]The index is wrong.")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
