"""The plugin for pytest, in runs of pytest on projects of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.python.conftest import ROOT, Database

JOBS = """
from sqlxmq import CurrentJob, JobRegistry, SyncCurrentJob, job

@job("ship")
async def ship(current_job: CurrentJob, order: int) -> None:
    async with current_job.transaction() as connection:
        await connection.execute("INSERT INTO shipped VALUES (%s)", (order,))

@job("order")
def take_order(current_job: SyncCurrentJob, order: int) -> None:
    with current_job.transaction() as connection:
        ship.spawn(connection, order)

registry = JobRegistry([ship, take_order])
"""

TESTS = """
import psycopg
import pytest
from jobs import registry, ship, take_order

def test_sync(sqlxmq_connection, sqlxmq_queue):
    sqlxmq_connection.execute("CREATE TABLE shipped (number integer)")
    take_order.spawn(sqlxmq_connection, 7)
    sqlxmq_queue.assert_spawned(take_order, order=7)
    assert sqlxmq_queue.run_one(registry).outcome == "completed"
    sqlxmq_queue.assert_not_spawned(take_order)
    sqlxmq_queue.assert_spawned(ship, order=7, count=1)
    assert len(sqlxmq_queue.drain(registry)) == 1
    assert sqlxmq_connection.execute("SELECT number FROM shipped").fetchall() == [(7,)]
    with pytest.raises(psycopg.ProgrammingError):
        sqlxmq_connection.commit()

async def test_async(sqlxmq_async_connection, sqlxmq_async_queue, sqlxmq_queue):
    await sqlxmq_async_connection.execute("CREATE TABLE shipped (number integer)")
    await take_order.spawn(sqlxmq_async_connection, 7)
    await sqlxmq_async_queue.assert_spawned(take_order, order=7)
    assert len(await sqlxmq_async_queue.drain(registry)) == 2
    cursor = await sqlxmq_async_connection.execute("SELECT number FROM shipped")
    assert await cursor.fetchall() == [(7,)]
    assert sqlxmq_queue.spawned() == []
    with pytest.raises(psycopg.ProgrammingError):
        await sqlxmq_async_connection.commit()

def test_that_fails(sqlxmq_connection, sqlxmq_queue):
    ship.spawn(sqlxmq_connection, 1)
    sqlxmq_queue.assert_spawned(ship, order=2)
"""


def run_pytest(
    directory: Path, files: dict[str, str], *options: str, environment: dict[str, str] | None = None
) -> tuple[int, str]:
    for name, text in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text)
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider", *options],
        cwd=directory, env={**inherited, **(environment or {})}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


CONFIGURATION = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"


@pytest.mark.parametrize("has_queue", [True, False])
def test_a_project_with_the_fixtures(
    database: Database, empty_database: Database, tmp_path: Path, has_queue: bool
) -> None:
    used = database if has_queue else empty_database
    files = {"jobs.py": JOBS, "test_jobs.py": TESTS, "pytest.ini": CONFIGURATION}
    code, output = run_pytest(tmp_path, files, f"--sqlxmq-dsn={used.dsn}")
    assert code == 1, output
    assert "1 failed, 2 passed" in output
    assert "AssertionError: ship(order=2) was not sent." in output
    assert "  ship(order=1)  ready, channel ''" in output
    with used.connect() as session:
        assert session.execute("SELECT to_regclass('shipped')").fetchone() == (None,)
        assert session.execute("SELECT count(*) FROM pg_extension WHERE extname = 'sqlxmq'").fetchone() == (has_queue,)
        if has_queue:
            assert session.execute("SELECT count(*) FROM mq_msgs").fetchone() == (0,)


@pytest.mark.parametrize("source", ["setting", "SQLXMQ_DATABASE", "DATABASE_URL"])
def test_where_the_database_is_named(database: Database, tmp_path: Path, source: str) -> None:
    url = f"postgresql+psycopg://{database.server.superuser}@/{database.name}?host={database.server.directory}"
    setting = f"sqlxmq_dsn = {database.dsn}\n" if source == "setting" else ""
    environment = {"DATABASE_URL": "host=/nowhere", "SQLXMQ_DATABASE": "host=/nowhere"}
    if source == "DATABASE_URL":
        environment = {"DATABASE_URL": url}
    elif source == "SQLXMQ_DATABASE":
        environment["SQLXMQ_DATABASE"] = database.dsn
    test = "def test_name(sqlxmq_connection):\n    print('in', sqlxmq_connection.info.dbname)\n"
    code, output = run_pytest(
        tmp_path, {"test_one.py": test, "pytest.ini": CONFIGURATION + setting}, "-s", environment=environment
    )
    assert code == 0, output
    assert f"in {database.name}" in output


def test_without_a_database_only_its_users_fail(tmp_path: Path) -> None:
    test = """
