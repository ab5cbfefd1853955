"""sqlxmq jobs: see jobs, and change what becomes of them."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

import typer
from psycopg.rows import dict_row

from sqlxmq.cli.app import Command, Settings, app, new_group
from sqlxmq.cli.database import Connection, connect_to_queue
from sqlxmq.cli.durations import duration
from sqlxmq.cli.errors import NOTHING_FOUND, WRONG_USAGE, Failure
from sqlxmq.cli.output import AsJSON, ago, console, last_line, table, to_json, visible
from sqlxmq.cli.selection import (
    IDS,
    All,
    Channel,
    ChannelArgs,
    Error,
    Limit,
    Name,
    OlderThan,
    Selection,
    State,
    Worker,
    Yes,
    change,
    confirm,
    in_batches,
    preview,
    to_change,
)  # fmt: skip

commands = new_group("See jobs, and change what becomes of them.")
app.add_typer(commands, name="jobs")

OneID = Annotated[UUID, typer.Argument(metavar="ID", help="The job's id.")]
Retries = Annotated[int, typer.Option("--retries", help="Attempts after the first new one.")]
Delay = Annotated[
    timedelta, typer.Option("--delay", parser=duration, metavar="DURATION", help="How long until they are due.")
]


@commands.command("list", cls=Command)
def list_(
    context: typer.Context,
    state: State = None,
    name: Name = None,
    channel: Channel = None,
    channel_args: ChannelArgs = None,
    worker: Worker = None,
    error: Error = None,
    older_than: OlderThan = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Not more than so many.")] = 50,
    as_json: AsJSON = False,
) -> None:
    """List jobs, in the order in which they were sent."""
    selection = Selection(
        state=state, name=name, channel_name=channel, channel_args=channel_args, worker=worker, error=error,
        older_than=older_than, limit=limit,
    )  # fmt: skip
    with connect_to_queue(context.obj, "observer") as connection:
        rows = selection.rows(connection)
    show(rows, as_json, limit)


def show(rows: list[dict[str, Any]], as_json: bool, limit: int) -> None:
    """Prints jobs, of mq_jobs or mq_dead_jobs."""
    if as_json:
        typer.echo(to_json([with_payload(row) for row in rows]))
        return
    screen = console()
    if not rows:
        screen.print("No jobs.")
        return
    screen.print(
        table(
            ["id", "state", "name", "channel", "attempts", "since", "worker or error"],
            [
                [
                    row["id"],
                    row.get("state", "dead"),
                    row["name"],
                    channel_text(row),
                    row["attempts_made"],
                    ago(row.get("died_at") or row.get("created_at")),
                    row.get("worker") or last_line(row["last_error"]),
                ]
                for row in rows
            ],
        )
    )
    if len(rows) == limit:
        screen.print(f"(The first {limit}; --limit shows more.)")


def channel_text(row: dict[str, Any]) -> str:
    """Name and arguments of a job's channel."""
    return f"{row['channel_name']} / {row['channel_args']}" if row["channel_args"] else row["channel_name"] or ""


