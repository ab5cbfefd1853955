"""Traces, from the sender through the database to the function."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import psycopg_pool
import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from sqlxmq import (
    Batch,
    Cancel,
    CurrentJob,
    Fail,
    JobRegistry,
    Retry,
    Snooze,
    SyncCurrentJob,
    _tracing,
    job,
    spawn_many,
)
from sqlxmq.opentelemetry import instrument, uninstrument
from tests.python.conftest import Database, until

Pool = psycopg_pool.AsyncConnectionPool[Any]
Session = psycopg.Connection[Any]


class Tracing:
    """What was traced."""

    def __init__(self) -> None:
        self.provider = TracerProvider()
        self._exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("test")

    def spans(self, kind: SpanKind) -> list[ReadableSpan]:
        """The spans of a kind that have ended."""
        return [span for span in self._exporter.get_finished_spans() if span.kind is kind]

    def one(self, kind: SpanKind) -> ReadableSpan:
        (span,) = self.spans(kind)
        return span

    def have_run(self, number: int) -> Callable[[], bool]:
        return lambda: len(self.spans(SpanKind.CONSUMER)) == number


@pytest.fixture
def tracing() -> Iterator[Tracing]:
    tracing = Tracing()
    instrument(tracing.provider)
    yield tracing
    uninstrument()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def context_of(span: ReadableSpan) -> trace.SpanContext:
    found = span.get_span_context()
    assert found is not None
    return found


def headers(session: Session) -> list[Any]:
    return [row[0] for row in session.execute("SELECT headers FROM mq_msgs ORDER BY id").fetchall()]


@job("look", channel_name="eyes")
async def look() -> None:
    seen.append(trace.get_current_span().get_span_context())
    carried.append(baggage.get_baggage("customer"))


@job("look_in_thread", channel_name="eyes")
def look_in_thread(current_job: SyncCurrentJob) -> None:
    seen.append(trace.get_current_span().get_span_context())
    carried.append(baggage.get_baggage("customer"))


seen: list[trace.SpanContext] = []
carried: list[Any] = []


@pytest.mark.parametrize("which", [look, look_in_thread], ids=["async", "thread"])
@pytest.mark.parametrize("through", ["sync", "async"])
async def test_the_senders_trace_is_the_workers(
    tracing: Tracing, database: Database, pool: Pool, which: Any, through: str
) -> None:
    seen.clear()
    carried.clear()
    token = context.attach(baggage.set_baggage("customer", "7"))
    try:
        with tracing.tracer.start_as_current_span("request") as request:
            if through == "async":
                id = await which.options(channel_args="left").spawn(pool)
            else:
                with database.connect() as session:
                    id = which.options(channel_args="left").spawn(session)
            assert trace.get_current_span() is request
    finally:
        context.detach(token)
    async with JobRegistry([look, look_in_thread]).runner(pool):
        await until(tracing.have_run(1), "the job ran")
    sent, ran = tracing.one(SpanKind.PRODUCER), tracing.one(SpanKind.CONSUMER)
    assert sent.parent == request.get_span_context()
    assert ran.parent is not None
    assert ran.parent.span_id == context_of(sent).span_id
    assert [link.context.span_id for link in ran.links] == [context_of(sent).span_id]
    assert seen == [context_of(ran)]
    assert context_of(ran).trace_id == context_of(sent).trace_id == request.get_span_context().trace_id
    assert carried == ["7"]
    assert (sent.name, ran.name) == ("send eyes", "process eyes")
    common = {
        "messaging.system": "sqlxmq",
        "messaging.destination.name": "eyes",
        "messaging.destination.partition.id": "left",
        "messaging.message.id": str(id),
        "messaging.sqlxmq.job.name": which.name,
    }
    assert attributes(sent) == {**common, "messaging.operation.name": "send", "messaging.operation.type": "send"}
    assert attributes(ran) == {
        **common,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.sqlxmq.job.attempt": 1,
        "messaging.sqlxmq.job.attempts_allowed": 5,
        "messaging.sqlxmq.job.outcome": "completed",
    }
    assert sent.status.status_code is ran.status.status_code is StatusCode.UNSET


async def test_the_trace_in_which_a_runner_is_started_is_not_its_jobs(tracing: Tracing, pool: Pool) -> None:
    @job("together", batch=2)
    async def together(batch: Batch[Any]) -> None: ...

    with tracing.tracer.start_as_current_span("start"):
        async with JobRegistry([look, together]).runner(pool), pool.connection() as connection:
            await connection.execute("SELECT mq_enqueue('look', '{}')")
            await connection.execute("SELECT mq_enqueue('together', '{}')")
            await connection.commit()
            await until(tracing.have_run(2), "the jobs ran")
    spans = tracing.spans(SpanKind.CONSUMER)
    assert [span.parent for span in spans] == [None, None]
    assert [list(span.links) for span in spans] == [[], []]
    # Without a channel's name, the job's stands for it.
    assert {span.name for span in spans} == {"process look", "process together"}


async def test_a_batch_has_one_span_that_links_to_every_sender(tracing: Tracing, pool: Pool, session: Session) -> None:
    @job("sum", channel_name="c", batch=10, retries=0)
    async def sum_up(batch: Batch[int]) -> None:
        for item in batch:
            if item.payload == 3:
                item.fail(ValueError("three"))
            if item.payload == 4:
                item.snooze(60)

    for number in (1, 2):
        await sum_up.spawn(pool, number)
    await spawn_many(pool, [sum_up.prepare(3), sum_up.prepare(4)])
    session.execute("SELECT mq_enqueue('sum', '5', channel_name => 'c')")
    async with JobRegistry([sum_up]).runner(pool):
        await until(tracing.have_run(1), "the batch ran")
    first, second, many = tracing.spans(SpanKind.PRODUCER)
    assert many.name == "send c"
    assert attributes(many)["messaging.batch.message_count"] == 2
    assert "messaging.batch.message_count" not in attributes(first)
    ran = tracing.one(SpanKind.CONSUMER)
    assert ran.parent is None
    links = {link.context.span_id for link in ran.links}
    assert links == {context_of(span).span_id for span in (first, second, many)}
    assert len(ran.links) == 4
    linked = {dict(link.attributes or {})["messaging.message.id"] for link in ran.links}
    assert {attributes(span)["messaging.message.id"] for span in (first, second)} < linked
    assert "messaging.message.id" not in attributes(ran)
    assert attributes(ran)["messaging.batch.message_count"] == 5
    outcomes = {name: count for name, count in attributes(ran).items() if name.startswith("messaging.sqlxmq.batch.")}
    assert outcomes == {
        "messaging.sqlxmq.batch.completed": 3,
        "messaging.sqlxmq.batch.failed": 1,
        "messaging.sqlxmq.batch.snoozed": 1,
    }
    assert ran.status.status_code is StatusCode.ERROR
    assert [dict(event.attributes or {})["exception.message"] for event in ran.events] == ["three"]


@pytest.mark.parametrize(
    ("say", "outcome", "error"),
    [
        (RuntimeError("no"), "failed", "RuntimeError"),
        (Fail("for good"), "failed", "sqlxmq.Fail"),
        (Retry("later"), "retried", None),
        (Snooze(60), "snoozed", None),
        (Cancel(), "cancelled", None),
    ],
    ids=str,
)
async def test_outcomes(tracing: Tracing, pool: Pool, say: Exception, outcome: str, error: str | None) -> None:
    @job("say", retries=0)
    async def say_it() -> None:
        raise say

    await say_it.spawn(pool)
    async with JobRegistry([say_it]).set_error_handler(lambda name, error: None).runner(pool):
        await until(tracing.have_run(1), "the job ran")
    ran = tracing.one(SpanKind.CONSUMER)
    assert attributes(ran)["messaging.sqlxmq.job.outcome"] == outcome
    assert attributes(ran).get("error.type") == error
    assert ran.status.status_code is (StatusCode.UNSET if error is None else StatusCode.ERROR)
    assert [event.name for event in ran.events] == ([] if error is None else ["exception"])


async def test_a_time_limit_is_named(tracing: Tracing, pool: Pool) -> None:
    @job("slow", retries=0, time_limit=0.05)
    async def slow() -> None:
        await until(lambda: False, "never")

    await slow.spawn(pool)
    async with JobRegistry([slow]).set_error_handler(lambda name, error: None).runner(pool):
        await until(tracing.have_run(1), "the job was ended")
    ran = tracing.one(SpanKind.CONSUMER)
    assert attributes(ran)["error.type"] == "time limit"
    assert attributes(ran)["messaging.sqlxmq.job.outcome"] == "failed"


async def test_each_attempt_is_a_span_of_the_same_trace(tracing: Tracing, pool: Pool) -> None:
    @job("again")
    async def again(current_job: CurrentJob) -> None:
        if current_job.attempt == 1:
            raise Retry(in_=0)

    await again.spawn(pool)
    async with JobRegistry([again]).runner(pool):
        await until(tracing.have_run(2), "both attempts ran")
    spans = tracing.spans(SpanKind.CONSUMER)
    assert [attributes(span)["messaging.sqlxmq.job.attempt"] for span in spans] == [1, 2]
    sent = context_of(tracing.one(SpanKind.PRODUCER))
    assert {span.parent.span_id for span in spans if span.parent} == {sent.span_id}


async def test_a_job_that_is_sent_by_a_job_goes_on_with_its_trace(tracing: Tracing, pool: Pool) -> None:
    @job("first")
    def first(current_job: SyncCurrentJob) -> None:
        look.spawn(current_job.pool)

    await first.spawn(pool)
    async with JobRegistry([first, look]).runner(pool):
        await until(tracing.have_run(2), "both ran")
    spans = [*tracing.spans(SpanKind.PRODUCER), *tracing.spans(SpanKind.CONSUMER)]
    assert len({context_of(span).trace_id for span in spans}) == 1


@pytest.mark.parametrize("is_async", [False, True])
async def test_the_span_covers_the_sending(tracing: Tracing, database: Database, is_async: bool) -> None:
    wrong = look.options(retries=-1)
    if is_async:
        async with await psycopg.AsyncConnection.connect(database.dsn) as connection:
            sending = wrong.spawn(connection)
            assert tracing.spans(SpanKind.PRODUCER) == [], "it has ended before it was awaited"
            with pytest.raises(psycopg.errors.NumericValueOutOfRange):
                await sending
    else:
        with database.connect() as session, pytest.raises(psycopg.errors.NumericValueOutOfRange):
            wrong.spawn(session)
    sent = tracing.one(SpanKind.PRODUCER)
    assert sent.status.status_code is StatusCode.ERROR
    assert "retries is -1" in (sent.status.description or "")
    assert attributes(sent)["error.type"] == "psycopg.errors.NumericValueOutOfRange"
    assert [event.name for event in sent.events] == ["exception"]


async def test_what_the_user_puts_into_headers_stays(tracing: Tracing, pool: Pool, session: Session) -> None:
    theirs = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await look.prepare().set_headers({"tenant": "a"}).spawn(pool)
    token = context.attach(baggage.set_baggage("customer", "7"))
    try:
        await look.prepare().set_headers({"traceparent": theirs}).spawn(pool)
    finally:
        context.detach(token)
    own, linking = tracing.spans(SpanKind.PRODUCER)
    with_tenant, with_trace = headers(session)
    assert with_tenant["tenant"] == "a"
    assert f"{context_of(own).span_id:016x}" in with_tenant["traceparent"]
    assert with_trace == {"traceparent": theirs}
    assert [link.context.span_id for link in linking.links] == [0xB7AD6B7169203331]


async def test_headers_that_are_no_trace_break_nothing(tracing: Tracing, pool: Pool, session: Session) -> None:
    for wrong in ("{}", '{"traceparent": "no"}', '{"traceparent": "00-0-0-0", "tracestate": "="}', '{"baggage": ";;"}'):
        session.execute("SELECT mq_enqueue('look', '{}', headers => %s)", (wrong,))
    async with JobRegistry([look]).runner(pool):
        await until(tracing.have_run(4), "the jobs ran")
    assert [span.parent for span in tracing.spans(SpanKind.CONSUMER)] == [None] * 4


async def test_uninstrumented_nothing_travels(tracing: Tracing, pool: Pool, session: Session) -> None:
    uninstrument()
    assert _tracing.tracer is None
    with tracing.tracer.start_as_current_span("request"):
        await look.spawn(pool)
        await spawn_many(pool, [look.prepare()])
        look.spawn(session)
    assert headers(session) == [None] * 3
    async with JobRegistry([look]).runner(pool):
        await until(lambda: headers(session) == [], "the jobs ran")
    assert tracing.spans(SpanKind.PRODUCER) == tracing.spans(SpanKind.CONSUMER) == []


def test_the_package_does_not_need_it() -> None:
    program = (
        "import sqlxmq, sys; sys.exit(any(name.startswith(('opentelemetry', 'prometheus')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
