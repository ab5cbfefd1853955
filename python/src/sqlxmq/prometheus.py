"""Metrics for Prometheus: of the jobs that a worker runs, and of the queue: `pip install sqlxmq[prometheus]`.

How long a job has waited until its start is not measured: a worker is not told since when the job was due.
sqlxmq_queue_oldest_ready_age_seconds says how long jobs wait.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from typing_extensions import Self

from sqlxmq._connections import Database, Source
from sqlxmq._delivery import Delivery
from sqlxmq._observers import Observer
from sqlxmq._options import Duration, length_of
from sqlxmq._registry import JobRegistry

__all__ = ["JobMetrics", "MetricsServer", "QueueCollector", "instrument", "serve"]

logger = logging.getLogger("sqlxmq")

# Those of Observer.ended.
OUTCOMES = ("completed", "failed", "retried", "snoozed", "cancelled", "released", "lost")

# Upper bounds in seconds: jobs take longer than the requests that prometheus_client's own are made for.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)

STATES = ("ready", "scheduled", "running", "blocked", "dead")
STATUS = """
    SELECT channel_name, sum(ready)::float8, sum(scheduled)::float8, sum(running)::float8, sum(blocked)::float8,
           sum(dead)::float8, extract(epoch FROM clock_timestamp() - min(oldest_ready_at))::float8, bool_and(is_exact)
    FROM mq_status(%s, %s) GROUP BY channel_name ORDER BY channel_name
"""


class _OfJob:
    """The metrics of the jobs of one name, found once."""

    def __init__(self, metrics: JobMetrics, name: str) -> None:
        self.running = metrics.running.labels(name)
        self.duration = metrics.duration.labels(name)
        # All of them from the start, with 0: a rate needs a value before the first.
        self.ended = {outcome: metrics.jobs.labels(name, outcome) for outcome in OUTCOMES}


class JobMetrics(Observer):
    """Counts the jobs that runners run; JobRegistry.add_observer takes it.

    Attributes:
        jobs (Counter): the metric sqlxmq_jobs_total.
        duration (Histogram): the metric sqlxmq_job_duration_seconds.
        running (Gauge): the metric sqlxmq_jobs_running.
    """

    def __init__(self, collector_registry: CollectorRegistry = REGISTRY, *, buckets: Sequence[float] = BUCKETS) -> None:
        """
        Args:
            collector_registry: where the metrics are registered.
            buckets: upper bounds of the durations, in seconds.

        Raises:
            ValueError: metrics of these names are registered there already.
        """
        self.jobs = Counter(
            "sqlxmq_jobs", "Jobs that a worker has run, by how they ended.", ["name", "outcome"],
            registry=collector_registry,
        )  # fmt: skip
        self.duration = Histogram(
            "sqlxmq_job_duration_seconds", "How long jobs ran.", ["name"], buckets=buckets, registry=collector_registry
        )
        # Of several processes whose metrics are put together, the living ones are added up.
        self.running = Gauge(
            "sqlxmq_jobs_running", "Jobs that are running.", ["name"], registry=collector_registry,
            multiprocess_mode="livesum",
        )  # fmt: skip
        self._known: dict[str, _OfJob] = {}

    def started(self, delivery: Delivery) -> None:
        """A job's function is about to be called."""
        self._of(delivery.name).running.inc()

    def ended(self, delivery: Delivery, outcome: str, seconds: float) -> None:
        """A job's function has ended."""
        known = self._of(delivery.name)
        known.running.dec()
        known.ended[outcome].inc()
        known.duration.observe(seconds)

    def _of(self, name: str) -> _OfJob:
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = _OfJob(self, name)
        return known


