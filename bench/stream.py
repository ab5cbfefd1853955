"""A stream of jobs at full speed: a process that sends in bulk and keeps the backlog near a number, and one that
claims and completes, which reports window by window how it went."""

from __future__ import annotations

import multiprocessing
import queue
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bench.common import EXTENSION, connect, enqueue

# What a poller that finds a job of this name says the time of: somebody else has sent it into the stream.
HELD = "held"

POLL = "SELECT id, attempt, name, payload_json, payload_bytes FROM mq_poll(NULL, %s, %s::interval)"
FAIL = "SELECT count(*) FROM mq_fail(%s::uuid[], %s::integer[], array_fill('on purpose'::text, ARRAY[%s::integer]))"


@dataclass(frozen=True)
class Plan:
    """What a stream is like.

    Attributes: dsn; backlog, near which the number of ready jobs is kept; channels, over which jobs go in
    turn; batch, of the polls; jobs, after which the stream ends (None: never); window_seconds or
    window_jobs, after which the poller reports; delay, an interval of so many seconds for delayed_of_100 of
    100 jobs; lease, an interval (None: the job's backoff); left_every, failing_every: of so many jobs, one
    is not completed at its first attempt, but left until its lease is over, or reported as failed (0: none).
    """

    dsn: str
    backlog: int
    channels: int
    batch: int
    jobs: int | None = None
    window_seconds: float | None = None
    window_jobs: int | None = None
    delay: float = 0
    delayed_of_100: int = 0
    lease: str | None = None
    left_every: int = 0
    failing_every: int = 0


@dataclass
class Window:
    """A part of the stream, as the poller saw it.

    Attributes: begin and end, as time.monotonic() gives them; jobs, that were completed; polls, the
    milliseconds of each that claimed something; empty_polls, the number of the others; backlog, the number
    of ready jobs at the end, as far as sender and poller know.
    """

    begin: float
    end: float = 0
    jobs: int = 0
    polls: list[float] = field(default_factory=list)
    empty_polls: int = 0
    backlog: int = 0

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.begin

    @property
    def rate(self) -> float:
        """Jobs completed per second."""
        return self.jobs / self.seconds


class Shared(NamedTuple):
    """What the processes know of each other. Each number has one writer.

    sent and waiting, of the sender: jobs, and those of them whose delay is not over; completed and
    left, of the poller: jobs, and those which it has claimed, not completed, and not met again;
    held_at: when it met the job named HELD.
    """

    sent: Any
    waiting: Any
    completed: Any
    left: Any
    held_at: Any
    is_over: Any
    windows: Any

    @property
    def ready(self) -> int:
        """How many jobs can be claimed."""
        return int(self.sent.value - self.waiting.value - self.completed.value - self.left.value)


_shared: Shared


def _share(shared: Shared) -> None:
    global _shared
    _shared = shared


def _send(plan: Plan) -> None:
    shared = _shared
    chunk = max(1, min(5_000, plan.backlog // 4))
    delayed: deque[tuple[float, int]] = deque()  # when a chunk's delayed jobs are due, and how many they are
    seen: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])  # what was completed when, for a second
    interval = f"{plan.delay} seconds" if plan.delay else "0"
    with connect(plan.dsn) as session:
        while not shared.is_over.is_set():
            now = time.monotonic()
            while delayed and delayed[0][0] <= now:
                shared.waiting.value -= delayed.popleft()[1]
            seen.append((now, shared.completed.value))
            while seen[0][0] < now - 1:
                seen.popleft()
            # Delayed jobs are sent ahead: as many as will be completed until they are due, and twice as many
            # while the poller has too little to do, since it can do more than it shows.
            rate = (seen[-1][1] - seen[0][1]) / max(0.1, seen[-1][0] - seen[0][0])
            ahead = rate * plan.delay * plan.delayed_of_100 / 100 * (2 if shared.ready < plan.backlog / 2 else 1)
            sent = shared.sent.value
            jobs = chunk if plan.jobs is None else min(chunk, plan.jobs - sent)
            if jobs == 0 and not delayed:
                return
            if jobs == 0 or shared.ready + shared.waiting.value + jobs > plan.backlog + ahead:
                time.sleep(0.001)
                continue
            enqueue(session, sent, jobs, plan.channels, delay=interval, delayed_of_100=plan.delayed_of_100)
            if plan.delayed_of_100 and plan.delay:
                late = sum(plan.delayed_of_100 > n * 37 % 100 for n in range(sent, sent + jobs))
                delayed.append((time.monotonic() + plan.delay, late))
                shared.waiting.value += late
            shared.sent.value += jobs


