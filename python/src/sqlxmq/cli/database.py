"""The connection, and the schema in which the queue is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from sqlxmq.cli.app import Settings
from sqlxmq.cli.errors import WRONG_USAGE, Failure

Connection = psycopg.Connection[Any]

INSTALLATIONS = """
    SELECT namespace.nspname,
           EXISTS (SELECT FROM pg_depend AS member
                   JOIN pg_extension AS extension ON extension.oid = member.refobjid AND extension.extname = 'sqlxmq'
                   WHERE member.classid = 'pg_proc'::regclass AND member.objid = function.oid
                     AND member.refclassid = 'pg_extension'::regclass AND member.deptype = 'e'),
           pg_function_is_visible(function.oid)
    FROM pg_proc AS function
    JOIN pg_namespace AS namespace ON namespace.oid = function.pronamespace
    WHERE function.proname = 'mq_version' AND function.pronargs = 0
      AND EXISTS (SELECT FROM pg_class WHERE relname = 'mq_msgs' AND relnamespace = namespace.oid)
    ORDER BY namespace.nspname
"""


@dataclass(frozen=True)
class Installation:
    """A queue in the database.

    Attributes: schema; is_extension, else it is plain SQL; is_visible, whether the search_path leads to it.
    """

    schema: str
    is_extension: bool
    is_visible: bool


def dsn(settings: Settings) -> str:
    """The connection string. Raises Failure if it is none."""
    given = settings.database or os.environ.get("SQLXMQ_DATABASE") or os.environ.get("DATABASE_URL") or ""
    check_dsn(given)
    return given


def check_dsn(given: str) -> None:
    """Raises Failure if this is no connection string; without showing it, as it may hold a password."""
    try:
        conninfo_to_dict(given)
    except psycopg.ProgrammingError:
        raise Failure(
            "the connection string cannot be read: it must be postgresql://user@host/database, "
            "or pairs such as host=… dbname=…",
            WRONG_USAGE,
        ) from None


@contextmanager
def connect(settings: Settings) -> Iterator[Connection]:
    """A session in autocommit mode. Raises psycopg.Error."""
    with psycopg.connect(dsn(settings), autocommit=True, fallback_application_name="sqlxmq") as connection:
        settings.user = connection.info.user
        yield connection


@contextmanager
def connect_to_queue(settings: Settings, needs: str) -> Iterator[Connection]:
    """A session in autocommit mode whose search_path leads to the queue.

    needs: which of mq_grant's four parts the command takes; it is named if that is missing.
    Raises Failure if there is no queue, or if there are several to choose from; psycopg.Error.
    """
    settings.needs = needs
    with connect(settings) as connection:
        path = search_path(connection, find(connection, settings.schema))
        if path is not None:
            connection.execute("SELECT set_config('search_path', %s, false)", (path,))
        yield connection


def installations(connection: Connection) -> list[Installation]:
    """All queues in the database."""
    return [Installation(*row) for row in connection.execute(INSTALLATIONS)]


def find(connection: Connection, schema: str | None) -> Installation:
    """The queue in this schema (None: on the search_path, else the only one there is).

    Raises Failure if there is none, or if there are several to choose from.
    """
    found = installations(connection)
    if schema is not None:
        named = [one for one in found if one.schema == schema]
        if not named:
            raise Failure(f"there is no queue in schema {schema}: run sqlxmq install --schema {schema}")
        return named[0]
    visible = [one for one in found if one.is_visible]
    if visible:
        return visible[0]
    if not found:
        raise Failure(f"there is no queue in database {connection.info.dbname}: run sqlxmq install")
    if len(found) > 1:
        raise Failure(f"there are queues in the schemas {', '.join(one.schema for one in found)}: name one by --schema")
    return found[0]


def search_path(connection: Connection, queue: Installation) -> str | None:
    """The session's search_path with the queue's schema in it; None if it leads there already."""
    if queue.is_visible:
        return None
    # Behind everything else, so that names mean what they meant; before it only to win over another queue.
    row = connection.execute(
        """
        SELECT CASE WHEN %s THEN concat_ws(', ', quote_ident(%s), own.path)
                    ELSE concat_ws(', ', own.path, quote_ident(%s)) END
        FROM (SELECT nullif(nullif(current_setting('search_path'), ''), '""') AS path) AS own
        """,
        (any(other.is_visible for other in installations(connection)), queue.schema, queue.schema),
    ).fetchone()
    assert row is not None
    path: str = row[0]
    return path


def with_search_path(given: str, path: str | None) -> str:
    """A connection string whose sessions have this search_path (None: the one they have anyway)."""
    if path is None:
        return given
    options = conninfo_to_dict(given).get("options") or os.environ.get("PGOPTIONS", "")
    escaped = path.replace("\\", "\\\\").replace(" ", "\\ ")
    return make_conninfo(given, options=f"{options} -c search_path={escaped}".strip())
