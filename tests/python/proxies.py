"""What stands between a runner and its server: a proxy that can go silent, and PgBouncer."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from tests.python.conftest import Database, until
from tools.cluster import PORT, unprivileged_user

PGBOUNCER = Path("/usr/sbin/pgbouncer")


class Proxy:
    """Passes bytes on from a port to a server's socket, until it is told otherwise.

    Attributes: port; is_silent, whether it keeps connections open and passes nothing on; refuses, whether
    it closes new connections at once; accepted, how many connections it has taken.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._socket = f"{database.server.directory}/.s.PGSQL.{PORT}"
        self._writers: set[asyncio.StreamWriter] = set()
        self._may_pass = asyncio.Event()
        self._may_pass.set()
        self.refuses = False
        self.accepted = 0
        self.port = 0

    @property
    def dsn(self) -> str:
        return f"host=127.0.0.1 port={self.port} user=postgres dbname={self._database.name}"

    def be_silent(self, silent: bool = True) -> None:
        """Passes nothing on any more, in either direction, or does so again."""
        if silent:
            self._may_pass.clear()
        else:
            self._may_pass.set()

    def cut(self) -> None:
        """Closes all connections."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.refuses:
            writer.transport.abort()
            return
        with suppress(OSError):
            server_reader, server_writer = await asyncio.open_unix_connection(self._socket)
            self._writers |= {writer, server_writer}
            try:
                await asyncio.gather(self._pass_on(reader, server_writer), self._pass_on(server_reader, writer))
            finally:
                self._writers -= {writer, server_writer}
                writer.transport.abort()
                server_writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while some := await reader.read(65536):
                await self._may_pass.wait()
                writer.write(some)
                await writer.drain()
        writer.transport.abort()


@asynccontextmanager
async def proxy(database: Database) -> AsyncIterator[Proxy]:
    """A proxy before a database's server."""
    made = Proxy(database)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        made.be_silent(False)
        made.cut()
        server.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def start_pgbouncer(directory: Path, database: Database, port: int, server_connections: int) -> subprocess.Popen[bytes]:
    if not PGBOUNCER.exists():
        pytest.fail(f"{PGBOUNCER} is missing: install Debian's package pgbouncer")
    user = unprivileged_user()
    (directory / "users.txt").write_text('"postgres" ""\n')
    (directory / "pgbouncer.ini").write_text(
        f"""
[databases]
{database.name} = host={database.server.directory} port={PORT} dbname={database.name} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {directory}/users.txt
pool_mode = transaction
default_pool_size = {server_connections}
max_client_conn = 200
"""
    )
    directory.chmod(0o755)
    with (directory / "log").open("wb") as log:
        return subprocess.Popen(
            [PGBOUNCER, directory / "pgbouncer.ini"],
            user=user,
            extra_groups=[] if user else None,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
        )


@asynccontextmanager
async def pgbouncer(database: Database, server_connections: int = 4) -> AsyncIterator[str]:
    """PgBouncer in transaction mode before a database; its connection string."""
    port = free_port()
    dsn = f"host=127.0.0.1 port={port} user=postgres dbname={database.name}"
    with tempfile.TemporaryDirectory(prefix="sqlxmq-pgbouncer-", dir="/tmp") as directory:
        process = start_pgbouncer(Path(directory), database, port, server_connections)

        def answers() -> bool:
            assert process.poll() is None, "PgBouncer does not start"
            with suppress(psycopg.OperationalError), psycopg.connect(dsn, prepare_threshold=None):
                return True
            return False

        try:
            await until(answers, "PgBouncer answers")
            yield dsn
        finally:
            process.kill()
            process.wait()
