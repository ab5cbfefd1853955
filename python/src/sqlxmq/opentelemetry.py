"""Traces of jobs for OpenTelemetry, from the sender to the function: `pip install sqlxmq[opentelemetry]`.

Spans follow OpenTelemetry's semantic conventions for messaging; what is the queue's own is in the namespace
messaging.sqlxmq. The trace travels in the job's headers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from uuid import UUID

from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer, TracerProvider
from opentelemetry.util.types import AttributeValue

from sqlxmq import _tracing
from sqlxmq._builder import JobBuilder
from sqlxmq._delivery import Delivery

__all__ = ["instrument", "uninstrument"]


def instrument(tracer_provider: TracerProvider | None = None, propagator: TextMapPropagator | None = None) -> None:
    """Traces all jobs that this process sends and runs from now on. Called again, it replaces what was set.

    Args:
        tracer_provider: where spans go (None: the global one).
        propagator: writes the trace into headers and reads it from them (None: the global one).
    """
    tracer = trace.get_tracer("sqlxmq", version("sqlxmq"), tracer_provider)
    _tracing.tracer = _JobTracer(tracer, propagator or propagate.get_global_textmap())


def uninstrument() -> None:
    """Traces no more; jobs that are running end their spans."""
    _tracing.tracer = None


class _JobTracer:
    """Makes the spans."""

    def __init__(self, tracer: Tracer, propagator: TextMapPropagator) -> None:
        self._tracer = tracer
        self._propagator = propagator

    def sending(self, builders: Sequence[JobBuilder], *, is_batch: bool) -> _Sending:
        attributes, destination = _described(
            "send", [(builder.channel_name or "", builder.channel_args or "", builder.name) for builder in builders]
        )
        if is_batch:
            attributes["messaging.batch.message_count"] = len(builders)
        # A trace that the application has put into a job's headers itself stays as it is, and is linked to.
        given = {index: link for index, builder in enumerate(builders) if (link := self._link(builder.headers))}
        span = self._tracer.start_span(f"send {destination}", None, SpanKind.PRODUCER, attributes, list(given.values()))
        carried: dict[str, str] = {}
        self._propagator.inject(carried, trace.set_span_in_context(span))
        return _Sending(
            span, [{**({} if index in given else carried), **builder.headers} for index, builder in enumerate(builders)]
        )

    @contextmanager
    def running(self, deliveries: Sequence[Delivery], *, is_batch: bool) -> Iterator[_Running]:
        attributes, destination = _described(
            "process", [(delivery.channel_name, delivery.channel_args, delivery.name) for delivery in deliveries]
        )
        # Never the context of whoever happened to start the runner.
        parent = Context()
        if is_batch:
            # A span has one parent, but each job of a batch has a sender of its own: links.
            attributes["messaging.batch.message_count"] = len(deliveries)
            links = [link for one in deliveries if (link := self._link(one.headers, _identity(one)))]
        else:
            # One job has one sender, and nothing else is around its function: as a child of the sender's span
            # it is in its trace, and sampled like it. The conventions leave that to be chosen, and want the
            # link in either case.
            (delivery,) = deliveries
            attributes.update(_identity(delivery))
            parent = self._extract(delivery.headers)
            link = self._link(delivery.headers)
            links = [link] if link else []
        span = self._tracer.start_span(f"process {destination}", parent, SpanKind.CONSUMER, attributes, links)
        token = context.attach(trace.set_span_in_context(span, parent))
        running = _Running(span, is_batch=is_batch)
        try:
            yield running
        finally:
            context.detach(token)
            running.finish()

    def _extract(self, headers: Mapping[str, str]) -> Context:
        return self._propagator.extract(headers, context=Context())

    def _link(self, headers: Mapping[str, str], attributes: Mapping[str, AttributeValue] | None = None) -> Link | None:
        if not headers:
            return None
        sender = trace.get_current_span(self._extract(headers)).get_span_context()
        return Link(sender, attributes) if sender.is_valid else None


class _Sending:
    """The span around the sending of jobs."""

    def __init__(self, span: Span, headers: Sequence[Mapping[str, str]]) -> None:
        self._span = span
        self.headers = headers

    @contextmanager
    def under_way(self) -> Iterator[None]:
        try:
            with trace.use_span(self._span, record_exception=False, set_status_on_exception=False):
                yield
        except BaseException as error:
            _set_error(self._span, _name_of(error), str(error))
            self._span.record_exception(error)
            self._span.end()
            raise

    def sent(self, id: UUID | None) -> None:
        if id is not None:
            self._span.set_attribute("messaging.message.id", str(id))
        self._span.end()


class _Running:
    """The span around the running of a function."""

    def __init__(self, span: Span, *, is_batch: bool) -> None:
        self._span = span
        self._is_batch = is_batch
        self._outcomes: Counter[str] = Counter()
        self._recorded: list[BaseException] = []

    def ended(self, delivery: Delivery, outcome: str, error: BaseException | None) -> None:
        self._outcomes[outcome] += 1
        # Other outcomes are no errors: the function has asked for them, or the worker has.
        if outcome not in ("failed", "lost"):
            return
        _set_error(self._span, delivery.stop_reason or _name_of(error), str(error or delivery.stop_reason))
        if error is not None and not any(error is one for one in self._recorded):
            self._recorded.append(error)
            self._span.record_exception(error)

    def finish(self) -> None:
        """Ends the span."""
        if self._is_batch:
            for outcome, jobs in self._outcomes.items():
                self._span.set_attribute(f"messaging.sqlxmq.batch.{outcome}", jobs)
        else:
            for outcome in self._outcomes:
                self._span.set_attribute("messaging.sqlxmq.job.outcome", outcome)
        self._span.end()


def _described(operation: str, jobs: Sequence[tuple[str, str, str]]) -> tuple[dict[str, AttributeValue], str]:
    """The attributes that all of these jobs (channel name, channel arguments, name) share, and what the span's
    name says that they go to: the channel's name or, as that may be empty, the job's."""
    attributes: dict[str, AttributeValue] = {
        "messaging.system": "sqlxmq",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
    }
    # The channel's arguments are what divides a channel: the conventions call that a partition.
    keys = ("messaging.destination.name", "messaging.destination.partition.id", "messaging.sqlxmq.job.name")
    for key, values in zip(keys, zip(*jobs, strict=True), strict=False):
        if len(set(values)) == 1 and (values[0] or key != "messaging.destination.partition.id"):
            attributes[key] = values[0]
    destination = attributes.get("messaging.destination.name") or attributes.get("messaging.sqlxmq.job.name")
    return attributes, str(destination or "jobs")


def _identity(delivery: Delivery) -> dict[str, AttributeValue]:
    return {
        "messaging.message.id": str(delivery.id),
        "messaging.sqlxmq.job.attempt": delivery.attempt,
        "messaging.sqlxmq.job.attempts_allowed": delivery.attempts_allowed,
    }


def _set_error(span: Span, kind: str, description: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR, description)


def _name_of(error: BaseException | None) -> str:
    kind = type(error)
    # The package's own by their public names.
    module = "sqlxmq" if kind.__module__.startswith("sqlxmq._") else kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"
