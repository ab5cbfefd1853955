"""Reports how jobs ended: whatever has gathered while the last report was under way goes into the next."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, TypeAlias, TypeVar
from uuid import UUID

import psycopg

from sqlxmq._connections import Link, Pauses

logger = logging.getLogger("sqlxmq")
T = TypeVar("T", bound="Key | Failure | Release")

# A delivery: the job's id and the attempt.
Key: TypeAlias = tuple[UUID, int]

# What a repetition can heal: of ReadOnlySqlTransaction, a server that has become a replica.
OUT_OF_REACH = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.ReadOnlySqlTransaction)

# Each returns the ids of those that were reported too late: usually none.
COMPLETE = """
    SELECT late.id FROM unnest(%(ids)s::uuid[]) AS late (id)
    WHERE late.id NOT IN (SELECT mq_complete(%(ids)s::uuid[], %(attempts)s::integer[]))
"""
FAIL = """
    SELECT late.id FROM unnest(%(ids)s::uuid[]) AS late (id)
    WHERE late.id NOT IN (
        SELECT msg_id FROM mq_fail(%(ids)s::uuid[], %(attempts)s::integer[], %(errors)s::text[],
                                   %(retry_in)s::interval[], %(is_final)s::boolean[]))
"""
RELEASE = """
    SELECT late.id FROM unnest(%(ids)s::uuid[]) AS late (id)
    WHERE late.id NOT IN (SELECT mq_release(%(ids)s::uuid[], %(attempts)s::integer[], %(due_in)s))
"""


class Failure(NamedTuple):
    """An attempt that failed: its error as text, how long until the next, whether it was the last."""

    key: Key
    error: str
    retry_in: timedelta | None
    is_final: bool


class Release(NamedTuple):
    """A delivery that is given back: how long until the job is due again."""

    key: Key
    due_in: timedelta


class Reporter:
    """Reports outcomes to the database, in few statements, without letting a lone one wait."""

    def __init__(
        self,
        link: Link,
        on_reported: Callable[[Iterable[Key]], None],
        log_fields: Callable[[Key], dict[str, Any]],
    ) -> None:
        """
        Args:
            link: the connection for reports.
            on_reported: called with deliveries that are off the runner's hands.
            log_fields: what log records about a delivery carry.
        """
        self._link = link
        self._on_reported = on_reported
        self._log_fields = log_fields
        self._completed: list[Key] = []
        self._failed: list[Failure] = []
        self._released: list[Release] = []
        self._something = asyncio.Event()
        self._closed = False

    def complete(self, key: Key) -> None:
        """The job is done."""
        self._completed.append(key)
        self._something.set()

    def fail(self, failure: Failure) -> None:
        """The attempt failed."""
        self._failed.append(failure)
        self._something.set()

    def release(self, release: Release) -> None:
        """The job is given back, and the attempt does not count."""
        self._released.append(release)
        self._something.set()

    def close(self) -> None:
        """Lets report_for_ever end once everything is reported."""
        self._closed = True
        self._something.set()

    async def report_for_ever(self) -> None:
        """Reports until closed."""
        while not self._closed or self._completed or self._failed or self._released:
            await self._something.wait()
            self._something.clear()
            completed, self._completed = self._completed, []
            failed, self._failed = self._failed, []
            released, self._released = self._released, []
            await self._report(self._report_completed, completed)
            self._on_reported(completed)
            await self._report(self._report_failed, failed)
            self._on_reported(one.key for one in failed)
            for due_in in {one.due_in for one in released}:
                await self._report(self._report_released, [one for one in released if one.due_in == due_in])
            self._on_reported(one.key for one in released)
            if self._closed:
                self._something.set()

    async def _report(self, report: Callable[[list[T]], Awaitable[None]], batch: list[T]) -> None:
        """Sends a report: again and again while the database is out of reach, since the fence makes
        a repetition harmless; one by one if it is refused, so that one bad item spoils no other."""
        if not batch:
            return
        pauses = Pauses()
        while True:
            try:
                await report(batch)
                return
            except OUT_OF_REACH as error:
                pause = pauses.next()
                logger.warning("a report failed, next try in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)
            except Exception as error:
                if len(batch) == 1:
                    logger.exception(
                        "a report was refused; its job will run again: %s", error,
                        extra=self._log_fields(_key_of(batch[0])),
                    )  # fmt: skip
                    return
                for one in batch:
                    await self._report(report, [one])
                return

    async def _report_completed(self, batch: list[Key]) -> None:
        self._warn_of_late_ones("was finished", batch, await self._link.fetch(COMPLETE, columns_of(batch)))

    async def _report_failed(self, batch: list[Failure]) -> None:
        columns = {
            **columns_of([one.key for one in batch]),
            "errors": [one.error for one in batch],
            "retry_in": [one.retry_in for one in batch],
            "is_final": [one.is_final for one in batch],
        }
        self._warn_of_late_ones("failed", batch, await self._link.fetch(FAIL, columns))

    async def _report_released(self, batch: list[Release]) -> None:
        columns = {**columns_of([one.key for one in batch]), "due_in": batch[0].due_in}
        self._warn_of_late_ones("was given back", batch, await self._link.fetch(RELEASE, columns))

    def _warn_of_late_ones(
        self, what: str, batch: Sequence[Key | Failure | Release], late: list[tuple[Any, ...]]
    ) -> None:
        if not late:
            return
        attempts = dict(map(_key_of, batch))
        for (id,) in late:
            logger.warning(
                "job %s %s too late: its lease was lost", id, what, extra=self._log_fields((id, attempts[id]))
            )


def _key_of(one: Key | Failure | Release) -> Key:
    return one.key if isinstance(one, Failure | Release) else one


def columns_of(keys: Sequence[Key]) -> dict[str, Any]:
    """The ids and the attempts, as the statements take them."""
    # As text: one pass here, where what is in a list would be looked at one by one. PostgreSQL takes UUIDs without
    # dashes, too, which are quicker to write.
    return {
        "ids": "{" + ",".join([id.hex for id, _ in keys]) + "}",
        "attempts": "{" + ",".join([str(attempt) for _, attempt in keys]) + "}",
    }
