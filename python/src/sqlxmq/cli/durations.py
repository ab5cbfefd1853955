"""Durations as people write them."""

from __future__ import annotations

import re
from datetime import timedelta

import typer

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(text: str) -> timedelta:
    """Reads '90', '90s', '15m', '2h', '1d' or '1.5h'. Raises typer.BadParameter for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    try:
        if match:
            return timedelta(seconds=float(match[1]) * UNITS[match[2]])
    except OverflowError:
        pass
    raise typer.BadParameter(f"{text!r} is no duration: write 90s, 15m, 2h, 1d, or seconds")


def in_words(length: timedelta) -> str:
    """A duration of at most two units, such as '2h 5m'."""
    seconds = int(length.total_seconds())
    if seconds < 0:
        return f"-{in_words(-length)}"
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if seconds >= size or (unit == "s" and not parts):
            parts.append(f"{seconds // size}{unit}")
            seconds %= size
    return " ".join(parts[:2])
