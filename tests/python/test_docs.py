"""The documentation's examples run, and every function is documented."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
    worker = subprocess.Popen([sys.executable, "worker.py"], cwd=tmp_path, env=environment)
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
        assert worker.wait(30) == 0
    finally:
        worker.kill()
        worker.wait()


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
