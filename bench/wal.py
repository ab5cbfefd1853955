"""Bytes of WAL a job: to send it (mq_insert, batches of 100, 50 bytes of payload), to claim it (batches of 100) and to
complete it (as many at once); this extension and the crate.

Measured as the distance of pg_current_wal_insert_lsn() before and after each statement. There are three passes over
the same tables: a first one right after a checkpoint, where the first change of each page writes all of it
(full_page_writes); then, those pages written, one that counts; then one without full_page_writes. Autovacuum is off,
so as to write nothing in between; what a VACUUM writes after each pass is a column of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.common import (
    CRATE,
    EXTENSION,
    Connection,
    Dialect,
    claim,
    complete,
    connect,
    console,
    new_crate_queue,
    new_parser,
    new_queue,
    new_table,
    one,
    seed_alike,
    started,
    write_json,
)

BATCH = 100
CHANNELS = 100
STEPS = ("send", "claim", "complete", "vacuum")


def written(session: Connection) -> int:
    """How many bytes of WAL there have been, ever."""
    return int(one(session, "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"))


def measure(session: Connection, dialect: Dialect, first: int, jobs: int) -> dict[str, float]:
    """The bytes of WAL for each of so many jobs, by step."""
    spent = dict.fromkeys(STEPS, 0)
    before = written(session)
    seed_alike(session, jobs, CHANNELS, first=first, batch=BATCH)
    after = written(session)
    spent["send"] = after - before
    done = 0
    while True:
        before = after
        claimed, _ = claim(session, dialect, BATCH)
        after = written(session)
        spent["claim"] += after - before
        if not claimed[0]:
            break
        done += len(claimed[0])
        before = after
        complete(session, dialect, claimed)
        after = written(session)
        spent["complete"] += after - before
    if done != jobs:
        raise RuntimeError(f"{dialect.label}: {done} jobs were claimed of {jobs}")
    session.execute("VACUUM")
    spent["vacuum"] = written(session) - after
    return {step: spent[step] / jobs for step in STEPS}


def main() -> None:
    """Measures both queues, and prints a table."""
    options = new_parser(__doc__).parse_args()
    warm_up, jobs = (500, 1_000) if options.quick else (20_000, 100_000)
    settings = {"checkpoint_timeout": "1h", "autovacuum": "off", "full_page_writes": "on"}
    table = new_table(
        f"Bytes of WAL a job, batches of {BATCH}",
        "queue", "pass", "jobs", "full_page_writes", *STEPS, "without vacuum", "of the crate's",
    )  # fmt: skip
    results: list[dict[str, Any]] = []
    with started(settings) as (server, about):
        queues = [(EXTENSION, new_queue(server, "extension"))]
        crate = new_crate_queue(server, "crate")
        if crate is not None:
            queues.append((CRATE, crate))
        first = 0
        for name, count, full_page_writes in (
            ("after a checkpoint", warm_up, "on"),
            ("pages written", jobs, "on"),
            ("pages written", jobs, "off"),
        ):
            if full_page_writes == "off":
                with connect(server.dsn()) as admin:
                    admin.execute("ALTER SYSTEM SET full_page_writes = off")
                server.restart()
            for dialect, session in queues:
                if full_page_writes == "off":
                    session = connect(session.info.dsn)
                if name == "after a checkpoint":
                    session.execute("CHECKPOINT")
                setting = one(session, "SHOW full_page_writes")
                found = measure(session, dialect, first, count)
                total = sum(found.values()) - found["vacuum"]
                results.append(
                    {"queue": dialect.label, "pass": name, "jobs": count, "full_page_writes": setting, **found}
                )
                results[-1]["total"] = total
            first += count
        for result in results:
            crates = [
                other["total"]
                for other in results
                if other["queue"] == CRATE.label
                and (other["pass"], other["full_page_writes"]) == (result["pass"], result["full_page_writes"])
            ]
            table.add_row(
                result["queue"], result["pass"], f"{result['jobs']:,}", result["full_page_writes"],
                *(f"{result[step]:,.0f}" for step in STEPS), f"{result['total']:,.0f}",
                f"{result['total'] / crates[0]:.2f}" if crates else "",
            )  # fmt: skip
    console.print(table)
    write_json(options.json, {**about, "wal": results})


if __name__ == "__main__":
    main()
