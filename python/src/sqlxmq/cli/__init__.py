"""The command line sqlxmq: puts the queue into a database, runs workers, shows and mends what is there.

It asks the queue's views and calls its functions; it has no rule of its own.
"""

from __future__ import annotations

import os
import sys
from typing import Any, cast

import psycopg
import typer

# They add their commands.
from sqlxmq.cli import dead, demo, install, jobs, run, send, status, version  # noqa: F401
from sqlxmq.cli.app import Settings, app
from sqlxmq.cli.errors import FAILED, WRONG_USAGE, Failure, UsageError, describe, one_line


def main() -> None:
    """Runs the command that the process was called with, and exits with its code."""
    settings = Settings()
    # Before anything is parsed, since parsing can fail, too.
    settings.debug = "--debug" in sys.argv[1:]
    sys.exit(_run(settings))


def _run(settings: Settings) -> int:
    try:
        command = cast(Any, typer.main.get_command(app))
        code = command.main(prog_name="sqlxmq", standalone_mode=False, obj=settings)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        # Whoever read the output has seen enough. What is left of it goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (Exception, KeyboardInterrupt) as error:
        if settings.debug and not isinstance(error, (typer.Exit, KeyboardInterrupt)):
            raise
        return _report(error, settings)


def _report(error: BaseException, settings: Settings) -> int:
    """Says on standard error, in one line, what went wrong; returns the exit code."""
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, Failure):
        message, code = one_line(str(error)), error.exit_code
    elif isinstance(error, UsageError):
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "sqlxmq"
        message = f"{one_line(error.format_message())} See {path} --help."
        code = WRONG_USAGE
    elif isinstance(error, psycopg.Error):
        message, code = describe(error, settings.user, settings.needs), FAILED
    elif isinstance(error, typer.Abort):
        message, code = "Nothing was changed.", FAILED
    elif isinstance(error, KeyboardInterrupt):
        message, code = "interrupted", 130
    elif isinstance(error, OSError):
        message, code = one_line(str(error)), FAILED
    else:
        message = f"{type(error).__name__}: {one_line(str(error))} (--debug shows the traceback)"
        code = FAILED
    print(f"sqlxmq: {message}", file=sys.stderr)
    return code
