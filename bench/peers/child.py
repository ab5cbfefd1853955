"""A process of the benchmark: one worker, or one sender, of one queue.

python -m bench.peers.child work|send|flood|idle NAME ARGUMENTS, the arguments as JSON; what it has to say goes to
the standard output, see progress.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

from bench.peers import load
from bench.peers.peer import PythonPeer
from bench.peers.progress import progress, tell


async def work(peer: PythonPeer, arguments: dict[str, Any]) -> None:
    """Runs a worker until SIGTERM: then says how many jobs it has started, and ends at once."""

    def stop() -> None:
        tell("stopped", count=progress.started)
        os._exit(0)

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    progress.tell_every(arguments["every"], times=arguments["times"])
    await peer.work(arguments["keys"])


async def send(peer: PythonPeer, arguments: dict[str, Any]) -> None:
    """Sends jobs at an even pace, and says when each was committed."""
    times: dict[int, float] = {}
    async with peer.sender(arguments["keys"]) as send_one:
        begin = time.perf_counter()
        for number in range(arguments["jobs"]):
            await asyncio.sleep(begin + number / arguments["rate"] - time.perf_counter())
            await send_one(number)
            times[number] = time.time()
    tell("sent", times=times)


async def flood(peer: PythonPeer, arguments: dict[str, Any]) -> None:
    """Sends as many jobs as it can from a line of its standard input on, for so many seconds."""
    first, batch, sent = arguments["first"], arguments["batch"], 0
    async with AsyncExitStack() as stack:
        if batch == 1:
            send_one = await stack.enter_async_context(peer.sender(arguments["keys"]))
        else:
            send_many = await stack.enter_async_context(peer.bulk_sender(arguments["keys"]))
        tell("ready")
        await asyncio.to_thread(sys.stdin.readline)
        until = time.perf_counter() + arguments["seconds"]
        while time.perf_counter() < until:
            if batch == 1:
                await send_one(first + sent)
            else:
                await send_many(range(first + sent, first + sent + batch))
            sent += batch
        tell("sent", count=sent)


async def idle(peer: PythonPeer, arguments: dict[str, Any]) -> None:
    """Runs this project's worker, which gets no jobs, until the process is ended."""
    from bench.peers.sqlxmq_worker import SqlxmqPeer

    assert isinstance(peer, SqlxmqPeer)
    await peer.work_elsewhere()


def run(coroutine: Coroutine[Any, Any, None], uses_uvloop: bool) -> None:
    """Runs the coroutine on the event loop that the settings ask for."""
    if uses_uvloop:
        import uvloop

        uvloop.run(coroutine)
    else:
        asyncio.run(coroutine)


def main() -> None:
    """Does what the command line says."""
    role, name, given = sys.argv[1:]
    arguments = json.loads(given)
    peer = load(name, arguments["dsn"], arguments["settings"])
    assert isinstance(peer, PythonPeer)
    roles = {"work": work, "send": send, "flood": flood, "idle": idle}
    run(roles[role](peer, arguments), bool(peer.settings.get("uvloop")))


if __name__ == "__main__":
    main()
