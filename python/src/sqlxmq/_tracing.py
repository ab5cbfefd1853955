"""The seam at which tracing comes in: there is no tracer until sqlxmq.opentelemetry puts one here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from sqlxmq._delivery import Delivery

if TYPE_CHECKING:
    from sqlxmq._builder import JobBuilder


class Sending(Protocol):
    """The sending of jobs by one call, from its beginning.

    Attributes: headers, what is to travel beside the payload of each job: the builder's own, and the trace.
    """

    headers: Sequence[Mapping[str, str]]

    def under_way(self) -> AbstractContextManager[None]:
        """Around each piece of the sending; an error ends it."""
        ...

    def sent(self, id: UUID | None) -> None:
        """It has succeeded; id: the job's, None for many jobs."""
        ...


class Running(Protocol):
    """The running of a function for a job, or for a batch of them."""

    def ended(self, delivery: Delivery, outcome: str, error: BaseException | None) -> None:
        """How it went for one job: the outcome as in Observer.ended, and what the function raised or said."""
        ...


class Tracer(Protocol):
    """Traces jobs."""

    def sending(self, builders: Sequence[JobBuilder], *, is_batch: bool) -> Sending:
        """Begins the sending of these jobs; is_batch: whether by spawn_many."""
        ...

    def running(self, deliveries: Sequence[Delivery], *, is_batch: bool) -> AbstractContextManager[Running]:
        """Around the running of a function, in its task; threads get a copy of the task's context."""
        ...


tracer: Tracer | None = None