import sys

def test_other():
    assert "sqlxmq" not in sys.modules and "psycopg" not in sys.modules

def test_with_it(sqlxmq_queue):
    pass
"""
    code, output = run_pytest(tmp_path, {"test_one.py": test})
    assert code == 1, output
    assert "1 passed, 1 error" in output
    assert "No database is named for the tests of sqlxmq's jobs: use the option --sqlxmq-dsn" in output


def test_a_server_without_the_queue(server: object, empty_database: Database, tmp_path: Path) -> None:
    test = "def test_one(sqlxmq_queue):\n    pass\n"
    with empty_database.connect() as session:
        session.execute("CREATE SCHEMA elsewhere")
        session.execute("CREATE EXTENSION sqlxmq SCHEMA elsewhere")
    code, output = run_pytest(tmp_path, {"test_one.py": test}, f"--sqlxmq-dsn={empty_database.dsn}")
    assert code == 1, output
    assert "The queue is in the schema elsewhere, which is not in the search_path" in output
    dsn = f"{empty_database.dsn} options=-csearch_path=elsewhere,public"
    code, output = run_pytest(tmp_path, {"test_one.py": test}, f"--sqlxmq-dsn={dsn}")
    assert code == 0, output
    with empty_database.connect() as session:
        session.execute("DROP EXTENSION sqlxmq")
        # Such a server looks like this.
        session.execute("CREATE VIEW elsewhere.pg_available_extensions AS SELECT NULL::name AS name")
    dsn = f"{empty_database.dsn} options=-csearch_path=elsewhere,pg_catalog"
    code, output = run_pytest(tmp_path, {"test_one.py": test}, f"--sqlxmq-dsn={dsn}")
    assert code == 1, output
    assert "has no queue, and its server has no files of the extension" in output
    assert "install the queue there by 'sqlxmq install'" in output


def test_with_a_connection_of_the_projects_own(database: Database, tmp_path: Path) -> None:
    conftest = """
import psycopg
import pytest

@pytest.fixture
def sqlxmq_connection(sqlxmq_dsn):
    with psycopg.connect(sqlxmq_dsn, application_name="mine") as connection:
        yield connection
        connection.rollback()
"""
    test = """
async def test_one(sqlxmq_connection, sqlxmq_queue, sqlxmq_async_connection):
    assert sqlxmq_queue.connection is sqlxmq_connection
    cursor = await sqlxmq_async_connection.execute("SHOW application_name")
    assert await cursor.fetchone() == ("mine",)
"""
    files = {"conftest.py": conftest, "test_one.py": test, "pytest.ini": CONFIGURATION}
    code, output = run_pytest(tmp_path, files, f"--sqlxmq-dsn={database.dsn}")
    assert code == 0, output


def test_under_anyio(database: Database, tmp_path: Path) -> None:
    files = {
        "jobs.py": JOBS,
        "test_jobs.py": f"import pytest\npytestmark = pytest.mark.anyio\n{TESTS}",
        "conftest.py": "import pytest\n\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n",
    }
    code, output = run_pytest(tmp_path, files, "-p", "no:asyncio", "-k", "async", f"--sqlxmq-dsn={database.dsn}")
    assert code == 0, output
    assert "1 passed, 2 deselected" in output


def test_the_examples_of_the_documentation(empty_database: Database, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "guide" / "testing.md").read_text()
    files = dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert len(files) == text.count("```python") + text.count("```ini")
    code, output = run_pytest(tmp_path, files, environment={"SQLXMQ_DATABASE": empty_database.dsn})
    assert code == 0, output
    assert f"{sum(part.count('def test_') for part in files.values())} passed" in output
