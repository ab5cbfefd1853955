"""Hears announcements of jobs, and makes sure that it does."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql

from sqlxmq._connections import Pauses, cut

logger = logging.getLogger("sqlxmq")

# How long it may be quiet, in seconds, before the listener announces something to itself; how long that may
# take to arrive; and how long a statement of the listener may take.
QUIET = 20.0
ECHO = 5.0
ANSWER = 10.0


class Listener:
    """Calls back whenever jobs are announced.

    Listening can fail silently: a transaction pooler takes LISTEN and delivers nothing; a connection can
    be dead without either side knowing. So the listener has something announced to itself on a channel of
    its own, first by another session (a pooler may well hand a session what that announced itself), then, now
    and again, by itself. While nothing arrives, is_heard is false, and the runner polls more often.

    Attributes: is_heard, whether announcements are known to arrive.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[psycopg.AsyncConnection[Any]]],
        subscribers: Sequence[tuple[Sequence[str] | None, Callable[[], None]]],
    ) -> None:
        """
        Args:
            connect: makes a connection in autocommit mode.
            subscribers: channel names (None: all) and what to call when one of their jobs is announced.
                Called, too, after each (re)connect, since announcements may have been missed before.
        """
        self._connect = connect
        self._subscribers = subscribers
        self.is_heard = False

    async def listen_for_ever(self) -> None:
        """Listens; reconnects for ever."""
        pauses = Pauses()
        while True:
            try:
                connection = await self._connect()
                try:
                    await self._listen(connection, pauses)
                finally:
                    if self.is_heard:
                        self.is_heard = False
                        # They sleep for long, and are to do so no more.
                        self._wake_all()
                    await connection.close()
            except Exception as error:
                # Whatever it is: without a listener, the runner is only slow.
                pause = pauses.next()
                logger.warning("the listener has no connection, next try in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)

    async def _listen(self, connection: psycopg.AsyncConnection[Any], pauses: Pauses) -> None:
        loop = asyncio.get_running_loop()
        echo = f"mq_echo_{uuid.uuid4().hex}"
        wakes = await self._subscribe(connection)
        for channel in (*wakes, echo):
            await self._execute(connection, sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        self._wake_all()
        while True:
            announce = sql.SQL("NOTIFY {}").format(sql.Identifier(echo))
            if self.is_heard:
                await self._execute(connection, announce)
            else:
                async with await self._connect() as other:
                    await self._execute(other, announce)
            arrived = False
            deadline = loop.time() + ECHO
            while not arrived and (left := deadline - loop.time()) > 0:
                # To its own end each time: leaving it early would lose what came in the same packet.
                async for notice in connection.notifies(timeout=left, stop_after=1):
                    arrived = arrived or notice.channel == echo
                    for wake in wakes.get(notice.channel, ()):
                        wake()
            if not arrived:
                if self.is_heard:
                    raise psycopg.OperationalError("it was connected, but heard nothing any more")
                logger.warning(
                    "NOTIFY does not arrive here (is there a transaction pooler between?): polling every second; "
                    "give the runner a listener_dsn that leads to the server itself, or listen=False"
                )
                # What reconnecting cannot heal need not be tried often.
                pauses.reset()
                await asyncio.sleep(QUIET)
                raise psycopg.OperationalError("it has never heard anything")
            if not self.is_heard:
                self.is_heard = True
                pauses.reset()
                self._wake_all()
            async for notice in connection.notifies(timeout=QUIET):
                for wake in wakes.get(notice.channel, ()):
                    wake()

    async def _execute(
        self, connection: psycopg.AsyncConnection[Any], query: sql.Composed | bytes, parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        # A dead connection does not answer, and does not fail either.
        timer = asyncio.get_running_loop().call_later(ANSWER, cut, connection)
        try:
            cursor = await connection.execute(query, parameters or None, prepare=False)
            return await cursor.fetchall() if cursor.description else []
        finally:
            timer.cancel()

    def _wake_all(self) -> None:
        for _, wake in self._subscribers:
            wake()

    async def _subscribe(self, connection: psycopg.AsyncConnection[Any]) -> Mapping[str, list[Callable[[], None]]]:
        wakes: dict[str, list[Callable[[], None]]] = {}
        for names, wake in self._subscribers:
            if names is None:
                channels = ["mq"]
            else:
                query = b"SELECT mq_notify_channel(name) FROM unnest(%s::text[]) AS name"
                channels = [row[0] for row in await self._execute(connection, query, (list(names),))]
            for channel in channels:
                wakes.setdefault(channel, []).append(wake)
        return wakes
