"""Django: the connections of django.db."""

from __future__ import annotations

from typing import Any, TypeVar

from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.connection import ConnectionProxy

from sqlxmq._senders import Carrier
from sqlxmq._senders.psycopg import with_percent_signs
from sqlxmq._statements import Statement

T = TypeVar("T")


def through_connection(connection: BaseDatabaseWrapper, statement: Statement[T]) -> T:
    """In the transaction of a connection: the open atomic block, else (autocommit) one of its own.

    Raises TypeError if the connection is to another database than PostgreSQL.
    """
    if connection.vendor != "postgresql":
        raise TypeError(f"cannot send through the connection {connection.alias!r}: it is to {connection.vendor}")
    with connection.cursor() as cursor:
        cursor.execute(with_percent_signs(statement.text).decode(), statement.parameters)
        return statement.read(cursor.fetchall())


def carrier(sender_type: type[Any]) -> Carrier | None:
    """What carries out statements for objects of this class; None if nothing does."""
    return through_connection if issubclass(sender_type, BaseDatabaseWrapper | ConnectionProxy) else None
