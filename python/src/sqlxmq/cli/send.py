"""sqlxmq send: one job."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from psycopg import sql

from sqlxmq.cli.app import Command, app
from sqlxmq.cli.database import connect_to_queue
from sqlxmq.cli.durations import duration
from sqlxmq.cli.errors import WRONG_USAGE, Failure


@app.command(cls=Command)
def send(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the worker is to run.")],
    json: Annotated[
        str | None, typer.Option("--json", metavar="TEXT|@FILE|-", help="The JSON payload; -: from standard input.")
    ] = None,
    bytes_: Annotated[
        str | None, typer.Option("--bytes", metavar="@FILE|-", help="The binary payload; -: from standard input.")
    ] = None,
    channel: Annotated[str | None, typer.Option("--channel", help="The channel's name.")] = None,
    channel_args: Annotated[str | None, typer.Option("--channel-args", help="The channel's arguments.")] = None,
    delay: Annotated[
        timedelta | None,
        typer.Option("--delay", parser=duration, metavar="DURATION", help="How long until it is due."),
    ] = None,
    retries: Annotated[int | None, typer.Option("--retries", help="Attempts after the first.")] = None,
    backoff: Annotated[
        timedelta | None,
        typer.Option("--backoff", parser=duration, metavar="DURATION", help="Wait after the first failure."),
    ] = None,
    ordered: Annotated[bool, typer.Option("--ordered", help="In strict order with the others of its channel.")] = False,
    priority: Annotated[int | None, typer.Option("--priority", help="Smaller first, within the channel.")] = None,
    when_dead: Annotated[
        str | None, typer.Option("--when-dead", metavar="hold|pass", help="What an ordered job does to the others.")
    ] = None,
    id: Annotated[UUID | None, typer.Option("--id", help="The job's id; a second job of this id is refused.")] = None,
) -> None:
    """Send one job, and print its id."""
    if json == "-" and bytes_ == "-":
        raise Failure("--json and --bytes cannot both be read from standard input", WRONG_USAGE)
    given: dict[str, Any] = {
        "payload": None if json is None else _text(json),
        "payload_bytes": None if bytes_ is None else _content(bytes_),
        "channel_name": channel,
        "channel_args": channel_args,
        "delay": delay,
        "retries": retries,
        "retry_backoff": backoff,
        "ordered": ordered or None,
        "priority": priority,
        "when_dead": when_dead,
        "id": id,
    }
    # What is not given is left to the defaults of mq_enqueue.
    given = {argument: value for argument, value in given.items() if value is not None}
    query = sql.SQL("SELECT mq_enqueue({})").format(
        sql.SQL(", ").join(
            [
                sql.SQL("%s"),
                *(
                    sql.SQL("{} => %s" + ("::jsonb" if argument == "payload" else "")).format(sql.Identifier(argument))
                    for argument in given
                ),
            ]
        )
    )
    with connect_to_queue(context.obj, "producer") as connection:
        row = connection.execute(query, (name, *given.values())).fetchone()
    assert row is not None
    typer.echo(str(row[0]))


def _text(given: str) -> str:
    if given != "-" and not given.startswith("@"):
        return given
    try:
        return _content(given).decode()
    except UnicodeDecodeError as error:
        raise Failure(f"--json is {given}, but that is no UTF-8: {error}", WRONG_USAGE) from None


def _content(given: str) -> bytes:
    if given == "-":
        return sys.stdin.buffer.read()
    if not given.startswith("@"):
        raise Failure(f"--bytes is {given}, but it must be @FILE, or - for standard input", WRONG_USAGE)
    try:
        return Path(given[1:]).read_bytes()
    except OSError as error:
        raise Failure(f"cannot read {given[1:]}: {error.strerror}", WRONG_USAGE) from None
