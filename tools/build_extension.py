"""Builds the extension's SQL script from the files that sql/manifest lists.

With --check it only says whether the script that is there is that of the sources.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def version() -> str:
    """The version that the extension's control file names."""
    control = (ROOT / "extension" / "sqlxmq.control").read_text()
    match = re.search(r"^default_version = '([^']+)'$", control, re.MULTILINE)
    if match is None:
        sys.exit("extension/sqlxmq.control: no default_version")
    return match[1]


def script() -> str:
    """The whole of the SQL, in the order of the manifest; each file is named above its text."""
    parts = ['\\echo Use "CREATE EXTENSION sqlxmq" to load this file. \\quit\n']
    listed = []
    for line in (ROOT / "sql" / "manifest").read_text().splitlines():
        if line.startswith("#"):
            parts.append(f"\n--{line[1:]}\n")
        elif line:
            listed.append(line)
            parts.append(f"\n-- sql/{line}\n{(ROOT / 'sql' / line).read_text()}")
    left_out = {str(p.relative_to(ROOT / "sql")) for p in (ROOT / "sql").rglob("*.sql")} - set(listed)
    if left_out:
        sys.exit(f"sql/manifest does not list {', '.join(sorted(left_out))}")
    return "".join(parts).replace("@VERSION@", version())


def main() -> None:
    """Writes the script, or compares it."""
    built = ROOT / "extension" / f"sqlxmq--{version()}.sql"
    if sys.argv[1:] == ["--check"]:
        if not built.exists() or built.read_text() != script():
            sys.exit(f"{built.relative_to(ROOT)} is not that of the sources under sql/: run make, and commit it")
    else:
        built.write_text(script())


if __name__ == "__main__":
    main()
