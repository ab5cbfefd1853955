"""sqlxmq send, jobs, dead, status: what they show, whom they ask, what they change."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import uuid
from pathlib import Path
from typing import Any

import psycopg

from tests.python.cli import COMMAND, answer, at_terminal, call, environment, error, output, parsed, started, wait_until
from tests.python.conftest import Database

Session = psycopg.Connection[Any]


def die(session: Session, name: str, *, channel_name: str = "", message: str = "it broke") -> str:
    """A job that is dead."""
    row = session.execute("SELECT mq_enqueue(%s, channel_name => %s, retries => 0)", (name, channel_name)).fetchone()
    assert row is not None
    claimed = session.execute("SELECT id, attempt FROM mq_poll(ARRAY[%s], 1)", (channel_name,)).fetchone()
    assert claimed is not None
    assert claimed[0] == row[0]
    session.execute("SELECT mq_fail(%s, %s, %s)", (*claimed, message))
    return str(row[0])


def names(session: Session, where: str = "true") -> list[str]:
    return [row[0] for row in session.execute(f"SELECT name FROM mq_jobs WHERE {where} ORDER BY name".encode())]


def test_send_everything(database: Database, session: Session, tmp_path: Path) -> None:
    (tmp_path / "payload").write_bytes(b"\x00\xff")
    id = str(uuid.uuid4())
    printed = output(
        database, "send", "resize", "--json", '{"image": 42}', "--bytes", f"@{tmp_path / 'payload'}",
        "--channel", "images", "--channel-args", "large", "--delay", "2h", "--retries", "7", "--backoff", "1.5m",
        "--ordered", "--when-dead", "pass", "--id", id,
    )  # fmt: skip
    assert printed == f"{id}\n"
    row = session.execute(
        """
        SELECT name, payload_json::jsonb, payload_bytes, channel_name, channel_args, attempts_left, retry_backoff::text,
               ordered, when_dead, state, due_at - created_at BETWEEN '1:59' AND '2:01' FROM mq_jobs
        """
    ).fetchone()
    assert row == ("resize", {"image": 42}, b"\x00\xff", "images", "large", 8, "00:01:30", True, "pass", "scheduled",
                   True)  # fmt: skip
    assert "another job has this id" in error(database, "send", "resize", "--id", id)
    output(database, "send", "urgent", "--priority", "-3")
    assert session.execute("SELECT priority FROM mq_jobs WHERE name = 'urgent'").fetchone() == (-3,)


def test_send_from_files_and_standard_input(database: Database, session: Session, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"from": "file ü"}')
    output(database, "send", "a", "--json", f"@{tmp_path / 'p.json'}")
    output(database, "send", "b", "--json", "-", given='{"from": "input"}')
    output(database, "send", "c", "--bytes", "-", given=b"\xfe")
    rows = session.execute("SELECT payload_json::jsonb, payload_bytes FROM mq_jobs ORDER BY name").fetchall()
    assert rows == [({"from": "file ü"}, None), ({"from": "input"}, None), (None, b"\xfe")]


def test_send_refusals(database: Database, session: Session) -> None:
    assert "json" in error(database, "send", "x", "--json", "{")
    assert "priority" in error(database, "send", "x", "--priority", "99999")  # the database's own words
    assert "name" in error(database, "send", "")
    assert "must be @FILE" in error(database, "send", "x", "--bytes", "text", code=2)
    assert "cannot read" in error(database, "send", "x", "--json", "@/nowhere", code=2)
    assert "cannot both" in error(database, "send", "x", "--json", "-", "--bytes", "-", code=2)
    assert names(session) == []


def test_list_and_its_filters(database: Database, session: Session) -> None:
    session.execute("SELECT mq_enqueue('a', channel_name => 'one', channel_args => 'x')")
    session.execute("SELECT mq_enqueue('b', channel_name => 'one', delay => '1 hour')")
    session.execute("SELECT mq_enqueue('c', channel_name => 'two')")
    die(session, "d", channel_name="three", message="Traceback …\nValueError: 100%_odd")
    session.execute("SELECT mq_poll('{two}', 1, '1 hour', 'worker seven')")

    def found(*filters: str) -> list[str]:
        return [job["name"] for job in parsed(database, "jobs", "list", *filters)]

    assert found() == ["a", "b", "c", "d"]
    assert found("--state", "scheduled") == ["b"]
    assert found("--name", "a") == ["a"]
    assert found("--channel", "one") == ["a", "b"]
    assert found("--channel", "one", "--channel-args", "x") == ["a"]
    assert found("--worker", "worker seven") == ["c"]
    assert found("--error", "100%_odd") == ["d"]
    assert found("--error", "100%odd") == []
    assert found("--limit", "2") == ["a", "b"]
    assert found("--older-than", "1d") == []
    session.execute("UPDATE mq_msgs SET created_at = created_at - interval '2 days' WHERE name = 'c'")
    assert found("--older-than", "1d") == ["c"]
    text = output(database, "jobs", "list")
    assert "one / x" in text
    assert "worker seven" in text
    assert "ValueError: 100%_odd" in text
    assert "The first 1;" in output(database, "jobs", "list", "--limit", "1")
    assert output(database, "jobs", "list", "--name", "none") == "No jobs.\n"


def test_no_control_characters_reach_the_terminal(database: Database, session: Session) -> None:
    session.execute("SELECT mq_enqueue(E'a\\x1b[31m[red]b', channel_name => E'\\x1b]0;title\\x07')")
    id = str(session.execute("SELECT id FROM mq_jobs").fetchone()[0])  # type: ignore[index]
    for command in (["jobs", "list"], ["jobs", "show", id], ["jobs", "explain", id], ["status"]):
        text = output(database, *command)
        assert "\x1b" not in text
        assert "\x07" not in text
    assert "[red]b" in output(database, "jobs", "list")


def test_show(database: Database, session: Session) -> None:
    id = output(database, "send", "x", "--json", '{"a": [1, "ü"]}').strip()
    session.execute("SELECT mq_enqueue('y', headers => '{\"traceparent\": \"00-1\"}', payload_bytes => '\\x0102')")
    other = str(session.execute("SELECT id FROM mq_jobs WHERE name = 'y'").fetchone()[0])  # type: ignore[index]
    claimed = session.execute("SELECT id, attempt FROM mq_poll(NULL, 1)").fetchone()
    assert claimed is not None
    session.execute("SELECT mq_fail(%s, %s, %s)", (*claimed, "line one\nline two"))
    shown = parsed(database, "jobs", "show", id)
    assert shown["payload_json"] == {"a": [1, "ü"]}
    assert shown["last_error"] == "line one\nline two"
    assert shown["attempts_made"] == 1
    text = output(database, "jobs", "show", id)
    assert '"ü"' in text
    assert "line one\nline two" in text
    assert parsed(database, "jobs", "show", other)["headers"] == {"traceparent": "00-1"}
    assert parsed(database, "jobs", "show", other)["payload_bytes"] == "AQI="
    text = output(database, "jobs", "show", other)
    assert "traceparent" in text
    assert "(2 bytes)\n01 02" in text
    assert "explain" in error(database, "jobs", "show", str(uuid.uuid4()), code=3)


def test_explain(database: Database, session: Session) -> None:
    first = output(database, "send", "x", "--ordered", "--delay", "1h").strip()
    second = output(database, "send", "x", "--ordered").strip()
    explained = parsed(database, "jobs", "explain", second)
    assert explained["state"] == "blocked"
    assert explained["waits_for"] == first
    assert output(database, "jobs", "explain", second).startswith("blocked: It is ordered")
    gone = call(database, "jobs", "explain", str(uuid.uuid4()), "--json", code=3)
    assert json.loads(gone.stdout)["state"] == "gone"


def test_retry_by_id(database: Database, session: Session) -> None:
    dead = [die(session, name) for name in "ab"]
    waiting = output(database, "send", "c").strip()
    line = output(database, "jobs", "retry", dead[0], waiting, "--retries", "2", "--delay", "1h")
    assert line == f"Retried 1 job; not dead: {waiting}.\n"
    assert session.execute("SELECT state, attempts_left FROM mq_jobs WHERE name = 'a'").fetchone() == ("scheduled", 3)
    assert "nothing to do; not dead" in error(database, "jobs", "retry", waiting, code=3)


def test_retry_by_filter(database: Database, session: Session) -> None:
    for name in "aab":
        die(session, name)
    done = call(database, "jobs", "retry", "--name", "a", "--yes")
    assert done.stdout == "Retried 2 jobs.\n"
    assert "2 jobs to be retried:" in done.stderr
    assert names(session, "state = 'ready'") == ["a", "a"]
    assert names(session, "state = 'dead'") == ["b"]


def test_cancel(database: Database, session: Session) -> None:
    ids = [output(database, "send", name).strip() for name in ("a", "b", "c")]
    session.execute("SELECT mq_poll(NULL, 1, '1 hour')")
    unknown = str(uuid.uuid4())
    text = output(database, "jobs", "cancel", *ids[:2], unknown)
    assert text.splitlines() == [
        f"Cancelled 2 jobs; gone: {unknown}.", "1 of them is running: the holder is asked to stop."
    ]  # fmt: skip
    assert session.execute("SELECT name, cancel_requested_at IS NOT NULL FROM mq_jobs ORDER BY name").fetchall() == [
        ("a", True), ("c", False)
    ]  # fmt: skip
    assert output(database, "jobs", "cancel", "--state", "ready", "--yes") == "Cancelled 1 job.\n"
    assert names(session) == ["a"]
    assert "no job matches" in error(database, "jobs", "cancel", "--state", "ready", "--yes", code=3)


def test_delete_is_for_any_state(database: Database, session: Session) -> None:
    ids = [output(database, "send", name).strip() for name in ("a", "b", "c")]
    session.execute("SELECT mq_poll(NULL, 1, '1 hour')")
    unknown = str(uuid.uuid4())
    assert output(database, "jobs", "delete", ids[0], unknown) == f"Deleted 1 job; gone: {unknown}.\n"
    assert output(database, "jobs", "delete", "--all", "--limit", "1", "--yes") == "Deleted 1 job.\n"
    assert names(session) == ["c"]


def test_many_in_batches(database: Database, session: Session) -> None:
    session.execute("SELECT mq_enqueue('x') FROM generate_series(1, 2500)")
    session.execute("SELECT mq_enqueue('y')")
    done = call(database, "jobs", "cancel", "--name", "x", "--yes")
    assert done.stdout == "Cancelled 2500 jobs.\n"
    assert "… and 2495 more" in done.stderr
    assert names(session) == ["y"]


def test_nothing_changes_without_a_yes(database: Database, session: Session) -> None:
    output(database, "send", "a", "--channel", "c")
    die(session, "b")
    for command in (["jobs", "cancel", "--name", "a"], ["jobs", "delete", "--all"], ["jobs", "retry", "--name", "b"],
                    ["jobs", "clear", "--channel", "c"], ["jobs", "clear", "--all"],
                    ["dead", "retry", "--all"], ["dead", "clear", "--all"]):  # fmt: skip
        done = call(database, *command, code=1)
        assert "confirm with --yes" in done.stderr
        assert " to be " in done.stderr
        code, written = answer(database, *command, keys="n\n")
        assert code == 1
        assert "Go on? [y/N]" in written
        assert "Nothing was changed." in written
    for command in (["jobs", "cancel"], ["jobs", "retry"], ["jobs", "delete"], ["jobs", "clear"], ["dead", "clear"]):
        error(database, *command, code=2)
    error(database, "jobs", "cancel", str(uuid.uuid4()), "--name", "a", code=2)
    assert names(session) == ["a", "b"]
    code, written = answer(database, "jobs", "cancel", "--name", "a", keys="y\n")
    assert code == 0, written
    assert names(session) == ["b"]


def test_clear(database: Database, session: Session) -> None:
    for channel in ("one", "one", "two", "three"):
        output(database, "send", channel, "--channel", channel)
    done = call(database, "jobs", "clear", "--channel", "one", "--channel", "two", "--yes")
    assert "3 jobs to be cleared:" in done.stderr
    assert names(session) == ["three"]
    output(database, "jobs", "clear", "--all", "--yes")
    assert names(session) == []


def test_dead(database: Database, session: Session) -> None:
    die(session, "a", channel_name="one", message="timeout of the bank")
    die(session, "b", channel_name="one", message="no such customer")
    die(session, "c", channel_name="two", message="timeout of the bank")
    output(database, "send", "d")
    assert [job["name"] for job in parsed(database, "dead", "list")] == ["c", "b", "a"]
    assert [job["name"] for job in parsed(database, "dead", "list", "--error", "timeout")] == ["c", "a"]
    assert [job["name"] for job in parsed(database, "dead", "list", "--channel", "one", "--name", "b")] == ["b"]
    assert parsed(database, "dead", "list", "--older-than", "1h") == []
    assert "no such customer" in output(database, "dead", "list")
    line = output(database, "dead", "retry", "--error", "timeout", "--channel", "one", "--retries", "1", "--yes")
    assert line == "Retried 1 job.\n"
    assert names(session, "state = 'dead'") == ["b", "c"]
    assert output(database, "dead", "clear", "--channel", "two", "--yes") == "Removed 1 job.\n"
    assert names(session) == ["a", "b", "d"]
    assert output(database, "dead", "clear", "--all", "--yes") == "Removed 1 job.\n"
    assert names(session) == ["a", "d"]
    assert "no job matches" in error(database, "dead", "clear", "--all", "--yes", code=3)


def test_status(database: Database, session: Session) -> None:
    first = output(database, "send", "x", "--channel", "one", "--ordered", "--delay", "1h").strip()
    output(database, "send", "x", "--channel", "one", "--ordered")
    for _ in range(3):
        output(database, "send", "x", "--channel", "two")
    die(session, "x", channel_name="three")
    session.execute("SELECT mq_poll('{two}', 1, '1 hour', 'worker seven')")
    found = parsed(database, "status")
    states = ("ready", "scheduled", "running", "blocked", "dead")
    counts = {row["channel_name"]: [row[state] for state in states] for row in found["channels"]}
    assert counts == {"one": [0, 1, 0, 1, 0], "two": [2, 0, 1, 0, 0], "three": [0, 0, 0, 0, 1]}
    assert found["channels"][0]["held_by"] == first
    assert [worker["worker"] for worker in found["workers"]] == ["worker seven"]
    two = next(row for row in found["channels"] if row["channel_name"] == "two")
    assert two["oldest_ready_seconds"] >= 0
    text = output(database, "status")
    assert first in text
    assert "worker seven" in text
    assert [r["channel_name"] for r in parsed(database, "status", "--channel", "one")["channels"]] == ["one"]
    text = output(database, "status", "--channel", "two", "--count-limit", "1")
    assert "1+" in text
    assert "--count-limit counts further" in text
    output(database, "jobs", "clear", "--all", "--yes")
    assert output(database, "status").startswith("No jobs.")
    assert "count_limit" in error(database, "status", "--count-limit", "0")


def test_a_reader_who_has_seen_enough(database: Database, session: Session) -> None:
    session.execute("SELECT mq_enqueue(repeat('x', 900)) FROM generate_series(1, 500)")
    done = subprocess.run(
        f"{shlex.join(COMMAND)} jobs list --json --limit 500 | head -c 10",
        shell=True, env=environment(database), capture_output=True, text=True,
    )  # fmt: skip
    assert len(done.stdout) == 10
    assert done.stderr == ""


def test_status_of_an_older_version(empty_database: Database) -> None:
    with empty_database.connect() as session:
        session.execute("CREATE EXTENSION sqlxmq VERSION '0.1.0'")
        session.execute("SELECT mq_enqueue('x', channel_name => 'one')")
    found = parsed(empty_database, "status")
    assert [row["ready"] for row in found["channels"]] == [1]
    assert found["workers"] == []
    assert parsed(empty_database, "jobs", "list")[0]["name"] == "x"


def test_status_again_and_again(database: Database, session: Session, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started(database, "status", "--watch", "0.05", "--json", cwd=tmp_path, log=log) as process:
        wait_until(lambda: log.read_text().count("\n") > 1, "two looks", log)
        session.execute("SELECT mq_enqueue('x', channel_name => 'seen')")
        wait_until(lambda: "seen" in log.read_text(), "a new job", log)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert all("channels" in json.loads(line) for line in log.read_text().splitlines())


def test_status_at_a_terminal(database: Database, session: Session) -> None:
    with at_terminal(database, "status", "--watch", "0.05") as (process, written, _):
        wait_until(lambda: b"No jobs." in written, "the first look")
        session.execute("SELECT mq_enqueue('x', channel_name => 'seen')")
        wait_until(lambda: b"seen" in written, "a new job")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
