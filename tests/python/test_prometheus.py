"""Metrics, read over HTTP as Prometheus does."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import psycopg_pool
import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.parser import text_string_to_metric_families

from sqlxmq import Cancel, CurrentJob, Fail, JobRegistry, JobRunner, Observer, Retry, Snooze, job
from sqlxmq.prometheus import JobMetrics, MetricsServer, QueueCollector, instrument, serve
from tests.python.conftest import Database, until

Pool = psycopg_pool.AsyncConnectionPool[Any]
Session = psycopg.Connection[Any]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass
class Address:
    """Of an endpoint in another process."""

    address: str
    port: int


def scraped(server: MetricsServer | Address) -> Samples:
    """What Prometheus would see: values by name and labels."""
    with urllib.request.urlopen(f"http://{server.address}:{server.port}/metrics", timeout=30) as answer:
        assert answer.status == 200
        families: list[Metric] = list(text_string_to_metric_families(answer.read().decode()))
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def values(samples: Samples, metric: str, **labels: str) -> dict[str, float]:
    """A metric's values with these labels, by those of the other label."""
    return {
        ",".join(value for label, value in found if label not in labels): number
        for (sample, found), number in samples.items()
        if sample == metric and labels.items() <= dict(found).items()
    }


@pytest.fixture
def metrics() -> CollectorRegistry:
    return CollectorRegistry()


async def test_jobs_are_counted_by_outcome(pool: Pool, session: Session, metrics: CollectorRegistry) -> None:
    endings: dict[str, BaseException | None] = {
        "completed": None,
        "failed": RuntimeError("no"),
        "failed for good": Fail("no"),
        "retried": Retry("no"),
        "snoozed": Snooze(3600),
        "cancelled": Cancel("no"),
    }

    @job("end", retries=0)
    async def end(how: str) -> None:
        error = endings[how]
        if error is not None:
            raise error

    @job("work in a thread")
    def work() -> None: ...

    @job("linger", lease=60.0)
    async def linger() -> None:
        lingers.set()
        await asyncio.sleep(3600)

    @job("lose")
    async def lose(current_job: CurrentJob) -> None:
        session.execute("DELETE FROM mq_msgs WHERE id = %s", (current_job.id,))
        await current_job.complete()

    lingers = asyncio.Event()
    samples: Samples = {}
    registry = JobRegistry([end, work, linger, lose]).set_error_handler(lambda name, error: None)
    counted = instrument(registry, collector_registry=metrics)
    with serve(0, collector_registry=metrics) as server:
        assert server.address == "127.0.0.1"
        runner: JobRunner = registry.runner(pool, grace=timedelta(0))
        async with runner:
            for how in endings:
                await end.spawn(pool, how)
            await linger.spawn(pool)
            await work.spawn(pool)
            await lose.spawn(pool)
            await lingers.wait()

            async def all_but_one_have_ended() -> bool:
                nonlocal samples
                samples = await asyncio.to_thread(scraped, server)
                return sum(values(samples, "sqlxmq_jobs_total").values()) == len(endings) + 2

            await until(all_but_one_have_ended, "all but one have ended")
            assert runner.number_running == 1
            assert values(samples, "sqlxmq_jobs_running") == {"end": 0, "work in a thread": 0, "linger": 1, "lose": 0}
            assert set(values(samples, "sqlxmq_jobs_total", name="linger").values()) == {0}
        samples = await asyncio.to_thread(scraped, server)
    none = dict.fromkeys(["completed", "failed", "retried", "snoozed", "cancelled", "released", "lost"], 0)
    assert values(samples, "sqlxmq_jobs_total", name="end") == {
        **none, "completed": 1, "failed": 2, "retried": 1, "snoozed": 1, "cancelled": 1,
    }  # fmt: skip
    assert values(samples, "sqlxmq_jobs_total", name="work in a thread") == {**none, "completed": 1}
    assert values(samples, "sqlxmq_jobs_total", name="linger") == {**none, "released": 1}
    assert values(samples, "sqlxmq_jobs_total", name="lose") == {**none, "lost": 1}
    assert set(values(samples, "sqlxmq_jobs_running").values()) == {0}
    assert values(samples, "sqlxmq_job_duration_seconds_count") == {
        "end": 6, "work in a thread": 1, "linger": 1, "lose": 1,
    }  # fmt: skip
    assert values(samples, "sqlxmq_job_duration_seconds_bucket", name="end")["+Inf"] == 6
    # Once more changes nothing: neither names are taken twice, nor jobs counted twice.
    assert instrument(registry, collector_registry=metrics) is counted
    assert registry.observers == [counted]


