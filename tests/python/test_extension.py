"""The extension as files and as an object of the database: building, installing, owning, linting."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.python.conftest import ROOT, Database
from tools.build_extension import script, version
from tools.cluster import Cluster, debian_bindir

RELEASED = ROOT / "extension" / "released.sha256"


def test_the_built_script_is_that_of_the_sources() -> None:
    assert (ROOT / "extension" / f"sqlxmq--{version()}.sql").read_text() == script()


def test_released_scripts_never_change() -> None:
    lines = [line.split() for line in RELEASED.read_text().splitlines()]
    assert lines, "no release is recorded"
    for checksum, name in lines:
        assert hashlib.sha256((ROOT / "extension" / name).read_bytes()).hexdigest() == checksum, f"{name} has changed"


def test_make_install_puts_the_files_where_the_server_looks(tmp_path: Path) -> None:
    pg_config = debian_bindir() / "pg_config"
    subprocess.run(
        ["make", "--silent", "install", f"DESTDIR={tmp_path}", f"PG_CONFIG={pg_config}"],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    shared = subprocess.check_output([pg_config, "--sharedir"], text=True).strip()
    installed = {file.name for file in (tmp_path / shared.lstrip("/") / "extension").iterdir()}
    assert installed == {file.name for file in (ROOT / "extension").glob("sqlxmq*")}
    assert f"sqlxmq--{version()}.sql" in installed


def test_make_checkver_agrees() -> None:
    done = subprocess.run(["make", "--silent", "checkver"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_plpgsql_check_finds_nothing(empty_database: Database) -> None:
    with empty_database.connect() as session:
        session.execute("CREATE EXTENSION sqlxmq")
        session.execute("CREATE EXTENSION plpgsql_check")
        found = session.execute(
            """
            SELECT function.oid::regprocedure::text, finding
            FROM pg_proc AS function
            LEFT JOIN pg_trigger ON tgrelid = 'mq_msgs'::regclass AND tgfoid = function.oid
            CROSS JOIN LATERAL plpgsql_check_function(
                function.oid, relid => CASE WHEN prorettype = 'trigger'::regtype THEN 'mq_msgs'::regclass ELSE 0 END,
                oldtable => tgoldtable,
                extra_warnings => true, performance_warnings => true, security_warnings => true) AS finding
            WHERE proname LIKE 'mq\\_%' AND prolang = (SELECT oid FROM pg_language WHERE lanname = 'plpgsql')
            """
        ).fetchall()
    assert found == []


def use(session: psycopg.Connection[Any]) -> None:
    """Sends, claims and completes a job."""
    session.execute("SELECT mq_enqueue('x', ordered => true)")
    row = session.execute("SELECT id, attempt FROM mq_poll(NULL)").fetchone()
    assert row is not None
    session.execute("SELECT mq_complete(%s, %s)", row)
    assert session.execute("SELECT count(*) FROM mq_jobs").fetchone() == (0,)


@pytest.mark.parametrize("schema", ["queue", "My Queue"])
def test_in_a_schema_of_its_own(empty_database: Database, schema: str) -> None:
    with empty_database.connect() as session:
        session.execute(f'CREATE SCHEMA "{schema}"'.encode())
        session.execute(f'CREATE EXTENSION sqlxmq SCHEMA "{schema}"'.encode())
        session.execute("SET search_path = pg_catalog")
        row = session.execute(f"SELECT \"{schema}\".mq_enqueue('x')".encode()).fetchone()
        assert row is not None
        assert session.execute(f'SELECT id FROM "{schema}".mq_poll(NULL)'.encode()).fetchone() == row
        session.execute(f'SET search_path = "{schema}"'.encode())
        session.execute("SELECT mq_clear_all()")
        use(session)
        session.execute("CREATE ROLE schema_worker")
        try:
            session.execute("SELECT mq_grant('schema_worker', 'worker')")
            session.execute("SET ROLE schema_worker")
            session.execute("SELECT * FROM mq_poll(NULL)")
            session.execute("RESET ROLE")
        finally:
            session.execute("DROP OWNED BY schema_worker; DROP ROLE schema_worker")


def test_by_a_database_owner_who_is_no_superuser(server: Cluster) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute("CREATE ROLE plain_owner LOGIN")
        admin.execute("CREATE DATABASE owned OWNER plain_owner")
    with psycopg.connect(server.dsn("owned", "plain_owner"), autocommit=True) as session:
        session.execute("CREATE SCHEMA mine")
        session.execute("CREATE EXTENSION sqlxmq SCHEMA mine")
        session.execute("SET search_path = mine")
        use(session)
        owners = session.execute("SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE proname LIKE 'mq\\_%'")
        assert owners.fetchall() == [("plain_owner",)], "functions run with the rights of somebody else"
        session.execute("DROP EXTENSION sqlxmq")


def test_dropping_it_leaves_nothing(empty_database: Database) -> None:
    with empty_database.connect() as session:
        session.execute("CREATE EXTENSION sqlxmq")
        use(session)
        session.execute("DROP EXTENSION sqlxmq")
        left = session.execute("SELECT relname FROM pg_class WHERE relname LIKE 'mq\\_%'").fetchall()
        left += session.execute("SELECT proname FROM pg_proc WHERE proname LIKE 'mq\\_%'").fetchall()
    assert left == []


def test_in_stricter_isolation(database: Database) -> None:
    for level in (psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE):
        with database.connect() as session:
            session.isolation_level = level
            use(session)
            use(session)


def test_many_ordered_channels_in_one_transaction(database: Database) -> None:
    # A lock for each channel would overflow the server's lock table.
    with database.connect() as session:
        session.execute(
            """
            SELECT mq_insert(array_agg((gen_random_uuid(), '0', 4, '1 s', 'c', n::text, NULL, true, 'x',
                                        NULL, NULL)::mq_new_t))
            FROM generate_series(1, 30000) AS n
            """
        )
        assert session.execute("SELECT count(*) FROM mq_poll(NULL, 10000)").fetchone() == (10000,)
