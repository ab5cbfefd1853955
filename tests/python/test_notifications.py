"""What is announced, to whom, and that nobody sleeps through a job."""

from __future__ import annotations

import hashlib
from typing import Any

import psycopg
import pytest

from tests.python.conftest import Database

LONG = "x" * 500
LONG_CHANNEL = "mq_" + hashlib.sha256(LONG.encode()).hexdigest()[:60]


def announced(
    session: psycopg.Connection[Any], listener: psycopg.Connection[Any], statement: str
) -> set[tuple[str, str]]:
    """Which notifications a statement sends."""
    session.execute(statement.encode())
    session.execute("NOTIFY the_end")
    heard: set[tuple[str, str]] = set()
    for notification in listener.notifies(timeout=30):
        if notification.channel == "the_end":
            return heard
        heard.add((notification.channel, notification.payload))
    raise AssertionError("the end was not announced within 30 s")


@pytest.fixture
def listener(database: Database) -> Any:
    with database.connect() as connection:
        for channel in ("mq", "mq_a", "mq_b", "mq_", f"{LONG_CHANNEL}", "the_end"):
            connection.execute(f'LISTEN "{channel}"'.encode())
        yield connection


def test_what_is_announced(session: psycopg.Connection[Any], listener: psycopg.Connection[Any]) -> None:
    def hear(statement: str) -> set[str]:
        heard = announced(session, listener, statement)
        assert {payload for _, payload in heard} <= {""}, "the payload is empty, always"
        return {channel for channel, _ in heard}

    both = {"mq", "mq_a"}
    assert hear("SELECT mq_enqueue('x', channel_name => 'a')") == both
    assert hear("SELECT mq_enqueue('x')") == {"mq", "mq_"}
    assert hear("SELECT mq_enqueue('x', channel_name => 'a', delay => '1 hour')") == both
    assert hear(f"SELECT mq_enqueue('x', channel_name => '{LONG}')") == {"mq", LONG_CHANNEL}
    assert hear("SELECT mq_insert(ARRAY[]::mq_new_t[])") == set()
    assert hear("BEGIN; SELECT mq_enqueue('x', channel_name => 'a'); ROLLBACK") == set()
    assert hear("SELECT mq_clear_all()") == set()
    # Of a chain of three, the first is completed, the second fails and dies, and is retried.
    assert hear(
        "SELECT mq_enqueue('x', channel_name => 'b', ordered => true, retries => 0) FROM generate_series(1, 3)"
    ) == {"mq", "mq_b"}
    assert hear("SELECT count(*) FROM mq_poll(NULL)") == set()
    session.execute("UPDATE mq_msgs SET id = '00000000-0000-0000-0000-000000000001' WHERE false")
    assert hear("SELECT mq_complete(id, 1) FROM mq_running_jobs") == {"mq", "mq_b"}, (
        "the next job of the chain is ready"
    )
    assert hear("SELECT mq_fail(id, attempt, 'x') FROM mq_poll(NULL)") == set(), "a death makes nothing ready"
    assert hear("SELECT mq_retry(ARRAY(SELECT id FROM mq_dead_jobs))") == {"mq", "mq_b"}
    assert hear("SELECT mq_release(ARRAY[id], ARRAY[attempt]) FROM mq_poll(NULL)") == {"mq", "mq_b"}
    assert hear("SELECT mq_delete(ARRAY[id]) FROM mq_poll(NULL)") == {"mq", "mq_b"}, "as the crate does it"
    assert hear("SELECT mq_clear_all()") == set()
    assert hear("SELECT mq_enqueue('x', channel_name => 'a', commit_interval => '1 hour')") == both
    assert hear("SELECT mq_commit(ARRAY(SELECT id FROM mq_msgs))") == both
    assert hear("SELECT mq_fail(id, attempt, 'x') FROM mq_poll(NULL)") == both, (
        "whoever sleeps learns when it is due again"
    )
