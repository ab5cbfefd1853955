"""How jobs end, one by one and in batches, and what the runner then does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from sqlxmq import (
    Batch,
    Cancel,
    CurrentJob,
    Fail,
    JobRegistry,
    LeaseLost,
    MissingContextError,
    Observer,
    Outcome,
    Retry,
    Snooze,
    SyncBatch,
    from_context,
    job,
    spawn_many,
)
from sqlxmq._delivery import Delivery
from tests.python.conftest import until
from tests.python.test_runner import Pool, Session, is_empty, rows, runner_of

STATE = "SELECT state, attempts_made, attempts_left, last_error FROM mq_jobs"


@pytest.mark.parametrize("is_raised", [False, True])
@pytest.mark.parametrize(
    ("outcome", "state", "error"),
    [
        (Retry("later", in_=1000), ("scheduled", 1, 4), "later"),
        (Retry(), ("scheduled", 1, 4), "Retry"),
        (Retry("odd\0one\udcff"), ("scheduled", 1, 4), "odd\\0one\\udcff"),
        (Fail("never"), ("dead", 1, 4), "never"),
        (Fail("never\0"), ("dead", 1, 4), "never\\0"),
        (Snooze(1000), ("scheduled", 1, 5), None),
        (Cancel("unwanted"), None, None),
    ],
    ids=repr,
)
async def test_outcomes_returned_and_raised(
    pool: Pool, session: Session, outcome: Outcome, state: tuple[Any, ...] | None, error: str | None, is_raised: bool
) -> None:
    @job("says", backoff_secs=500)
    async def says() -> Any:
        if is_raised:
            raise outcome
        return outcome

    async with runner_of(pool, says):
        await says.spawn(pool)
        await until(lambda: rows(session, STATE) == [(*state, error)] if state else is_empty(session)(), "as was said")
    if isinstance(outcome, Retry | Snooze):
        waits = rows(session, "SELECT mq_jobs.due_at > now() + interval '400 seconds' FROM mq_jobs")
        assert waits == [(True,)]


async def test_a_plain_function_says_how_it_ended_too(pool: Pool, session: Session) -> None:
    @job("plain", retries=1)
    def plain(number: int) -> Any:
        if number == 0:
            try:
                raise KeyError("the cause")
            except KeyError as error:
                raise Fail("given up") from error
        if number == 1:
            return Retry("again", in_=0)
        raise Cancel

    async with runner_of(pool, plain):
        for number in range(3):
            await plain.spawn(pool, number)
        await until(lambda: rows(session, "SELECT count(*) FROM mq_dead_jobs") == [(2,)], "two are dead, one is gone")
    errors = dict(rows(session, "SELECT payload_json::json->>'number', last_error FROM mq_dead_jobs"))
    assert "KeyError: 'the cause'" in errors["0"], "the error that it was raised from is kept"
    assert "given up" in errors["0"]
    assert errors["1"] == "again", "attempts are used up by Retry"


COUNTS = """
    SELECT coalesce(split_part(last_error, E'\\n', 1), state), count(*) FROM mq_jobs GROUP BY 1 ORDER BY 1
