"""Every statement that the package sends on behalf of an application, independent of the driver.

Placeholders are $1, $2 … in their order, each used once, so that every driver's own form can be made
of them by counting. Values are what all drivers can send: text, numbers, booleans, bytes, timedelta,
None, and lists of these; whatever needs a type gets it by a cast. Ids travel as text, both ways:
applications change what drivers make of uuid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import UUID

from sqlxmq._errors import LeaseLost

if TYPE_CHECKING:
    from sqlxmq._builder import JobBuilder

T = TypeVar("T")
Rows = Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Statement(Generic[T]):
    """A statement and what to make of its rows.

    Attributes: text; parameters; read, which turns all rows into the result; fences, the ids and the
    attempts whose loss the database may report, which is then raised as LeaseLost.
    """

    text: str
    parameters: Sequence[Any]
    read: Callable[[Rows], T]
    fences: Sequence[tuple[UUID, int]] = ()


def _nothing(rows: Rows) -> None:
    return None


def _ids(rows: Rows) -> list[UUID]:
    return [UUID(row[0]) for row in rows]


def _texts(ids: Iterable[UUID | str]) -> list[str]:
    if isinstance(ids, str):
        raise TypeError(f"ids is {ids!r}, but it must be a list of ids")
    return [_text(id) for id in ids]


def _text(id: UUID | str) -> str:
    try:
        return str(UUID(str(id)))
    except ValueError:
        raise ValueError(f"{id!r} is not an id: it must be a UUID") from None


# The arguments of mq_enqueue_many, and the builder's attribute that fills each. What no message of a
# call sets is left to the database's default.
_SENT: tuple[tuple[str, str, str], ...] = (
    ("payloads", "text", "raw_json"),
    ("channel_names", "text", "channel_name"),
    ("channel_args", "text", "channel_args"),
    ("delays", "interval", "delay"),
    ("retries", "integer", "retries"),
    ("retry_backoffs", "interval", "retry_backoff"),
    ("ordered", "boolean", "ordered"),
    ("priorities", "integer", "priority"),
    ("commit_intervals", "interval", "commit_interval"),
    ("payloads_bytes", "bytea", "raw_bytes"),
    ("when_dead", "text", "when_dead"),
)

# All jobs, in the order in which they were sent.
JOBS = """
    SELECT id::text, name, state, payload_json::text, payload_bytes, channel_name, channel_args, priority, ordered,
           when_dead, headers::text, attempts_made, attempts_left, retry_backoff, created_at, due_at, reserved_until,
           last_error
    FROM mq_jobs ORDER BY position
"""


def enqueue(builders: Sequence[JobBuilder], headers: Sequence[str | None]) -> Statement[list[UUID]]:
    """Sends jobs, all or none; their ids, in the same order."""
    parameters: list[Any] = []
    arguments: list[str] = []

    def add(argument: str, type: str, values: list[Any], cast: str = "") -> None:
        first = values[0] if values else None
        if first is None or values.count(first) < len(values):
            parameters.append(values)
            value = f"${len(parameters)}::{type}[]"
        elif len(values) == 1:
            parameters.append(first)
            value = f"ARRAY[${len(parameters)}::{type}]"
        else:
            # The same for all: sent once.
            parameters.extend((first, len(values)))
            value = f"array_fill(${len(parameters) - 1}::{type}, ARRAY[${len(parameters)}::integer])"
        arguments.append(f"{argument} => {value}{cast}")

    def add_if_set(argument: str, type: str, values: list[Any], cast: str = "") -> None:
        if any(value is not None for value in values):
            add(argument, type, values, cast)

    add("names", "text", [builder.name for builder in builders])
    for argument, type, attribute in _SENT:
        add_if_set(argument, type, [getattr(builder, attribute) for builder in builders])
    add_if_set("ids", "text", [None if builder.id is None else str(builder.id) for builder in builders], "::uuid[]")
    add_if_set("headers", "text", list(headers))
    return Statement(f"SELECT mq_enqueue_many({', '.join(arguments)})::text", parameters, _ids)


def commit(ids: Iterable[UUID | str]) -> Statement[list[UUID]]:
    """Makes reserved jobs real; the ids that were reserved."""
    return Statement("SELECT mq_commit($1::text[]::uuid[])::text", [_texts(ids)], _ids)


def clear(channel_names: Sequence[str]) -> Statement[None]:
    """Removes all jobs of these channel names."""
    return Statement("SELECT 1 FROM mq_clear($1::text[])", [list(channel_names)], _nothing)


def clear_all() -> Statement[None]:
    """Removes all jobs."""
    return Statement("SELECT 1 FROM mq_clear_all()", [], _nothing)


def exists(id: UUID | str) -> Statement[bool]:
    """Whether the job is in the queue."""
    return Statement("SELECT 1 FROM mq_msgs WHERE id = $1::text::uuid", [_text(id)], bool)


def cancel(ids: Iterable[UUID | str]) -> Statement[Mapping[UUID, str]]:
    """Cancels jobs; what became of each that is in the queue."""
    return Statement(
        "SELECT msg_id::text, outcome FROM mq_cancel($1::text[]::uuid[])",
        [_texts(ids)],
        lambda rows: {UUID(id): outcome for id, outcome in rows},
    )


def retry(ids: Iterable[UUID | str], retries: int, delay: timedelta) -> Statement[list[UUID]]:
    """Gives dead jobs another try; the ids that were dead."""
    return Statement(
        "SELECT mq_retry($1::text[]::uuid[], $2::integer, $3::interval)::text", [_texts(ids), retries, delay], _ids
    )


def complete(id: UUID, attempt: int) -> Statement[None]:
    """Completes a running job."""
    return Statement(
        "SELECT 1 FROM mq_complete($1::text::uuid, $2::integer)", [str(id), attempt], _nothing, [(id, attempt)]
    )


def complete_many(keys: Sequence[tuple[UUID, int]]) -> Statement[None]:
    """Completes running jobs, all or none."""
    # For those that were not held, the form for one job raises the error: the statement as a whole fails,
    # also where it is a transaction of its own.
    return Statement(
        "WITH named AS (SELECT id, attempt FROM unnest($1::text[]::uuid[], $2::integer[]) AS named (id, attempt)),"
        " completed AS MATERIALIZED (SELECT mq_complete(array_agg(id), array_agg(attempt)) AS id FROM named"
        " HAVING count(*) > 0)"
        " SELECT mq_complete(id, attempt) FROM named WHERE id NOT IN (SELECT id FROM completed)",
        [[str(id) for id, _ in keys], [attempt for _, attempt in keys]],
        _nothing,
        keys,
    )


def checkpoint(
    id: UUID, attempt: int, duration: timedelta, raw_json: str | None, raw_bytes: bytes | None, extra_retries: int
) -> Statement[None]:
    """Keeps a running job alive and replaces its payload."""
    return Statement(
        "SELECT 1 FROM mq_checkpoint($1::text::uuid, $2::interval, $3::text, $4::bytea, $5::integer, $6::integer)",
        [str(id), duration, raw_json, raw_bytes, extra_retries, attempt],
        _nothing,
        [(id, attempt)],
    )


def keep_alive(id: UUID, attempt: int, duration: timedelta) -> Statement[None]:
    """Pushes a running job's lease."""

    def is_held(rows: Rows) -> None:
        if not rows or not rows[0][0]:
            raise LeaseLost(id, attempt)

    return Statement(
        "SELECT is_held FROM mq_keep_alive($1::text[]::uuid[], $2::interval, $3::integer[])",
        [[str(id)], duration, [attempt]],
        is_held,
    )
