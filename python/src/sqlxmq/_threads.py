"""Threads for functions that are not async."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class Threads:
    """Runs functions in threads, as many at a time as there are calls; idle threads are used again.

    They are daemons: a function that does not end must not keep the process from ending, as it would
    in a concurrent.futures.ThreadPoolExecutor.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], Callable[[], None]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._threads = 0

    async def run(self, function: Callable[[], T]) -> T:
        """Calls a function in a thread, in a copy of the caller's context, and returns what it returns."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        context = contextvars.copy_context()

        def finish(set_it: Callable[[Any], None], value: Any) -> None:
            if not future.done():
                set_it(value)

        def call() -> Callable[[], None]:
            try:
                result = context.run(function)
            except BaseException as error:
                # What a future refuses, or what the event loop would take for its own end.
                if isinstance(error, StopIteration | KeyboardInterrupt | GeneratorExit):
                    wrapped = RuntimeError(f"the function raised {error!r}")
                    wrapped.__cause__ = error
                    error = wrapped
                outcome: tuple[Callable[[Any], None], Any] = (future.set_exception, error)
            else:
                outcome = (future.set_result, result)
            return partial(tell, *outcome)

        def tell(set_it: Callable[[Any], None], value: Any) -> None:
            # The loop can be closed, and nobody wait any more.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(finish, set_it, value)

        with self._lock:
            if self._idle > 0:
                self._idle -= 1
            else:
                self._threads += 1
                threading.Thread(target=self._work, name=f"sqlxmq job {self._threads}", daemon=True).start()
        self._calls.put(call)
        return await future

    def close(self) -> None:
        """Lets idle threads end; those at work end after their call."""
        for _ in range(self._threads):
            self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            tell = call()
            # Before anybody hears that the call has ended: the next one is to find this thread.
            with self._lock:
                self._idle += 1
            tell()
            del call, tell  # What they hold is not to stay until the next one.
