"""Style and types: ruff, mypy (strict), and whether what is generated is up to date. Exit code 1 if any of
them complains.

The SQL is checked by plpgsql_check, in tests/python/test_extension.py.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ["python/src", "tools", "bench", "examples", "tests", "docs"]


def main() -> int:
    """Runs all linters, and prints what they say."""
    failures = 0
    for command in (
        ["-m", "ruff", "check", *PYTHON],
        ["-m", "ruff", "format", "--check", *PYTHON],
        ["-m", "mypy", *PYTHON],
        ["tools/generate_sync.py", "--check"],
    ):
        print("$", *command, flush=True)
        failures += bool(subprocess.run([sys.executable, *command], cwd=ROOT).returncode)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