"""


async def test_batches_of_which_some_fail(pool: Pool, session: Session) -> None:
    sizes: list[int] = []
    told: list[str] = []

    def work(batch: Any) -> None:
        sizes.append(len(batch))
        for item in batch:
            match item.payload % 6:
                case 1:
                    item.fail(ValueError("item error"))
                case 2:
                    item.retry("item retry", in_=1000)
                case 3:
                    item.snooze(1000)
                case 4:
                    item.cancel("gone")
                case 5:
                    item.fail_for_good("item dead")

    @job("async batch", batch=10, backoff_secs=500)
    async def in_loop(batch: Batch[int]) -> None:
        work(batch)

    @job("plain batch", batch=10, backoff_secs=500)
    def in_thread(batch: SyncBatch[int]) -> None:
        work(batch)

    registry = JobRegistry([in_loop, in_thread]).set_error_handler(lambda name, error: told.append(f"{name}: {error}"))
    for one in (in_loop, in_thread):
        sizes.clear()
        await spawn_many(pool, [one.prepare(number) for number in range(30)])
        async with pool.connection() as connection:
            await connection.execute("SELECT mq_enqueue(%s, '\"no number\"', retry_backoff => '500 s')", (one.name,))
        async with registry.runner(pool, min_concurrency=50, max_concurrency=50) as runner:
            await until(lambda: rows(session, "SELECT count(*) FROM mq_jobs WHERE state = 'running'") == [(0,)], "ends")
            await until(lambda: sum(sizes) == 30, "all have run")
            await runner.wait_for_jobs()
            await until(lambda: sum(n for _, n in rows(session, COUNTS)) == 21, "all are reported")
        assert max(sizes) == 10
        found = dict(rows(session, COUNTS))
        assert (found.pop("item retry"), found.pop("item dead"), found.pop("scheduled")) == (5, 5, 5)
        assert sorted(found.values()) == [1, 5], found  # the traceback of the payload, and of the failures
        assert f"{one.name}: item error" in told
        assert any("no number" in text or "DecodingError" in text or "int" in text for text in told)
        session.execute("SELECT mq_clear_all()")


async def test_a_batch_whose_function_raises_fails_as_a_whole(pool: Pool, session: Session) -> None:
    @job("breaks", batch=10, retries=0)
    async def breaks(batch: Batch[int]) -> None:
        batch[0].cancel()
        await batch.complete(items=batch[1:2])
        raise RuntimeError("the whole of it")

    await spawn_many(pool, [breaks.prepare(number) for number in range(5)])
    async with runner_of(pool, breaks):
        await until(lambda: rows(session, "SELECT count(*) FROM mq_dead_jobs") == [(3,)], "three are dead")
        await until(lambda: rows(session, "SELECT count(*) FROM mq_msgs") == [(3,)], "one is cancelled, one complete")


@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_batch_that_lost_one_lease_harms_no_other(pool: Pool, session: Session, in_thread: bool) -> None:
    session.execute("CREATE TABLE effect (n integer)")
    sizes: list[int] = []

    def lose(items: Any) -> None:
        sizes.append(len(items))
        if len(sizes) == 1:
            with psycopg.connect(pool.conninfo, autocommit=True) as other:  # type: ignore[arg-type]
                other.execute("SELECT mq_delete(ARRAY[%s])", (items[0].id,))

    @job("batch", batch=10, retries=0)
    async def in_loop(batch: Batch[int]) -> None:
        async with batch.transaction() as connection:
            for item in batch:
                await connection.execute("INSERT INTO effect VALUES (%s)", (item.payload,))
            lose(batch)

    @job("batch", batch=10, retries=0)
    def in_a_thread(batch: SyncBatch[int]) -> None:
        with batch.transaction() as connection:
            for item in batch:
                connection.execute("INSERT INTO effect VALUES (%s)", (item.payload,))
            lose(batch)

    one: Any = in_a_thread if in_thread else in_loop
    await spawn_many(pool, [one.prepare(number) for number in range(5)])
    async with runner_of(pool, one):
        await until(is_empty(session), "the others ran again, though they had one attempt only")
    assert sizes[0] == 5
    assert rows(session, "SELECT count(*), count(DISTINCT n) FROM effect") == [(4, 4)]


class Mailer:
    """Something that jobs need."""


MAILER: Any = from_context()
URL: Any = from_context("the url")


async def test_context_by_type_and_by_name(pool: Pool, session: Session) -> None:
    seen: list[Any] = []
    mailer = Mailer()

    @job("needs", retries=0)
    async def needs(current_job: CurrentJob, n: int, one: Mailer = MAILER, url: str = URL) -> None:
        seen.append((n, one, url, current_job.context(Mailer)))

    with pytest.raises(MissingContextError, match="job needs: no context of type Mailer"):
        await JobRegistry([needs]).runner(pool).start()
    with pytest.raises(MissingContextError, match="no context named 'the url'"):
        await JobRegistry([needs]).set_context(mailer).runner(pool).start()
    registry = JobRegistry([needs]).set_context(mailer).set_context("u", name="the url")
    async with registry.runner(pool):
        await needs.spawn(pool, 1)
        await until(is_empty(session), "it ran")
    assert seen == [(1, mailer, "u", mailer)]


class Broken(Observer):
    """An observer that cannot even look."""

    def started(self, delivery: Delivery) -> None:
        raise RuntimeError("cannot look")

    def ended(self, delivery: Delivery, outcome: str, seconds: float) -> None:
        raise RuntimeError("cannot look")


async def test_a_broken_observer_breaks_nothing(pool: Pool, session: Session) -> None:
    @job("watched")
    async def watched(batch: int) -> None: ...

    @job("watched batch", batch=5)
    async def watched_batch(batch: Batch[int]) -> None: ...

    await spawn_many(pool, [watched.prepare(n) for n in range(5)] + [watched_batch.prepare(n) for n in range(5)])
    async with JobRegistry([watched, watched_batch]).add_observer(Broken()).runner(pool) as runner:
        await until(is_empty(session), "all ran")
        assert runner.number_running == 0


class Odd(BaseException):
    """What is no Exception."""


@pytest.mark.parametrize("error", [Odd, SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration])
async def test_odd_exceptions_fail_the_job_only(pool: Pool, session: Session, error: type[BaseException]) -> None:
    @job("in a thread", retries=0)
    def in_thread() -> None:
        raise error

    @job("in the loop", retries=0)
    async def in_loop() -> None:
        raise error

    jobs: list[Any] = [in_thread] if error in (KeyboardInterrupt, GeneratorExit) else [in_thread, in_loop]
    async with runner_of(pool, *jobs) as runner:
        for one in jobs:
            await one.spawn(pool)
        await until(lambda: rows(session, "SELECT count(*) FROM mq_dead_jobs") == [(len(jobs),)], "they are dead")
        assert runner.number_running == 0


async def test_time_limits_of_async_functions(pool: Pool, session: Session) -> None:
    attempts: list[int] = []

    @job("slow", time_limit=0.05, backoff_secs=0, retries=2)
    async def slow(current_job: CurrentJob) -> None:
        attempts.append(current_job.attempt)
        if current_job.attempt < 3:
            await asyncio.Event().wait()
        last = rows(session, "SELECT last_error FROM mq_jobs")[0][0]
        assert "TimeLimitExceeded: the job took longer than its time limit, 0:00:00.050000" in last

    async with runner_of(pool, slow):
        await slow.spawn(pool)
        await until(is_empty(session), "the third attempt was quick")
    assert attempts == [1, 2, 3]


async def test_a_function_that_does_not_heed_its_time_limit_loses_its_lease(pool: Pool, session: Session) -> None:
    attempts: list[int] = []
    may_end = asyncio.Event()

    @job("deaf", time_limit=0.05, backoff_secs=0)
    async def deaf(current_job: CurrentJob) -> None:
        attempts.append(current_job.attempt)
        while current_job.attempt == 1 and not may_end.is_set():
            try:
                await may_end.wait()
            except asyncio.CancelledError:
                continue

    try:
        async with runner_of(pool, deaf, lease=timedelta(seconds=0.5), grace=timedelta(0)):
            await deaf.spawn(pool)
            await until(is_empty(session), "the second attempt did it")
            may_end.set()
    finally:
        may_end.set()
    assert attempts == [1, 2]


async def test_an_id_sent_again_is_kept_alive(pool: Pool, session: Session) -> None:
    """A job that completes itself and sends itself again: the next delivery has the same id and attempt."""
    began: list[int] = []
    first_may_end = asyncio.Event()
    second_may_end = asyncio.Event()

    @job("tick", backoff_secs=0)
    async def tick(current_job: CurrentJob) -> None:
        began.append(current_job.attempt)
        if len(began) == 1:
            async with pool.connection() as connection:
                await current_job.complete(connection)
                await tick.options(id=current_job.id).spawn(connection)
            await first_may_end.wait()
        else:
            await second_may_end.wait()

    async with runner_of(pool, tick, lease=timedelta(seconds=0.6)):
        await tick.spawn(pool)
        await until(lambda: began == [1, 1], "it runs again, while the first call goes on")
        first_may_end.set()
        session.execute("CREATE TABLE mark AS SELECT max(leased_until) AS over FROM mq_running_jobs")
        over = "SELECT clock_timestamp() > over + interval '1 seconds' FROM mark"
        await until(lambda: rows(session, over) == [(True,)], "the lease of the time is over")
        assert began == [1, 1], "the second was handed out again"
        second_may_end.set()
        await until(is_empty(session), "it is complete")


async def test_eager_tasks(pool: Pool, session: Session) -> None:
    factory: Callable[..., Any] | None = getattr(asyncio, "eager_task_factory", None)
    if factory is None:
        pytest.skip("Python has no eager tasks before 3.12")
    stopped = asyncio.Event()

    @job("quick")
    async def quick() -> None: ...

    @job("endless")
    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    asyncio.get_running_loop().set_task_factory(factory)
    try:
        async with runner_of(pool, quick, endless, lease=timedelta(seconds=0.5)) as runner:
            await spawn_many(pool, [quick.prepare() for _ in range(50)])
            await until(is_empty(session), "all ran")
            id = await endless.spawn(pool)
            await until(lambda: runner.number_running == 1, "it runs")
            session.execute("SELECT mq_cancel(ARRAY[%s])", (id,))
            await until(is_empty(session), "it is cancelled")
            assert stopped.is_set()
    finally:
        asyncio.get_running_loop().set_task_factory(None)


async def test_raising_the_loss_of_another_job_is_a_failure(pool: Pool, session: Session) -> None:
    @job("other", retries=0)
    async def other(current_job: CurrentJob) -> None:
        raise LeaseLost(current_job.id.__class__(int=1), 1)

    async with runner_of(pool, other):
        await other.spawn(pool)
        await until(lambda: rows(session, "SELECT count(*) FROM mq_dead_jobs") == [(1,)], "the job died")


async def test_a_refused_report_spoils_no_other(pool: Pool, session: Session, caplog: pytest.LogCaptureFixture) -> None:
    together = asyncio.Barrier(3) if hasattr(asyncio, "Barrier") else None

    @job("odd", retries=0, backoff_secs=0)
    async def odd(current_job: CurrentJob, days: int) -> Any:
        if together is not None:
            await together.wait()
        return Retry("in the end", in_=timedelta(days=days))

    async with runner_of(pool, odd, lease=timedelta(seconds=0.5)):
        await spawn_many(pool, [odd.prepare(1), odd.prepare(999_999), odd.prepare(1)])
        await until(lambda: rows(session, "SELECT count(*) FROM mq_dead_jobs") == [(3,)], "the lease of one ran out")
    assert "a report was refused; its job will run again" in caplog.text
    errors = [error for (error,) in rows(session, "SELECT last_error FROM mq_dead_jobs")]
    assert sorted(error[:10] for error in errors) == ["The lease ", "in the end", "in the end"]
