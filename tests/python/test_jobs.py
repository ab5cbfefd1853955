"""What @job makes of a function."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID, uuid4

import pytest

from sqlxmq import (
    Batch,
    BatchJob,
    CurrentJob,
    EncodingError,
    Job,
    JobBuilder,
    JobOptions,
    JobRegistry,
    MissingContextError,
    SyncBatch,
    SyncCurrentJob,
    from_context,
    job,
)
from tests.python.conftest import Database

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForCheckers


@job
async def bare(to: str) -> str:
    """Without parentheses."""
    return to


@job()
def with_parentheses(to: str) -> str:
    """With parentheses."""
    return to * 2


@job("send_mail", channel_name="mail", retries=2, backoff_secs=5.0, priority=3)
async def send_mail(current_job: CurrentJob, to: str, subject: str = "Hello") -> tuple[CurrentJob, str, str]:
    return current_job, to, subject


# Names and functions


def test_the_name() -> None:
    assert bare.name == "tests.python.test_jobs.bare"
    assert with_parentheses.name == "tests.python.test_jobs.with_parentheses"
    assert send_mail.name == "send_mail"
    assert repr(send_mail) == "<Job send_mail>"
    with pytest.raises(TypeError, match="name is 5, but it must be a text"):
        job(5)  # type: ignore[call-overload]


async def test_a_job_is_still_a_function() -> None:
    assert await bare("a") == "a"
    assert with_parentheses("a") == with_parentheses(to="a") == "aa"
    current: Any = object()
    assert await send_mail(current, "x") == (current, "x", "Hello")
    assert (bare.is_async, with_parentheses.is_async) == (True, False)
    assert bare.__doc__ == "Without parentheses."
    assert inspect.unwrap(bare) is bare.function
    assert list(inspect.signature(bare).parameters) == ["to"]
    assert (bare.takes_current_job, send_mail.takes_current_job) == (False, True)


class Mails:
    @job
    async def in_class(to: str) -> str:
        return to

    @staticmethod
    @job
    def inside(to: str) -> str:
        return to

    @job
    @staticmethod
    async def outside(to: str) -> str:
        return to

    def method(self, to: str) -> str:
        return to

    @classmethod
    def of_class(cls, to: str) -> str:
        return cls.__name__ + to

    def __call__(self, to: str) -> None: ...


async def test_jobs_in_a_class() -> None:
    assert Mails.in_class.name == "tests.python.test_jobs.Mails.in_class"
    through_object: Any = Mails()
    assert await Mails.in_class("a") == await through_object.in_class("a") == "a"
    assert Mails.inside("a") == Mails().inside("a") == "a"
    assert Mails.outside.is_async
    assert await Mails.outside("a") == "a"
    for made in (Mails.in_class, Mails.inside, Mails.outside):
        assert made.prepare("a").raw_json == '{"to":"a"}'


def test_methods() -> None:
    with pytest.raises(TypeError, match=r"job .*Mails.method is a method: there is no object that a worker could"):
        job(Mails.method)
    with pytest.raises(TypeError, match="is a method"):

        class Local:
            @job("name")
            async def send(self, to: str) -> None: ...

    # Where there is an object, that is the one.
    bound = job(Mails().method)
    assert bound.prepare("a").raw_json == '{"to":"a"}'
    assert bound("a") == "a"
    assert job(Mails.of_class)("a") == "Mailsa"


def test_what_no_job_can_be_made_of() -> None:
    async def async_generator() -> AsyncIterator[int]:
        yield 1

    def generator() -> Iterator[int]:
        yield 1

    things: list[Any] = [
        async_generator,
        generator,
        functools.partial(generator),
        Mails,
        5,
        bare,
        classmethod(generator),  # type: ignore[arg-type]
    ]
    for thing in things:
        with pytest.raises(TypeError, match="@job takes a function or an async function, not"):
            job("name")(thing)
    with pytest.raises(TypeError, match=r"functools.partial.* has no name of its own: give the job one"):
        job()(functools.partial(print, "a"))
    with pytest.raises(TypeError, match="has no name of its own"):
        job()(Mails())


async def test_partial_functions_and_objects() -> None:
    async def add(first: int, second: int) -> int:
        return first + second

    partial = job("partial")(functools.partial(add, 1))
    assert partial.is_async
    assert partial.prepare(second=2).raw_json == '{"second":2}'
    assert await partial(second=2) == 3  # type: ignore[call-arg]
    assert job("object")(Mails()).prepare("a").raw_json == '{"to":"a"}'

    class Asynchronous:
        async def __call__(self, to: str) -> str:
            return to

    made = job("asynchronous")(Asynchronous())
    assert made.is_async
    assert await made("a") == "a"


async def test_decorated_functions() -> None:
    def twice(function: Any) -> Any:
        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return [await function(*args, **kwargs) for _ in range(2)]

        return wrapper

    @job
    @twice
    async def decorated(current_job: CurrentJob, to: str, in_: timedelta = timedelta(0)) -> str:
        return to

    assert decorated.is_async
    assert decorated.takes_current_job
    assert decorated.name.endswith("test_decorated_functions.<locals>.decorated")
    assert decorated.prepare("a").raw_json == '{"to":"a"}'
    assert await decorated(None, "a") == ["a", "a"]


def test_parameters_must_have_names() -> None:
    def nameless(*paths: str) -> None: ...

    async def open_ended(**paths: str) -> None: ...

    def by_position(paths: str, /) -> None: ...

    for function in (nameless, open_ended, by_position):
        with pytest.raises(TypeError, match="parameter paths must have a name to be sent under"):
            job()(function)


def test_annotations_that_are_not_known_when_the_program_runs() -> None:
    class Local: ...

    def only_for_checkers(amount: OnlyForCheckers) -> None: ...

    def local(mail: Local) -> None: ...

    def returns() -> OnlyForCheckers:
        raise NotImplementedError

    def from_the_context(mail: OnlyForCheckers = from_context("mail"), *, other: int = 3) -> None: ...

    def without_name(mail: OnlyForCheckers = from_context()) -> None: ...

    with pytest.raises(
        TypeError, match="parameter amount is annotated as OnlyForCheckers, which is not known when the"
    ):
        job(only_for_checkers)
    with pytest.raises(TypeError, match="parameter mail is annotated as Local, which is not known when the program"):
        job(local)
    with pytest.raises(TypeError, match="parameter mail is annotated as OnlyForCheckers, which is not known"):
        job(without_name)
    assert job(returns).prepare().raw_json == "{}"
    assert context_of(from_the_context, JobRegistry().set_context(5, name="mail")) == {"mail": 5}


# The current job


def test_the_current_job_must_fit_the_function() -> None:
    def sync_with_async(current_job: CurrentJob) -> None: ...

    async def async_with_sync(current_job: SyncCurrentJob) -> None: ...

    def second(to: str, current_job: SyncCurrentJob) -> None: ...

    def batch_alone(batch: SyncBatch[int]) -> None: ...

    async def only_by_name(*, current_job: CurrentJob) -> None: ...

    def perhaps(current_job: SyncCurrentJob | None = None) -> None: ...

    for function, match in (
        (sync_with_async, "parameter current_job is a CurrentJob, but this function takes a SyncCurrentJob"),
        (async_with_sync, "parameter current_job is a SyncCurrentJob, but this function takes a CurrentJob"),
        (second, "parameter current_job is a SyncCurrentJob, but it must come first"),
        (batch_alone, "parameter batch is a SyncBatch, but this function takes a SyncCurrentJob"),
        (only_by_name, "parameter current_job must be one that can be given by its position"),
        (perhaps, "parameter current_job cannot be read from JSON"),
    ):
        with pytest.raises(TypeError, match=match):
            job()(function)

    @job
    async def by_position(current_job: CurrentJob, /, current: int) -> None: ...

    assert by_position.prepare(current=3).raw_json == '{"current":3}'


# Options


def options_of(builder: JobBuilder) -> dict[str, Any]:
    return {name: value for name, value in vars(builder).items() if value not in (None, {}) and name != "raw_json"}


PROTO = JobOptions(channel_name="proto", retries=7, delay=timedelta(minutes=1), when_dead="pass")


def as_function(builder: JobBuilder) -> JobBuilder:
    return builder.set_options(PROTO).set_headers({"a": "b"})


def test_the_call_goes_before_the_decorator_before_the_proto() -> None:
    @job("a", channel_name="decorator", priority=1, proto=PROTO)
    def with_options() -> None: ...

    @job("a", channel_name="decorator", priority=1, proto=as_function)
    def with_function() -> None: ...

    expected = {
        "name": "a", "channel_name": "decorator", "priority": 1, "retries": 7, "delay": timedelta(minutes=1),
        "when_dead": "pass",
    }  # fmt: skip
    assert options_of(with_options.prepare()) == expected
    assert options_of(with_function.prepare()) == {**expected, "headers": {"a": "b"}}
    called = with_options.options(channel_name="call", retries=0, delay=timedelta(0), backoff_secs=0)
    changed = {**expected, "channel_name": "call", "retries": 0, "delay": timedelta(0), "retry_backoff": timedelta(0)}
    assert options_of(called.prepare()) == changed
    assert options_of(called.options(JobOptions(priority=2, retries=1), retries=3).builder()) == {
        **changed, "priority": 2, "retries": 3,
    }  # fmt: skip
    assert options_of(with_options.prepare()) == expected, "options changed the job itself"
    assert called.name == "a"
    assert type(called) is Job


def test_the_databases_defaults(database: Database) -> None:
    @job("a")
    def plain() -> None: ...

    assert options_of(plain.prepare()) == {"name": "a"}
    with database.connect() as session:
        plain.spawn(session)
        assert session.execute(
            "SELECT channel_name, channel_args, attempts_left, retry_backoff, ordered, priority, when_dead, state"
            " FROM mq_jobs"
        ).fetchall() == [("", "", 5, timedelta(seconds=1), False, 0, "hold", "ready")]


def test_an_id_of_ones_own() -> None:
    id = uuid4()
    assert bare.builder(id).id == id
    assert bare.options(id=uuid4()).builder(id).id == id
    assert bare.options(id=id).prepare("a").id == id
    assert isinstance(JobBuilder("a", id).id, UUID)


def test_every_setter_sets() -> None:
    id = uuid4()
    builder = (
        JobBuilder("a", id).set_channel_name("b").set_channel_args("c").set_delay(timedelta(1)).set_retries(2)
        .set_retry_backoff(timedelta(3)).set_ordered(True).set_priority(4).set_commit_interval(timedelta(5))
        .set_when_dead("pass").set_raw_bytes(b"d").set_headers({"e": "f"}).set_json({"g": 1})
    )  # fmt: skip
    assert options_of(builder) == {
        "name": "a", "id": id, "channel_name": "b", "channel_args": "c", "delay": timedelta(1), "retries": 2,
        "retry_backoff": timedelta(3), "ordered": True, "priority": 4, "commit_interval": timedelta(5),
        "when_dead": "pass", "raw_bytes": b"d", "headers": {"e": "f"},
    }  # fmt: skip
    assert builder.raw_json == '{"g":1}'


def test_a_proto_must_return_the_builder() -> None:
    @job("a", proto=lambda builder: None)  # type: ignore[arg-type]
    def forgotten() -> None: ...

    with pytest.raises(TypeError, match="job a: its proto returned None, but it must return a JobBuilder"):
        forgotten.prepare()


@pytest.mark.parametrize("what", ["lease", "time_limit"])
def test_durations(what: str) -> None:
    settings: dict[str, Any] = {what: 1.5}
    assert getattr(job(**settings)(bare.function), what) == timedelta(seconds=1.5)
    for duration, error, match in (
        (0, ValueError, f"{what} is 0:00:00, but it must be positive"),
        (timedelta(-1), ValueError, f"{what} is -1 day, 0:00:00, but it must be positive"),
        ("5", TypeError, f"{what} is '5', but it must be a timedelta or a number of seconds"),
        (float("nan"), ValueError, f"{what} is nan seconds, which a timedelta cannot hold"),
        (1e300, ValueError, f"{what} is 1e\\+300 seconds, which a timedelta cannot hold"),
    ):
        given: dict[str, Any] = {what: duration}
        with pytest.raises(error, match=match):
            job(**given)(bare.function)
    with pytest.raises(TypeError, match="backoff_secs is '5', but it must be a timedelta or a number of seconds"):
        bare.options(backoff_secs="5")  # type: ignore[arg-type]


# Batches


@job("batched", batch=10)
async def batched(batch: Batch[dict[str, int]]) -> int:
    """Many."""
    return len(batch)


@job("sync", batch=1, lease=60)
def sync_batched(batch: SyncBatch[Any], number: int = from_context(), other: int = 3) -> int:
    return number + other


async def test_a_batch_job() -> None:
    assert isinstance(batched, BatchJob)
    assert (batched.batch, batched.is_async, batched.__doc__) == (10, True, "Many.")
    assert await batched(Batch()) == 0
    assert sync_batched(SyncBatch(), number=4) == 7
    assert batched.prepare({"a": 1}).raw_json == batched.prepare(payload={"a": 1}).raw_json == '{"a":1}'
    assert batched.decode('{"a":1}') == {"a": 1}
    assert options_of(batched.options(retries=1).prepare({})) == {"name": "batched", "retries": 1}
    assert sync_batched.prepare(None).raw_json == "null"
    assert sync_batched.decode(None) is None
    with pytest.raises(EncodingError, match=r"job batched: the payload is \{'a': 'b'\}, which cannot be sent"):
        batched.prepare({"a": "b"})  # type: ignore[dict-item]


def test_a_batch_job_of_no_stated_type() -> None:
    @job(batch=2)
    def any_payload(batch: SyncBatch) -> None: ...  # type: ignore[type-arg]

    assert any_payload.prepare([1]).raw_json == "[1]"


class Mailer: ...


def test_batch_jobs_that_cannot_be() -> None:
    async def without() -> None: ...

    async def single(current_job: CurrentJob) -> None: ...

    async def wrong_kind(batch: SyncBatch[int]) -> None: ...

    def other_wrong_kind(batch: Batch[int]) -> None: ...

    def more(batch: SyncBatch[int], to: str) -> None: ...

    def only_by_name(*, batch: SyncBatch[int]) -> None: ...

    def not_json(batch: SyncBatch[Mailer]) -> None: ...

    for function, match in (
        (without, "its first parameter must be a Batch"),
        (single, "its first parameter must be a Batch"),
        (wrong_kind, "its first parameter must be a Batch"),
        (other_wrong_kind, "its first parameter must be a SyncBatch"),
        (more, r"parameter to can come from the registry's context only; its default must be from_context\(\)"),
        (only_by_name, "parameter batch must be one that can be given by its position"),
        (not_json, "the payload cannot be read from JSON: JSON does not hold objects of type Mailer"),
    ):
        with pytest.raises(TypeError, match=match):
            job(batch=2)(function)  # type: ignore[arg-type]
    for size in (0, -1, 10_001):
        with pytest.raises(ValueError, match=f"batch is {size}, but it must be between 1 and 10000"):
            job(batch=size)(batched.function)


# What the context gives


class SmtpMailer(Mailer): ...


class Sends(Protocol):
    def send(self) -> None: ...


class Sender:
    def send(self) -> None: ...


def context_of(function: Any, registry: JobRegistry) -> dict[str, Any]:
    return registry.arguments_from_context(job("a")(function))


def test_context_by_type_base_class_and_name() -> None:
    def by_type(mailer: SmtpMailer = from_context()) -> None: ...

    def by_base_class(to: str, mailer: Mailer = from_context()) -> None: ...

    def by_name(mailer: Mailer = from_context("primary"), *, limit: int = 5) -> None: ...

    def by_parameters_name(mailer: Sends = from_context()) -> None: ...

    def untyped(mailer=from_context()) -> None: ...  # type: ignore[no-untyped-def]

    base, smtp, sender = Mailer(), SmtpMailer(), Sender()
    assert context_of(by_type, JobRegistry().set_context(base).set_context(smtp)) == {"mailer": smtp}
    assert context_of(by_base_class, JobRegistry().set_context(smtp)) == {"mailer": smtp}
    assert context_of(by_base_class, JobRegistry().set_context(smtp).set_context(base)) == {"mailer": base}
    named = JobRegistry().set_context(base).set_context(smtp, name="primary")
    assert context_of(by_name, named) == {"mailer": smtp}
    assert context_of(by_parameters_name, JobRegistry().set_context(sender, name="mailer")) == {"mailer": sender}
    assert context_of(untyped, JobRegistry().set_context(sender, name="mailer")) == {"mailer": sender}
    assert context_of(by_base_class, JobRegistry().set_context(base).set_context(smtp, name="mailer")) == {
        "mailer": base
    }
    assert job("a")(by_base_class).prepare("b").raw_json == '{"to":"b"}'


def test_context_that_is_missing() -> None:
    def by_type(mailer: Mailer = from_context()) -> None: ...

    def by_name(mailer: Mailer = from_context("primary")) -> None: ...

    def by_position(mailer: Mailer = from_context(), /) -> None: ...

    with pytest.raises(MissingContextError, match="job a: no context of type Mailer, or named 'mailer', has been set"):
        context_of(by_type, JobRegistry().set_context(Sender()))
    with pytest.raises(MissingContextError, match="job a: no context named 'primary' has been set in the registry"):
        context_of(by_name, JobRegistry().set_context(Mailer()))
    with pytest.raises(LookupError, match="no context of type int has been set"):
        JobRegistry().set_context("text").context(int)
    with pytest.raises(TypeError, match="parameter mailer must have a name to get its context by"):
        job(by_position)
    assert repr(from_context()) == "from_context()"
    assert repr(from_context("a")) == "from_context('a')"


def test_two_jobs_of_one_name() -> None:
    with pytest.raises(ValueError, match="two jobs are named 'send_mail'"):
        JobRegistry([send_mail, send_mail])


async def test_with_something_asynchronous_the_result_is_a_coroutine(database: Database) -> None:
    import psycopg

    async with await psycopg.AsyncConnection.connect(database.dsn) as connection:
        task = asyncio.create_task(bare.spawn(connection, to="a"))
        assert isinstance(await task, UUID)
