"""Worker processes and their parent: starts them, starts them again, stops them with itself."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from typing import Any

from sqlxmq.cli.errors import WRONG_USAGE

logger = logging.getLogger("sqlxmq")

# A child that ends without being told to is started again after so many seconds, twice as many the next
# time, up to the longest; and from the beginning once it has lived for long enough.
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
LONG_ENOUGH = 60.0

# Tells a child which file descriptor its parent holds the other end of.
PIPE = "SQLXMQ_PARENT_PIPE"


def end_with_parent() -> bool:
    """In a child, has the process asked to stop when its parent is gone, however that ended.

    Returns whether this is a child of a Supervisor.
    """
    descriptor = os.environ.pop(PIPE, None)
    if descriptor is None:
        return False
    pipe = int(descriptor)
    os.set_inheritable(pipe, False)

    def wait() -> None:
        os.read(pipe, 1)  # nobody writes: it returns at the end, with the last writer
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="sqlxmq parent", daemon=True).start()
    return True


class Supervisor:
    """Keeps a process of each command running until SIGTERM or SIGINT, which the processes get, too."""

    def __init__(self, commands: Sequence[Sequence[str]], reload: str | None = None) -> None:
        """
        Args:
            commands: programs and their arguments.
            reload: a directory (None: no); when Python files under it change, the processes are
                stopped and started again. One that ends by itself then waits for that.
        """
        self._commands = commands
        self._reload = reload
        self._children: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()  # a new one after each change
        self._signal = signal.SIGTERM
        self._code = 0

    async def run(self) -> int:
        """Returns, when all processes have ended, the exit code: 0 if they ended well when told to."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        self._read, write = os.pipe()
        watcher = asyncio.create_task(self._watch(self._reload)) if self._reload else None
        try:
            await asyncio.gather(*(self._keep(number) for number in range(len(self._commands))))
        finally:
            if watcher:
                watcher.cancel()
                with suppress(asyncio.CancelledError):
                    await watcher
            for end in (self._read, write):
                os.close(end)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
        return self._code

    def _on_signal(self, number: signal.Signals) -> None:
        if not self._stopping.is_set():
            logger.info("stopping %d processes; a second signal hurries them", len(self._children))
        self._stop(number)

    def _stop(self, number: signal.Signals) -> None:
        self._signal = number
        self._stopping.set()
        self._changed.set()
        self._tell_all()

    def _tell_all(self) -> None:
        for child in self._children.values():
            self._tell(child)

    def _tell(self, child: asyncio.subprocess.Process) -> None:
        with suppress(ProcessLookupError):
            child.send_signal(self._signal)

    async def _keep(self, number: int) -> None:
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            changed = self._changed
            # In a session of its own: Ctrl-C reaches it by its parent only, once.
            child = await asyncio.create_subprocess_exec(
                *self._commands[number],
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(self._read,),
                env={**os.environ, PIPE: str(self._read)},
                start_new_session=True,
            )
            started = asyncio.get_running_loop().time()
            self._children[number] = child
            logger.debug("started process %d of %d: %d", number + 1, len(self._commands), child.pid)
            if self._stopping.is_set():
                self._tell(child)
            code = await child.wait()
            del self._children[number]
            if self._stopping.is_set():
                # Ended by the signal itself: it had not got as far as to handle it.
                if code not in (0, -self._signal, 128 + signal.SIGINT):
                    self._code = self._code or 1
                return
            if changed.is_set():
                continue
            if self._reload:
                logger.error("process %d ended (%s); waiting for a change", child.pid, _how(code))
                await changed.wait()
                continue
            if code == WRONG_USAGE:
                # It has said what is wrong, and would say so again.
                self._code = code
                self._stop(signal.SIGTERM)
                return
            if asyncio.get_running_loop().time() - started > LONG_ENOUGH:
                pause = FIRST_PAUSE
            logger.error("process %d ended (%s); another one starts in %.1f s", child.pid, _how(code), pause)
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _watch(self, directory: str) -> None:
        import watchfiles  # of the extra "reload"

        try:
            await self._restart_at_changes(
                watchfiles.awatch(directory, watch_filter=watchfiles.PythonFilter()), directory
            )
        except Exception as error:
            logger.error("%s cannot be watched: %s", directory, error)
            self._code = 1
            self._stop(signal.SIGTERM)

    async def _restart_at_changes(self, changed: AsyncIterator[Iterable[tuple[Any, str]]], directory: str) -> None:
        async for changes in changed:
            if self._stopping.is_set():
                return
            paths = sorted({path.removeprefix(f"{directory}{os.sep}") for _, path in changes})
            logger.info("%s changed: starting anew", ", ".join(paths))
            self._changed.set()
            self._changed = asyncio.Event()
            self._tell_all()


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
