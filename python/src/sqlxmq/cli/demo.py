"""sqlxmq demo: jobs through a queue of its own, while a worker is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Annotated

import typer
from psycopg import sql
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from sqlxmq.cli.app import Command, Settings, app
from sqlxmq.cli.database import Connection, connect, dsn
from sqlxmq.cli.demo_jobs import CHANNEL, hash_number
from sqlxmq.cli.errors import Failure
from sqlxmq.cli.install import create_plain
from sqlxmq.cli.output import console

SCHEMA = "sqlxmq_demo"
LONGEST = 120.0  # seconds without progress


@app.command(cls=Command)
def demo(
    context: typer.Context,
    jobs: Annotated[int, typer.Option("--jobs", min=20, max=10_000, help="How many jobs.")] = 60,
) -> None:
    """See jobs survive a killed worker: in a schema of its own, which is dropped afterwards."""
    settings: Settings = context.obj
    screen = console()
    with connect(settings) as connection:
        if connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", (SCHEMA,)).fetchone() is not None:
            raise Failure(f"schema {SCHEMA} exists: drop it (DROP SCHEMA {SCHEMA} CASCADE), then try again")
        create_plain(connection, SCHEMA)
        try:
            screen.print(f"Installed the queue, as plain SQL, in schema {SCHEMA}.")
            connection.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(SCHEMA)))
            # No unique key on purpose: an effect that happens twice is to be seen.
            connection.execute("CREATE TABLE effect (number integer, digest text, attempt integer)")
            with connection.transaction():
                for number in range(jobs):
                    hash_number.spawn(connection, number=number)
            screen.print(f"Sent {jobs} jobs.")
            held = _work_off(connection, dsn(settings), jobs, screen)
            _verify(connection, jobs, held, screen)
        finally:
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(SCHEMA)))
            screen.print(f"Dropped schema {SCHEMA}.")


def _start_worker(database: str, name: str) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-m", "sqlxmq", "--schema", SCHEMA, "run", "sqlxmq.cli.demo_jobs:registry",
        "--worker", name, "--concurrency", "4:8", "--lease", "2", "--channel", CHANNEL, "--log-level", "warning",
    ]  # fmt: skip
    # By the environment: everybody can read a process's arguments, and there may be a password in it.
    return subprocess.Popen(command, env={**os.environ, "SQLXMQ_DATABASE": database})


def _work_off(connection: Connection, database: str, jobs: int, screen: Console) -> int:
    """Has the jobs run, kills the first worker; how many jobs that one held."""
    held = 0
    worker = _start_worker(database, "demo worker 1")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    try:
        with Progress(*columns, console=screen) as progress:
            bar = progress.add_task("Working", total=jobs)
            done, last_progress = 0, time.monotonic()
            while done < jobs:
                before, done = done, _one(connection, "SELECT count(*) FROM effect")
                progress.update(bar, completed=done)
                if done > before:
                    last_progress = time.monotonic()
                if not held and done >= jobs // 4:
                    held = _kill_while_it_holds_jobs(connection, worker)
                    if held:
                        screen.print(f"Killed worker 1 (SIGKILL) after {done} jobs, while it held {held} more.")
                        worker = _start_worker(database, "demo worker 2")
                        screen.print("Started worker 2.")
                if worker.poll() is not None:
                    raise Failure("the worker has ended; its message is above")
                if time.monotonic() - last_progress > LONGEST:
                    raise Failure(f"no job was done for {LONGEST:.0f} s: {done} of {jobs} are")
                time.sleep(0.02)
    finally:
        if worker.poll() is None:
            worker.terminate()
        worker.wait()
    return held


def _kill_while_it_holds_jobs(connection: Connection, worker: subprocess.Popen[bytes]) -> int:
    """Kills the worker if it holds jobs; how many. It is halted first, so that this cannot change meanwhile."""
    worker.send_signal(signal.SIGSTOP)
    held = _one(connection, "SELECT count(*) FROM mq_running_jobs")
    if held:
        worker.kill()
        worker.wait()
    else:
        worker.send_signal(signal.SIGCONT)
    return held


def _verify(connection: Connection, jobs: int, held: int, screen: Console) -> None:
    """Prints what happened; raises Failure unless every job had its effect once, and the right one."""
    # The digests are computed a second time, by the database.
    correct = "digest = encode(sha256(convert_to(number::text, 'UTF8')), 'hex')"
    effects = _one(connection, "SELECT count(*) FROM effect")
    different = _one(connection, f"SELECT count(DISTINCT number) FROM effect WHERE {correct}")
    wrong = _one(connection, f"SELECT count(*) FROM effect WHERE NOT {correct}")
    repeated = _one(connection, "SELECT count(*) FROM effect WHERE attempt > 1")
    left = _one(connection, "SELECT count(*) FROM mq_jobs")
    screen.print(f"{effects} effects, {effects - different} of them doubled or wrong, {jobs - different} missing.")
    screen.print(f"{repeated} of them came by a later attempt than the first; the killed worker held {held} jobs.")
    if effects != jobs or different != jobs or wrong or left:
        raise Failure("not every job had its effect exactly once")
    screen.print("Every job had its effect exactly once.")


def _one(connection: Connection, query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    number: int = row[0]
    return number