async def test_an_observer_that_fails_keeps_no_job_from_running(
    pool: Pool, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Observer):
        def started(self, delivery: Any) -> None:
            raise RuntimeError("broken at the start")

        def ended(self, delivery: Any, outcome: str, seconds: float) -> None:
            raise RuntimeError("broken at the end")

    @job("work")
    async def work() -> None: ...

    async with JobRegistry([work]).add_observer(Broken()).runner(pool):
        await work.spawn(pool)
        await until(lambda: session.execute("SELECT count(*) FROM mq_msgs").fetchone() == (0,), "the job is complete")
    assert "broken at the start" in caplog.text
    assert "broken at the end" in caplog.text


def test_the_queue(database: Database, session: Session, metrics: CollectorRegistry) -> None:
    for _ in range(2):
        session.execute("SELECT mq_enqueue('x', '{}', channel_name => 'a', channel_args => 'one')")
    session.execute("SELECT mq_enqueue('x', '{}', channel_name => 'a', channel_args => 'two', ordered => true)")
    session.execute("SELECT mq_enqueue('x', '{}', channel_name => 'a', channel_args => 'two', ordered => true)")
    session.execute("SELECT mq_enqueue('x', '{}', channel_name => 'b', delay => '1 hour')")
    session.execute("SELECT mq_enqueue('x', '{}', channel_name => 'c', retries => 0)")
    row = session.execute("SELECT id, attempt FROM mq_poll('{c}')").fetchone()
    session.execute("SELECT mq_fail(%s, %s, 'no')", row)
    session.execute("SELECT mq_enqueue('x', '{}', channel_name => 'c')")
    session.execute("SELECT mq_poll('{c}', lease => '1 hour')")
    with serve(0, database=database.dsn, collector_registry=metrics) as server:
        time.sleep(0.05)  # not for a condition: the age is to be at least so much
        samples = scraped(server)
        none = dict.fromkeys(["ready", "scheduled", "running", "blocked", "dead"], 0)
        assert values(samples, "sqlxmq_queue_up") == {"": 1}
        assert values(samples, "sqlxmq_queue_jobs", channel_name="a") == {**none, "ready": 3, "blocked": 1}
        assert values(samples, "sqlxmq_queue_jobs", channel_name="b") == {**none, "scheduled": 1}
        assert values(samples, "sqlxmq_queue_jobs", channel_name="c") == {**none, "dead": 1, "running": 1}
        assert values(samples, "sqlxmq_queue_exact") == {"a": 1, "b": 1, "c": 1}
        ages = values(samples, "sqlxmq_queue_oldest_ready_age_seconds")
        assert 0.05 <= ages["a"] < 60
        assert (ages["b"], ages["c"]) == (0, 0)
        session.execute("SELECT mq_clear_all()")
        assert values(scraped(server), "sqlxmq_queue_jobs") == {}


def test_some_channels_are_shown_even_without_jobs(
    database: Database, session: Session, metrics: CollectorRegistry
) -> None:
    session.execute("SELECT mq_enqueue('x', '{}', channel_name => 'mine')")
    session.execute("SELECT mq_enqueue('x', '{}', channel_name => 'not mine')")
    with serve(0, database=database.dsn, channel_names=["mine", "idle"], collector_registry=metrics) as server:
        samples = scraped(server)
    assert values(samples, "sqlxmq_queue_jobs", state="ready") == {"mine": 1, "idle": 0}
    assert set(values(samples, "sqlxmq_queue_oldest_ready_age_seconds")) == {"mine", "idle"}


def test_counts_that_were_cut_off_say_so(database: Database, session: Session, metrics: CollectorRegistry) -> None:
    for _ in range(4):
        session.execute("SELECT mq_enqueue('x', '{}', channel_name => 'many')")
    metrics.register(QueueCollector(database.dsn, count_limit=3))
    assert metrics.get_sample_value("sqlxmq_queue_jobs", {"channel_name": "many", "state": "ready"}) == 3
    assert metrics.get_sample_value("sqlxmq_queue_exact", {"channel_name": "many"}) == 0


