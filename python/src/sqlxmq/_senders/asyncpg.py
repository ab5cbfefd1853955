"""asyncpg: connections and pools."""

from __future__ import annotations

from typing import Any, TypeVar

import asyncpg

from sqlxmq._senders import AsyncpgSender, Carrier
from sqlxmq._statements import Statement

T = TypeVar("T")


async def through(sender: AsyncpgSender, statement: Statement[T]) -> T:
    """In the transaction of a connection; through a pool, in one of its own."""
    return statement.read(await sender.fetch(statement.text, *statement.parameters))


def carrier(sender_type: type[Any]) -> Carrier | None:
    """What carries out statements for objects of this class; None if nothing does."""
    kinds = (asyncpg.Connection, asyncpg.pool.PoolConnectionProxy, asyncpg.Pool)
    return through if issubclass(sender_type, kinds) else None
