"""The runner for programs without asyncio."""

from __future__ import annotations

import asyncio
import concurrent.futures
import signal
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from typing_extensions import Self

from sqlxmq._options import Duration
from sqlxmq._runner import JobRunner


class SyncJobRunner:
    """Runs jobs of a registry until it is stopped; the JobRunner itself, in an event loop in a thread of
    its own. Jobs that are plain functions run in further threads.

    Use it as a context manager, which starts and stops it, or let run() do so until a signal comes.
    """

    def __init__(self, make: Callable[[], JobRunner]) -> None:
        """
        Args:
            make: makes the runner, in its event loop; JobRegistry.sync_runner does this.
        """
        self._make = make
        self._runner: JobRunner | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        self._error: BaseException | None = None
        self._is_to_stop = False
        self._signals = 0
        self._signals_obeyed = 0

    @property
    def number_running(self) -> int:
        """How many jobs are running."""
        return 0 if self._runner is None else self._runner.number_running

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts claiming and running jobs, in the background.

        Raises:
            ValueError, TypeError: an argument of sync_runner was wrong.
            MissingContextError: a job asks for context that the registry was not given.
            QueueNotFoundError: there is no queue in the database, or one of an older version.
            RuntimeError: it has been started before.
        """
        if self._thread is not None:
            raise RuntimeError("the runner has been started before; make a new one")
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="sqlxmq runner", daemon=True)
        self._thread.start()
        self._started.wait()
        self._raise()

    async def _run(self) -> None:
        try:
            self._loop = asyncio.get_running_loop()
            self._runner = self._make()
            async with self._runner:
                self._obey()
                self._started.set()
                await self._runner.until_stopped()
        except BaseException as error:
            self._error = error
        finally:
            self._started.set()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def stop(self) -> None:
        """Claims no more, lets running jobs finish within the grace period, and gives the rest back,
        for others to run at once. Can be called again; ends the runner for good.

        Raises whatever ended the runner before.
        """
        self._is_to_stop = True
        self._obey_soon()
        if self._thread is not None:
            self._thread.join()
        self._raise()

    def _obey_soon(self) -> None:
        if self._loop is not None:
            # It may have ended by itself.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._obey)

    def _obey(self) -> None:
        # In the loop. What came before there was a runner is not forgotten.
        if self._runner is not None:
            if self._is_to_stop:
                self._runner._stopping.set()
            while self._signals_obeyed < self._signals:
                self._signals_obeyed += 1
                self._runner.stop_soon()

    def wait_for_jobs(self, timeout: Duration | None = None) -> None:
        """Waits until no job is running, but not longer than the timeout, a timedelta or seconds."""
        if self._runner is not None and self._thread is not None and self._thread.is_alive():
            self._in_loop(self._runner.wait_for_jobs(timeout))

    def _in_loop(self, waiting: Coroutine[Any, Any, None]) -> None:
        assert self._loop is not None
        assert self._thread is not None
        try:
            future = asyncio.run_coroutine_threadsafe(waiting, self._loop)
        except RuntimeError:
            # The loop has just been closed.
            waiting.close()
            return
        # A loop that ends may leave it as it is.
        while self._thread.is_alive() and not concurrent.futures.wait([future], timeout=0.1).done:
            pass
        if future.done() and not future.cancelled():
            future.result()

    def run(self) -> None:
        """Starts the runner, and stops it at SIGTERM or SIGINT; a second signal ends the grace period. To be
        called in the main thread. Raises whatever ended the runner otherwise."""
        before = {}

        def on_signal(number: int, frame: FrameType | None) -> None:
            self._signals += 1
            self._obey_soon()

        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, on_signal)
        try:
            self.start()
            assert self._thread is not None
            self._thread.join()
            self._raise()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
