"""Runs the Python examples of a document, in their order, in the current directory.

A block of Python is run as in `python -m asyncio`: `await` works at the top level, and all blocks share
their names. A block under `<!-- file: NAME -->` becomes that file instead, to be imported or started by
those behind it. What stands in `<!-- check … -->` is Python, too, which readers need not see: it
prepares what an example takes for granted, and asserts what the text claims. The database is the one
that PGHOST, PGDATABASE … name.

Without await, a block runs with no event loop, as a plain program does.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

BLOCKS = re.compile(
    r"^<!-- file: (?P<file>\S+) -->\n```python\n(?P<content>.*?)^```$"
    r"|^```python\n(?P<example>.*?)^```$"
    r"|^<!-- check\n(?P<check>.*?)^-->$",
    re.MULTILINE | re.DOTALL,
)

# How long a block may wait, in seconds.
LIMIT = 60


class Block(NamedTuple):
    """A block of Python: its text, the line before it, and the file that it is to become, if any."""

    text: str
    line: int
    file: str | None


def blocks_of(document: str) -> Iterator[Block]:
    """The blocks of a document, given as text."""
    for found in BLOCKS.finditer(document):
        kind = next(name for name in ("content", "example", "check") if found[name] is not None)
        yield Block(found[kind], document.count("\n", 0, found.start(kind)), found["file"])


def run(path: Path) -> None:
    """Runs a document. Raises what an example raises; the traceback shows the document's lines."""
    # Classes look up their annotations in the module that they say they are from.
    sys.modules["__main__"] = ModuleType("__main__")
    namespace = vars(sys.modules["__main__"])
    loop = asyncio.new_event_loop()
    for block in blocks_of(path.read_text()):
        if block.file is not None:
            file = Path(block.file)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text)
            continue
        # The empty lines make the numbers in tracebacks the document's.
        text = "\n" * block.line + block.text
        code = compile(text, path, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        if code.co_flags & inspect.CO_COROUTINE:
            loop.run_until_complete(_awaited(code, namespace))
        else:
            exec(code, namespace)
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


async def _awaited(code: Any, namespace: dict[str, Any]) -> None:
    # Its traceback names the line that waits in vain.
    await asyncio.wait_for(eval(code, namespace), LIMIT)


if __name__ == "__main__":
    sys.path.insert(0, "")
    run(Path(sys.argv[1]))
