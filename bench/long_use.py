"""Long use: many jobs through a queue whose backlog stays small, some of them delayed, some failing once.

Prints, every so many jobs, the rate, the poll's p50 and p99, and how large each of the queue's tables is with its
indexes; in the end the last figures against those at 20 % of the jobs. The server's settings of autovacuum are its
defaults; those that the queue's tables have of their own can be replaced by others, to compare.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.common import (
    Connection,
    console,
    new_parser,
    new_queue,
    new_table,
    one,
    percentile,
    ratio,
    started,
    write_json,
)
from bench.stream import Plan, streaming

DELAYED_OF_100 = 10
FAILING_EVERY = 20
BACKLOG, CHANNELS, BATCH = 1_000, 100, 100


def sizes(session: Connection) -> dict[str, int]:
    """The bytes of each of the queue's tables, and of each index, by name."""
    rows = session.execute(
        """
        SELECT relname, CASE relkind WHEN 'r' THEN pg_table_size(oid) ELSE pg_relation_size(oid) END
        FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i')
        ORDER BY coalesce((SELECT indrelid FROM pg_index WHERE indexrelid = oid)::regclass::text, relname), relkind DESC
        """
    ).fetchall()
    return {str(name): int(size) for name, size in rows}


def settle_autovacuum(session: Connection, scale_factor: float | None, cost_delay: float | None) -> None:
    """Gives the tables that have settings of their own other ones. scale_factor: the share of dead rows from which on
    a table is vacuumed; cost_delay: the pause, in ms; None: as it is."""
    given = {"autovacuum_vacuum_scale_factor": scale_factor, "autovacuum_vacuum_cost_delay": cost_delay}
    options = ", ".join(f"{name} = {value:g}" for name, value in given.items() if value is not None)
    if not options:
        return
    tables = session.execute(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND reloptions::text LIKE '%autovacuum_vacuum%'"
    ).fetchall()
    for (table,) in tables:
        session.execute(f"ALTER TABLE {table} SET ({options})".encode())
    console.print(f"{len(tables)} tables with {options}")


def plot(directory: Path, results: list[dict[str, Any]]) -> None:
    """Draws the poll's cost, and what the queue takes on disk, over the jobs done."""
    from bench.plots import Line, draw

    done = [result["jobs"] for result in results]
    for file, title, label, lines in (
        ("long-use-poll.png", f"Poll of {BATCH} in long use", "ms", {"p50": "p50", "p99": "p99"}),
        ("long-use-size.png", "The queue's tables and indexes in long use", "MiB", {"all": "total"}),
    ):
        draw(
            directory / file,
            title,
            "jobs done",
            label,
            [Line(name, done, [result[key] for result in results]) for name, key in lines.items()],
        )


def main() -> None:
    """Sends jobs through the queue, and prints how it gets on."""
    parser = new_parser(__doc__, plots=True)
    parser.add_argument("--jobs", type=int, help="default: 5,000,000")
    parser.add_argument("--every", type=int, help="jobs after which figures are taken; default: 250,000")
    parser.add_argument("--scale-factor", type=float, help="autovacuum_vacuum_scale_factor of the queue's tables")
    parser.add_argument("--cost-delay", type=float, help="autovacuum_vacuum_cost_delay of the queue's tables, in ms")
    options = parser.parse_args()
    jobs: int = options.jobs or (20_000 if options.quick else 5_000_000)
    every: int = options.every or (4_000 if options.quick else 250_000)
    results: list[dict[str, Any]] = []
    with started() as (server, about), new_queue(server, "long_use") as session:
        settle_autovacuum(session, options.scale_factor, options.cost_delay)
        plan = Plan(
            session.info.dsn, BACKLOG, CHANNELS, BATCH, jobs=jobs, window_jobs=every, delay=1,
            delayed_of_100=DELAYED_OF_100, failing_every=FAILING_EVERY,
        )  # fmt: skip
        console.print(
            f"{jobs:,} jobs, backlog near {BACKLOG:,} in {CHANNELS} channels, batch {BATCH}, {DELAYED_OF_100} of 100"
            f" delayed by 1 s, each {FAILING_EVERY}th failing once"
        )
        done = 0
        with streaming(plan) as stream:
            while done < jobs:
                window = stream.window()
                done += window.jobs
                found = sizes(session)
                results.append(
                    {
                        "jobs": done,
                        "rate": window.rate,
                        "p50": percentile(window.polls, 50),
                        "p99": percentile(window.polls, 99),
                        "ready": window.backlog,
                        "total": sum(found.values()) / 2**20,
                        "sizes": found,
                    }
                )
                console.print(
                    f"{done:10,} jobs {window.rate:9,.0f} jobs/s   poll p50 {results[-1]['p50']:7.2f} ms"
                    f"  p99 {results[-1]['p99']:7.2f} ms   ready {window.backlog:6,}"
                    f"   on disk {results[-1]['total']:8.1f} MiB"
                )
        left: int = one(session, "SELECT count(*) FROM mq_msgs")
        if left:
            raise RuntimeError(f"{left} jobs are left after the last one was completed")
    early = next(result for result in results if result["jobs"] >= jobs / 5)
    # The last window holds what was left over, and waited for its turn: it may be a small one.
    last = next(result for result in reversed(results) if result["jobs"] <= jobs - every / 2)
    table = new_table(
        f"After {last['jobs']:,} jobs, against {early['jobs']:,} (KiB)", "table or index", "early", "late", "ratio"
    )
    ratios: dict[str, float] = {}
    for name in last["sizes"]:
        ratios[name] = ratio(last["sizes"][name], early["sizes"][name])
        if last["sizes"][name] > 16_384 or early["sizes"][name] > 16_384:
            table.add_row(
                name,
                f"{early['sizes'][name] / 1024:,.0f}",
                f"{last['sizes'][name] / 1024:,.0f}",
                f"{ratios[name]:.2f}",
            )
    console.print(table)
    for name, label in (("total", "size"), ("p50", "poll p50"), ("p99", "poll p99"), ("rate", "rate")):
        ratios[name] = ratio(last[name], early[name])
        console.print(f"{label}, late / early: {ratios[name]:.2f}")
    write_json(options.json, {**about, "long_use": {"windows": results, "late_of_early": ratios}})
    if options.plots:
        plot(options.plots, results)


if __name__ == "__main__":
    main()
