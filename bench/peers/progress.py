"""How a worker's process tells the program that started it how far it is: a line of JSON each."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

R = TypeVar("R")


class Progress:
    """Counts the jobs that were started."""

    def __init__(self) -> None:
        self.started = 0
        self._next = self._every = sys.maxsize
        self._times: dict[int, float] | None = None
        self._is_claiming = False

    def tell_every(self, jobs: int, *, times: bool) -> None:
        """Says "started" after so many jobs, and again after as many; times: with the time of each start."""
        self._next = self._every = jobs
        self._times = {} if times else None

    def claiming(self) -> None:
        """The worker's first claim begins now; later calls do nothing."""
        if not self._is_claiming:
            self._is_claiming = True
            tell("claiming")

    def start(self, number: int) -> None:
        """A job starts: the first thing that every handler calls, and the last."""
        if self._times is not None:
            self._times[number] = time.time()
        self.started += 1
        if self.started >= self._next:
            self._next += self._every
            tell("started", count=self.started, times=self._times)


def tell(event: str, **details: Any) -> None:
    """Prints a line of JSON: the event, the time (as time.time() gives it) and the details."""
    print(json.dumps({"event": event, "time": time.time(), **details}), flush=True)


def note_first_call(owner: type, name: str) -> None:
    """Has the first call of a coroutine method, whoever's, count as the worker's first claim."""
    original: Callable[..., Awaitable[Any]] = getattr(owner, name)

    async def first(*arguments: Any, **named: Any) -> Any:
        setattr(owner, name, original)
        progress.claiming()
        return await original(*arguments, **named)

    setattr(owner, name, first)


progress = Progress()
