"""Builds the program beside this file, a user of the sqlxmq crate 0.6, and runs it against this extension."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

from tools.cluster import cluster, debian_bindir, install_extension  # noqa: E402


def main() -> int:
    """Returns the program's exit code; 0 without running it where there is no cargo, and says so."""
    cargo = shutil.which("cargo")
    if cargo is None:
        print("the crate's client is not tried: there is no cargo on this machine")
        return 0
    install_extension(debian_bindir())
    with tempfile.TemporaryDirectory(prefix="sqlxmq-crate-") as target, cluster() as server:
        shutil.copytree(HERE, Path(target) / "source")
        subprocess.run([cargo, "build", "--quiet"], cwd=Path(target) / "source", check=True)
        with psycopg.connect(server.dsn(), autocommit=True) as session:
            session.execute("CREATE EXTENSION sqlxmq")
        url = f"postgres://postgres@localhost/postgres?host={server.directory}"
        program = Path(target) / "source" / "target" / "debug" / "crate-client"
        return subprocess.run([program], env={**os.environ, "DATABASE_URL": url}, timeout=120).returncode


if __name__ == "__main__":
    sys.exit(main())