def _work(plan: Plan) -> None:
    shared = _shared
    left_every, failing_every = plan.left_every, plan.failing_every
    firsts = 0  # jobs met at their first attempt
    with connect(plan.dsn) as session:
        window = Window(time.monotonic())
        while not shared.is_over.is_set():
            before = time.perf_counter()
            rows = session.execute(POLL, (plan.batch, plan.lease), prepare=True, binary=True).fetchall()
            took = (time.perf_counter() - before) * 1000
            if rows[0][0] is None:
                window.empty_polls += 1
                time.sleep(0.001)
            else:
                window.polls.append(took)
                if any(row[2] == HELD for row in rows):
                    shared.held_at.value = time.monotonic()
                done = rows
                if left_every or failing_every:
                    done, failed = [], []
                    kept_back = 0
                    for row in rows:
                        if row[1] > 1:
                            kept_back -= 1
                            done.append(row)
                            continue
                        firsts += 1
                        if left_every and firsts % left_every == 0:
                            kept_back += 1
                        elif failing_every and firsts % failing_every == 0:
                            kept_back += 1
                            failed.append(row)
                        else:
                            done.append(row)
                    if failed:
                        session.execute(
                            FAIL, ([row[0] for row in failed], [row[1] for row in failed], len(failed)), prepare=True
                        )
                    shared.left.value += kept_back
                if done:
                    session.execute(
                        EXTENSION.complete, ([row[0] for row in done], [row[1] for row in done]), prepare=True
                    )
                    shared.completed.value += len(done)
                    window.jobs += len(done)
            now = time.monotonic()
            is_last = plan.jobs is not None and shared.completed.value >= plan.jobs
            if (
                is_last
                or (plan.window_seconds is not None and now - window.begin >= plan.window_seconds)
                or (plan.window_jobs is not None and window.jobs >= plan.window_jobs)
            ):
                window.end = now
                window.backlog = shared.ready
                shared.windows.put(window)
                window = Window(now)
                if is_last:
                    return


class Stream:
    """A stream that is under way."""

    def __init__(self, shared: Shared, processes: list[Future[None]]) -> None:
        self._shared = shared
        self._processes = processes

    def window(self) -> Window:
        """The next window. Raises what a process failed with; RuntimeError if there is no window for so long
        that something must have gone wrong."""
        until = time.monotonic() + 300
        while time.monotonic() < until:
            try:
                window: Window = self._shared.windows.get(timeout=1)
                return window
            except queue.Empty:
                for process in self._processes:
                    if process.done():
                        process.result()
        raise RuntimeError("the poller has said nothing for five minutes")

    @property
    def held_at(self) -> float | None:
        """When the job named HELD was claimed, as time.monotonic() gives it; None: not yet."""
        return self._shared.held_at.value or None


@contextmanager
def streaming(plan: Plan) -> Iterator[Stream]:
    """Starts a stream, in two processes; ends it on leaving."""
    context = multiprocessing.get_context("spawn")
    shared = Shared(
        sent=context.RawValue("q", 0),
        waiting=context.RawValue("q", 0),
        completed=context.RawValue("q", 0),
        left=context.RawValue("q", 0),
        held_at=context.RawValue("d", 0.0),
        is_over=context.Event(),
        windows=context.Queue(),
    )
    with ProcessPoolExecutor(2, context, _share, (shared,)) as pool:
        processes = [pool.submit(_send, plan), pool.submit(_work, plan)]
        try:
            yield Stream(shared, processes)
        finally:
            shared.is_over.set()
            # A process cannot end before somebody has taken what it put into the queue.
            while not all(process.done() for process in processes) or not shared.windows.empty():
                try:
                    shared.windows.get(timeout=0.1)
                except queue.Empty:
                    continue
    for process in processes:
        process.result()
