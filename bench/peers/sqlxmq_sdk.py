"""This project's own way to send: the functions of its package, through either driver."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import psycopg

from bench.peers.peer import Send, SendMany, Variant, asyncpg_arguments, payload
from bench.peers.sqlxmq_worker import SqlxmqPeer, noop
from sqlxmq import JobBuilder, spawn_many


class SdkPeer(SqlxmqPeer):
    """Sends what SqlxmqPeer sends by SQL."""

    @property
    def packages(self) -> Sequence[str]:  # type: ignore[override]
        """Those of the driver."""
        return ("sqlxmq", self.settings["driver"])

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """A connection of the driver's that the settings name."""
        if self.settings["driver"] == "asyncpg":
            session = await asyncpg.connect(**asyncpg_arguments(self.dsn))
            try:
                yield session
            finally:
                await session.close()
        else:
            async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as connection:
                yield connection

    def job(self, number: int, keys: int) -> JobBuilder:
        """A job on its way."""
        prepared = noop.prepare(**payload(number))
        return prepared.set_channel_name("bench").set_channel_args(str(number % keys))

    @asynccontextmanager
    async def sender(self, keys: int) -> AsyncIterator[Send]:
        """Job.prepare and spawn."""
        async with self.connection() as connection:

            async def send(number: int) -> None:
                await self.job(number, keys).spawn(connection)

            yield send

    @asynccontextmanager
    async def bulk_sender(self, keys: int) -> AsyncIterator[SendMany]:
        """spawn_many."""
        async with self.connection() as connection:

            async def send_many(numbers: Sequence[int]) -> None:
                await spawn_many(connection, [self.job(number, keys) for number in numbers])

            yield send_many


PEER = SdkPeer
VARIANTS = {
    "sqlxmq-sdk": Variant({"driver": "psycopg"}, measures=("senders",)),
    "sqlxmq-sdk-asyncpg": Variant({"driver": "asyncpg"}, measures=("senders",)),
}
