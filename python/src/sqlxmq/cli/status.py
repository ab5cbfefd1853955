"""sqlxmq status: what each channel has, and who works."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Annotated, Any

import typer
from psycopg.rows import dict_row
from rich.console import Group
from rich.live import Live
from rich.text import Text

from sqlxmq.cli.app import Command, app
from sqlxmq.cli.database import Connection, connect_to_queue
from sqlxmq.cli.durations import duration, in_words
from sqlxmq.cli.output import AsJSON, ago, console, table, to_json

STATES = ("ready", "scheduled", "running", "blocked", "dead")

CHANNELS = """
    SELECT *, extract(epoch FROM clock_timestamp() - oldest_ready_at)::float8 AS oldest_ready_seconds
    FROM mq_status(%s, %s)
"""


@app.command(cls=Command)
def status(
    context: typer.Context,
    channel: Annotated[
        list[str] | None, typer.Option("--channel", help="Only this channel name; can be repeated.")
    ] = None,
    watch: Annotated[
        timedelta | None,
        typer.Option("--watch", parser=duration, metavar="SECONDS", help="Again and again, until Ctrl-C."),
    ] = None,
    count_limit: Annotated[
        int, typer.Option("--count-limit", help="Count no further than this in each channel.")
    ] = 1000,
    as_json: AsJSON = False,
) -> None:
    """Show how many jobs each channel has in each state, and the workers."""
    with connect_to_queue(context.obj, "observer") as connection:
        if watch is None:
            found = look(connection, channel, count_limit)
            if as_json:
                typer.echo(to_json(found))
            else:
                console().print(picture(found))
            return
        try:
            _watch(connection, channel, count_limit, watch.total_seconds(), as_json)
        except KeyboardInterrupt:
            return  # the way to end it


def _watch(connection: Connection, channel: list[str] | None, limit: int, pause: float, as_json: bool) -> None:
    if as_json:
        while True:
            typer.echo(to_json(look(connection, channel, limit), indent=None))
            time.sleep(pause)
    with Live(picture(look(connection, channel, limit)), console=console(), auto_refresh=False) as live:
        while True:
            time.sleep(pause)
            live.update(picture(look(connection, channel, limit)), refresh=True)


def look(connection: Connection, channel_names: list[str] | None, count_limit: int) -> dict[str, list[dict[str, Any]]]:
    """The rows of mq_status and of mq_workers, which versions before 0.2 do not have."""
    cursor = connection.cursor(row_factory=dict_row)
    channels = cursor.execute(CHANNELS, (channel_names or None, count_limit)).fetchall()
    row = connection.execute("SELECT to_regclass('mq_workers') IS NOT NULL").fetchone()
    has_workers = row is not None and row[0]
    workers = cursor.execute("SELECT * FROM mq_workers ORDER BY worker").fetchall() if has_workers else []
    return {"channels": channels, "workers": workers}


def picture(found: dict[str, list[dict[str, Any]]]) -> Group:
    """Both as tables."""
    channels = found["channels"]
    parts: list[Any] = []
    if channels:
        parts.append(
            table(
                ["channel", "arguments", *STATES, "oldest ready", "held by"],
                [
                    [
                        row["channel_name"] or "(none)",
                        row["channel_args"],
                        *(_count(row[state], row["is_exact"]) for state in STATES),
                        _age(row["oldest_ready_seconds"]),
                        row["held_by"],
                    ]
                    for row in channels
                ],
            )
        )
        if not all(row["is_exact"] for row in channels):
            parts.append(Text("+: or more; --count-limit counts further"))
    else:
        parts.append(Text("No jobs."))
    if found["workers"]:
        parts.append(Text())
        parts.append(
            table(
                ["worker", "running", "first lease ends", "connections"],
                [[w["worker"], w["running"], ago(w["earliest_lease_end"]), w["connections"]] for w in found["workers"]],
            )
        )
    return Group(*parts)


def _count(count: int, is_exact: bool) -> int | str:
    return count if is_exact or not count else f"{count}+"


def _age(seconds: float | None) -> str:
    return "" if seconds is None else in_words(timedelta(seconds=seconds))
