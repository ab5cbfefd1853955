"""Epochs and marks: whatever is in flight while they turn, every committed job is handed out, once."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.python.conftest import Database, create_database
from tools.cluster import Cluster

Session = psycopg.Connection[Any]


def number(session: Session, query: str) -> int:
    row = session.execute(query.encode()).fetchone()
    assert row is not None
    value: int = row[0]
    return value


def current(session: Session) -> int:
    return number(session, "SELECT coalesce(pg_sequence_last_value('mq_epoch'), 1)")


def first(session: Session) -> int:
    return number(session, "SELECT coalesce(pg_sequence_last_value('mq_first_epoch'), 1)")


def late(session: Session) -> set[int]:
    return {epoch for (epoch,) in session.execute("SELECT epoch FROM mq_late_epochs")}


def turn(session: Session) -> None:
    """Lets a new epoch begin, if there are not many already, and the next poll tend them."""
    session.execute("SELECT setval('mq_epoch_began_at', 0)")
    session.execute("SELECT mq_begin_epoch((extract(epoch FROM clock_timestamp()) * 1000000)::bigint)")
    session.execute("SELECT setval('mq_tend_again_at', 0)")


def send(session: Session, **arguments: Any) -> str:
    names = "".join(f", {name} => %({name})s" for name in arguments)
    row = session.execute(f"SELECT mq_enqueue('x'{names})::text".encode(), arguments).fetchone()
    assert row is not None
    id: str = row[0]
    return id


def poll(session: Session, most: int = 100) -> list[str]:
    return [
        id
        for (id,) in session.execute("SELECT id::text FROM mq_poll(NULL, %s, '1 hour') WHERE id IS NOT NULL", (most,))
    ]


def eventually(condition: Callable[[], bool], what: str, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)


def claimed_by(session: Session, id: str) -> Callable[[], bool]:
    def is_claimed() -> bool:
        ids = poll(session)
        assert set(ids) <= {id}, "something else was handed out"
        return bool(ids)

    return is_claimed


def turns_go_on(session: Session, held: int, turns: int = 24) -> None:
    """Turns, with a job sent and claimed in each, beside something that holds on to an epoch."""
    before = current(session)
    for _ in range(turns):
        turn(session)
        ours = send(session)
        eventually(lambda ours=ours: ours in poll(session), "what is sent meanwhile is handed out")  # type: ignore[misc]
        session.execute("SELECT mq_complete(%s::uuid, 1)", (ours,))
        assert first(session) <= held or held in late(session), "the epoch was passed while somebody held on to it"
    assert current(session) > before + 16, "the epochs do not go on beside a transaction that stays open"
    eventually(lambda: not poll(session) and first(session) > held, "polls pass the epoch in the end")
    assert late(session) == {held}


@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK"])
def test_a_sender_that_stays_open(database: Database, session: Session, ending: str) -> None:
    with database.connect() as sender:
        turn(session)
        sender.execute("BEGIN")
        id = send(sender)
        turns_go_on(session, number(sender, "SELECT split_part(current_setting('sqlxmq.epoch'), ' ', 2)::integer"))
        second = send(sender)
        sender.execute(ending)
        if ending == "COMMIT":
            claimed: list[str] = []

            def both() -> bool:
                claimed.extend(poll(session))
                return len(claimed) >= 2

            eventually(both, "what was committed late is handed out")
            assert sorted(claimed) == sorted([id, second])
        eventually(lambda: poll(session) == [] and not late(session), "the late epoch is forgotten")
    assert number(session, "SELECT count(*) FROM mq_ready") == 0


@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK"])
def test_a_claim_that_stays_open(database: Database, session: Session, ending: str) -> None:
    id = send(session)
    with database.connect() as claimer:
        claimer.execute("BEGIN")
        assert poll(claimer) == [id]
        turns_go_on(session, current(session))
        claimer.execute(ending)
        if ending == "ROLLBACK":
            eventually(claimed_by(session, id), "what was not claimed after all is handed out")
        eventually(lambda: poll(session) == [] and not late(session), "the late epoch is forgotten")
    assert number(session, "SELECT count(*) FROM mq_ready") == 0
    kept = "SELECT is_held FROM mq_keep_alive(ARRAY[%s::uuid], '1 hour', ARRAY[1])"
    assert session.execute(kept, (id,)).fetchall() == [(True,)]


def test_a_poll_that_tends_and_stays_open(database: Database, session: Session) -> None:
    send(session)
    turn(session)
    with database.connect() as claimer:
        claimer.execute("BEGIN")
        assert len(poll(claimer)) == 1
        turns_go_on(session, 1)


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
def test_a_poll_that_is_undone_after_it_emptied_an_epoch(database: Database, session: Session, isolation: str) -> None:
    ids = []
    for _ in range(3):
        turn(session)
        ids += [send(session) for _ in range(4)]
    with database.connect() as undone:
        undone.execute(f"BEGIN ISOLATION LEVEL {isolation}".encode())
        for again in (sorted(ids), [], []):
            turn(session)
            assert sorted(poll(undone)) == again
            assert poll(session) == [], "what somebody is claiming is handed out to nobody else"
        undone.execute("ROLLBACK")
    claimed: list[str] = []
    while got := poll(session, 5):
        claimed += got
    assert sorted(claimed) == sorted(ids)


def test_an_epoch_that_was_set_by_hand(database: Database, session: Session) -> None:
    turn(session)
    eventually(lambda: poll(session) == [] and first(session) > 1, "the first epoch is passed")
    with database.connect() as sender:
        sender.execute("SET sqlxmq.epoch = '1'")
        id = send(sender)
    eventually(claimed_by(session, id), "it is handed out", seconds=2)


def drain(session: Session, delivered: Counter[str], expected: set[str]) -> None:
    """Claims what is left."""

    def is_done() -> bool:
        delivered.update(poll(session))
        return set(delivered) >= expected

    eventually(is_done, "every committed job is handed out", seconds=10)
    for _ in range(3):
        session.execute("SELECT setval('mq_tend_again_at', 0)")
        delivered.update(poll(session))
    assert set(delivered) == expected
    assert set(delivered.values()) <= {1}, "a job was handed out twice"
    assert number(session, "SELECT count(*) FROM mq_ready") == 0


class Actor:
    """A session that sends or polls, in transactions that end somehow, some time."""

    def __init__(self, session: Session) -> None:
        session.execute("SET statement_timeout = '20s'")
        self.session = session
        self.chance = random.Random()
        self.sent: set[str] = set()
        self.claimed: list[str] = []
        self.open_sent: list[str] = []
        self.open_claimed: list[str] = []
        self.is_open = False

    def act(self) -> None:
        """Does one thing; a transaction that cannot be serialized ends."""
        try:
            self.act_at_random()
        except psycopg.errors.SerializationFailure:
            self.end("ROLLBACK")

    def act_at_random(self) -> None:
        what = self.chance.random()
        if self.is_open and what < 0.3:
            self.end("COMMIT" if self.chance.random() < 0.6 else "ROLLBACK")
        elif not self.is_open and what < 0.3:
            isolation = "REPEATABLE READ" if self.chance.random() < 0.1 else "READ COMMITTED"
            self.session.execute(f"BEGIN ISOLATION LEVEL {isolation}".encode())
            self.is_open = True
        elif what < 0.65:
            delay = self.chance.choice(["0", "0", "0", "1 millisecond"])
            self.open_sent += [send(self.session, delay=delay) for _ in range(self.chance.randint(1, 4))]
        elif what < 0.7 and self.is_open:
            self.session.execute("SAVEPOINT here")
            send(self.session)
            self.session.execute("ROLLBACK TO here")
        else:
            self.open_claimed += poll(self.session, self.chance.choice([1, 3, 20]))
        if not self.is_open:
            self.keep()

    def end(self, how: str) -> None:
        """Ends the transaction."""
        if self.is_open:
            self.session.execute(how.encode())
            self.is_open = False
        if how == "COMMIT":
            self.keep()
        self.open_sent, self.open_claimed = [], []

    def keep(self) -> None:
        self.sent.update(self.open_sent)
        self.claimed += self.open_claimed
        self.open_sent, self.open_claimed = [], []


@pytest.fixture
def actors(database: Database) -> Iterator[list[Actor]]:
    with ExitStack() as sessions:
        yield [Actor(sessions.enter_context(database.connect())) for _ in range(8)]


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_things(session: Session, actors: list[Actor], seed: int) -> None:
    chance = random.Random(seed)
    for actor in actors:
        actor.chance = chance
    began_with = current(session)
    for _ in range(1_500):
        if chance.random() < 0.1:
            turn(session)
        # The last one is slow: its transactions last long.
        chance.choice(actors if chance.random() < 0.05 else actors[:-1]).act()
    for actor in actors:
        actor.end("COMMIT")
    assert current(session) > began_with + 10, "the epochs got stuck"
    drain(session, Counter(id for actor in actors for id in actor.claimed), set().union(*(a.sent for a in actors)))


def test_all_at_the_same_time(session: Session, actors: list[Actor]) -> None:
    deadline = time.monotonic() + 3
    failures: list[BaseException] = []

    def run(actor: Actor) -> None:
        try:
            while time.monotonic() < deadline:
                actor.act()
            actor.end("COMMIT")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(actor,)) for actor in actors]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        turn(session)
        time.sleep(0.01)
    assert not failures
    drain(session, Counter(id for actor in actors for id in actor.claimed), set().union(*(a.sent for a in actors)))


def run(server: Cluster, program: str, *arguments: str | Path) -> None:
    done = subprocess.run(
        [server.bindir / program, *arguments], env=server.environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_dump_of_several_epochs_while_they_turn(
    server: Cluster, database: Database, session: Session, tmp_path: Path
) -> None:
    with database.connect() as sender, database.connect() as keeper:
        sender.execute("BEGIN")
        ids = [send(sender)]
        turns_go_on(session, number(sender, "SELECT split_part(current_setting('sqlxmq.epoch'), ' ', 2)::integer"))
        for _ in range(3):
            turn(session)
            ids += [send(session) for _ in range(4)]
        sender.execute("COMMIT")
        assert late(session), "a late epoch is dumped, too"
        keeper.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        row = keeper.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        dumped_at = number(keeper, "SELECT max(epoch) FROM mq_ready")
        assert number(keeper, "SELECT count(DISTINCT epoch) FROM mq_ready") == 4
        # After the snapshot, before the sequences are read: everything is claimed, and the epochs go on.
        claimed: set[str] = set()

        def is_passed() -> bool:
            turn(session)
            claimed.update(poll(session))
            return claimed >= set(ids) and first(session) > dumped_at

        eventually(is_passed, "the epochs of the snapshot are passed")
        session.execute("SELECT mq_clear_all()")
        dump = tmp_path / "dump"
        run(server, "pg_dump", "-d", database.name, f"--snapshot={row[0]}", "-F", "custom", "-f", dump)
        keeper.execute("ROLLBACK")
    copy = create_database(server, "template0")
    run(server, "pg_restore", "--exit-on-error", "-d", copy.name, dump)
    with copy.connect() as restored:
        new = send(restored)
        drain(restored, Counter(), {*ids, new})


def mark(session: Session, which: str) -> int:
    return number(session, f"SELECT coalesce(pg_sequence_last_value('mq_{which}_mark'), 0)")


def test_marks_beside_a_reader(database: Database, session: Session) -> None:
    with database.connect() as reader, database.connect() as sender:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM mq_msgs")
        sender.execute("BEGIN")
        late_one = send(sender, delay="0.05 seconds")
        due = number(sender, "SELECT (extract(epoch FROM due_at) * 1000000)::bigint FROM mq_scheduled")
        done = 0

        def work() -> None:
            nonlocal done
            rows = session.execute("SELECT id, attempt FROM mq_poll(NULL, 5) WHERE id IS NOT NULL").fetchall()
            assert str(late_one) not in {str(id) for id, _ in rows}
            session.execute(
                "SELECT mq_complete(%s::uuid[], %s::integer[])", ([i for i, _ in rows], [a for _, a in rows])
            )
            done += len(rows)

        jobs = 0
        while done < 3_000 or not mark(session, "claims") or mark(session, "scheduled") <= due:
            assert jobs < 10_000, f"marks: {mark(session, 'scheduled')}, {mark(session, 'claims')}"
            session.execute(
                "SELECT mq_enqueue('x', delay => '1 millisecond', retry_backoff => '1 millisecond', retries => 1000)"
                " FROM generate_series(1, 200)"
            )
            jobs += 200
            while done < jobs:
                work()
        sender.execute("COMMIT")
        eventually(claimed_by(session, late_one), "what is committed before the mark is handed out")
        session.execute("SELECT mq_complete(%s::uuid, 1)", (late_one,))
        reader.execute("ROLLBACK")

    def are_at_rest() -> bool:
        assert poll(session) == []
        return mark(session, "scheduled") == mark(session, "claims") == 0

    eventually(are_at_rest, "without the reader, the marks are not in use any more", seconds=20)