def with_payload(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its JSON payload as JSON, not as a string."""
    text = row.get("payload_json")
    return {**row, "payload_json": json.loads(text)} if isinstance(text, str) else row


@commands.command("show", cls=Command)
def show_one(context: typer.Context, id: OneID, as_json: AsJSON = False) -> None:
    """Show all of a job: payload, attempts, times, last error."""
    with connect_to_queue(context.obj, "observer") as connection:
        rows = Selection(ids=[id]).rows(connection)
    if not rows:
        raise Failure(f"there is no job {id}: see sqlxmq jobs explain {id}", NOTHING_FOUND)
    row = with_payload(rows[0])
    if as_json:
        typer.echo(to_json(row))
        return
    screen = console()
    last_error = row.pop("last_error")
    payload_bytes = row.pop("payload_bytes")
    documents = {column: row.pop(column, None) for column in ("payload_json", "headers")}
    for column, value in row.items():
        if value is not None and value != "":
            screen.print(f"{column:<20} {visible(value)}", soft_wrap=True)
    for column, document in documents.items():
        if document is not None:
            screen.print(f"\n{column}\n{visible(to_json(document))}", soft_wrap=True)
    if payload_bytes is not None:
        start = bytes(payload_bytes[:32]).hex(" ")
        rest = " …" if len(payload_bytes) > 32 else ""
        screen.print(f"\npayload_bytes ({len(payload_bytes)} bytes)\n{start}{rest}", soft_wrap=True)
    if last_error is not None:
        screen.print(f"\nlast_error\n{visible(last_error).rstrip()}", soft_wrap=True)


@commands.command(cls=Command)
def explain(context: typer.Context, id: OneID, as_json: AsJSON = False) -> None:
    """Say in a sentence where a job is, and what it waits for."""
    with connect_to_queue(context.obj, "observer") as connection:
        row = connection.cursor(row_factory=dict_row).execute("SELECT * FROM mq_explain(%s)", (id,)).fetchone()
    assert row is not None
    if as_json:
        typer.echo(to_json({"id": id, **row}))
    else:
        console().print(f"{row['state']}: {visible(row['explanation'])}", soft_wrap=True)
    if row["state"] == "gone":
        raise typer.Exit(NOTHING_FOUND)


@commands.command(cls=Command)
def retry(
    context: typer.Context,
    ids: IDS = None,
    name: Name = None,
    channel: Channel = None,
    channel_args: ChannelArgs = None,
    error: Error = None,
    older_than: OlderThan = None,
    limit: Limit = None,
    every: All = False,
    retries: Retries = 0,
    delay: Delay = "0",  # type: ignore[assignment]  # as it would be written; typer parses it
    yes: Yes = False,
) -> None:
    """Give dead jobs new attempts."""
    selection = Selection(
        ids=ids, name=name, channel_name=channel, channel_args=channel_args, error=error,
        older_than=older_than, limit=limit, view="mq_dead_jobs", since="died_at", order="died_at",
    )  # fmt: skip
    retry_selected(context.obj, selection, retries, delay, yes, every)


def retry_selected(
    settings: Settings, selection: Selection, retries: int, delay: timedelta, yes: bool, every: bool
) -> None:
    """Retries dead jobs, and says what became of them."""
    with connect_to_queue(settings, "operator") as connection:
        ids = to_change(connection, selection, "retried", yes=yes, every=every)
        retried = {row[0] for row in change(connection, ids, "SELECT mq_retry(%s, %s, %s)", (retries, delay))}
    report(ids, retried, "Retried", "not dead")


def report(ids: list[UUID], done: set[UUID], what: str, others_are: str) -> None:
    """Says how many of the jobs it was. Raises Failure if it was none."""
    others = [id for id in ids if id not in done]
    named = f"; {others_are}: {', '.join(map(str, others[:5]))}{' …' if len(others) > 5 else ''}" if others else ""
    if not done:
        raise Failure(f"nothing to do{named}", NOTHING_FOUND)
    typer.echo(f"{what} {len(done)} job{'s' if len(done) != 1 else ''}{named}.")


@commands.command(cls=Command)
def cancel(
    context: typer.Context,
    ids: IDS = None,
    state: State = None,
    name: Name = None,
    channel: Channel = None,
    channel_args: ChannelArgs = None,
    worker: Worker = None,
    error: Error = None,
    older_than: OlderThan = None,
    limit: Limit = None,
    every: All = False,
    yes: Yes = False,
) -> None:
    """Remove jobs that wait, and ask the holders of running ones to stop."""
    selection = Selection(
        ids=ids, state=state, name=name, channel_name=channel, channel_args=channel_args, worker=worker, error=error,
        older_than=older_than, limit=limit,
    )  # fmt: skip
    with connect_to_queue(context.obj, "operator") as connection:
        ids = to_change(connection, selection, "cancelled", yes=yes, every=every)
        outcomes = dict(change(connection, ids, "SELECT msg_id, outcome FROM mq_cancel(%s)"))
    report(ids, set(outcomes), "Cancelled", "gone")
    requested = sum(outcome == "requested" for outcome in outcomes.values())
    if requested:
        typer.echo(f"{requested} of them {'is' if requested == 1 else 'are'} running: the holder is asked to stop.")


@commands.command(cls=Command)
def delete(
    context: typer.Context,
    ids: IDS = None,
    state: State = None,
    name: Name = None,
    channel: Channel = None,
    channel_args: ChannelArgs = None,
    worker: Worker = None,
    error: Error = None,
    older_than: OlderThan = None,
    limit: Limit = None,
    every: All = False,
    yes: Yes = False,
) -> None:
    """Remove jobs whatever their state, also from under a worker's hands."""
    selection = Selection(
        ids=ids, state=state, name=name, channel_name=channel, channel_args=channel_args, worker=worker, error=error,
        older_than=older_than, limit=limit,
    )  # fmt: skip
    with connect_to_queue(context.obj, "operator") as connection:
        ids = to_change(connection, selection, "deleted", yes=yes, every=every)
        deleted = set[UUID]()
        for batch in in_batches(ids):
            with connection.transaction():
                deleted |= {
                    row[0] for row in connection.execute("SELECT id FROM mq_msgs WHERE id = ANY (%s)", (batch,))
                }
                connection.execute("SELECT mq_delete(%s)", (batch,))
    report(ids, deleted, "Deleted", "gone")


@commands.command(cls=Command)
def clear(
    context: typer.Context,
    channel: Annotated[
        list[str] | None, typer.Option("--channel", help="All jobs of this channel name; can be repeated.")
    ] = None,
    every: All = False,
    yes: Yes = False,
) -> None:
    """Remove all jobs of channels, or of the queue, whatever their state."""
    if bool(channel) == every:
        raise Failure("give either --channel, as often as you like, or --all", WRONG_USAGE)
    with connect_to_queue(context.obj, "operator") as connection:
        count = _preview_channels(connection, channel)
        confirm(yes, count, "cleared")
        if every:
            connection.execute("SELECT mq_clear_all()")
        else:
            connection.execute("SELECT mq_clear(%s)", (channel,))
    typer.echo(f"Cleared {'all channels' if every else ', '.join(map(repr, channel or ()))} of about {count} jobs.")


def _preview_channels(connection: Connection, channel_names: list[str] | None) -> int:
    condition = "%(names)s::text[] IS NULL OR channel_name = ANY (%(names)s)"
    row = connection.execute(f"SELECT count(*) FROM mq_jobs WHERE {condition}", {"names": channel_names}).fetchone()
    assert row is not None
    first = (
        connection.cursor(row_factory=dict_row)
        .execute(f"SELECT * FROM mq_jobs WHERE {condition} ORDER BY position LIMIT 5", {"names": channel_names})
        .fetchall()
    )
    preview(first, row[0], "cleared")
    count: int = row[0]
    return count
