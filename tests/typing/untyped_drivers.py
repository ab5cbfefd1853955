"""asyncpg and Django bring no types of their own: nothing right is called wrong, and what is known of the
arguments still counts."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg  # pyright: ignore
from django.db import connection  # pyright: ignore
from typing_extensions import assert_type

from sqlxmq import job
from sqlxmq._senders import AsyncpgSender, DjangoConnection


@job
async def send_mail(to: str) -> None: ...


def through_django() -> None:
    id: UUID = send_mail.spawn(connection, "a")  # pyright: ignore[reportUnknownArgumentType]
    print(id)


async def through_asyncpg(pool: asyncpg.Pool[Any], own: asyncpg.Connection[Any]) -> None:  # pyright: ignore
    id: UUID = await send_mail.spawn(pool, "a")  # pyright: ignore[reportUnknownArgumentType]
    id = await send_mail.spawn(own, "a")  # pyright: ignore[reportUnknownArgumentType]
    print(id)


async def with_stubs(pool: AsyncpgSender, own: DjangoConnection) -> None:
    assert_type(await send_mail.spawn(pool, "a"), UUID)
    assert_type(send_mail.spawn(own, "a"), UUID)
    send_mail.spawn(pool, "a")  # error
    send_mail.spawn(own, 1)  # error
