"""Jobs in PostgreSQL: sent, run and completed in your own transactions.

The rules of the queue are in the database, in the extension of the same name; this package polls,
runs, keeps alive and reports.
"""

from sqlxmq._current_job import CurrentJob
from sqlxmq._errors import DecodingError, EncodingError, LeaseLost, SqlxmqError, UnknownJobError
from sqlxmq._job import Job, job
from sqlxmq._registry import JobRegistry
from sqlxmq._runner import JobRunner

__all__ = [
    "CurrentJob",
    "DecodingError",
    "EncodingError",
    "Job",
    "JobRegistry",
    "JobRunner",
    "LeaseLost",
    "SqlxmqError",
    "UnknownJobError",
    "job",
]
