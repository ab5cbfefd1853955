"""The jobs of sqlxmq demo."""

from __future__ import annotations

import asyncio
import hashlib

from sqlxmq import CurrentJob, JobRegistry, job

CHANNEL = "demo"


@job("hash_number", channel_name=CHANNEL)
async def hash_number(current_job: CurrentJob, number: int) -> None:
    """Takes a while, then writes the number's SHA-256 in the transaction that completes the job."""
    await asyncio.sleep(0.1)
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    async with current_job.transaction() as connection:
        await connection.execute("INSERT INTO effect VALUES (%s, %s, %s)", (number, digest, current_job.attempt))


registry = JobRegistry([hash_number])
