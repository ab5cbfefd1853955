"""What a claim reads, in pages: the same beside short and long queues, whatever the statistics say."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.python.conftest import Database

FILL = """
SELECT mq_insert(array_agg((gen_random_uuid(), %(delay)s, 4, '1 hour', 'name ' || n %% %(names)s,
                            (n %% %(channels)s)::text,
                            NULL, false, 'x', NULL, NULL)::mq_new_t))
FROM generate_series(1, %(jobs)s) AS n
"""


def fill(session: psycopg.Connection[Any], jobs: int, channels: int, delay: str = "0", names: int = 1) -> None:
    session.execute(FILL, {"jobs": jobs, "channels": channels, "delay": delay, "names": names})


def pages(session: psycopg.Connection[Any], statement: str, times: int = 1) -> list[int]:
    """How many pages each of these calls touches."""
    counts = []
    for _ in range(times):
        row = session.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}".encode()).fetchone()
        assert row is not None
        plan = row[0][0]["Plan"]
        counts.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
    return counts


POLL = "SELECT * FROM mq_poll(NULL, 10)"
SHORT = 1_000


@pytest.fixture
def short(session: psycopg.Connection[Any]) -> int:
    """What a warm claim reads beside a short queue."""
    fill(session, SHORT, 50)
    counts = pages(session, POLL, 30)
    session.execute("SELECT mq_clear_all()")
    session.execute("VACUUM (ANALYZE)")
    return max(counts[5:])


@pytest.mark.parametrize("statistics", ["empty", "stale", "fresh"])
@pytest.mark.parametrize(
    ("ready", "channels", "scheduled"),
    [(50_000, 50, 0), (50_000, 50_000, 0), (1_000, 50, 50_000)],
    ids=["many jobs", "many channels", "many scheduled"],
)
def test_a_claim_reads_the_same_beside_any_queue(
    database: Database,
    session: psycopg.Connection[Any],
    short: int,
    statistics: str,
    ready: int,
    channels: int,
    scheduled: int,
) -> None:
    if statistics == "stale":
        session.execute("ANALYZE")
    fill(session, ready, channels)
    if scheduled:
        fill(session, scheduled, channels, "7 days")
    if statistics == "fresh":
        session.execute("VACUUM (ANALYZE)")
    with database.connect() as fresh_session:
        counts = pages(fresh_session, POLL, 100)
    # A few levels of an index more, for each of the ten jobs; a scan would read hundreds of pages.
    assert max(counts[1:]) <= short * 2, f"{counts} beside a queue, {short} without"


def test_completing_and_failing_read_the_same_beside_any_queue(session: psycopg.Connection[Any]) -> None:
    fill(session, 50_000, 50)
    fill(session, 50_000, 50, "7 days")
    rows = session.execute("SELECT id FROM mq_poll(NULL, 40)").fetchall()
    for number, (id,) in enumerate(rows):
        complete = f"SELECT mq_complete('{id}', 1)"
        keep_alive = f"SELECT * FROM mq_keep_alive(ARRAY['{id}'::uuid], '1 s', ARRAY[1])"
        fail = f"SELECT mq_fail('{id}', 1, 'x')"
        assert pages(session, keep_alive)[0] < 150 or number == 0
        assert pages(session, (complete, fail)[number % 2])[0] < 150 or number < 2
    rows = session.execute("SELECT id FROM mq_poll(NULL, 100)").fetchall()
    many = ", ".join(f"'{id}'" for (id,) in rows)
    ones = ", ".join("1" for _ in rows)
    assert pages(session, f"SELECT * FROM mq_complete(ARRAY[{many}]::uuid[], ARRAY[{ones}])")[0] < 30 * len(rows)


def test_the_status_reads_up_to_its_limit(session: psycopg.Connection[Any]) -> None:
    fill(session, 50_000, 5)
    fill(session, 50_000, 5, "7 days")
    pages(session, "SELECT * FROM mq_status()", 2)
    assert pages(session, "SELECT * FROM mq_status(NULL, 100)")[0] < 10_000
