"""What a claim reads, in pages: the same beside short and long queues, whatever the statistics say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from typing_extensions import LiteralString

from tests.python.conftest import Database

FILL = """
SELECT mq_insert(array_agg((gen_random_uuid(), %(delay)s, 4, '1 hour', 'name ' || n %% %(names)s,
                            (n %% %(channels)s)::text,
                            NULL, false, 'x', NULL, NULL)::mq_new_t))
FROM generate_series(1, %(jobs)s) AS n
"""


def fill(session: psycopg.Connection[Any], jobs: int, channels: int, delay: str = "0", names: int = 1) -> None:
    session.execute(FILL, {"jobs": jobs, "channels": channels, "delay": delay, "names": names})


@contextmanager
def pinned(database: Database, jobs: int) -> Iterator[None]:
    """A snapshot of so many jobs that stays open, so that nothing which dies meanwhile can be cleaned away."""
    with database.connect() as reader:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM mq_msgs")
        yield
        assert reader.execute("SELECT count(*) FROM mq_msgs").fetchone() == (jobs,), "nothing is pinned"


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
def short(database: Database, session: psycopg.Connection[Any]) -> tuple[int, int]:
    """What the first claim of a session reads beside a short queue, and a warm one."""
    fill(session, SHORT, 50)
    with database.connect() as fresh_session:
        first, *counts = pages(fresh_session, POLL, 100)
    session.execute("SELECT mq_clear_all()")
    session.execute("VACUUM (ANALYZE)")
    return first, max(counts[5:])


@pytest.mark.parametrize("statistics", ["empty", "stale", "fresh"])
@pytest.mark.parametrize(
    ("ready", "channels", "scheduled", "in_flight"),
    [(50_000, 50, 0, 0), (30_000, 30_000, 0, 0), (SHORT, 50, 50_000, 0), (SHORT, 1, 30_000, 0), (SHORT, 1, 0, 20_000)],
    ids=["many jobs", "many channels", "many scheduled", "many channels scheduled", "many channels in flight"],
)
def test_a_claim_reads_the_same_beside_any_queue(
    database: Database,
    session: psycopg.Connection[Any],
    short: tuple[int, int],
    statistics: str,
    ready: int,
    channels: int,
    scheduled: int,
    in_flight: int,
) -> None:
    if statistics == "stale":
        session.execute("ANALYZE")
    if in_flight:
        fill(session, in_flight, in_flight)
        for _ in range(in_flight // 10_000):
            session.execute("SELECT count(*) FROM mq_poll(NULL, 10000, '1 hour')")
        assert session.execute("SELECT count(*) FROM mq_running_jobs").fetchone() == (in_flight,)
        # What is sent from now on lies apart from the dead entries of those.
        for _ in range(3):
            assert session.execute("SELECT id FROM mq_poll(NULL)").fetchall() == [(None,)]
    if scheduled:
        fill(session, scheduled, scheduled if channels == 1 else channels, "7 days")
    fill(session, ready, channels)
    if statistics == "fresh":
        session.execute("VACUUM (ANALYZE)")
    with database.connect() as fresh_session:
        first, *counts = pages(fresh_session, POLL, 100)
    # A few levels of an index more, for each of the ten jobs; a scan would read hundreds of pages.
    assert max(counts) <= short[1] * 2, f"{counts} beside a queue, {short[1]} without"
    assert first <= short[0] * 2, f"{first} pages at first, {short[0]} without a queue"


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


def steps(session: psycopg.Connection[Any]) -> int:
    """Over how many entries of the index polls have stepped so far, in all sessions."""
    session.execute("SELECT pg_stat_force_next_flush()")
    row = session.execute(
        "SELECT pg_stat_clear_snapshot(), idx_tup_read FROM pg_stat_all_indexes WHERE indexrelname = 'mq_ready_pkey'"
    ).fetchone()
    assert row is not None
    read: int = row[1]
    return read


def test_a_claim_steps_over_no_more_beside_a_pinned_snapshot(
    database: Database, session: psycopg.Connection[Any]
) -> None:
    fill(session, 10, 1)
    with pinned(database, 10):
        per_job = []
        for _ in range(10):
            before, claimed = steps(session), 0
            for _ in range(100):
                fill(session, 10, 2)
                rows = session.execute("SELECT id, attempt FROM mq_poll(NULL, 10) WHERE id IS NOT NULL").fetchall()
                session.execute(
                    "SELECT mq_complete(%s::uuid[], %s::integer[])", ([id for id, _ in rows], [n for _, n in rows])
                )
                claimed += len(rows)
            per_job.append((steps(session) - before) / claimed)
    print(f"entries of the index for each claimed job, thousand by thousand: {per_job}")
    assert max(per_job) < 80, f"entries of the index for each claimed job, thousand by thousand: {per_job}"


def test_few_epochs_are_open_beside_a_pinned_snapshot(database: Database, session: psycopg.Connection[Any]) -> None:
    # Each one that is open is looked into whenever a job is completed.
    fill(session, 5_000, 20)
    with pinned(database, 5_000):
        opened = []
        for _ in range(150):
            fill(session, 100, 20)
            rows = session.execute("SELECT id, attempt FROM mq_poll(NULL, 100) WHERE id IS NOT NULL").fetchall()
            session.execute(
                "SELECT mq_complete(%s::uuid[], %s::integer[])", ([id for id, _ in rows], [n for _, n in rows])
            )
            row = session.execute("SELECT count(*) FROM mq_open_epochs").fetchone()
            assert row is not None
            opened.append(row[0])
    print(f"epochs open, poll by poll: {opened}")
    assert 1 < max(opened) <= 6, f"epochs open, poll by poll: {opened}"


def test_an_ordered_channel_costs_no_more_beside_a_pinned_snapshot(
    database: Database, session: psycopg.Connection[Any]
) -> None:
    session.execute(
        """
        SELECT count(*) FROM mq_enqueue_many(array_fill('x'::text, ARRAY[1600]),
                                             ordered => array_fill(true, ARRAY[1600]))
        """
    )
    entries, touched = [], []
    with pinned(database, 1_600), database.connect() as worker:

        def met() -> int:
            """How many entries of the indexes the worker's transactions have met."""
            row = worker.execute(
                """
                SELECT sum(pg_stat_get_xact_tuples_returned(indexrelid)) FROM pg_index
                WHERE indrelid IN ('mq_msgs'::regclass, 'mq_blocked'::regclass, 'mq_heads'::regclass,
                                   'mq_chains'::regclass)
                """
            ).fetchone()
            assert row is not None
            return int(row[0])

        for _ in range(1_500):
            row = worker.execute("SELECT id, attempt FROM mq_poll(NULL)").fetchone()
            assert row is not None
            worker.execute("BEGIN")
            before = met()
            touched += pages(worker, f"SELECT mq_complete('{row[0]}', {row[1]})")
            entries.append(met() - before)
            worker.execute("COMMIT")
    assert max(entries[100:]) < 20, f"entries of indexes for each completed job: {entries[::100]}"
    assert max(touched[-100:]) < 1.5 * min(touched[100:200]), f"pages for each completed job: {touched[::100]}"


