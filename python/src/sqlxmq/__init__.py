"""Jobs in PostgreSQL: sent, run and completed in your own transactions.

The rules of the queue are in the database, in the extension of the same name; this package polls,
runs, keeps alive and reports.
"""

from sqlxmq._async.current_job import Batch, CurrentJob
from sqlxmq._builder import JobBuilder, spawn_many
from sqlxmq._context import from_context
from sqlxmq._delivery import BatchItem, Checkpoint, Delivery
from sqlxmq._errors import (
    DecodingError,
    EncodingError,
    JobStopped,
    LeaseLost,
    MissingContextError,
    QueueNotFoundError,
    SqlxmqError,
    TimeLimitExceeded,
    UnknownJobError,
)
from sqlxmq._group import ChannelGroup
from sqlxmq._job import BatchJob, Job, job
from sqlxmq._observers import Observer
from sqlxmq._options import JobOptions
from sqlxmq._outcomes import Cancel, Fail, Outcome, Retry, Snooze
from sqlxmq._queue import cancel, clear, clear_all, commit, exists, retry, should_retry
from sqlxmq._registry import JobRegistry
from sqlxmq._runner import JobRunner
from sqlxmq._senders import AsyncSender, SyncSender
from sqlxmq._sync.current_job import SyncBatch, SyncCurrentJob
from sqlxmq._sync_runner import SyncJobRunner

__all__ = [
    "AsyncSender",
    "Batch",
    "BatchItem",
    "BatchJob",
    "Cancel",
    "ChannelGroup",
    "Checkpoint",
    "CurrentJob",
    "DecodingError",
    "Delivery",
    "EncodingError",
    "Fail",
    "Job",
    "JobBuilder",
    "JobOptions",
    "JobRegistry",
    "JobRunner",
    "JobStopped",
    "LeaseLost",
    "MissingContextError",
    "Observer",
    "Outcome",
    "QueueNotFoundError",
    "Retry",
    "Snooze",
    "SqlxmqError",
    "SyncBatch",
    "SyncCurrentJob",
    "SyncJobRunner",
    "SyncSender",
    "TimeLimitExceeded",
    "UnknownJobError",
    "cancel",
    "clear",
    "clear_all",
    "commit",
    "exists",
    "from_context",
    "job",
    "retry",
    "should_retry",
    "spawn_many",
]
