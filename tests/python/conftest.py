"""A fresh cluster for the session, and a fresh database, extension included, for each test."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg import sql

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from tools.cluster import Cluster, cluster, debian_bindir, install_extension  # noqa: E402


@pytest.fixture(scope="session")
def server() -> Iterator[Cluster]:
    install_extension(debian_bindir())
    with cluster(settings={"fsync": "off", "max_connections": "200"}) as started:
        with psycopg.connect(started.dsn(), autocommit=True) as admin:
            admin.execute("CREATE DATABASE with_sqlxmq")
        with psycopg.connect(started.dsn("with_sqlxmq"), autocommit=True) as session:
            session.execute("CREATE EXTENSION sqlxmq")
        yield started


@dataclass
class Database:
    """A database of the test's own."""

    server: Cluster
    name: str

    @property
    def dsn(self) -> str:
        return self.server.dsn(self.name)

    def connect(self) -> psycopg.Connection[Any]:
        """A session in autocommit mode."""
        return psycopg.connect(self.dsn, autocommit=True)


def create_database(server: Cluster, template: str) -> Database:
    """A new database like the template."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
    return Database(server, name)


@pytest.fixture
def database(server: Cluster) -> Database:
    return create_database(server, "with_sqlxmq")


@pytest.fixture
def empty_database(server: Cluster) -> Database:
    return create_database(server, "template1")


@pytest.fixture
def session(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with database.connect() as connection:
        yield connection


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[psycopg_pool.AsyncConnectionPool[Any]]:
    async with psycopg_pool.AsyncConnectionPool(database.dsn, min_size=1, max_size=8, open=False) as opened:
        yield opened


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str, seconds: float = 60) -> None:
    """Waits for a condition; fails, naming it, when it does not come true in so many seconds."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        holds = condition()
        if not isinstance(holds, bool):
            holds = await holds
        if holds:
            return
        assert asyncio.get_running_loop().time() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.01)
