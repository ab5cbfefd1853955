"""What a worker writes about itself: lines for people, or one JSON object a line for machines.

Both show the fields that were given with a message by extra={…}: the runner gives job_id, job_name,
attempt, channel_name where it has them.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any, TextIO

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error", "critical")

# What every record has; whatever else it has came by extra.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(
    format: str = "text", level: str = "info", *, worker: str | None = None, to: TextIO | None = None
) -> None:
    """Has everything that is logged in this process written; what was configured before is replaced.

    Args:
        format: "text" or "json".
        level: the least level that is written: "debug", "info", "warning", "error" or "critical".
        worker: a name to stand in every line (None: the process id does).
        to: where to write (None: standard error).

    Raises:
        ValueError: the format or the level is none of these.
    """
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}, but it must be one of {', '.join(FORMATS)}")
    if level not in LEVELS:
        raise ValueError(f"level is {level!r}, but it must be one of {', '.join(LEVELS)}")
    handler = logging.StreamHandler(to or sys.stderr)
    handler.setFormatter(JSONLines(worker) if format == "json" else TextLines(worker))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _OWN}


def _time(record: logging.LogRecord) -> str:
    time = datetime.fromtimestamp(record.created, timezone.utc)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextLines(logging.Formatter):
    """Time, level, worker, message, fields; a traceback follows on lines of its own."""

    def __init__(self, worker: str | None = None) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """The line, or the lines, of a record."""
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        who = self._worker or record.process
        line = f"{_time(record)} {record.levelname:<7} [{who}] {record.getMessage()}{fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JSONLines(logging.Formatter):
    """One JSON object: time (ISO 8601, UTC), level, logger, message, process, worker, the fields, and
    exception, the traceback's text."""

    def __init__(self, worker: str | None = None) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
            **({"worker": self._worker} if self._worker else {}),
        }
        # A field named like one of these does not take its place.
        line = {**_fields(record), **line}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)
