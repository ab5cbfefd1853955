"""sqlxmq install, upgrade, version: extension or plain SQL, the same queue."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.python.cli import error, output, parsed
from tests.python.conftest import ROOT, Database
from tests.python.test_extension import use
from tests.python.test_updates import catalog, script
from tools.build_extension import version

EXTENSION_ITSELF = ("members", "extension")


def plain_catalog(session: psycopg.Connection[Any]) -> dict[str, list[str]]:
    return {part: rows for part, rows in catalog(session).items() if part not in EXTENSION_ITSELF}


@contextmanager
def role(database: Database, grant: str | None = None) -> Iterator[str]:
    """A role that can log in, with what mq_grant gives."""
    name = f"cli_{uuid.uuid4().hex[:8]}"
    with database.connect() as session:
        session.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
        try:
            if grant:
                session.execute("SELECT mq_grant(%s, %s)", (name, grant))
            yield name
        finally:
            session.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(name)))


def test_as_an_extension_where_the_server_has_it(empty_database: Database) -> None:
    assert output(empty_database, "install") == f"Installed sqlxmq {version()} in schema public as an extension.\n"
    again = output(empty_database, "install")
    assert again == f"sqlxmq {version()} is installed already, in schema public as an extension.\n"
    with empty_database.connect() as session:
        use(session)


def test_plain_is_the_same_as_the_extension(empty_database: Database, database: Database) -> None:
    done = output(empty_database, "install", "--plain")
    assert done == f"Installed sqlxmq {version()} in schema public as plain SQL.\n"
    with empty_database.connect() as plain, database.connect() as extension:
        assert plain_catalog(plain) == plain_catalog(extension)
        assert catalog(plain)["members"] == []
        use(plain)
    with role(empty_database, "worker") as worker, role(database, "worker") as other:
        with psycopg.connect(empty_database.server.dsn(empty_database.name, worker), autocommit=True) as session:
            session.execute("SELECT mq_poll(NULL)")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute("SELECT mq_enqueue('x')")
        with empty_database.connect() as plain, database.connect() as extension:
            rights = [[row.replace(worker, "W").replace(other, "W") for row in catalog(s)["function rights"]]
                      for s in (plain, extension)]  # fmt: skip
            assert sorted(rights[0]) == sorted(rights[1])
    assert "installed already" in output(empty_database, "install", "--plain")


def test_plain_upgraded_is_the_same_as_fresh(empty_database: Database, database: Database) -> None:
    with empty_database.connect() as session:
        session.execute(f"BEGIN;{script('sqlxmq--0.1.0.sql')}\nCOMMIT".encode())
        session.execute("SELECT mq_enqueue('kept')")
    assert parsed(empty_database, "version")["queues"] == [
        {"schema": "public", "version": "0.1.0", "is_extension": False}
    ]
    done = output(empty_database, "upgrade")
    assert done == f"Upgraded sqlxmq in schema public as plain SQL from 0.1.0 to {version()}.\n"
    with empty_database.connect() as plain, database.connect() as extension:
        assert plain_catalog(plain) == plain_catalog(extension)
        assert plain.execute("SELECT name FROM mq_jobs").fetchall() == [("kept",)]
    assert "is the newest version already" in output(empty_database, "upgrade")


def test_a_failing_upgrade_changes_nothing(empty_database: Database) -> None:
    with empty_database.connect() as session:
        session.execute(f"BEGIN;{script('sqlxmq--0.1.0.sql')}\nCOMMIT".encode())
        session.execute("CREATE VIEW in_the_way AS SELECT * FROM mq_poll(NULL)")
        before = catalog(session)
        assert "in_the_way" in error(empty_database, "upgrade")
        assert catalog(session) == before


def test_upgrade_of_the_extension(empty_database: Database) -> None:
    with empty_database.connect() as session:
        session.execute("CREATE EXTENSION sqlxmq VERSION '0.1.0'")
    done = output(empty_database, "upgrade")
    assert done == f"Upgraded sqlxmq in schema public as an extension from 0.1.0 to {version()}.\n"
    assert "is the newest version already" in output(empty_database, "upgrade")


def test_upgrade_from_an_unknown_version(empty_database: Database) -> None:
    output(empty_database, "install", "--plain")
    with empty_database.connect() as session:
        session.execute("CREATE OR REPLACE FUNCTION mq_version() RETURNS text LANGUAGE sql IMMUTABLE RETURN '99.1'")
    assert "no scripts lead from version 99.1" in error(empty_database, "upgrade")


@pytest.mark.parametrize("how", ["--plain", "--as-extension"])
def test_in_a_schema_that_is_found_again(empty_database: Database, how: str) -> None:
    output(empty_database, "install", how, "--schema", "My Queue")
    id = output(empty_database, "send", "x").strip()
    assert [job["id"] for job in parsed(empty_database, "jobs", "list")] == [id]
    assert parsed(empty_database, "--schema", "My Queue", "jobs", "show", id)["name"] == "x"
    assert "there is no queue in schema other" in error(empty_database, "status", "--schema", "other")
    # A second queue: now it has to be said which.
    output(empty_database, "install", "--schema", "other")
    assert "the schemas My Queue, other" in error(empty_database, "status")
    assert parsed(empty_database, "jobs", "list", "--schema", "other") == []
    output(empty_database, "install", "--schema", "public")
    assert parsed(empty_database, "jobs", "list") == []  # the one on the search_path
    assert len(parsed(empty_database, "jobs", "list", "--schema", "My Queue")) == 1
    assert len(parsed(empty_database, "version")["queues"]) == 3


def test_a_schema_name_that_no_extension_could_have(empty_database: Database) -> None:
    assert "must not contain" in error(empty_database, "install", "--plain", "--schema", "it's", code=2)


def test_the_script_for_psql(empty_database: Database, database: Database) -> None:
    text = output(None, "install", "--print")
    psql = [str(empty_database.server.bindir / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", empty_database.name]
    done = subprocess.run(
        psql, env=empty_database.server.environment(), input=text, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with empty_database.connect() as plain, database.connect() as extension:
        assert plain_catalog(plain) == plain_catalog(extension)
    text = output(None, "install", "--print", "--schema", "elsewhere")
    subprocess.run(psql, env=empty_database.server.environment(), input=text, check=True, text=True)
    assert {q["schema"] for q in parsed(empty_database, "version")["queues"]} == {"public", "elsewhere"}


def test_options_that_exclude_each_other(empty_database: Database) -> None:
    assert "--as-extension goes with neither" in error(empty_database, "install", "--as-extension", "--plain", code=2)


def test_version(empty_database: Database) -> None:
    assert output(None, "--version").startswith("sqlxmq ")
    found = parsed(empty_database, "version")
    assert found["sql"] == version()
    assert found["queues"] == []
    assert "none" in output(empty_database, "version")
    output(empty_database, "install")
    assert f"{version()} (extension, schema public" in output(empty_database, "version")


def test_without_a_queue_or_a_database(empty_database: Database) -> None:
    for command in (["status"], ["jobs", "list"], ["send", "x"], ["dead", "list"], ["upgrade"]):
        assert error(empty_database, *command).endswith("run sqlxmq install")
    assert "is given by --database" in error(None, "status", "-d", "host=/nowhere")
    assert "is given by --database" in error(None, "-d", "host=/nowhere", "status")
    line = error(None, "status", "-d", "mysql://me:secret@host/x", code=2)
    assert "cannot be read" in line
    assert "secret" not in line


def test_a_missing_right_names_the_grant(database: Database) -> None:
    with role(database) as nobody:
        dsn = database.server.dsn(database.name, nobody)
        for needs, command in {
            "observer": ["status"],
            "producer": ["send", "x"],
            "operator": ["jobs", "cancel", str(uuid.uuid4())],
        }.items():
            line = error(database, "-d", dsn, *command)
            assert f"SELECT mq_grant('{nobody}', '{needs}')" in line
    with role(database, "observer") as observer:
        assert parsed(database, "-d", database.server.dsn(database.name, observer), "status")["channels"] == []


def test_debug_shows_the_traceback(empty_database: Database) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sqlxmq", "status", "--debug", "-d", empty_database.dsn], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_wrong_usage(database: Database) -> None:
    for command in (
        ["nonsense"],
        ["jobs"],
        ["send"],
        ["status", "--nonsense"],
        ["jobs", "show", "not-an-id"],
        ["jobs", "list", "--state", "odd"],
        ["jobs", "list", "--older-than", "soon"],
    ):
        error(database, *command, code=2)


def test_a_server_without_the_files(empty_database: Database, tmp_path: Path) -> None:
    # As the server sees it: pg_available_extensions is a view, which another one in front of it hides.
    with empty_database.connect() as session:
        session.execute("CREATE SCHEMA hiding")
        session.execute(
            "CREATE VIEW hiding.pg_available_extensions AS SELECT * FROM pg_catalog.pg_available_extensions "
            "WHERE name <> 'sqlxmq'"
        )
        session.execute(
            sql.SQL("ALTER DATABASE {} SET search_path = hiding, pg_catalog, public").format(
                sql.Identifier(empty_database.name)
            )
        )
    assert "--plain" in error(empty_database, "install", "--as-extension", "--schema", "public")
    done = output(empty_database, "install", "--schema", "public")
    assert done.startswith(f"Installed sqlxmq {version()} in schema public as plain SQL.\n")
    assert "since the server lacks the extension's files" in done


def test_wheel_and_source_distribution_have_the_scripts(tmp_path: Path) -> None:
    scripts = {f.name for f in (ROOT / "extension").glob("sqlxmq*")}
    assert f"sqlxmq--{version()}.sql" in scripts
    # The source distribution, and a wheel out of it; and a wheel out of the repository.
    build = [sys.executable, "-m", "build", "--quiet"]
    subprocess.run([*build, "--outdir", tmp_path / "both", ROOT / "python"], check=True, capture_output=True)
    subprocess.run(
        [*build, "--wheel", "--outdir", tmp_path / "wheel", ROOT / "python"], check=True, capture_output=True
    )
    with tarfile.open(next((tmp_path / "both").glob("*.tar.gz"))) as archive:
        members = archive.getmembers()
        assert {Path(m.name).name for m in members if m.isfile() and "/extension/sqlxmq" in m.name} == scripts
    for directory in ("both", "wheel"):
        with zipfile.ZipFile(next((tmp_path / directory).glob("*.whl"))) as wheel:
            assert {Path(name).name for name in wheel.namelist() if "/extension/sqlxmq" in name} == scripts
            text = wheel.read(f"sqlxmq/extension/sqlxmq--{version()}.sql").decode()
            assert text == (ROOT / "extension" / f"sqlxmq--{version()}.sql").read_text()


def test_a_server_with_files_of_another_version(empty_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sqlxmq.cli.install.shipped_version", lambda: "99.1")
    note = "This package brings 99.1, but the server's files are those of"
    assert note in output(empty_database, "install")
    assert note in output(empty_database, "upgrade")
