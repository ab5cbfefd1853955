"""The seam at which tracing comes in: nothing happens here until sqlxmq.opentelemetry takes it over."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlxmq._builder import JobBuilder


class Tracer:
    """Traces nothing."""

    def sending(self, builder: JobBuilder) -> AbstractContextManager[Mapping[str, str]]:
        """Around the sending of a job: what is to travel beside its payload."""
        return nullcontext({})

    def running(self, job: Any) -> AbstractContextManager[None]:
        """Around the running of a job's function, in its task or thread."""
        return nullcontext()


tracer = Tracer()
