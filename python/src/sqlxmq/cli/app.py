"""The application and its global options."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand


@dataclass
class Settings:
    """The global options, and what an error message has to know.

    Attributes: database, schema, debug, the options; user, as whom the command is connected (None: it
    is not); needs, which of mq_grant's four parts the command takes.
    """

    database: str | None = None
    schema: str | None = None
    debug: bool = False
    user: str | None = None
    needs: str | None = None


class Command(TyperCommand):
    """A command that takes the global options after its name, too."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The command's own parameters and the global ones."""
        shared = [p for p in ctx.find_root().command.params if p.name in ("database", "schema", "debug")]
        return [*super().get_params(ctx), *shared]

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; its function does not get the global options as arguments."""
        for name in ("database", "schema", "debug"):
            value = ctx.params.pop(name, None)
            if value:
                setattr(ctx.obj, name, value)
        return super().invoke(ctx)


def new_group(help: str | None = None) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(help=help, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


app = new_group()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sqlxmq {version('sqlxmq')}")
        raise typer.Exit


@app.callback()
def _global_options(
    context: typer.Context,
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            "-d",
            metavar="DSN",
            help="The database, as postgresql://… or key=value pairs. "
            "Default: SQLXMQ_DATABASE, DATABASE_URL, else PGHOST, PGDATABASE …",
        ),
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option("--schema", metavar="NAME", help="The schema of the queue. Default: wherever it is found."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the package's version."),
    ] = False,
) -> None:
    """Job queue in PostgreSQL: install it, run workers, see and mend what is there."""
    settings: Settings = context.obj
    settings.database, settings.schema = database, schema