def test_what_a_session_has_planned_beside_an_empty_queue_serves_beside_a_long_one(
    database: Database, session: psycopg.Connection[Any]
) -> None:
    """A session that lasts keeps its plans: they must not scan what was empty when they were made."""
    session.execute("VACUUM (ANALYZE)")
    with database.connect() as worker:

        def steps(jobs: int) -> int:
            """What the worker's functions read in all indexes, for ten jobs."""
            worker.execute("BEGIN")
            claimed = worker.execute("SELECT id, attempt FROM mq_poll(NULL, %s)", (jobs,)).fetchall()
            ids, attempts = [row[0] for row in claimed], [row[1] for row in claimed]
            worker.execute("SELECT mq_complete(%s::uuid[], %s::integer[])", (ids[:2], attempts[:2]))
            worker.execute("SELECT mq_fail(%s::uuid[], %s::integer[], NULL, %s::interval[])",
                           (ids[2:4], attempts[2:4], ["0"] * 2))  # fmt: skip
            worker.execute("SELECT mq_release(%s::uuid[], %s::integer[])", (ids[4:6], attempts[4:6]))
            worker.execute("SELECT mq_keep_alive(%s::uuid[], '1 minute', %s::integer[])", (ids[6:], attempts[6:]))
            worker.execute("SELECT mq_delete(%s::uuid[])", (ids[6:8],))
            worker.execute("SELECT mq_cancel(%s::uuid[])", (ids[8:],))
            row = worker.execute(
                """
                SELECT sum(pg_stat_get_xact_tuples_returned(indexrelid)) FROM pg_index
                WHERE indrelid IN ('mq_msgs'::regclass, 'mq_ready'::regclass, 'mq_scheduled'::regclass,
                                   'mq_claims'::regclass, 'mq_dead'::regclass, 'mq_blocked'::regclass)
                """
            ).fetchone()
            worker.execute("COMMIT")
            assert row is not None
            return int(row[0])

        for _ in range(8):
            fill(session, 10, 1)
            steps(10)
            session.execute("SELECT mq_clear_all()")
        fill(session, 10_000, 10)
        fill(session, 10_000, 10, delay="1 hour")
        assert steps(10) < 1_000


@pytest.mark.parametrize("analyzed", [False, True], ids=["never analyzed", "analyzed while empty"])
def test_what_a_session_has_planned_beside_an_empty_queue_serves_many_ordered_channels(
    database: Database, session: psycopg.Connection[Any], analyzed: bool
) -> None:
    if analyzed:
        session.execute("VACUUM (ANALYZE)")
    with database.connect() as worker:

        def send(jobs: int, channels: int) -> None:
            session.execute(
                """
                SELECT count(*) FROM mq_enqueue_many(
                    array_fill('x'::text, ARRAY[%(jobs)s::integer]),
                    ordered => array_fill(true, ARRAY[%(jobs)s::integer]),
                    channel_args => ARRAY(SELECT (n %% %(channels)s)::text FROM generate_series(1, %(jobs)s) AS n))
                """,
                {"jobs": jobs, "channels": channels},
            )

        def complete_ten() -> int:
            """How many entries of the indexes, and rows of scanned tables, the completion of ten jobs meets."""
            claimed = worker.execute("SELECT id, attempt FROM mq_poll(NULL, 10)").fetchall()
            assert len(claimed) == 10
            met: LiteralString = """
                SELECT sum(pg_stat_get_xact_tuples_returned(oid)) FROM pg_class
                WHERE relname LIKE 'mq\\_%' AND relkind IN ('r', 'i')
                """
            worker.execute("BEGIN")
            before = worker.execute(met).fetchone()
            worker.execute(
                "SELECT mq_complete(%s::uuid[], %s::integer[])", ([id for id, _ in claimed], [n for _, n in claimed])
            )
            after = worker.execute(met).fetchone()
            worker.execute("COMMIT")
            assert before is not None
            assert after is not None
            return int(after[0] - before[0])

        for _ in range(8):
            send(20, 10)
            complete_ten()
            session.execute("SELECT mq_clear_all()")
        send(10_000, 1_000)
        assert complete_ten() < 300
