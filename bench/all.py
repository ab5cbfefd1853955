"""All benchmarks, one after the other: as a check that they work (the default), or at full size (--full).

The check takes minutes, the full size hours. What is measured goes into files under the directory of results, a JSON
file for each benchmark; plots are drawn by the full size alone (the check draws its own into a directory that it
throws away). Nothing is asserted about times; the exit code is 1 if a benchmark fails, after all have run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.common import console, new_table

DIRECTORY = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Benchmark:
    """A run of a program.

    Attributes: name, what its results are called; file, beside this one; arguments, besides those for size
    and results; draws, whether it takes --plots.
    """

    name: str
    file: str
    arguments: tuple[str, ...] = ()
    draws: bool = False


def pinned(kind: str, holder: str, **more: int) -> Benchmark:
    """A run of pinned.py; more: the numbers that are not as by default."""
    arguments = {"kind": kind, "holder": holder, **more}
    return Benchmark(
        "-".join(("pinned", kind, holder, *(f"{name}-{number}" for name, number in more.items()))),
        "pinned.py",
        tuple(f"--{name}={value}" for name, value in arguments.items()),
        draws=True,
    )


EACH_ONCE = (
    Benchmark("flat", "flat.py", draws=True),
    Benchmark("claim-path", "claim_path.py"),
    Benchmark("notify", "notify.py"),
    Benchmark("wal", "wal.py"),
    Benchmark("ordered", "ordered.py"),
    Benchmark("contention", "contention.py"),
    Benchmark("long-use", "long_use.py", draws=True),
    Benchmark("workers", "workers.py"),
    Benchmark("senders", "senders.py"),
)
QUICK = (
    *EACH_ONCE,
    pinned("ready", "snapshot"),
    pinned("delayed", "none"),
    pinned("leases", "sender"),
)
FULL = (
    *EACH_ONCE,
    pinned("ready", "none"),
    pinned("ready", "snapshot"),
    pinned("ready", "snapshot", backlog=1_000),
    pinned("ready", "snapshot", backlog=100_000),
    pinned("ready", "snapshot", batch=10),
    pinned("ready", "sender"),
    pinned("delayed", "snapshot"),
    pinned("one-job-channels", "snapshot"),
    pinned("leases", "snapshot"),
)


def run(benchmark: Benchmark, results: Path, plots: Path, *, full: bool) -> str | None:
    """Runs a benchmark; returns what is wrong, None if nothing is."""
    file = results / f"{benchmark.name}.json"
    drawn = set(plots.glob("*.png"))
    command = [sys.executable, str(DIRECTORY / benchmark.file), *benchmark.arguments, f"--json={file}"]
    command += [] if full else ["--quick"]
    command += [f"--plots={plots}"] if benchmark.draws else []
    console.rule(benchmark.name)
    sys.stdout.flush()
    file.unlink(missing_ok=True)
    if code := subprocess.run(command).returncode:
        return f"exit code {code}"
    try:
        json.loads(file.read_text())
    except (OSError, ValueError) as error:
        return f"its results cannot be read: {error}"
    if benchmark.draws and not full and not set(plots.glob("*.png")) - drawn:
        return "it has drawn nothing"
    return None


def main() -> int:
    """Runs all benchmarks; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="at full size, which takes hours")
    parser.add_argument("--results", type=Path, default=Path("build/bench"), metavar="DIRECTORY")
    parser.add_argument("--plots", type=Path, metavar="DIRECTORY", help="with --full; default: where the results go")
    options = parser.parse_args()
    results: Path = options.results.resolve()
    results.mkdir(parents=True, exist_ok=True)
    table = new_table("All benchmarks", "benchmark", "s", "")
    failures = 0
    with tempfile.TemporaryDirectory() as scratch:
        plots: Path = (options.plots or options.results).resolve() if options.full else Path(scratch)
        for benchmark in FULL if options.full else QUICK:
            begin = time.monotonic()
            wrong = run(benchmark, results, plots, full=options.full)
            failures += wrong is not None
            table.add_row(benchmark.name, f"{time.monotonic() - begin:.0f}", wrong or "done")
    console.print(table)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
