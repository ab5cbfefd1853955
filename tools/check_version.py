"""Compares the version wherever it stands: control file, built scripts, pyproject, changelog."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def found(path: str, pattern: str) -> str | None:
    """The first match of the pattern's group in a file of the repository; None if there is none."""
    file = ROOT / path
    match = re.search(pattern, file.read_text(), re.MULTILINE) if file.exists() else None
    return match[1] if match else None


def main() -> int:
    """Prints each place, and returns 1 if they do not agree."""
    version = found("extension/sqlxmq.control", r"^default_version = '([^']+)'$")
    places = {
        "extension/sqlxmq.control": version,
        f"extension/sqlxmq--{version}.sql (mq_version)": found(
            f"extension/sqlxmq--{version}.sql", r"^RETURN '([^']+)'::text;$"
        ),
        "python/pyproject.toml": found("python/pyproject.toml", r'^version = "([^"]+)"$'),
        "CHANGELOG.md (the newest heading)": found("CHANGELOG.md", r"^## \[([0-9][^\]]*)\]"),
    }
    headings = re.findall(r"^## \[([0-9][^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    if len(headings) > 1:
        update = f"extension/sqlxmq--{headings[1]}--{version}.sql"
        places[f"{update} (the update)"] = version if (ROOT / update).exists() else None
    for place, what in places.items():
        print(f"{what or 'MISSING':<10} {place}")
    return int(set(places.values()) != {version} or version is None)


if __name__ == "__main__":
    sys.exit(main())
