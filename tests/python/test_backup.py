"""pg_dump and restore: the queue comes back as it was, and goes on."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.python.conftest import Database, create_database
from tools.cluster import Cluster

TABLES = ("msgs", "ready", "scheduled", "blocked", "dead", "claims", "chains", "heads", "idle_channels", "settings")

FILL = """
SELECT mq_enqueue('plain', jsonb_build_object('n', n), channel_args => (n % 5)::text, priority => n % 3)
FROM generate_series(1, 200) AS n;
SELECT mq_enqueue('ordered', jsonb_build_object('n', n), channel_name => 'chain', ordered => true)
FROM generate_series(1, 20) AS n;
SELECT mq_enqueue('later', delay => '1 day') FROM generate_series(1, 10);
SELECT mq_enqueue('reserved', commit_interval => '1 day', channel_name => 'chain', ordered => true);
SELECT mq_enqueue('dying', retries => 0, channel_name => 'dying', payload_bytes => '\\x00ff');
SELECT mq_fail(id, attempt, 'it died') FROM mq_poll('{dying}');
SELECT mq_enqueue('single', channel_name => 'single', ordered => true);
SELECT mq_complete(id, attempt) FROM mq_poll('{single}');
SELECT count(*) FROM mq_poll('{""}', 7, '1 hour', 'somebody');
SELECT mq_configure(dead_retention => '30 days');
"""


def content(session: psycopg.Connection[Any]) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables, and where the sequences are."""
    everything = {
        table: session.execute(f"SELECT t::text FROM mq_{table} AS t ORDER BY 1".encode()).fetchall()
        for table in TABLES
    }
    everything["sequences"] = session.execute(
        "SELECT last_value, is_called FROM mq_position UNION ALL SELECT last_value, is_called FROM mq_claim_number"
    ).fetchall()
    return everything


def run(server: Cluster, program: str, *arguments: str | Path) -> None:
    done = subprocess.run(
        [server.bindir / program, *arguments], env=server.environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("way", ["plain", "custom", "directory, in parallel"])
def test_a_restored_queue_goes_on(server: Cluster, database: Database, tmp_path: Path, way: str) -> None:
    with database.connect() as session:
        session.execute(FILL)
        before = content(session)
        session.execute("DO $$BEGIN CREATE ROLE dump_worker; EXCEPTION WHEN duplicate_object THEN NULL; END$$")
        session.execute("SELECT mq_grant('dump_worker', 'worker')")
    copy = create_database(server, "template0")
    dump = tmp_path / "dump"
    if way == "plain":
        run(server, "pg_dump", "-d", database.name, "-f", dump)
        run(server, "psql", "-X", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "-d", copy.name, "-f", dump)
    elif way == "custom":
        run(server, "pg_dump", "-d", database.name, "-F", "custom", "-f", dump)
        run(server, "pg_restore", "--exit-on-error", "-d", copy.name, dump)
    else:
        run(server, "pg_dump", "-d", database.name, "-F", "directory", "-j", "4", "-f", dump)
        run(server, "pg_restore", "--exit-on-error", "-j", "4", "-d", copy.name, dump)
    with copy.connect() as session:
        assert content(session) == before
        assert session.execute(
            "SELECT has_function_privilege('dump_worker', 'mq_delete(uuid[])', 'EXECUTE')"
        ).fetchone() == (True,)
        # What was in somebody's hands comes back when its lease is over; the rest goes on at once.
        session.execute("UPDATE mq_claims SET deadline = now(), leased_until = now()")
        plain = []
        while (rows := session.execute("SELECT * FROM mq_poll('{\"\"}', 50)").fetchall()) and rows[0][0] is not None:
            plain += [row[3] for row in rows]
            session.execute("SELECT mq_complete(%s::uuid[], %s::int[])", ([r[0] for r in rows], [r[7] for r in rows]))
        assert len(plain) == 200
        ordered = []
        for _ in range(20):
            row = session.execute("SELECT id, attempt, payload_json FROM mq_poll('{chain}', 5)").fetchone()
            assert row is not None
            ordered.append(row[2])
            session.execute("SELECT mq_complete(%s, %s)", row[:2])
        assert ordered == [f'{{"n": {n}}}' for n in range(1, 21)]
        states = session.execute("SELECT state, count(*) FROM mq_jobs GROUP BY state ORDER BY state").fetchall()
        assert states == [("dead", 1), ("scheduled", 11)]
        session.execute("SELECT mq_enqueue('new', channel_name => 'new')")
        newest = session.execute("SELECT name FROM mq_jobs ORDER BY position DESC LIMIT 1").fetchone()
        assert newest == ("new",), "positions did not go on where they were"
