"""sqlxmq dead: the jobs whose attempts are used up."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sqlxmq.cli.app import Command, app, new_group
from sqlxmq.cli.database import connect_to_queue
from sqlxmq.cli.jobs import Delay, Retries, report, retry_selected, show
from sqlxmq.cli.output import AsJSON
from sqlxmq.cli.selection import All, Channel, Error, Limit, Name, OlderThan, Selection, Yes, change, to_change

commands = new_group("The jobs whose attempts are used up.")
app.add_typer(commands, name="dead")


def _dead(order: str = "died_at", **wanted: Any) -> Selection:
    return Selection(view="mq_dead_jobs", since="died_at", order=order, **wanted)


@commands.command("list", cls=Command)
def list_(
    context: typer.Context,
    channel: Channel = None,
    name: Name = None,
    error: Error = None,
    older_than: OlderThan = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Not more than so many.")] = 50,
    as_json: AsJSON = False,
) -> None:
    """List dead jobs, the latest first."""
    selection = _dead(
        "died_at DESC", channel_name=channel, name=name, error=error, older_than=older_than, limit=limit
    )  # fmt: skip
    with connect_to_queue(context.obj, "observer") as connection:
        rows = selection.rows(connection)
    show(rows, as_json, limit)


@commands.command(cls=Command)
def retry(
    context: typer.Context,
    channel: Channel = None,
    name: Name = None,
    error: Error = None,
    older_than: OlderThan = None,
    limit: Limit = None,
    every: All = False,
    retries: Retries = 0,
    delay: Delay = "0",  # type: ignore[assignment]  # as it would be written; typer parses it
    yes: Yes = False,
) -> None:
    """Give dead jobs new attempts, those that died first coming first."""
    selection = _dead(channel_name=channel, name=name, error=error, older_than=older_than, limit=limit)
    retry_selected(context.obj, selection, retries, delay, yes, every)


@commands.command(cls=Command)
def clear(
    context: typer.Context,
    channel: Channel = None,
    name: Name = None,
    error: Error = None,
    older_than: OlderThan = None,
    limit: Limit = None,
    every: All = False,
    yes: Yes = False,
) -> None:
    """Remove dead jobs."""
    selection = _dead(channel_name=channel, name=name, error=error, older_than=older_than, limit=limit)
    with connect_to_queue(context.obj, "operator") as connection:
        ids = to_change(connection, selection, "removed", yes=yes, every=every)
        # Not one that somebody has retried meanwhile.
        query = "SELECT msg_id FROM mq_cancel(ARRAY(SELECT id FROM mq_dead_jobs WHERE id = ANY (%s)))"
        removed = {row[0] for row in change(connection, ids, query)}
    report(ids, removed, "Removed", "not dead any more")