class QueueCollector(Collector):
    """Reads the queue's metrics from the database whenever they are asked for. Needs the rights of an observer.

    Counts are added up over the arguments of channels, so that there are no more series than channel names.
    While the database does not answer, sqlxmq_queue_up is 0, and the others are absent.
    """

    def __init__(
        self,
        database: Database,
        *,
        channel_names: Sequence[str] | None = None,
        count_limit: int = 10_000,
        timeout: Duration = 5.0,
    ) -> None:
        """
        Args:
            database: a connection string, or a pool; each scrape makes a connection of its own, with what
                the pool makes its connections with.
            channel_names: only these; they are shown while they have no jobs, too (None: all that have jobs).
            count_limit: how many jobs of each channel are counted at most, 1 to 1000000.
            timeout: how long a scrape may take, a timedelta or seconds.

        Raises:
            TypeError: database is none of those, or channel_names is no list.
            ValueError: the timeout is not positive.
        """
        if isinstance(channel_names, str):
            raise TypeError(f"channel_names is {channel_names!r}, but it must be a list of names")
        limit = length_of(timeout, "timeout")
        if limit <= timedelta(0):
            raise ValueError(f"timeout is {timeout}, but it must be positive")
        # A connection that lives for one statement has nothing to prepare.
        self._source = Source(database, is_pooled=True)
        self._channel_names = None if channel_names is None else list(channel_names)
        self._count_limit = count_limit
        self._timeout = limit.total_seconds()
        self._turn = threading.Lock()

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The metrics without values: to register them does not take a database."""
        yield from self._families()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The metrics as they are now."""
        jobs, age, exact, up = families = self._families()
        rows = self._status()
        up.add_metric([], 0 if rows is None else 1)
        found = {row[0]: row[1:] for row in rows or ()}
        if rows is not None:
            for name in self._channel_names or ():
                found.setdefault(name, (*(0.0 for _ in STATES), None, True))
        for name, (*counts, oldest, is_exact) in found.items():
            for state, count in zip(STATES, counts, strict=True):
                jobs.add_metric([name, state], count)
            age.add_metric([name], max(0.0, oldest or 0.0))
            exact.add_metric([name], is_exact)
        yield from families

    def _families(self) -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
        return (
            GaugeMetricFamily("sqlxmq_queue_jobs", "Jobs in the queue, by state.", labels=["channel_name", "state"]),
            GaugeMetricFamily(
                "sqlxmq_queue_oldest_ready_age_seconds",
                "For how long the oldest job that is ready could have run; 0 if none is ready.",
                labels=["channel_name"],
            ),
            GaugeMetricFamily(
                "sqlxmq_queue_exact",
                "1 if all jobs were counted, 0 if there are more than the counts say.",
                labels=["channel_name"],
            ),
            GaugeMetricFamily("sqlxmq_queue_up", "1 if the database has answered, else 0."),
        )

    def _status(self) -> list[tuple[Any, ...]] | None:
        """The rows of STATUS; None if the database does not give them in time."""
        answer: queue.SimpleQueue[list[tuple[Any, ...]] | Exception] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answer.put(self._ask())
            except Exception as error:
                answer.put(error)
            finally:
                self._turn.release()

        # One at a time; in a thread, since nothing else ends the wait for a server that is frozen.
        if not self._turn.acquire(timeout=self._timeout):
            logger.warning("the queue's metrics could not be read: the scrape before is still waiting")
            return None
        threading.Thread(target=ask, name="sqlxmq metrics", daemon=True).start()
        try:
            got = answer.get(timeout=self._timeout)
        except queue.Empty:
            got = TimeoutError(f"no answer within {self._timeout} s")
        if isinstance(got, Exception):
            logger.warning("the queue's metrics could not be read: %s", got)
            return None
        return got

    def _ask(self) -> list[tuple[Any, ...]]:
        with (
            self._source.connect_in_thread(application_name="sqlxmq metrics") as connection,
            connection.transaction(),
        ):
            # In the transaction only: behind a transaction pooler the session is another's next.
            milliseconds = max(1, int(self._timeout * 1000))
            connection.execute("SELECT set_config('statement_timeout', %s, true)", (str(milliseconds),))
            return connection.execute(STATUS, (self._channel_names, self._count_limit)).fetchall()


_metrics: WeakKeyDictionary[CollectorRegistry, JobMetrics] = WeakKeyDictionary()


def instrument(
    registry: JobRegistry,
    database: Database | None = None,
    *,
    channel_names: Sequence[str] | None = None,
    collector_registry: CollectorRegistry = REGISTRY,
) -> JobMetrics:
    """Counts the jobs of a registry and, if a database is given, shows its queue. Several registries can
    share a collector registry, but only one database can be shown in it.

    Args:
        registry: whose jobs to count, in runners that are started from now on.
        database: of the queue; see QueueCollector. One worker of a fleet is enough to show it.
        channel_names: see QueueCollector.
        collector_registry: where the metrics are registered.

    Returns:
        What counts the jobs.

    Raises:
        ValueError: a queue is shown there already.
        TypeError: see QueueCollector.
    """
    if database is not None:
        collector_registry.register(QueueCollector(database, channel_names=channel_names))
    metrics = _metrics.get(collector_registry)
    if metrics is None:
        metrics = _metrics[collector_registry] = JobMetrics(collector_registry)
    if metrics not in registry.observers:
        registry.add_observer(metrics)
    return metrics


class MetricsServer:
    """The HTTP endpoint of metrics, in a thread of its own; as a context manager, it is closed on leaving.

    Attributes:
        address (str): of the interface it listens at.
        port (int): where it listens.
    """

    def __init__(
        self, port: int, address: str, collector_registry: CollectorRegistry, collector: QueueCollector | None
    ) -> None:
        self._server, self._thread = start_http_server(port, address, collector_registry)
        self._collector_registry = collector_registry
        self._collector: QueueCollector | None = None
        if collector is not None:
            try:
                collector_registry.register(collector)
            except ValueError:
                self.close()
                raise
            self._collector = collector
        self.address = address
        self.port: int = self._server.server_port

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def wait(self) -> None:
        """Waits until the endpoint is closed, for a process that does nothing else."""
        self._thread.join()

    def close(self) -> None:
        """Closes the endpoint. Can be called again."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        if self._collector is not None:
            self._collector_registry.unregister(self._collector)
            self._collector = None


def serve(
    port: int,
    address: str = "127.0.0.1",
    *,
    database: Database | None = None,
    channel_names: Sequence[str] | None = None,
    collector_registry: CollectorRegistry = REGISTRY,
) -> MetricsServer:
    """Serves metrics over HTTP: `serve(9464, database="postgresql://…").wait()` exports a queue without a worker.

    Args:
        port: where to listen; 0: any free one.
        address: of the interface to listen at; "0.0.0.0" for all.
        database: the queue to show until the endpoint is closed; see QueueCollector. None: no more than what
            is registered.
        channel_names: see QueueCollector.
        collector_registry: whose metrics to serve.

    Returns:
        The endpoint, which is open.

    Raises:
        OSError: the port cannot be had.
        ValueError: a queue is shown there already.
        TypeError: see QueueCollector.
    """
    collector = None if database is None else QueueCollector(database, channel_names=channel_names)
    return MetricsServer(port, address, collector_registry, collector)
