"""A group of channels, and the loop that claims its jobs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlxmq._connections import Link, Pauses
from sqlxmq._execution import Executor
from sqlxmq._listener import Listener

logger = logging.getLogger("sqlxmq")

POLL = """
    SELECT id, name, payload_json, payload_bytes, attempt, attempts_allowed, channel_name, channel_args, headers,
           extract(epoch FROM wait_time)::float8
    FROM mq_poll(%s, %s, %s, %s, %s)
"""

# Without any announcement, poll at least so often, in seconds: as the crate's runner does.
LONGEST_SLEEP = 60.0

# And so often where announcements do not arrive.
LONGEST_SLEEP_UNHEARD = 1.0


@dataclass(frozen=True, kw_only=True)
class ChannelGroup:
    """Channels that a runner works off with a concurrency of their own, and a connection of their own for polls.

    Attributes:
        channel_names (Sequence[str] | None): whose jobs to run (None: all).
        min_concurrency (int): with fewer jobs running than this, the runner claims more, up to the maximum.
        max_concurrency (int): how many jobs run at most, 10000 at most.

    Raises:
        ValueError: it is not 1 <= min_concurrency <= max_concurrency <= 10000.
        TypeError: channel_names is a text instead of a list of texts.
    """

    channel_names: Sequence[str] | None = None
    min_concurrency: int = 16
    max_concurrency: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.min_concurrency <= self.max_concurrency <= 10_000:
            raise ValueError(
                f"min_concurrency is {self.min_concurrency} and max_concurrency {self.max_concurrency}, "
                "but it must be 1 <= min_concurrency <= max_concurrency <= 10000"
            )
        if isinstance(self.channel_names, str):
            raise TypeError(f"channel_names is {self.channel_names!r}, but it must be a list of names")


def group_of(
    channel_names: Sequence[str] | None, min_concurrency: int | None, max_concurrency: int | None
) -> ChannelGroup:
    """A group from what was given. Raises ValueError, TypeError as ChannelGroup does."""
    if min_concurrency is None:
        min_concurrency = 16 if max_concurrency is None else min(16, max_concurrency)
    if max_concurrency is None:
        max_concurrency = max(32, min_concurrency)
    return ChannelGroup(channel_names=channel_names, min_concurrency=min_concurrency, max_concurrency=max_concurrency)


class GroupLoop:
    """Claims the jobs of a group whenever fewer than its minimum are running."""

    def __init__(
        self,
        group: ChannelGroup,
        link: Link,
        executor: Executor,
        listener: Listener | None,
        lease: timedelta,
        worker: str,
    ) -> None:
        self.group = group
        self._link = link
        self._executor = executor
        self._listener = listener
        self._lease = lease
        self._worker = worker
        self._channel_names = None if group.channel_names is None else list(group.channel_names)
        self._running = 0
        self._wake = asyncio.Event()
        self._stopping = False
        self._is_held_back = False

    def wake(self) -> None:
        """There may be something to claim."""
        self._wake.set()

    def reports_went_out(self) -> None:
        """Reports may not lag behind any more."""
        if self._is_held_back:
            self._wake.set()

    def stop(self) -> None:
        """Lets poll_for_ever end, after the poll that may be under way."""
        self._stopping = True
        self._wake.set()

    async def poll_for_ever(self) -> None:
        """Polls until stopped."""
        pauses = Pauses()
        while not self._stopping:
            self._wake.clear()
            wait: float | None = None
            if self._has_room():
                try:
                    wait = await self._poll()
                    pauses.reset()
                except Exception as error:
                    # Whatever it is: a worker that does not poll any more must not look alive.
                    wait = pauses.next()
                    logger.warning("a poll failed, next try in %.1f s: %s", wait, error, extra={"worker": self._worker})
            if wait != 0:
                is_heard = self._listener is not None and self._listener.is_heard
                limit = LONGEST_SLEEP if is_heard else LONGEST_SLEEP_UNHEARD
                # Not wait_for(), which before Python 3.12 can lose a cancellation to the wake-up.
                timer = asyncio.get_running_loop().call_later(
                    limit if wait is None else min(limit, wait), self._wake.set
                )
                try:
                    await self._wake.wait()
                finally:
                    timer.cancel()

    def _has_room(self) -> bool:
        if self._running >= self.group.min_concurrency:
            return False
        # Reports that lag behind hold back claims: what has ended is still in hand.
        self._is_held_back = self._executor.unreported > self.group.max_concurrency
        return not self._is_held_back

    async def _poll(self) -> float | None:
        """Claims jobs and starts them; returns after how many seconds to poll again (None: when woken)."""
        wanted = self.group.max_concurrency - self._running
        rows = await self._link.fetch(
            POLL, (self._channel_names, wanted, self._lease, self._worker, self._when_to_notify())
        )
        wait: float | None = rows[-1][-1]
        if rows[0][0] is None:
            return wait
        started = self._executor.start(rows, self._on_end)
        # Only now: eager tasks have ended meanwhile, and have been subtracted.
        self._running += started
        return wait

    def _when_to_notify(self) -> str:
        if self._listener is None:
            return "never"
        return "asleep" if self._link.is_one_session else "always"

    def _on_end(self, jobs: int) -> None:
        had_room = self._running < self.group.min_concurrency
        self._running -= jobs
        # With room before, the last poll has left nothing that could be claimed now.
        if self._running < self.group.min_concurrency and not had_room:
            self._wake.set()