async def test_a_pool_serves_as_well_even_in_its_event_loop(
    pool: Pool, session: Session, metrics: CollectorRegistry
) -> None:
    instrument(JobRegistry(), pool, collector_registry=metrics)
    assert metrics.get_sample_value("sqlxmq_queue_up") == 1
    with pytest.raises(ValueError, match="Duplicated"):
        instrument(JobRegistry(), pool, collector_registry=metrics)
    with pytest.raises(ValueError, match="Duplicated"):
        serve(0, database=pool, collector_registry=metrics)


def test_a_database_that_is_down_shows_as_such(
    database: Database, metrics: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = psycopg.conninfo.make_conninfo(database.dsn, dbname="no_such_database")
    with serve(0, database=nowhere, collector_registry=metrics) as server:
        samples = scraped(server)
    assert {name: value for (name, _), value in samples.items() if name.startswith("sqlxmq")} == {"sqlxmq_queue_up": 0}
    assert 'database "no_such_database" does not exist' in caplog.text
    # Closed, it has let go of the names.
    serve(0, database=database.dsn, collector_registry=metrics).close()


def test_a_database_that_does_not_answer_holds_up_no_scrape(
    database: Database, session: Session, metrics: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    metrics.register(QueueCollector(database.dsn, timeout=0.5))
    with session.transaction():
        session.execute("LOCK TABLE mq_ready")
        assert metrics.get_sample_value("sqlxmq_queue_up") == 0
    assert "the queue's metrics could not be read" in caplog.text
    deadline = time.monotonic() + 60
    while metrics.get_sample_value("sqlxmq_queue_up") != 1:
        assert time.monotonic() < deadline, "it does not recover"


def test_a_server_that_is_frozen_holds_up_no_scrape(
    metrics: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dsn = f"host=127.0.0.1 port={silent.getsockname()[1]} connect_timeout=60"
        metrics.register(QueueCollector(dsn, timeout=0.2))
        began = time.monotonic()
        assert metrics.get_sample_value("sqlxmq_queue_up") == 0
        assert metrics.get_sample_value("sqlxmq_queue_up") == 0
        assert time.monotonic() - began < 30
    assert "no answer within 0.2 s" in caplog.text
    assert "the scrape before is still waiting" in caplog.text


def test_bad_arguments(metrics: CollectorRegistry) -> None:
    with pytest.raises(TypeError, match="channel_names is 'mail', but it must be a list"):
        QueueCollector("", channel_names="mail")
    with pytest.raises(TypeError, match="database is 7, but it must be"):
        serve(0, database=7, collector_registry=metrics)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout is 0, but it must be positive"):
        QueueCollector("", timeout=0)
    JobMetrics(metrics)
    with pytest.raises(ValueError, match="Duplicated"):
        JobMetrics(metrics)


WORKER = """
import asyncio, sys
from sqlxmq import JobRegistry, job
from sqlxmq.prometheus import instrument

@job("work")
async def work() -> None: ...

registry = JobRegistry([work])
instrument(registry)
asyncio.run(registry.runner(sys.argv[1], max_concurrency=1, min_concurrency=1).run())
"""

EXPORTER = """
import sys
from prometheus_client import CollectorRegistry, multiprocess
from sqlxmq.prometheus import serve

metrics = CollectorRegistry()
multiprocess.MultiProcessCollector(metrics)
server = serve(0, database=sys.argv[1], collector_registry=metrics)
print(server.port, flush=True)
server.wait()
"""


async def test_several_processes_can_share_an_endpoint(database: Database, session: Session, tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    started = [
        subprocess.Popen([sys.executable, "-c", program, database.dsn], env=environment, stdout=subprocess.PIPE)
        for program in (EXPORTER, WORKER, WORKER)
    ]
    exporter, *workers = started
    try:
        assert exporter.stdout is not None
        server = Address("127.0.0.1", int(exporter.stdout.readline()))
        # Only then do they take a signal for what it is.
        await until(lambda: session.execute("SELECT count(*) FROM mq_workers").fetchone() == (2,), "both workers poll")
        for _ in range(20):
            session.execute("SELECT mq_enqueue('work', '{}')")

        def worked() -> bool:
            samples = scraped(server)
            return values(samples, "sqlxmq_jobs_total", name="work", outcome="completed") == {"": 20}

        await until(worked, "all jobs were counted, whoever ran them")
        assert values(scraped(server), "sqlxmq_jobs_running") == {"work": 0}
        assert values(scraped(server), "sqlxmq_queue_up") == {"": 1}
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(60) == 0
    finally:
        for process in started:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
