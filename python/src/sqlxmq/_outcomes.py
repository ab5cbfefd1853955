"""What a job can return or raise to say how it ended."""

from __future__ import annotations

from sqlxmq._options import Duration, length_if_given, length_of


class Outcome(Exception):
    """How a job ended, when it neither just returned nor failed by an exception of its own. Returning it
    and raising it mean the same; raised `from` an error, it keeps that error's traceback with the job. The base class
    of the others.

    Attributes:
        reason (str): kept as the last error by those that fail.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or type(self).__name__)
        self.reason = reason


class Retry(Outcome):
    """The attempt failed, and the next one is to come after `in_`: what mq_fail does with retry_in. With no
    attempts left, the job is dead.

    Attributes:
        reason (str): kept as the last error.
        in_ (timedelta | None): how long until the next attempt (None: the job's backoff).
    """

    def __init__(self, reason: str = "", *, in_: Duration | None = None) -> None:
        """
        Args:
            reason: kept as the last error.
            in_: how long until the next attempt, a timedelta or seconds (None: the job's backoff).
        """
        super().__init__(reason)
        self.in_ = length_if_given(in_, "in_")


class Fail(Outcome):
    """The job failed for good: it is dead, whatever attempts are left.

    Attributes:
        reason (str): kept as the last error.
    """


class Snooze(Outcome):
    """The job wants to run later; the attempt does not count: what mq_release does.

    Attributes:
        in_ (timedelta): how long until it is due again.
        reason (str): for logs.
    """

    def __init__(self, in_: Duration, reason: str = "") -> None:
        """
        Args:
            in_: how long until it is due again, a timedelta or seconds.
            reason: for logs.
        """
        super().__init__(reason)
        self.in_ = length_of(in_, "in_")


class Cancel(Outcome):
    """The job is not wanted any more: it is removed, as if it were complete.

    Attributes:
        reason (str): for logs.
    """
