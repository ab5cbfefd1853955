"""The documentation's examples run, and every function is documented."""

from __future__ import annotations

import inspect
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sqlxmq
from tests.python.conftest import ROOT, Database


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)


def psql(database: Database, script: str) -> str:
    done = subprocess.run(
        [database.server.bindir / "psql", "-X", "-v", "ON_ERROR_STOP=1", "-d", database.name],
        env=database.server.environment(), input=script, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("document", ["docs/guide.md", "docs/reference.md"])
def test_sql_examples_run(empty_database: Database, document: str) -> None:
    if document == "docs/reference.md":
        psql(empty_database, "CREATE EXTENSION sqlxmq")
    psql(empty_database, "\n".join(blocks(document, "sql")))
    # Roles are the cluster's, not the database's.
    roles = re.findall(r"CREATE ROLE (\w+)", "\n".join(blocks(document, "sql")))
    psql(empty_database, "".join(f"DROP OWNED BY {role}; DROP ROLE {role};" for role in roles))


def test_the_readme_runs(empty_database: Database, tmp_path: Path) -> None:
    psql(empty_database, "\n".join(blocks("README.md", "sql")))
    files = re.findall(
        r"<!-- file: (\S+) -->\n```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert [name for name, _ in files] == ["jobs.py", "send.py", "worker.py"]
    for name, text in files:
        (tmp_path / name).write_text(text)
    environment = empty_database.server.environment(empty_database.name)
    subprocess.run([sys.executable, "send.py"], cwd=tmp_path, env=environment, check=True)
    worker = subprocess.Popen(
        [sys.executable, "worker.py"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        with empty_database.connect() as session:
            deadline = time.monotonic() + 60
            while session.execute("SELECT count(*) FROM mq_msgs").fetchone() != (0,):
                assert worker.poll() is None
                assert time.monotonic() < deadline, session.execute(
                    "SELECT name, state, last_error FROM mq_jobs"
                ).fetchall()
                time.sleep(0.02)
            sent = session.execute("SELECT recipient FROM mail_sent ORDER BY recipient").fetchall()
        assert sent == [("ann@example.org",), ("bob@example.org",), ("cat@example.org",), ("dan@example.org",)]
        worker.send_signal(signal.SIGTERM)
        printed, _ = worker.communicate(timeout=30)
        assert printed == "7 words\n"
        assert worker.returncode == 0
    finally:
        worker.kill()
        worker.communicate()


@pytest.mark.parametrize("document", ["docs/python.md", "docs/python-reference.md"])
def test_python_examples_run(database: Database, tmp_path: Path, document: str) -> None:
    """In a process of their own, as a reader would run them: see document.py."""
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "tests" / "python" / "document.py", ROOT / document],
        cwd=tmp_path, env=database.server.environment(database.name), capture_output=True, text=True, timeout=150,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ResourceWarning" not in done.stderr


def sections() -> dict[str, str]:
    """What the Python reference says of each name."""
    text = (ROOT / "docs" / "python-reference.md").read_text()
    return dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))


def members(kind: type[Any]) -> set[str]:
    """The public methods and attributes of a class, those included that its methods set."""
    names: set[str] = set()
    for base in kind.__mro__:
        if base.__module__.startswith("sqlxmq"):
            names |= {*vars(base), *vars(base).get("__annotations__", {})}
            names |= set(re.findall(r"self\.([a-z]\w*)(?:: [^=\n]+)? = ", inspect.getsource(base)))
    return {name for name in names if not name.startswith("_")}


def documented_members(name: str) -> set[str]:
    """The entries of a class, and those of the class that it is said to be like."""
    text = sections()[name]
    entries = re.findall(r"^- (.*?)(?:: |\Z|→|\n(?=- |\n))", text + "\n\n", re.MULTILINE | re.DOTALL)
    found = {member for entry in entries for member in re.findall(r"`\.(\w+)", entry)}
    like = re.match(r"\nAs \[`(\w+)`\]", text)
    return found | (documented_members(like[1]) if like else set())


def test_every_public_name_is_in_the_python_reference() -> None:
    assert set(sections()) == set(sqlxmq.__all__)


@pytest.mark.parametrize("name", [name for name in sqlxmq.__all__ if inspect.isclass(getattr(sqlxmq, name))])
def test_every_member_is_in_the_python_reference(name: str) -> None:
    assert documented_members(name) == members(getattr(sqlxmq, name))


def test_every_argument_is_in_the_python_reference() -> None:
    missing = []

    def look(what: str, text: str, function: Callable[..., Any]) -> None:
        for parameter in list(inspect.signature(function).parameters):
            if parameter != "self" and not re.search(rf"\b{parameter}\b", text):
                missing.append(f"{what}: {parameter}")

    for name, own_text in sections().items():
        likes = re.findall(r"\b[Aa]s\s+(?:those\s+of\s+)?\[`(\w+)`\]", own_text)
        text = "\n".join([own_text, *(sections()[like] for like in likes)])
        public = getattr(sqlxmq, name)
        if not inspect.isclass(public):
            # Types for hints take no arguments.
            if inspect.isfunction(public):
                look(name, text, public)
            continue
        # What the package makes itself is not described by how it is made.
        own = (sqlxmq.Job, sqlxmq.BatchJob, sqlxmq.SqlxmqError, sqlxmq.Delivery)
        if "__init__" in vars(public) and not issubclass(public, own):
            look(name, text, public)
        for member in members(public):
            function = inspect.getattr_static(public, member, None)
            # The arguments of runner() are those of JobRunner.
            if inspect.isfunction(function) and member not in ("runner", "sync_runner"):
                look(f"{name}.{member}", text, function)
    assert not missing


def test_every_public_function_is_in_the_reference() -> None:
    documented = set(re.findall(r"^### (mq_\w+)$", (ROOT / "docs" / "reference.md").read_text(), re.MULTILINE))
    assert documented == {path.stem for path in (ROOT / "sql" / "functions").glob("*.sql")}


def test_every_public_function_has_a_header_and_a_file() -> None:
    for path in (ROOT / "sql" / "functions").glob("*.sql"):
        text = path.read_text()
        for part in ("-- Purpose:", "-- Returns:", "-- Locks:", "-- Errors:", "-- Callers:", "COMMENT ON FUNCTION"):
            assert part in text, f"{path.name} lacks {part}"
        assert set(re.findall(r"^CREATE FUNCTION (\w+)", text, re.MULTILINE)) == {path.stem}


def test_links_lead_somewhere() -> None:
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", document.read_text()):
            path, _, anchor = target.partition("#")
            file = (document.parent / path).resolve() if path else document
            assert file.exists(), f"{document.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
                assert anchor in [h.lower().replace(" ", "-") for h in headings], f"{document.name}: {target}"
