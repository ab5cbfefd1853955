"""What the benchmark of the workers needs to know about a queue, ours or another."""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar

import psycopg
from psycopg.conninfo import conninfo_to_dict

Connection = psycopg.Connection[Any]
Send = Callable[[int], Awaitable[None]]
SendMany = Callable[[Sequence[int]], Awaitable[None]]

# Every job carries its number and padding: 50 bytes of JSON as Python writes it.
PAYLOAD_BYTES = 50


def payload(number: int) -> dict[str, Any]:
    """The arguments of a job: its number, and padding that brings its JSON to 50 bytes."""
    empty = len(json.dumps({"number": number, "padding": ""}))
    return {"number": number, "padding": "x" * (PAYLOAD_BYTES - empty)}


# The same in SQL, of a column named number.
SQL_PAYLOAD = """('{"number": ' || number || ', "padding": "' || repeat('x', 23 - length(number::text)) || '"}')"""


def asyncpg_arguments(dsn: str) -> dict[str, Any]:
    """What asyncpg is to connect with: it reads no connection strings of this form."""
    parts = conninfo_to_dict(dsn)
    return {"host": parts["host"], "port": parts["port"], "user": parts["user"], "database": parts["dbname"]}


@dataclass(frozen=True)
class Variant:
    """A way to run a queue's worker.

    Attributes: settings, the best that were found; tried, changes to them that were no better: what
    `bench/workers.py --tune` tries again; measures, the only ones that it is made for (None: all).
    """

    settings: dict[str, object]
    tried: Sequence[dict[str, object]] = ()
    measures: Sequence[str] | None = None


class Peer(ABC):
    """A queue and the settings of its worker.

    Attributes: packages, whose versions belong to the figures; key, what stands for one of this
    project's channels; name, of the variant; settings, of the worker.
    """

    packages: ClassVar[Sequence[str]]
    key: ClassVar[str]

    def __init__(self, name: str, dsn: str, settings: dict[str, object]) -> None:
        self.name = name
        self.dsn = dsn
        self.settings: dict[str, Any] = dict(settings)

    def missing(self) -> str | None:
        """Why it cannot be run here; None if it can."""
        return None

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """The versions of its packages."""

    @abstractmethod
    def command(self, role: str, keys: int, arguments: dict[str, Any]) -> list[str]:
        """The command line of a process that works, sends or floods, as child.py describes it."""

    @abstractmethod
    async def install(self, keys: int) -> None:
        """Puts the queue into the empty database, and declares so many keys where that is needed."""

    @abstractmethod
    def seed(self, session: Connection, first: int, jobs: int, keys: int, *, later: bool) -> None:
        """Sends jobs first, first + 1, …, spread evenly over the keys, by the fastest way that leaves what
        single sends would have left; later: for next week instead of now."""

    @abstractmethod
    def unfinished(self, session: Connection) -> int:
        """How many jobs are due and not completed, those that run included. Should cost little."""

    @abstractmethod
    def completed(self, session: Connection, seeded: int) -> int:
        """How many of so many due jobs the database shows as completed, with success."""


class PythonPeer(Peer):
    """A queue whose workers and senders are programs in Python."""

    def versions(self) -> dict[str, str]:
        """As they are installed beside this program."""
        return {package: version(package) for package in self.packages}

    def command(self, role: str, keys: int, arguments: dict[str, Any]) -> list[str]:
        """This very Python."""
        given = {"dsn": self.dsn, "settings": self.settings, "keys": keys, **arguments}
        return [sys.executable, "-m", "bench.peers.child", role, self.name, json.dumps(given)]

    @abstractmethod
    async def work(self, keys: int) -> None:
        """Runs a worker until the process is ended. Calls progress.claiming at the worker's first claim or
        before; its jobs call progress.start with their number and do nothing else."""

    @abstractmethod
    def sender(self, keys: int) -> AbstractAsyncContextManager[Send]:
        """A function that sends one job by the queue's own call and returns once it is committed."""

    @abstractmethod
    def bulk_sender(self, keys: int) -> AbstractAsyncContextManager[SendMany]:
        """A function that sends many jobs by the queue's own call for that, and returns once they are committed."""


def one(session: Connection, query: str, *arguments: object) -> int:
    """The only number that a query returns."""
    row = session.execute(query.encode(), arguments or None).fetchone()
    assert row is not None
    return int(row[0])
