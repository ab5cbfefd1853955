"""What checkers make of @job. Lines with the comment "error" are wrong on purpose."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from typing_extensions import assert_type

from sqlxmq import (
    Batch,
    BatchJob,
    CurrentJob,
    Job,
    JobBuilder,
    JobOptions,
    SyncBatch,
    SyncCurrentJob,
    from_context,
    job,
)


class Mailer: ...


@job
async def bare(to: str, times: int = 1) -> int:
    return times


@job()
def plain(to: str) -> int:
    return 1


@job("send_mail", channel_name="mail", retries=2, backoff_secs=5.0, priority=3, lease=60)
async def send_mail(current_job: CurrentJob, to: str, *, mailer: Mailer = from_context()) -> str:
    return to


@job(proto=JobOptions(retries=1))
def in_thread(current_job: SyncCurrentJob, to: str) -> str:
    return to


@job
def bare_in_thread(current_job: SyncCurrentJob) -> None: ...


@job(batch=100)
async def many(batch: Batch[int], mailer: Mailer = from_context()) -> None:
    for item in batch:
        assert_type(item.payload, int)


@job("many", batch=100)
def many_in_thread(batch: SyncBatch[str]) -> int:
    return len(batch)


class Mails:
    @job
    @staticmethod
    async def send(to: str) -> None: ...


# The function, called


async def calls(current: CurrentJob, sync_current: SyncCurrentJob) -> None:
    assert_type(await bare("a", times=2), int)
    assert_type(plain("a"), int)
    coroutine: Coroutine[Any, Any, int] = bare("a")
    assert_type(await coroutine, int)
    assert_type(await send_mail(current, "a", mailer=Mailer()), str)
    assert_type(in_thread(sync_current, "a"), str)
    assert_type(bare_in_thread(sync_current), None)
    await Mails.send("a")
    assert_type(many_in_thread(SyncBatch()), int)
    plain(1)  # error
    plain()  # error
    bare("a")  # error
    await send_mail("a")  # error
    in_thread(current, "a")  # error


# Builders


def builders() -> None:
    assert_type(send_mail.prepare("a"), JobBuilder)
    assert_type(bare.prepare(to="a", times=3), JobBuilder)
    assert_type(bare_in_thread.prepare(), JobBuilder)
    assert_type(many.prepare(1), JobBuilder)
    assert_type(plain.builder().set_json({"to": "a"}).set_retries(3), JobBuilder)
    send_mail.prepare()  # error
    send_mail.prepare(1)  # error
    send_mail.prepare("a", colour="red")  # error
    send_mail.prepare("a", mailer=3)  # error
    many.prepare("a")  # error
    many_in_thread.prepare(1)  # error


def kinds(current: CurrentJob) -> None:
    sync: Job[..., ..., int] = plain
    asynchronous: Job[..., ..., Coroutine[Any, Any, int]] = bare
    batch: BatchJob[str, int] = many_in_thread
    wrong: Job[..., ..., str] = plain  # error
    wrong_batch: BatchJob[int, int] = many_in_thread  # error
    print(sync, asynchronous, batch, wrong, wrong_batch)


# Definitions


job(5)  # error
job(retries="3")  # error
job(colour="red")  # error
plain.options(retries="3")  # error
plain.options(JobOptions(priority=1), channel_name="a", id=None).prepare("a")


@job(batch=2)  # error
async def no_batch(to: str) -> None: ...
