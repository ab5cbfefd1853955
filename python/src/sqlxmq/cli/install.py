"""sqlxmq install and upgrade: the queue's SQL, as an extension or plain."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import psycopg
import typer
from psycopg import sql

from sqlxmq.cli.app import Command, Settings, app
from sqlxmq.cli.database import Connection, Installation, connect, find, installations
from sqlxmq.cli.errors import WRONG_USAGE, Failure
from sqlxmq.cli.scripts import for_psql, plain_installation, plain_updates, preamble, shipped_version


@app.command(cls=Command)
def install(
    context: typer.Context,
    as_extension: Annotated[
        bool, typer.Option("--as-extension", help="By CREATE EXTENSION; the server must have the files.")
    ] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="As plain SQL, which any server takes, from this package.")
    ] = False,
    print_: Annotated[
        bool, typer.Option("--print", help="Write the plain SQL to standard output, for psql -f; touch no database.")
    ] = False,
) -> None:
    """Put the queue into the database: as an extension if the server has it, else as plain SQL."""
    settings: Settings = context.obj
    if as_extension and (plain or print_):
        raise Failure("--as-extension goes with neither --plain nor --print", WRONG_USAGE)
    if print_:
        sys.stdout.write(for_psql(settings.schema or "public"))
        return
    with connect(settings) as connection:
        connection.add_notice_handler(_show_warning)
        found = installations(connection)
        there = [one for one in found if settings.schema in (None, one.schema)]
        if there:
            installed = find(connection, settings.schema)
            typer.echo(f"sqlxmq {_version(connection, installed)} is installed already, {_where(installed)}.")
            return
        is_taken = any(one.is_extension for one in found)
        available = _available(connection)
        if as_extension or (available and not plain and not is_taken):
            if available is None:
                raise Failure(
                    "the server does not have the extension's files: put them there by make install, or use --plain"
                )
            _create_extension(connection, settings.schema)
        else:
            create_plain(connection, settings.schema)
        installed = next(one for one in installations(connection) if one not in found)
        version = _version(connection, installed)
        typer.echo(f"Installed sqlxmq {version} {_where(installed)}.")
        _compare_with_package(installed, version)
        if not plain and not installed.is_extension:
            why = "it is in another schema as an extension" if is_taken else "the server lacks the extension's files"
            typer.echo(f"(As plain SQL, since {why}.)")


@app.command(cls=Command)
def upgrade(context: typer.Context) -> None:
    """Bring the queue's SQL in the database to the newest version, in one transaction."""
    settings: Settings = context.obj
    with connect(settings) as connection:
        connection.add_notice_handler(_show_warning)
        installed = find(connection, settings.schema)
        before = _version(connection, installed)
        if installed.is_extension:
            connection.execute("ALTER EXTENSION sqlxmq UPDATE")
        else:
            with connection.transaction():
                for script in plain_updates(before, installed.schema):
                    _run(connection, installed.schema, script)
        after = _version(connection, installed)
        if after == before:
            typer.echo(f"sqlxmq {before}, {_where(installed)}, is the newest version already.")
        else:
            typer.echo(f"Upgraded sqlxmq {_where(installed)} from {before} to {after}.")
        _compare_with_package(installed, after)


def _compare_with_package(installed: Installation, version: str) -> None:
    if installed.is_extension and version != shipped_version():
        typer.echo(
            f"(This package brings {shipped_version()}, but the server's files are those of {version}: "
            "see make install.)"
        )


def _version(connection: Connection, queue: Installation) -> str:
    row = connection.execute(sql.SQL("SELECT {}()").format(sql.Identifier(queue.schema, "mq_version"))).fetchone()
    assert row is not None
    version: str = row[0]
    return version


def _where(queue: Installation) -> str:
    return f"in schema {queue.schema} as {'an extension' if queue.is_extension else 'plain SQL'}"


def _available(connection: Connection) -> str | None:
    row = connection.execute("SELECT default_version FROM pg_available_extensions WHERE name = 'sqlxmq'").fetchone()
    return None if row is None else row[0]


def _create_extension(connection: Connection, schema: str | None) -> None:
    with connection.transaction():
        if schema is None:
            connection.execute("CREATE EXTENSION sqlxmq")
        else:
            _create_schema(connection, schema)
            connection.execute(sql.SQL("CREATE EXTENSION sqlxmq SCHEMA {}").format(sql.Identifier(schema)))


def create_plain(connection: Connection, schema: str | None) -> None:
    """Installs the queue as plain SQL into this schema (None: the current one), which is made if need be."""
    with connection.transaction():
        if schema is None:
            row = connection.execute("SELECT current_schema()").fetchone()
            schema = row[0] if row else None
            if schema is None:
                raise Failure("the search_path names no schema that exists: name one by --schema")
        else:
            _create_schema(connection, schema)
        _run(connection, schema, plain_installation(schema))


def _create_schema(connection: Connection, schema: str) -> None:
    # Looked up first: where it exists, nobody needs the right to create one.
    row = connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone()
    if row is None:
        connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))


def _run(connection: Connection, schema: str, script: str) -> None:
    connection.execute((preamble(schema) + script).encode())


def _show_warning(diagnostic: psycopg.errors.Diagnostic) -> None:
    if diagnostic.severity_nonlocalized == "WARNING":
        message: Any = diagnostic.message_primary
        hint = f" ({diagnostic.message_hint})" if diagnostic.message_hint else ""
        print(f"sqlxmq: warning: {message}{hint}", file=sys.stderr)
