"""What goes wrong, in one line that says what to do."""

from __future__ import annotations

import psycopg
import typer

FAILED = 1
WRONG_USAGE = 2
NOTHING_FOUND = 3

# Some versions of typer depend on click, others bring it along: its classes are found by typer's own.
UsageError: type[typer.BadParameter] = typer.BadParameter.__mro__[1]

INSUFFICIENT_PRIVILEGE = "42501"
UNDEFINED = ("42883", "42P01", "42703")  # function, table, column


class Failure(Exception):
    """What the user is told in one line. Attributes: exit_code."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def one_line(text: str) -> str:
    """The text without line breaks."""
    return " ".join(text.split())


def describe(error: psycopg.Error, user: str | None, needs: str | None) -> str:
    """What the database refused, and what to do about it.

    Args:
        error: the error.
        user: as whom the command was connected (None: it was not).
        needs: what mq_grant has to give for the command: 'producer', 'worker', 'observer' or 'operator'.
    """
    if error.sqlstate is None:
        hint = "" if user else " Is the database the right one? It is given by --database or SQLXMQ_DATABASE."
        return one_line(str(error)) + hint
    diagnostic = error.diag
    parts = [diagnostic.message_primary or str(error), diagnostic.message_detail, diagnostic.message_hint]
    message = one_line(". ".join(part.rstrip(".") for part in parts if part))
    if error.sqlstate == INSUFFICIENT_PRIVILEGE and user and needs:
        return f"{message}. The owner of the queue can grant it: SELECT mq_grant({_literal(user)}, '{needs}')"
    if error.sqlstate in UNDEFINED and "mq_" in message:
        return f"{message}. The queue in the database is of an older version: run sqlxmq upgrade"
    return message


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
