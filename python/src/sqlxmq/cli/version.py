"""sqlxmq version: of the package, of the SQL that it brings, and of what is in the database."""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import Any

import typer
from psycopg import sql

from sqlxmq.cli.app import Command, Settings, app
from sqlxmq.cli.database import connect, installations
from sqlxmq.cli.output import AsJSON, to_json
from sqlxmq.cli.scripts import shipped_version


@app.command(cls=Command)
def version(context: typer.Context, as_json: AsJSON = False) -> None:
    """Show the versions of the package, of the SQL that it brings, and of the queue in the database."""
    settings: Settings = context.obj
    settings.needs = "observer"
    with connect(settings) as connection:
        queues: list[dict[str, Any]] = []
        for one in installations(connection):
            if settings.schema in (None, one.schema):
                row = connection.execute(
                    sql.SQL("SELECT {}()").format(sql.Identifier(one.schema, "mq_version"))
                ).fetchone()
                assert row is not None
                queues.append({"schema": one.schema, "version": row[0], "is_extension": one.is_extension})
        database = connection.info.dbname
    if as_json:
        found = {"package": version_of("sqlxmq"), "sql": shipped_version(), "database": database, "queues": queues}
        typer.echo(to_json(found))
        return
    typer.echo(f"package            {version_of('sqlxmq')}")
    typer.echo(f"SQL in the package {shipped_version()}")
    for queue in queues:
        kind = "extension" if queue["is_extension"] else "plain SQL"
        typer.echo(f"in the database    {queue['version']} ({kind}, schema {queue['schema']}, database {database})")
    if not queues:
        typer.echo(f"in the database    none (database {database}): run sqlxmq install")
