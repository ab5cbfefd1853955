"""Runs the pgTAP suite (make installcheck) against fresh clusters: debian, embedded-16, embedded-18."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.cluster import ROOT, Cluster, cluster, debian_bindir, embedded_cluster, install_extension


@contextmanager
def server_named(name: str) -> Iterator[Cluster]:
    """A fresh cluster of that name, with the extension's files in place.

    Raises ValueError for a name that is none of the above.
    """
    kind, _, major = name.partition("-")
    if kind == "debian":
        install_extension(debian_bindir())
        with cluster() as server:
            yield server
    elif kind == "embedded":
        with embedded_cluster(int(major)) as server:
            yield server
    else:
        raise ValueError(f"server {name!r} is none of debian, embedded-16, embedded-18")


def lend_pgtap(server: Cluster) -> None:
    """pgTAP is SQL only: the embedded servers use Debian's."""
    debian = Path(subprocess.check_output([debian_bindir() / "pg_config", "--sharedir"], text=True).strip())
    target = Path(subprocess.check_output([server.bindir / "pg_config", "--sharedir"], text=True).strip())
    for file in (debian / "extension").glob("pgtap*"):
        if debian != target:
            shutil.copy(file, target / "extension" / file.name)


def main() -> int:
    """Runs the suite on each server that the command line names; the number of failures."""
    failures = 0
    for name in sys.argv[1:]:
        print(f"-- {name}", flush=True)
        with server_named(name) as server:
            lend_pgtap(server)
            failures += bool(
                subprocess.run(["make", "--silent", "installcheck"], cwd=ROOT, env=server.environment()).returncode
            )
    return failures


if __name__ == "__main__":
    sys.exit(main())
