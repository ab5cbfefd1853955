"""What a job can return or raise to say how it ended."""

from __future__ import annotations

from sqlxmq._options import Duration, length_if_given, length_of


class Outcome(Exception):
    """How a job ended, when it neither just returned nor failed by an exception of its own. Returning it
    and raising it mean the same; raised `from` an error, it keeps that error's traceback with the job.

    Attributes: reason, for whoever looks at the job later.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or type(self).__name__)
        self.reason = reason


class Retry(Outcome):
    """The attempt failed, and the next one is to come after in_: what mq_fail does with retry_in. With no
    attempts left, the job is dead.

    Attributes: in_, a timedelta (None: the job's backoff).
    """

    def __init__(self, reason: str = "", *, in_: Duration | None = None) -> None:
        """in_: a timedelta, or seconds. None: the job's backoff."""
        super().__init__(reason)
        self.in_ = length_if_given(in_, "in_")


class Fail(Outcome):
    """The job failed for good: it is dead, whatever attempts are left."""


class Snooze(Outcome):
    """The job wants to run later; the attempt does not count: what mq_release does.

    Attributes: in_, a timedelta.
    """

    def __init__(self, in_: Duration, reason: str = "") -> None:
        """in_: a timedelta, or seconds."""
        super().__init__(reason)
        self.in_ = length_of(in_, "in_")


class Cancel(Outcome):
    """The job is not wanted any more: it is removed, as if it were complete."""
