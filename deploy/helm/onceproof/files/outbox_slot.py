"""The replication slot of the embedded Postgres, as `relay.kind` wants it. Repeated by each revision.

cdc: Debezium's role, the slot, and what the slot has not given out and will not: events from before it,
which no polling relay sends any more, or all since it was lost. polling: no slot, or it would keep WAL.

As the server's superuser, so that no role of a service may replicate.
"""
# ruff: noqa: INP001 - runs as `python -c`

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from urllib.parse import quote, urlsplit

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from onceproof.outbox import Reconciler, Slot, SlotState, slot_statements
from onceproof.postgres import create_engine
from onceproof.service import BrokerSettings, connect_broker


async def until(what: str, probe: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + float(os.environ["WAIT_S"])
    while not await probe():
        if time.monotonic() > deadline:
            sys.exit(f"in vain waited for {what}")
        await asyncio.sleep(0.5)


async def allow(admin: asyncpg.Connection) -> None:
    """Debezium's role, with the least rights that lead through the slot."""
    name = urlsplit(os.environ["ONCEPROOF_CDC_DATABASE_URL"]).username
    database = await admin.fetchval("SELECT current_database()")
    password = await admin.fetchval("SELECT quote_literal($1::text)", os.environ["CDC_PASSWORD"])
    if not await admin.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", name):
        await admin.execute(f'CREATE ROLE "{name}" LOGIN REPLICATION')
    await admin.execute(
        f'ALTER ROLE "{name}" PASSWORD {password}; '
        f'GRANT CONNECT ON DATABASE "{database}" TO "{name}"; '
        + slot_statements.grants(f'"{name}"')
    )


async def make(engine: AsyncEngine, slot: Slot) -> None:
    """Make the slot, and send what it will not give out."""
    if (await slot.status()).state is not SlotState.LOST:
        await slot.create()
    reconciler = Reconciler(engine, slot)
    gap = await reconciler.gap()
    if not gap.rows and gap.state is not SlotState.LOST:
        return
    async with connect_broker(BrokerSettings()) as broker:
        done = await reconciler.run(broker)
    print(done)
    if done.left:
        sys.exit("some are left")


async def drop(slot: Slot) -> None:
    """Mark what it has sent before polling relays send all of it again, and drop it."""

    async def unread() -> bool:
        return (await slot.status()).state is not SlotState.READ

    if (await slot.status()).state is not SlotState.ABSENT:
        await slot.settle()
        await until("the end of Debezium, which reads the slot", unread)
        await slot.drop()


async def main() -> None:
    """Look which relay it is for."""
    where = urlsplit(os.environ["ONCEPROOF_DATABASE_URL"])
    password = quote(os.environ["POSTGRES_PASSWORD"], safe="")
    server = f"{where.hostname}:{where.port or 5432}"
    url = where._replace(netloc=f"postgres:{password}@{server}").geturl()
    engine = create_engine(url, application_name="onceproof-migrations", pool_size=2)
    slot = Slot(engine, os.environ["ONCEPROOF_SLOT"])
    admin = await asyncpg.connect(url)

    async def logical() -> bool:
        return str(await admin.fetchval("SHOW wal_level")) == "logical"

    if os.environ["RELAY"] == "polling":
        await drop(slot)
    else:
        await until("wal_level=logical: the server of the revision before still runs", logical)
        await allow(admin)
        await make(engine, slot)
    print(await slot.status())
    await admin.close()
    await engine.dispose()


asyncio.run(main())
