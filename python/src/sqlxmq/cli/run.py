"""sqlxmq run: a worker."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any

import typer

from sqlxmq import ChannelGroup, JobRegistry, MissingContextError
from sqlxmq.cli.app import Command, Settings, app
from sqlxmq.cli.database import check_dsn, connect, dsn, find, search_path, with_search_path
from sqlxmq.cli.durations import duration
from sqlxmq.cli.errors import WRONG_USAGE, Failure
from sqlxmq.cli.loading import load_registry
from sqlxmq.cli.supervise import Supervisor, end_with_parent
from sqlxmq.logs import FORMATS, LEVELS, configure

logger = logging.getLogger("sqlxmq")


@app.command(cls=Command)
def run(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="MODULE:REGISTRY", help="The jobs, such as app.jobs:registry.")],
    concurrency: Annotated[
        str | None,
        typer.Option("--concurrency", metavar="MIN:MAX", help="With fewer than MIN jobs running, claim up to MAX."),
    ] = None,
    min_concurrency: Annotated[int | None, typer.Option("--min-concurrency", help="MIN alone. Default: 16.")] = None,
    max_concurrency: Annotated[int | None, typer.Option("--max-concurrency", help="MAX alone. Default: 32.")] = None,
    channel: Annotated[
        list[str] | None, typer.Option("--channel", help="Run jobs of this channel name; can be repeated.")
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(
            "--group", metavar="NAME[,NAME]…=MIN:MAX", help="Channels with a concurrency of their own; can be repeated."
        ),
    ] = None,
    lease: Annotated[
        timedelta,
        typer.Option("--lease", parser=duration, metavar="SECONDS", help="How long a job is held without a sign."),
    ] = "30",  # type: ignore[assignment]  # as it would be written; typer parses it
    grace: Annotated[
        timedelta,
        typer.Option("--grace", parser=duration, metavar="SECONDS", help="How long jobs may go on when stopping."),
    ] = "15",  # type: ignore[assignment]
    no_listen: Annotated[
        bool, typer.Option("--no-listen", help="Poll every second and do not LISTEN: for transaction poolers.")
    ] = False,
    listener_database: Annotated[
        str | None,
        typer.Option("--listener-database", metavar="DSN", help="LISTEN there: past a transaction pooler."),
    ] = None,
    worker: Annotated[
        str | None, typer.Option("--worker", metavar="NAME", help="As which it is shown. Default: host and process.")
    ] = None,
    processes: Annotated[int, typer.Option("--processes", min=1, help="So many workers, each a process.")] = 1,
    reload: Annotated[
        bool, typer.Option("--reload", help="Start anew when a Python file under the current directory changes.")
    ] = False,
    log_format: Annotated[str, typer.Option("--log-format", metavar="|".join(FORMATS))] = "text",
    log_level: Annotated[str, typer.Option("--log-level", metavar="|".join(LEVELS))] = "info",
) -> None:
    """Run a worker, until SIGTERM or Ctrl-C; a second one hurries it."""
    is_child = end_with_parent()
    settings: Settings = context.obj
    if group:
        if channel or concurrency or min_concurrency or max_concurrency:
            raise Failure("--group goes with neither --channel nor a concurrency: it has both", WRONG_USAGE)
        groups = [_group(one) for one in group]
    else:
        groups = [_channels(channel or None, *_concurrency(concurrency, min_concurrency, max_concurrency))]
    if no_listen and listener_database:
        raise Failure("--no-listen and --listener-database do not go together", WRONG_USAGE)
    if reload and importlib.util.find_spec("watchfiles") is None:
        raise Failure("--reload needs the package watchfiles: pip install 'sqlxmq[reload]'", WRONG_USAGE)
    try:
        configure(log_format, log_level, worker=worker)
    except ValueError as error:
        raise Failure(f"--log-{error}", WRONG_USAGE) from None
    if (reload or processes > 1) and not is_child:
        _database_for_jobs(settings, None)  # what is wrong there is said once, not by each process
        supervisor = Supervisor(_children(processes, worker), os.getcwd() if reload else None)
        raise typer.Exit(asyncio.run(supervisor.run()))
    registry = load_registry(target, settings)
    database, listener = _database_for_jobs(settings, listener_database)
    options: dict[str, Any] = {
        "groups": groups,
        "lease": lease,
        "grace": grace,
        "listen": not no_listen,
        "listener_dsn": listener,
        "worker": worker,
    }
    asyncio.run(_work(registry, database, options))


def _group(text: str) -> ChannelGroup:
    names, _, both = text.rpartition("=")
    return _channels(names.split(","), *_pair("--group", both))


def _channels(names: list[str] | None, smallest: int, largest: int) -> ChannelGroup:
    try:
        return ChannelGroup(channel_names=names, min_concurrency=smallest, max_concurrency=largest)
    except ValueError as error:
        raise Failure(str(error), WRONG_USAGE) from None


def _pair(option: str, text: str) -> tuple[int, int]:
    parts = text.split(":")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise Failure(f"{option} is {text!r}, but it must be MIN:MAX, such as 16:32", WRONG_USAGE)
    return int(parts[0]), int(parts[1])


def _concurrency(both: str | None, smallest: int | None, largest: int | None) -> tuple[int, int]:
    if both is not None:
        if smallest is not None or largest is not None:
            raise Failure("give either --concurrency, or --min-concurrency and --max-concurrency", WRONG_USAGE)
        return _pair("--concurrency", both)
    if smallest is None:
        smallest = 16 if largest is None else min(16, largest)
    return smallest, max(32, smallest) if largest is None else largest


def _database_for_jobs(settings: Settings, listener: str | None) -> tuple[str, str | None]:
    """The connection strings with a search_path that leads to the queue. Raises Failure if there is no queue."""
    settings.needs = "worker"
    if listener is not None:
        check_dsn(listener)
    with connect(settings) as connection:
        path = search_path(connection, find(connection, settings.schema))
    return with_search_path(dsn(settings), path), None if listener is None else with_search_path(listener, path)


async def _work(registry: JobRegistry, database: str, options: dict[str, Any]) -> None:
    try:
        runner = registry.runner(database, **options)
    except ValueError as error:
        raise Failure(str(error), WRONG_USAGE) from error
    try:
        await runner.run()
    except MissingContextError as error:
        raise Failure(str(error), WRONG_USAGE) from error


def _children(processes: int, worker: str | None) -> list[Sequence[str]]:
    """The commands of the processes: this one's own. Being children, each is a single worker."""
    own = [sys.executable, "-m", "sqlxmq", *sys.argv[1:]]
    if worker is None or processes == 1:
        return [own] * processes
    return [[*own, "--worker", f"{worker}:{number}"] for number in range(1, processes + 1)]
