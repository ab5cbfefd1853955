"""A process of the benchmark: one worker, or one sender, of one queue.

python -m bench.peers.child work|send NAME ARGUMENTS, the arguments as JSON; what it has to say goes to
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
    run({"work": work, "send": send}[role](peer, arguments), bool(peer.settings.get("uvloop")))


if __name__ == "__main__":
    main()
