"""One delivery of a job: what running functions know of it, whichever way they run."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar, cast
from uuid import UUID

from sqlxmq._errors import JobStopped
from sqlxmq._options import Duration, length_of
from sqlxmq._outcomes import Cancel, Fail, Outcome, Retry, Snooze

C = TypeVar("C")
T = TypeVar("T")

FindContext = Callable[[type[Any]], Any]


class Delivery:
    """One delivery of a job: what CurrentJob, SyncCurrentJob and BatchItem have in common. A type for hints, of
    observers for example.

    Attributes:
        id (UUID): the job's id, the same over all attempts.
        name (str): the job's name.
        attempt (int): the number of this delivery, from 1: the fence.
        attempts_allowed (int): how many there can be.
        channel_name (str): the channel's name.
        channel_args (str): the channel's arguments.
        raw_json (str | None): the JSON payload as it was sent (None: there is none).
        raw_bytes (bytes | None): the binary payload (None: there is none).
        stop_reason (str | None): why the job is to stop: "lease lost", "cancelled", "time limit" or "worker ends"
            (None: it is not to).
        is_settled (bool): whether the function has completed the job itself.
    """

    __slots__ = (
        "_find_context",
        "_raw_headers",
        "_stopped",
        "attempt",
        "attempts_allowed",
        "channel_args",
        "channel_name",
        "id",
        "is_settled",
        "name",
        "raw_bytes",
        "raw_json",
        "stop_reason",
    )

    def __init__(
        self,
        find_context: FindContext,
        id: UUID,
        name: str,
        raw_json: str | None,
        raw_bytes: bytes | None,
        attempt: int,
        attempts_allowed: int,
        channel_name: str,
        channel_args: str,
        raw_headers: str | None,
    ) -> None:
        self.id = id
        self.name = name
        self.raw_json = raw_json
        self.raw_bytes = raw_bytes
        self.attempt = attempt
        self.attempts_allowed = attempts_allowed
        self.channel_name = channel_name
        self.channel_args = channel_args
        # Whether the function has completed the job itself: then there is nothing left to report.
        self.is_settled = False
        # Why the job is to stop, once it is: "lease lost", "cancelled", "time limit" or "worker ends".
        self.stop_reason: str | None = None
        self._raw_headers = raw_headers
        self._find_context = find_context
        self._stopped: threading.Event | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.id} attempt {self.attempt}>"

    def log_fields(self) -> dict[str, Any]:
        """What log records about this delivery carry as extra fields, so that all of them can be found by it; for the
        extra of log records of your own, too."""
        return {
            "job_id": str(self.id),
            "job_name": self.name,
            "attempt": self.attempt,
            "channel_name": self.channel_name,
            "channel_args": self.channel_args,
        }

    @property
    def headers(self) -> Mapping[str, str]:
        """What travelled beside the payload."""
        return {} if self._raw_headers is None else cast(dict[str, str], json.loads(self._raw_headers))

    @property
    def attempts_left(self) -> int:
        """How many attempts there are after this one. (Its number says less, since giving a job back raises the number,
        too, and does not count.)"""
        return self.attempts_allowed - self.attempt

    def json(self) -> Any:
        """The JSON payload, decoded; None if there is none."""
        return None if self.raw_json is None else json.loads(self.raw_json)

    def context(self, kind: type[C]) -> C:
        """What the registry was given with set_context, by its type.

        Args:
            kind: the type.

        Raises:
            MissingContextError: nothing of this type was given.
        """
        return cast(C, self._find_context(kind))

    @property
    def is_stopping(self) -> bool:
        """Whether the job is to stop; functions in threads look here now and then."""
        return self.stop_reason is not None

    def raise_if_stopped(self) -> None:
        """Looks whether the job is to stop.

        Raises:
            JobStopped: it is; the message names the reason.
        """
        if self.stop_reason is not None:
            raise JobStopped(f"job {self.id} is to stop: {self.stop_reason}")

    def wait_until_stopped(self, timeout: Duration) -> bool:
        """Sleeps, but not longer than until the job is to stop; for functions in threads.

        Args:
            timeout: a timedelta, or seconds.

        Returns:
            Whether the job is to stop.
        """
        if self._stopped is None:
            self._stopped = threading.Event()
        if self.stop_reason is not None:
            return True
        limit = length_of(timeout, "timeout")
        return self._stopped.wait(limit.total_seconds())

    def _stop(self, reason: str) -> None:
        # From any thread. The reason comes first: wait_until_stopped looks at it after making its event.
        self.stop_reason = self.stop_reason or reason
        if self._stopped is not None:
            self._stopped.set()


class BatchItem(Delivery, Generic[T]):
    """One job of a batch. Without a word, it is completed when the function returns, and failed when the
    function raises.

    Attributes:
        payload (T): the payload, decoded.
        outcome (Outcome | BaseException | None): what was said of this item (None: nothing).
        id (UUID): the job's id, the same over all attempts.
        name (str): the job's name.
        attempt (int): the number of this delivery, from 1: the fence.
        attempts_allowed (int): how many there can be.
        channel_name (str): the channel's name.
        channel_args (str): the channel's arguments.
        raw_json (str | None): the JSON payload as it was sent (None: there is none).
        raw_bytes (bytes | None): the binary payload (None: there is none).
        stop_reason (str | None): why the job is to stop: "lease lost", "cancelled", "time limit" or "worker ends"
            (None: it is not to).
        is_settled (bool): whether the function has completed the job itself.
    """

    __slots__ = ("outcome", "payload")

    payload: T
    outcome: Outcome | BaseException | None

    def fail(self, error: BaseException | str = "") -> None:
        """The attempt failed with this error, an exception or a text: the job is retried after its backoff, while
        attempts are left."""
        self.outcome = Retry(error) if isinstance(error, str) else error

    def fail_for_good(self, reason: str = "") -> None:
        """The job is dead, whatever attempts are left; the reason is kept as its last error."""
        self.outcome = Fail(reason)

    def retry(self, reason: str = "", *, in_: Duration | None = None) -> None:
        """The attempt failed, for this reason; `in_` is how long until the next, a timedelta or seconds (None: the
        job's backoff)."""
        self.outcome = Retry(reason, in_=in_)

    def snooze(self, in_: Duration) -> None:
        """The job is to run later, and this attempt does not count; `in_` is a timedelta or seconds."""
        self.outcome = Snooze(in_)

    def cancel(self, reason: str = "") -> None:
        """The job is not wanted any more, for this reason, and removed."""
        self.outcome = Cancel(reason)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Progress to be saved with a job: the next attempt, if there is one, starts from it.

    Attributes:
        duration (timedelta | float): keeps the job alive for at least so long from now, a timedelta or seconds.
        json_payload (Any): replaces the JSON payload, which holds the function's arguments (None: leave it).
        raw_json (str | None): the same as text; json_payload goes before it.
        raw_bytes (bytes | None): replaces the binary payload (None: leave it).
        extra_retries (int): attempts to add.
    """

    duration: Duration = timedelta(0)
    json_payload: Any = None
    raw_json: str | None = None
    raw_bytes: bytes | None = None
    extra_retries: int = 0
