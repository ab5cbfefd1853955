"""A stream at full speed while something holds back the horizon of cleaning up: an old snapshot, or a sender that
does not commit.

First the stream runs free, then the holder begins, in the same cluster and with the same processes. Prints the rate
and the poll's p50 and p99 every few seconds; the last minute against the free rate; and how level the second half
was (the last fifth against the third). A sender that held out commits in the end: how soon its job is claimed is
printed, and it is an error if it is not.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from psycopg import IsolationLevel

from bench.common import Connection, connect, console, new_parser, new_queue, percentile, ratio, started, write_json
from bench.stream import HELD, Plan, Stream, Window, streaming

HOLDERS = ("none", "snapshot", "sender")
KINDS = {
    "ready": "sent to be done at once",
    "delayed": "sent with a delay of 1 s",
    "one-job-channels": "each job in the next of 100,000 channels",
    "leases": "a tenth is not completed until its lease of 2 s is over and it is claimed again",
}
CLAIMED_WITHIN = 60.0


def plan_of(dsn: str, kind: str, backlog: int, channels: int, batch: int, window: float) -> Plan:
    """The stream of a kind; window in seconds."""
    if kind == "delayed":
        return Plan(dsn, backlog, channels, batch, window_seconds=window, delay=1, delayed_of_100=100)
    if kind == "leases":
        return Plan(dsn, backlog, channels, batch, window_seconds=window, lease="2 seconds", left_every=10)
    return Plan(dsn, backlog, 100_000 if kind == "one-job-channels" else channels, batch, window_seconds=window)


def begin_holding(holder: Connection, kind: str) -> None:
    """Opens the holder's transaction, and leaves it open."""
    holder.autocommit = False
    if kind == "snapshot":
        holder.isolation_level = IsolationLevel.REPEATABLE_READ
        holder.read_only = True
        holder.execute("SELECT EXISTS (SELECT FROM mq_msgs)")
    else:
        holder.execute("SELECT mq_enqueue(%s, '{\"n\": 1}', channel_name => 'held')", (HELD,))


def windows_of(stream: Stream, seconds: float, begin: float, phase: str) -> list[Window]:
    """Reads and prints windows for so long. begin: the start of the stream."""
    windows: list[Window] = []
    while not windows or windows[-1].end - windows[0].begin < seconds:
        window = stream.window()
        windows.append(window)
        console.print(
            f"{phase:<8} {window.end - begin:6.0f} s {window.rate:9,.0f} jobs/s   poll p50"
            f" {percentile(window.polls, 50):8.2f} ms  p99 {percentile(window.polls, 99):8.2f} ms"
            f"   ready {window.backlog:9,}  empty polls {window.empty_polls:6,}"
        )
    return windows


def rate_of(windows: Sequence[Window]) -> float:
    """Jobs/s over several windows."""
    return sum(window.jobs for window in windows) / sum(window.seconds for window in windows)


