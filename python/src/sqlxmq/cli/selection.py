"""Which jobs are meant: by id, or by what the views show of them; and doing something with them in batches."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

import typer
from psycopg import sql
from psycopg.rows import dict_row

from sqlxmq.cli.database import Connection
from sqlxmq.cli.durations import duration
from sqlxmq.cli.errors import NOTHING_FOUND, WRONG_USAGE, Failure
from sqlxmq.cli.output import console, table

# So many jobs in one transaction: their rows are locked until it commits.
BATCH = 1000
PREVIEW = 5

IDS = Annotated[list[UUID] | None, typer.Argument(metavar="ID", help="The jobs, by their ids.")]
State = Annotated[
    str | None, typer.Option("--state", metavar="STATE", help="ready, scheduled, running, blocked or dead.")
]
Name = Annotated[str | None, typer.Option("--name", help="Jobs of this name.")]
Channel = Annotated[str | None, typer.Option("--channel", help="Jobs of this channel name.")]
ChannelArgs = Annotated[str | None, typer.Option("--channel-args", help="Jobs of these channel arguments.")]
Worker = Annotated[str | None, typer.Option("--worker", help="Jobs that this worker holds.")]
OlderThan = Annotated[
    timedelta | None,
    typer.Option("--older-than", parser=duration, metavar="DURATION", help="Sent, or dead, for longer than this."),
]
Error = Annotated[str | None, typer.Option("--error", metavar="TEXT", help="Jobs whose last error contains this.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Not more than so many.")]
All = Annotated[bool, typer.Option("--all", help="All jobs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

STATES = ("ready", "scheduled", "running", "blocked", "dead")


@dataclass
class Selection:
    """Jobs of a view, mq_jobs or mq_dead_jobs, all of whose given columns fit.

    Attributes: since, the column that older_than is about; the others, what is wanted (None: anything).
    """

    view: str = "mq_jobs"
    since: str = "created_at"
    order: str = "position"
    ids: Sequence[UUID] | None = None
    state: str | None = None
    name: str | None = None
    channel_name: str | None = None
    channel_args: str | None = None
    worker: str | None = None
    error: str | None = None
    older_than: timedelta | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.state is not None and self.state not in STATES:
            raise Failure(f"--state is {self.state}, but it must be one of {', '.join(STATES)}", WRONG_USAGE)

    @property
    def has_filters(self) -> bool:
        """Whether anything but ids and the limit is given."""
        wanted = (self.state, self.name, self.channel_name, self.channel_args, self.worker, self.error, self.older_than)
        return any(one is not None for one in wanted)

    def query(self, columns: str) -> tuple[sql.Composed, list[Any]]:
        """The query for these jobs, and its parameters."""
        conditions = [sql.SQL("true")]
        parameters: list[Any] = []
        for condition, value in (
            ("id = ANY (%s)", list(self.ids) if self.ids else None),
            ("state = %s", self.state),
            ("name = %s", self.name),
            ("channel_name = %s", self.channel_name),
            ("channel_args = %s", self.channel_args),
            ("worker = %s", self.worker),
            ("strpos(last_error, %s) > 0", self.error),
            (f"{self.since} < clock_timestamp() - %s::interval", self.older_than),
        ):
            if value is not None:
                conditions.append(sql.SQL(condition))
                parameters.append(value)
        query = sql.SQL("SELECT {} FROM {} WHERE {} ORDER BY {} LIMIT %s").format(
            sql.SQL(columns), sql.Identifier(self.view), sql.SQL(" AND ").join(conditions), sql.SQL(self.order)
        )  # fmt: skip
        return query, [*parameters, self.limit]

    def rows(self, connection: Connection) -> list[dict[str, Any]]:
        """All columns of these jobs that the view has."""
        query, parameters = self.query("*")
        return connection.cursor(row_factory=dict_row).execute(query, parameters).fetchall()

    def find_ids(self, connection: Connection) -> list[UUID]:
        """The ids of these jobs."""
        query, parameters = self.query("id")
        return [row[0] for row in connection.execute(query, parameters)]


def to_change(connection: Connection, selection: Selection, done: str, *, yes: bool, every: bool) -> list[UUID]:
    """The ids of the jobs that are to be changed: those that the user named, or, after a look at them,
    those that the filters found.

    done: what will have been done to them, such as 'cancelled'; yes: do not ask; every: no filter is needed.
    Raises Failure if none is found, or if there is nobody to ask.
    """
    if selection.ids:
        if selection.has_filters or every:
            raise Failure("give either ids, or filters, or --all", WRONG_USAGE)
        return list(selection.ids)
    if selection.has_filters == every:
        raise Failure("which jobs? Give ids, filters such as --name, or --all", WRONG_USAGE)
    ids = selection.find_ids(connection)
    if not ids:
        raise Failure("no job matches", NOTHING_FOUND)
    first = Selection(selection.view, selection.since, selection.order, ids=ids[:PREVIEW]).rows(connection)
    preview(first, len(ids), done)
    confirm(yes, len(ids), done)
    return ids


def preview(first: list[dict[str, Any]], count: int, done: str) -> None:
    """Shows on standard error how many jobs will be changed, and the first few."""
    screen = console(stderr=True)
    screen.print(f"{count} job{'s' if count != 1 else ''} to be {done}:")
    columns = [c for c in ("id", "state", "name", "channel_name", "channel_args") if first and c in first[0]]
    screen.print(table(columns, [[row[c] for c in columns] for row in first]))
    if count > len(first):
        screen.print(f"… and {count - len(first)} more")


def confirm(yes: bool, count: int, done: str) -> None:
    """Asks, unless the answer was given with the question. Raises Failure if there is nobody to ask, or
    typer.Abort if the answer is no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Failure(f"{count} jobs would be {done}, and there is no terminal to ask at: confirm with --yes")
    typer.confirm("Go on?", abort=True, err=True)


def in_batches(ids: Sequence[UUID]) -> Iterator[list[UUID]]:
    """The ids, so many at a time."""
    for start in range(0, len(ids), BATCH):
        yield list(ids[start : start + BATCH])


def change(connection: Connection, ids: Sequence[UUID], query: str, parameters: Sequence[Any] = ()) -> list[Any]:
    """Calls a function with the ids, a batch in a transaction; all rows that it returned.

    query: takes the ids as its first parameter. Raises Failure if not all batches came through, saying
    how many did.
    """
    rows: list[Any] = []
    tried = 0
    for batch in in_batches(ids):
        try:
            rows += connection.execute(query.encode(), (batch, *parameters)).fetchall()
        except Exception:
            if tried:
                print(f"sqlxmq: the first {tried} of {len(ids)} jobs are done; then:", file=sys.stderr)
            raise
        tried += len(batch)
    return rows
