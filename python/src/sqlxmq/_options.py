"""How a job is sent."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import TypeAlias
from uuid import UUID

from typing_extensions import Self

# A length of time: a timedelta, or seconds.
Duration: TypeAlias = timedelta | float


def length_of(duration: Duration, what: str = "the duration") -> timedelta:
    """A duration as a timedelta. Raises TypeError or ValueError, which name what, if it is none."""
    if isinstance(duration, timedelta):
        return duration
    if not isinstance(duration, int | float):
        raise TypeError(f"{what} is {duration!r}, but it must be a timedelta or a number of seconds")
    try:
        return timedelta(seconds=duration)
    except (ValueError, OverflowError):
        raise ValueError(f"{what} is {duration!r} seconds, which a timedelta cannot hold") from None


def length_if_given(duration: Duration | None, what: str = "the duration") -> timedelta | None:
    """The same for what need not be given."""
    return None if duration is None else length_of(duration, what)


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """How a job is sent: the arguments of mq_enqueue. What is None is left to the next in line: the call,
    then the decorator, then its proto, and in the end the database's defaults. Durations are given as timedeltas or
    seconds, and kept as timedeltas. It cannot be changed.

    Attributes:
        channel_name (str | None): the channel's name, which workers subscribe to.
        channel_args (str | None): the channel's arguments: with the name, the unit of fairness and of order.
        delay (timedelta | None): how long the job waits before it is due.
        retries (int | None): attempts after the first.
        retry_backoff (timedelta | None): least lease of the first attempt and wait after its failure, doubling with
            each; elsewhere this is backoff_secs, in seconds.
        ordered (bool | None): whether it runs in strict order with the other ordered jobs of its channel.
        priority (int | None): smaller first, within the channel (-32768 to 32767).
        commit_interval (timedelta | None): for how long the job is only reserved, until commit() makes it real.
        when_dead (str | None): "hold" or "pass", what an ordered job does to those behind it once it is dead.
        id (UUID | None): the job's own id, to send it once only.
    """

    channel_name: str | None = None
    channel_args: str | None = None
    delay: Duration | None = None
    retries: int | None = None
    retry_backoff: Duration | None = None
    ordered: bool | None = None
    priority: int | None = None
    commit_interval: Duration | None = None
    when_dead: str | None = None
    id: UUID | None = None

    def __post_init__(self) -> None:
        for name in ("delay", "retry_backoff", "commit_interval"):
            object.__setattr__(self, name, length_if_given(getattr(self, name), name))

    def over(self, other: JobOptions) -> Self:
        """These options, and where they are silent those of other."""
        return replace(
            self,
            **{field.name: getattr(other, field.name) for field in fields(self) if getattr(self, field.name) is None},
        )
