"""How the run of a job ended, and what follows from it: decided here, for the runner and for tests alike."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Sequence
from datetime import timedelta
from typing import Literal, NamedTuple, TypeAlias

from sqlxmq._delivery import BatchItem, Delivery
from sqlxmq._errors import JobStopped, LeaseLost, TimeLimitExceeded
from sqlxmq._outcomes import Cancel, Fail, Outcome, Retry, Snooze
from sqlxmq._reporter import Failure, Key, Release

# What the database is to be told; None: nothing.
Report: TypeAlias = Literal["complete"] | Failure | Release | None


class Ending(NamedTuple):
    """What follows from how a delivery ended.

    Attributes: outcome, its name, as observers are told it; report, what the database is to be told;
    error, what the error handler is to be told (None: nothing); ended, what the function raised, or the
    Outcome that it said (None: it just returned).
    """

    outcome: str
    report: Report
    error: BaseException | None
    ended: BaseException | None = None


# By far the most frequent ones, made once.
_COMPLETED = Ending("completed", "complete", None)
_COMPLETED_ITSELF = Ending("completed", None, None)


def text_of(error: BaseException) -> str:
    """An error with its traceback, as PostgreSQL's text can hold it."""
    return _sendable("".join(traceback.format_exception(error)))


def _sendable(text: str) -> str:
    # Neither NUL nor half a surrogate pair.
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")


def failed(key: Key, error: BaseException) -> Ending:
    """A delivery that failed with an error: retried after its backoff, while attempts are left."""
    return Ending("failed", Failure(key, text_of(error), None, False), error, error)


def ending_of(
    delivery: Delivery, ended: BaseException | None, time_limit: timedelta | None, together: Sequence[Delivery]
) -> Ending:
    """What follows for one delivery; what was said of an item of a batch goes before all else.

    Args:
        delivery: the delivery, which knows whether it was completed, and why it was to stop.
        ended: what the function raised, or the Outcome that it returned. None: it returned anything else.
        time_limit: the job's.
        together: all deliveries that the function was called for.
    """
    if isinstance(delivery, BatchItem) and delivery.outcome is not None:
        ended = delivery.outcome
    if ended is None:
        return _COMPLETED_ITSELF if delivery.is_settled else _COMPLETED
    key = (delivery.id, delivery.attempt)
    match ended:
        case Cancel():
            return Ending("cancelled", None if delivery.is_settled else "complete", None, ended)
        case Snooze():
            return Ending("snoozed", Release(key, ended.in_), None, ended)
        case Retry():
            return Ending("retried", Failure(key, _reason(ended), ended.in_, False), None, ended)
        case Fail():
            return Ending("failed", Failure(key, _reason(ended), None, True), ended, ended)
        case LeaseLost() if ended.id == delivery.id:
            # Somebody else has the job: there is nothing to report, nobody to give it back to.
            return Ending("lost", None, ended, ended)
        case asyncio.CancelledError() | JobStopped():
            match delivery.stop_reason:
                case "lease lost":
                    return Ending("lost", None, None, ended)
                case "worker ends":
                    return Ending("released", Release(key, timedelta(0)), None, ended)
                case "time limit":
                    error = TimeLimitExceeded(f"the job took longer than its time limit, {time_limit}")
                    error.__cause__ = ended
                    return failed(key, error)
                case "cancelled":
                    # Reported as failed, it is let go of, and removed.
                    return Ending("cancelled", Failure(key, "cancelled", None, False), None, ended)
    if isinstance(ended, LeaseLost | JobStopped) and any(_concerns(ended, other) for other in together):
        # Another job of the batch was lost, or is to stop. This one has done no wrong.
        return Ending("released", Release(key, timedelta(0)), None, ended)
    return failed(key, ended)


def _concerns(ended: BaseException, delivery: Delivery) -> bool:
    if isinstance(ended, LeaseLost):
        return ended.id == delivery.id
    return delivery.stop_reason is not None


def _reason(ended: Outcome) -> str:
    if ended.__cause__ is not None:
        return text_of(ended)
    return _sendable(str(ended.reason or type(ended).__name__))