def fifth(windows: Sequence[Window], number: int) -> Sequence[Window]:
    """The first (1) to last (5) fifth of the windows; at least one window."""
    begin = len(windows) * (number - 1) // 5
    return windows[begin : max(begin + 1, len(windows) * number // 5)]


def described(window: Window, begin: float) -> dict[str, float]:
    """A window for the file of results; begin: the start of the stream."""
    return {
        "at": window.end - begin,
        "rate": window.rate,
        "p50": percentile(window.polls, 50),
        "p99": percentile(window.polls, 99),
        "polls": len(window.polls),
        "empty_polls": window.empty_polls,
        "ready": window.backlog,
    }


def plot(directory: Path, name: str, title: str, free: Sequence[Window], held: Sequence[Window], begin: float) -> None:
    """Draws the poll's median over time."""
    from bench.plots import Line, draw

    lines = [
        Line(label, [window.end - begin for window in windows], [percentile(window.polls, 50) for window in windows])
        for label, windows in (("before", free), ("after", held))
    ]
    draw(
        directory / f"{name}.png",
        title,
        "s",
        "poll p50, ms",
        lines,
        mark=(free[-1].end - begin, "the holder, if any, begins"),
    )


def main() -> None:
    """Streams, free and held back, and prints how it went."""
    parser = new_parser(__doc__, plots=True)
    parser.add_argument("--backlog", type=int, help="ready jobs, near which the backlog is kept; default: 20000")
    parser.add_argument("--seconds", type=float, help="how long with the holder; default: 600")
    parser.add_argument("--free-seconds", type=float, help="how long without; default: 60")
    parser.add_argument("--warm-up", type=float, help="seconds before that, which do not count; default: 15")
    parser.add_argument("--channels", type=int, default=100, help="default: 100")
    kinds = "; ".join(f"{kind}: {text}" for kind, text in KINDS.items())
    parser.add_argument("--kind", choices=list(KINDS), default="ready", help=kinds)
    parser.add_argument("--holder", choices=HOLDERS, default="snapshot", help="default: snapshot")
    parser.add_argument("--batch", type=int, default=100, help="default: 100")
    options = parser.parse_args()
    quick = options.quick
    backlog = options.backlog or (1_000 if quick else 20_000)
    seconds = options.seconds or (5 if quick else 600)
    free_seconds = options.free_seconds or (2 if quick else 60)
    warm_up = options.warm_up or (1 if quick else 15)
    window = 1.0 if quick else 10.0
    with started() as (server, about), new_queue(server, "pinned") as session:
        name = f"pinned-{options.kind}-{options.holder}-{backlog}-batch{options.batch}"
        dsn = session.info.dsn
        plan = plan_of(dsn, options.kind, backlog, options.channels, options.batch, window)
        title = (
            f"{options.kind}: {backlog:,} ready, {plan.channels:,} channels, batch {options.batch};"
            f" holder: {options.holder}"
        )
        console.print(title)
        claimed_after: float | None = None
        with streaming(plan) as stream, connect(dsn) as holder:
            begin = time.monotonic()
            windows_of(stream, warm_up, begin, "warm-up")
            free = windows_of(stream, free_seconds, begin, "free")
            if options.holder != "none":
                begin_holding(holder, options.holder)
            held = windows_of(stream, seconds, begin, options.holder)
            holder.commit()
            if options.holder == "sender":
                committed = time.monotonic()
                while stream.held_at is None and time.monotonic() < committed + CLAIMED_WITHIN:
                    time.sleep(0.001)
                if stream.held_at is not None:
                    claimed_after = max(0.0, stream.held_at - committed)
    last = [window for window in held if window.end > held[-1].end - 60]
    of_free = ratio(rate_of(last), rate_of(free))
    flatness = ratio(rate_of(fifth(held, 5)), rate_of(fifth(held, 3)))
    console.print(
        f"\nfree {rate_of(free):,.0f} jobs/s, last minute {rate_of(last):,.0f}: {of_free:.2f} of the free rate\n"
        f"last fifth / third fifth {flatness:.2f}; median of the windows' p50 free"
        f" {statistics.median(percentile(window.polls, 50) for window in free):.2f} ms, in the last minute"
        f" {statistics.median(percentile(window.polls, 50) for window in last):.2f} ms"
    )
    if claimed_after is not None:
        console.print(f"the sender's job was claimed {claimed_after:.3f} s after its commit")
    results: dict[str, Any] = {
        "kind": options.kind,
        "holder": options.holder,
        "backlog": backlog,
        "channels": plan.channels,
        "batch": options.batch,
        "free_rate": rate_of(free),
        "last_minute": rate_of(last),
        "last_minute_of_free": of_free,
        "flatness": flatness,
        "claimed_after": claimed_after,
        "free": [described(window, begin) for window in free],
        "held": [described(window, begin) for window in held],
    }
    write_json(options.json, {**about, "pinned": results})
    if options.plots:
        plot(options.plots, name, title, free, held, begin)
    if options.holder == "sender" and claimed_after is None:
        raise RuntimeError(f"the sender's job was not claimed within {CLAIMED_WITHIN:g} s of its commit")


if __name__ == "__main__":
    main()
