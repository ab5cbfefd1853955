"""Keeps the leases of running jobs alive, from a thread of its own that no event loop can hold up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeAlias

import psycopg

from sqlxmq._connections import LONGEST_STATEMENT, Pauses, Source, cut
from sqlxmq._reporter import Key

logger = logging.getLogger("sqlxmq")

KEEP_ALIVE = "SELECT msg_id, is_held, is_cancelled FROM mq_keep_alive(%s::uuid[], %s, %s::integer[])"

# How long a keep-alive may take at least, in seconds, before its connection is cut off.
LEAST_PATIENCE = 5.0

# Deliveries and the leases that they are to have.
Leases: TypeAlias = Mapping[Key, timedelta]


class Keeper:
    """Pushes the leases of all deliveries that the runner has in hand, every third of the lease."""

    def __init__(
        self,
        source: Source,
        lease: timedelta,
        leases: Callable[[bool], Leases],
        tell: Callable[[Key, str], None],
    ) -> None:
        """
        Args:
            source: where to get a connection.
            lease: the shortest lease.
            leases: what is in hand now; called in the thread. With True: only what wants a longer lease than
                it was claimed with, and has not got it yet.
            tell: called in the thread, with a delivery and why it is to stop: "lease lost" or "cancelled".
        """
        self._source = source
        self._interval = lease.total_seconds() / 3
        # Of what does not answer, it is to be rid in time for another try.
        self._patience = min(max(self._interval, LEAST_PATIENCE), LONGEST_STATEMENT)
        self._leases = leases
        self._tell = tell
        self._connection: psycopg.Connection[Any] | None = None
        self._soon = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._keep_for_ever, name="sqlxmq keep-alive", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def hurry(self) -> None:
        """Does now what cannot wait: there are jobs that want a longer lease than they were claimed with."""
        self._soon.set()

    def close(self) -> None:
        """Ends the thread, and waits for it a little: it may be waiting for the database."""
        self._closed = True
        self._soon.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _keep_for_ever(self) -> None:
        pauses = Pauses()
        next_round = time.monotonic() + self._interval
        while True:
            is_urgent = self._soon.wait(max(0.0, next_round - time.monotonic()))
            self._soon.clear()
            if self._closed:
                break
            try:
                self._keep(self._leases(is_urgent))
                pauses.reset()
                if not is_urgent:
                    next_round = time.monotonic() + self._interval
            except Exception as error:
                wait = min(pauses.next(), self._interval)
                # A whole round then, the urgent ones included.
                next_round = time.monotonic() + wait
                logger.warning("keep-alive failed, next try in %.1f s: %s", wait, error)
                self._drop()
        self._drop()

    def _keep(self, in_hand: Leases) -> None:
        for duration in set(in_hand.values()):
            # Of a job that came back under a later attempt, only that one can be held.
            latest: dict[Any, int] = {}
            for (id, attempt), wanted in in_hand.items():
                if wanted == duration:
                    latest[id] = max(attempt, latest.get(id, 0))
            if self._connection is None or self._connection.closed:
                self._connection = self._source.connect_in_thread()
            timer = threading.Timer(self._patience, cut, (self._connection,))
            timer.daemon = True
            timer.start()
            try:
                rows = self._connection.execute(
                    KEEP_ALIVE, ("{" + ",".join(map(str, latest)) + "}", duration, list(latest.values()))
                ).fetchall()
            finally:
                timer.cancel()
            for id, is_held, is_cancelled in rows:
                if is_cancelled:
                    self._tell((id, latest[id]), "cancelled")
                elif not is_held:
                    self._tell((id, latest[id]), "lease lost")
            for id, attempt in in_hand:
                if attempt < latest.get(id, 0):
                    self._tell((id, attempt), "lease lost")

    def _drop(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None
