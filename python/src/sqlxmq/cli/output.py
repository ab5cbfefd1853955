"""Tables for people, JSON for machines."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sqlxmq.cli.durations import in_words

AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]


def console(stderr: bool = False) -> Console:
    """Where to print; lines are not broken for a width that a file does not have."""
    to_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, markup=False, width=None if to_terminal else 250)


def visible(value: Any) -> str:
    """A value's text; control characters, which a job's sender may have put there, as escapes."""
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table; columns of numbers are aligned to the right, ids are not broken."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    listed = [list(row) for row in rows]
    for position, column in enumerate(columns):
        cells = [row[position] for row in listed]
        is_number = any(isinstance(cell, int) for cell in cells)
        is_id = any(isinstance(cell, UUID) for cell in cells)
        made.add_column(
            column, justify="right" if is_number else "left", no_wrap=is_id or is_number, overflow="fold",
            min_width=36 if is_id else None,
        )  # fmt: skip
    for row in listed:
        made.add_row(*(Text(visible(cell)) for cell in row))
    return made


def last_line(text: str | None, length: int = 80) -> str:
    """The last line of a traceback, or the line of a message, cut."""
    lines = (text or "").strip().splitlines()
    line = lines[-1].strip() if lines else ""
    return line if len(line) <= length else line[: length - 1] + "…"


def ago(time: datetime | None) -> str:
    """How long ago, or in how long."""
    if time is None:
        return ""
    passed = datetime.now(timezone.utc) - time
    return f"{in_words(passed)} ago" if passed >= timedelta(0) else f"in {in_words(-passed)}"


def to_json(value: Any, indent: int | None = 2) -> str:
    """JSON: times in ISO 8601, durations in seconds, bytes in Base64."""
    return json.dumps(value, default=_plain, indent=indent, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (bytes, memoryview)):
        return base64.b64encode(value).decode()
    return str(value)
