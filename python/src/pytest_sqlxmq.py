"""The plugin for pytest that comes with sqlxmq: fixtures for tests against a real server; see docs/guide/testing.md.

It is a module of its own, not one of the package, so that a run that does not use it imports nothing of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import psycopg

    from sqlxmq.testing import AsyncQueueInTest, QueueInTest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --sqlxmq-dsn and the setting sqlxmq_dsn."""
    parser.getgroup("sqlxmq").addoption(
        "--sqlxmq-dsn", metavar="DSN", help="connection string of the database that tests of sqlxmq's jobs use"
    )
    parser.addini("sqlxmq_dsn", "connection string of the database that tests of sqlxmq's jobs use", default="")


@pytest.fixture(scope="session")
def sqlxmq_dsn(pytestconfig: pytest.Config) -> str:
    """The connection string of the tests' database: of the option --sqlxmq-dsn, the setting sqlxmq_dsn, or the
    environment variable SQLXMQ_DATABASE or DATABASE_URL."""
    found = (
        pytestconfig.getoption("--sqlxmq-dsn")
        or pytestconfig.getini("sqlxmq_dsn")
        or os.environ.get("SQLXMQ_DATABASE")
        or os.environ.get("DATABASE_URL")
    )
    if not found:
        pytest.fail(
            "No database is named for the tests of sqlxmq's jobs: use the option --sqlxmq-dsn, the setting sqlxmq_dsn "
            "in pytest's configuration, or the environment variable SQLXMQ_DATABASE or DATABASE_URL.",
            pytrace=False,
        )
    # SQLAlchemy's form of an address names the driver, too.
    return re.sub(r"^(postgres(ql)?)\+\w+://", r"\1://", str(found))


@pytest.fixture
def sqlxmq_connection(sqlxmq_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A psycopg connection in a transaction that is rolled back, the queue installed."""
    import psycopg

    with psycopg.connect(sqlxmq_dsn) as connection, connection.transaction(force_rollback=True):
        _install_queue(connection)
        yield connection


@pytest.fixture
def sqlxmq_async_connection(sqlxmq_connection: Any) -> Iterator[psycopg.AsyncConnection[Any]]:
    """The same session and the same transaction as sqlxmq_connection, for asynchronous tests under any plugin
    that runs them with asyncio."""
    from sqlxmq._driver_connection import both_faces, driver_connection

    with both_faces(driver_connection(sqlxmq_connection)) as (connection, _):
        yield connection


@pytest.fixture
def sqlxmq_queue(sqlxmq_connection: Any) -> QueueInTest:
    """The functions of sqlxmq.testing for sqlxmq_connection."""
    from sqlxmq.testing import QueueInTest

    return QueueInTest(sqlxmq_connection)


@pytest.fixture
def sqlxmq_async_queue(sqlxmq_async_connection: Any) -> AsyncQueueInTest:
    """The functions of sqlxmq.testing for sqlxmq_async_connection."""
    from sqlxmq.testing import AsyncQueueInTest

    return AsyncQueueInTest(sqlxmq_async_connection)


def _install_queue(connection: psycopg.Connection[Any]) -> None:
    is_there, schema, has_files = connection.execute("""
        SELECT to_regprocedure('mq_version()') IS NOT NULL,
               (SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'sqlxmq'),
               EXISTS (SELECT FROM pg_available_extensions WHERE name = 'sqlxmq')
    """).fetchone() or (False, None, False)
    if is_there:
        return
    if schema is not None:
        pytest.fail(
            f"The queue is in the schema {schema}, which is not in the search_path of the tests' connection: add "
            f"options=-csearch_path={schema},public to its connection string.",
            pytrace=False,
        )
    if not has_files:
        pytest.fail(
            f"The database {connection.info.dbname!r} has no queue, and its server has no files of the extension: "
            "install the queue there by 'sqlxmq install'.",
            pytrace=False,
        )
    connection.execute("CREATE EXTENSION sqlxmq")
