"""sqlxmq run and demo: workers as processes, their signals, their restarts, their logs."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sqlxmq import logs
from tests.python.cli import call, children_of, environment, error, is_alive, output, parsed, started, wait_until
from tests.python.conftest import Database

Session = psycopg.Connection[Any]

JOBS = """
import asyncio
import os

from sqlxmq import CurrentJob, JobRegistry, job


@job("note")
async def note(current_job: CurrentJob, text: str, seconds: float = 0) -> None:
    await asyncio.sleep(seconds)
    async with current_job.transaction() as connection:
        await connection.execute("INSERT INTO note VALUES (%s, %s, %s)", (text, "VERSION 1", os.getpid()))


@job("fail")
async def fail(current_job: CurrentJob) -> None:
    raise ValueError("as asked")


registry = JobRegistry([note, fail])
"""


@pytest.fixture
def app(tmp_path: Path, session: Session) -> Path:
    """A directory with an application, whose job writes rows into the table note."""
    session.execute("CREATE TABLE note (text text, version text, process integer)")
    directory = tmp_path / "app"
    directory.mkdir()
    (directory / "my_jobs.py").write_text(JOBS)
    return directory


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def notes(session: Session) -> list[tuple[Any, ...]]:
    return session.execute("SELECT text, version, process FROM note ORDER BY text").fetchall()


def count(session: Session, query: str) -> Callable[[], bool]:
    """Whether a query for a number finds one that is not 0."""
    return lambda: bool(session.execute(query.encode()).fetchone() != (0,))


def test_runs_jobs_until_sigterm(database: Database, session: Session, app: Path, log: Path) -> None:
    output(database, "send", "note", "--json", '{"text": "a"}')
    output(database, "send", "note", "--json", '{"text": "b"}', "--channel", "two")
    output(database, "send", "note", "--json", '{"text": "c"}', "--channel", "three")
    with started(
        database, "run", "my_jobs:registry", "--channel", "", "--channel", "two", "--worker", "w 1", cwd=app, log=log
    ) as worker:
        wait_until(lambda: len(notes(session)) == 2, "two jobs done", log)
        assert [w["worker"] for w in parsed(database, "status")["workers"]] == ["w 1"]
        output(database, "send", "note", "--json", '{"text": "long", "seconds": 1}')
        wait_until(count(session, "SELECT count(*) FROM mq_running_jobs WHERE worker = 'w 1'"), "running", log)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0, log.read_text()
    # The running one was finished; the other channel was none of its business.
    assert [row[0] for row in notes(session)] == ["a", "b", "long"]
    assert session.execute("SELECT state, channel_name FROM mq_jobs").fetchall() == [("ready", "three")]


def test_a_second_signal_gives_jobs_back(database: Database, session: Session, app: Path, log: Path) -> None:
    output(database, "send", "note", "--json", '{"text": "endless", "seconds": 600}')
    with started(database, "run", "my_jobs:registry", "--grace", "10m", cwd=app, log=log) as worker:
        wait_until(count(session, "SELECT count(*) FROM mq_running_jobs"), "running", log)
        worker.send_signal(signal.SIGINT)
        wait_until(lambda: "second signal" in log.read_text(), "stopping", log)
        worker.send_signal(signal.SIGINT)
        assert worker.wait(60) == 0, log.read_text()
    assert session.execute("SELECT state FROM mq_jobs").fetchall() == [("ready",)]
    assert "Traceback" not in log.read_text()


def test_groups(database: Database, session: Session, app: Path, log: Path) -> None:
    with started(
        database,
        "run",
        "my_jobs:registry",
        "--group",
        "one,two=1:1",
        "--group",
        "three=2:2",
        "--grace",
        "0",
        cwd=app,
        log=log,
    ):
        for channel in ("one", "two", "three", "three", "three", "four"):
            output(database, "send", "note", "--channel", channel, "--json", '{"text": "endless", "seconds": 600}')
        query = "SELECT channel_name = 'three', count(*) FROM mq_running_jobs GROUP BY 1 ORDER BY 1"
        wait_until(lambda: session.execute(query).fetchall() == [(False, 1), (True, 2)], "both groups", log)
        assert parsed(database, "jobs", "list", "--channel", "four")[0]["state"] == "ready"
        [worker] = parsed(database, "status")["workers"]
        assert worker["running"] == 3
        assert worker["connections"] == 2


def test_missing_context(database: Database, app: Path, log: Path) -> None:
    (app / "wants.py").write_text(
        "from sqlxmq import CurrentJob, JobRegistry, from_context, job\n"
        "@job('x')\nasync def x(current_job: CurrentJob, size: int = from_context()) -> None: ...\n"
        "registry = JobRegistry([x])\n"
    )
    with started(database, "run", "wants:registry", "--processes", "2", cwd=app, log=log) as parent:
        assert parent.wait(60) == 2
    assert "Traceback" not in log.read_text()


def test_in_a_schema_off_the_search_path(empty_database: Database, tmp_path: Path) -> None:
    output(empty_database, "install", "--plain", "--schema", "the queue")
    app, log = tmp_path, tmp_path / "log"
    (app / "my_jobs.py").write_text(JOBS)
    with empty_database.connect() as session:
        session.execute("CREATE TABLE note (text text, version text, process integer)")
        with started(empty_database, "run", "my_jobs:registry", cwd=app, log=log):
            output(empty_database, "send", "note", "--json", '{"text": "a"}')
            wait_until(lambda: len(notes(session)) == 1, "the job", log)


def test_log_lines_for_machines(database: Database, session: Session, app: Path, log: Path) -> None:
    output(database, "send", "fail", "--retries", "0")
    with started(
        database, "run", "my_jobs:registry", "--log-format", "json", "--worker", "w", cwd=app, log=log
    ) as worker:
        wait_until(count(session, "SELECT count(*) FROM mq_dead_jobs"), "the failure", log)
        wait_until(lambda: "as asked" in log.read_text(), "the line", log)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    failure = next(line for line in lines if "as asked" in json.dumps(line))
    assert failure["level"] in ("error", "warning")
    assert failure["logger"].startswith("sqlxmq")
    assert "ValueError: as asked" in failure["exception"]
    assert all({"time", "level", "logger", "message", "process"} <= line.keys() for line in lines)
    assert all(line["worker"] == "w" and line["time"].endswith("Z") for line in lines)


def test_log_levels(database: Database, session: Session, app: Path, log: Path) -> None:
    output(database, "send", "note", "--json", '{"text": "a"}')
    with started(database, "run", "my_jobs:registry", "--log-level", "error", cwd=app, log=log) as worker:
        wait_until(lambda: len(notes(session)) == 1, "the job", log)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
    assert log.read_text() == ""


def test_fields_of_log_lines() -> None:
    written = {}
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        for format in logs.FORMATS:
            to = io.StringIO()
            root.handlers = []
            logs.configure(format, "info", to=to)
            logging.getLogger("sqlxmq").info("done in %d s", 2, extra={"job_id": "id 1", "level": "taken"})
            logging.getLogger("sqlxmq").debug("not this")
            written[format] = to.getvalue()
    finally:
        root.handlers = before
        root.setLevel(level)
    assert written["text"].endswith(f"Z INFO    [{os.getpid()}] done in 2 s job_id=id 1 level=taken\n")
    line = json.loads(written["json"])
    assert line["job_id"] == "id 1"
    assert line["message"] == "done in 2 s"
    assert line["level"] == "info"
    with pytest.raises(ValueError, match="format is 'xml'"):
        logs.configure("xml")
    with pytest.raises(ValueError, match="level is 'loud'"):
        logs.configure("text", "loud")


def test_several_processes_one_of_which_is_killed(database: Database, session: Session, app: Path, log: Path) -> None:
    with started(
        database, "run", "my_jobs:registry", "--processes", "2", "--worker", "w", "--lease", "2", cwd=app, log=log
    ) as parent:
        wait_until(lambda: len(children_of(parent.pid)) == 2, "two processes", log)
        # Claimed one at a time, by whoever is free: both take part.
        session.execute(
            "SELECT mq_enqueue('note', jsonb_build_object('text', n::text, 'seconds', 0.5), channel_args => n::text)"
            " FROM generate_series(1, 60) AS n"
        )
        wait_until(count(session, "SELECT count(*) FROM mq_running_jobs"), "running", log)
        holder = session.execute("SELECT worker FROM mq_running_jobs LIMIT 1").fetchone()
        assert holder is not None
        assert holder[0] in ("w:1", "w:2")
        victim = next(
            pid for pid in children_of(parent.pid)
            if holder[0] in Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        )  # fmt: skip
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: "by SIGKILL" in log.read_text(), "the parent's notice", log)
        wait_until(lambda: len(children_of(parent.pid)) == 2, "a new process", log)
        assert victim not in children_of(parent.pid)
        wait_until(lambda: len(notes(session)) >= 60, "all jobs", log)
        children = children_of(parent.pid)
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(60) == 0, log.read_text()
        assert not any(is_alive(pid) for pid in children)
    assert sorted(int(row[0]) for row in notes(session)) == list(range(1, 61))
    assert session.execute("SELECT count(*) FROM mq_msgs").fetchone() == (0,)


def test_a_second_signal_reaches_all_processes(database: Database, session: Session, app: Path, log: Path) -> None:
    with started(
        database, "run", "my_jobs:registry", "--processes", "2", "--concurrency", "1:1", "--grace", "10m",
        cwd=app, log=log,
    ) as parent:  # fmt: skip
        for _ in range(2):
            output(database, "send", "note", "--json", '{"text": "endless", "seconds": 600}')
        wait_until(count(session, "SELECT count(*) / 2 FROM mq_running_jobs"), "both running", log)
        parent.send_signal(signal.SIGTERM)
        wait_until(lambda: log.read_text().count("a second signal gives") == 2, "both stopping", log)
        assert parent.poll() is None
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(60) == 0, log.read_text()
    assert session.execute("SELECT DISTINCT state FROM mq_jobs").fetchall() == [("ready",)]


def test_no_orphans_when_the_parent_is_killed(database: Database, app: Path, log: Path) -> None:
    with started(database, "run", "my_jobs:registry", "--processes", "2", cwd=app, log=log) as parent:
        children = wait_until(lambda: c if len(c := children_of(parent.pid)) == 2 else None, "two processes", log)
        parent.kill()
        parent.wait()
        wait_until(lambda: not any(is_alive(pid) for pid in children), "their end", log)


def test_what_no_process_can_run_is_not_tried_again(database: Database, app: Path, log: Path) -> None:
    with started(database, "run", "my_jobs:registri", "--processes", "2", cwd=app, log=log) as parent:
        assert parent.wait(60) == 2
    assert "name my_jobs:registry" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_metrics(database: Database, session: Session, app: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = next(port for port in range(24_000, 30_000, 2) if is_free(port, port + 1))

    def served(port: int) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
                return str(response.read().decode())
        except OSError:  # not yet
            return ""

    def completed(port: int) -> float:
        found = re.search(r'^sqlxmq_jobs_total\{name="note",outcome="completed"\} (\S+)$', served(port), re.MULTILINE)
        return float(found[1]) if found else 0

    with started(
        database, "run", "my_jobs:registry", "--processes", "2", "--metrics-port", str(first), cwd=app, log=log
    ) as parent:
        session.execute("SELECT mq_enqueue('note', '{\"text\": \"measured\"}') FROM generate_series(1, 20)")
        wait_until(lambda: completed(first) + completed(first + 1) == 20, "all jobs counted", log)
        assert "sqlxmq_queue_up 1.0" in served(first)
        wait_until(lambda: served(first + 1) != "", "the second process", log)
        assert "sqlxmq_queue_up" not in served(first + 1)
        monkeypatch.chdir(app)
        assert "cannot be had" in error(database, "run", "my_jobs:registry", "--metrics-port", str(first), code=2)
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(60) == 0, log.read_text()


def is_free(*ports: int) -> bool:
    try:
        for port in ports:
            with socket.create_server(("127.0.0.1", port)):
                pass
    except OSError:
        return False
    return True


def test_reload(database: Database, session: Session, app: Path, log: Path) -> None:
    with started(database, "run", "my_jobs:registry", "--reload", cwd=app, log=log) as parent:
        output(database, "send", "note", "--json", '{"text": "a"}')
        wait_until(lambda: len(notes(session)) == 1, "the first job", log)
        # Broken first: it waits for the next change instead of giving up.
        (app / "my_jobs.py").write_text(JOBS + "\nthis is no Python\n")
        wait_until(lambda: "waiting for a change" in log.read_text(), "the failure", log)
        (app / "my_jobs.py").write_text(JOBS.replace("VERSION 1", "VERSION 2"))
        output(database, "send", "note", "--json", '{"text": "b"}')
        wait_until(lambda: len(notes(session)) == 2, "the second job", log)
        assert [row[:2] for row in notes(session)] == [("a", "VERSION 1"), ("b", "VERSION 2")]
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(60) == 0, log.read_text()
    assert "Traceback" not in log.read_text()


def test_reload_without_watchfiles(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    assert "pip install 'sqlxmq[reload]'" in error(database, "run", "x:y", "--reload", code=2)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("jobs_x", "write MODULE:ATTRIBUTE"),
        ("jobs_x:", "write MODULE:ATTRIBUTE"),
        ("nowhere.at_all:registry", "there is no module nowhere,"),
        ("jobs_x:registri", "has no such attribute): name jobs_x:registry"),
        ("jobs_x:number", "it is of type int): name jobs_x:registry"),
        ("empty_x:registry", "the module needs a sqlxmq.JobRegistry"),
        ("broken_x:registry", "importing broken_x failed: RuntimeError: no luck (--debug shows the traceback)"),
        ("missing_x:registry", "importing missing_x failed: ModuleNotFoundError: No module named 'not_there'"),
    ],
)
def test_what_cannot_be_run(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name, text in {
        "jobs_x": "from sqlxmq import JobRegistry\nregistry = JobRegistry([])\nnumber = 1\n",
        "empty_x": "",
        "broken_x": "raise RuntimeError('no luck')\n",
        "missing_x": "import not_there\n",
    }.items():
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(text)
    assert message in error(database, "run", target, code=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--concurrency", "5"], "MIN:MAX"),
        (["--concurrency", "5:6", "--max-concurrency", "7"], "give either"),
        (["--concurrency", "6:5"], "min_concurrency is 6"),
        (["--group", "a,b"], "--group is 'a,b', but it must be MIN:MAX"),
        (["--group", "a=1:2", "--channel", "b"], "--group goes with neither"),
        (["--group", "a=2:1"], "min_concurrency is 2"),
        (["--lease", "0"], "lease"),
        (["--lease", "soon"], "is no duration"),
        (["--log-format", "xml"], "--log-format is 'xml'"),
        (["--log-level", "loud"], "--log-level is 'loud'"),
        (["--no-listen", "--listener-database", "x=y"], "do not go together"),
        (["--listener-database", "mysql://x"], "cannot be read"),
        (["--processes", "0"], "processes"),
    ],
)
def test_options_that_cannot_be(database: Database, options: list[str], message: str) -> None:
    assert message in error(database, "run", "sqlxmq.cli.demo_jobs:registry", *options, code=2)


def test_demo(empty_database: Database) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sqlxmq", "demo", "--jobs", "24"],
        env=environment(empty_database), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "Killed worker 1 (SIGKILL)" in done.stdout
    assert "24 effects, 0 of them doubled or wrong, 0 missing." in done.stdout
    assert "Every job had its effect exactly once." in done.stdout
    with empty_database.connect() as session:
        assert session.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'sqlxmq_demo'").fetchone() == (0,)
        session.execute("CREATE SCHEMA sqlxmq_demo")
        assert "schema sqlxmq_demo exists" in error(empty_database, "demo")


def test_as_an_installed_program(database: Database) -> None:
    program = Path(sys.executable).parent / "sqlxmq"
    done = subprocess.run([program, "version"], env=environment(database), capture_output=True, text=True)
    assert done.returncode == 0
    assert "SQL in the package" in done.stdout
    assert call(database, "--help").stdout.startswith("Usage: sqlxmq")
