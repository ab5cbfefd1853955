"""What type checkers accept, and what they refuse."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.python.conftest import ROOT

CHECKED = sorted((ROOT / "tests" / "typing").glob("*.py"))


def run(*command: str | Path) -> str:
    # pyright would look for a newer version of itself.
    environment = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=170
    )
    assert done.returncode in (0, 1), done.stderr + done.stdout
    return done.stdout


def pyright(*arguments: str | Path) -> list[dict[str, Any]]:
    """What pyright complains of."""
    output = json.loads(run("pyright", "--outputjson", "--pythonpath", sys.executable, *arguments))
    assert output["summary"]["filesAnalyzed"] > 0
    return [found for found in output["generalDiagnostics"] if found["severity"] == "error"]


def of_pyright() -> dict[tuple[str, int], str]:
    return {
        (Path(found["file"]).name, found["range"]["start"]["line"] + 1): found["message"]
        for found in pyright("--project", ROOT / "tests" / "typing")
    }


def of_mypy() -> dict[tuple[str, int], str]:
    output = run("mypy", "--strict", "--no-pretty", "--hide-error-context", *CHECKED)
    found = re.findall(r"^(\S+?\.py):(\d+): error: (.*)$", output, re.MULTILINE)
    assert f"Found {len(found)} errors" in output, output
    return {(Path(file).name, int(line)): message for file, line, message in found}


def marked() -> set[tuple[str, int]]:
    """The lines that say that they are wrong."""
    return {
        (file.name, number)
        for file in CHECKED
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if line.endswith("# error")
    }


@pytest.mark.parametrize("checker", [of_mypy, of_pyright])
def test_checkers_refuse_what_is_wrong_and_nothing_else(checker: Any) -> None:
    found = checker()
    assert len(marked()) > 30
    assert {place: found[place] for place in sorted(found.keys() - marked())} == {}, "right, but refused"
    assert sorted(marked() - found.keys()) == [], "wrong, but accepted"


def test_the_package_itself() -> None:
    # What `import sqlxmq` brings: there, users meet whatever a checker cannot read.
    package = ROOT / "python" / "src" / "sqlxmq"
    parts = [*package.glob("_*.py"), package / "_async", package / "_sync", package / "_senders"]
    assert [(found["file"], found["range"]["start"]["line"] + 1, found["message"]) for found in pyright(*parts)] == []
