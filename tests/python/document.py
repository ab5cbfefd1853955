"""Runs the examples of a document, in their order, in the current directory.

A block of Python is run as in `python -m asyncio`: `await` works at the top level, and all blocks share
their names. Without await, a block runs with no event loop, as a plain program does. The blocks of SQL
are run by psql, in one session. A block of bash is run by bash, each in a shell of its own; the program
`sqlxmq` is at hand.

A block under `<!-- file: NAME -->` becomes that file instead, in whatever language, to be imported or
started by those behind it. What stands in `<!-- check … -->` is Python, too, which readers need not see: it
prepares what an example takes for granted, and asserts what the text claims. The database is the one
that PGHOST, PGDATABASE … name.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import ModuleType
from typing import IO, Any, NamedTuple

BLOCKS = re.compile(
    r"^<!-- file: (?P<file>\S+) -->\n```\w+\n(?P<content>.*?)^```$"
    r"|^```(?P<language>python|sql|bash)\n(?P<example>.*?)^```$"
    r"|^<!-- check\n(?P<check>.*?)^-->$",
    re.MULTILINE | re.DOTALL,
)

# How long a block may wait, in seconds.
LIMIT = 60


class Block(NamedTuple):
    """A block: its text, the line before it, its language, and the file that it is to become, if any."""

    text: str
    line: int
    language: str
    file: str | None


def blocks_of(document: str) -> Iterator[Block]:
    """The blocks of a document, given as text."""
    for found in BLOCKS.finditer(document):
        kind = next(name for name in ("content", "example", "check") if found[name] is not None)
        line = document.count("\n", 0, found.start(kind))
        yield Block(found[kind], line, found["language"] or "python", found["file"])


class Psql:
    """A session of psql, in which all SQL of a document runs."""

    def __init__(self) -> None:
        self._errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [os.environ.get("PSQL", "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
        )  # fmt: skip

    def run(self, text: str, where: str) -> str:
        """Runs a block, and returns what it prints. Raises AssertionError if a statement fails."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{text}\n\\echo -- done\n")
        self._process.stdin.flush()
        printed = ""
        for line in self._process.stdout:
            if line == "-- done\n":
                return printed
            printed += line
        self._errors.seek(0)
        raise AssertionError(f"{where}: {self._errors.read()}")

    def close(self) -> None:
        """Ends the session."""
        with suppress(BrokenPipeError):
            self._process.communicate()
        self._errors.close()


def run(path: Path) -> None:
    """Runs a document. Raises what an example raises; the traceback shows the document's lines."""
    # Classes look up their annotations in the module that they say they are from.
    sys.modules["__main__"] = ModuleType("__main__")
    namespace = vars(sys.modules["__main__"])
    with ExitStack() as stack:
        loop = stack.enter_context(closing(asyncio.new_event_loop()))
        stack.callback(lambda: loop.run_until_complete(loop.shutdown_asyncgens()))
        psql: Psql | None = None
        for block in blocks_of(path.read_text()):
            if block.file is not None:
                file = Path(block.file)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(block.text)
            elif block.language == "sql":
                psql = psql or stack.enter_context(closing(Psql()))
                # What the last block printed, for checks.
                namespace["printed"] = psql.run(block.text, f"{path}, line {block.line}")
            elif block.language == "bash":
                namespace["printed"] = _bash(block.text, f"{path}, line {block.line}")
            else:
                # The empty lines make the numbers in tracebacks the document's.
                text = "\n" * block.line + block.text
                code = compile(text, path, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
                if code.co_flags & inspect.CO_COROUTINE:
                    loop.run_until_complete(_awaited(code, namespace))
                else:
                    exec(code, namespace)


def _bash(text: str, where: str) -> str:
    """Runs a block, and returns what it prints. Raises AssertionError if a command fails."""
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text], env={**os.environ, "PATH": programs},
        stdout=subprocess.PIPE, text=True, timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, f"{where}: exit code {done.returncode}\n{done.stdout}"
    return done.stdout


async def _awaited(code: Any, namespace: dict[str, Any]) -> None:
    # Its traceback names the line that waits in vain.
    await asyncio.wait_for(eval(code, namespace), LIMIT)


if __name__ == "__main__":
    sys.path.insert(0, "")
    run(Path(sys.argv[1]))
