"""A replication slot on the outbox: its progress, its loss, and what reconciling sends."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.conftest import QueueFactory
from typer.testing import CliRunner

from onceproof.brokers.memory import MemoryBroker
from onceproof.brokers.sqs import SqsBroker
from onceproof.cli.app import build
from onceproof.errors import ConfigurationError
from onceproof.events import Event
from onceproof.outbox import (
    OutboxStore,
    Reconciler,
    Relay,
    RelaySettings,
    Slot,
    SlotState,
    append,
    slot_statements,
)
from onceproof.postgres import create_engine
from onceproof_chaos.embedded import EmbeddedSqs

DEADLINE_S = 20.0
QUICK = RelaySettings(backoff_s=0.01, backoff_max_s=0.05)


class Outbox:
    """An outbox with a slot that this reads, as Debezium would, when asked to."""

    def __init__(self, engine: AsyncEngine, admin: asyncpg.Connection, name: str) -> None:
        self.engine = engine
        self.admin = admin
        self.name = name
        self.slot = Slot(engine, name)

    async def put(self, *keys: str, destination: str = "orders") -> list[str]:
        events = [Event(type="order.placed", data={}, key=key) for key in keys]
        async with self.engine.begin() as connection:
            for event in events:
                await append(connection, event, destination)
        return [event.id for event in events]

    async def read(self) -> list[str]:
        """The ids of events that the slot gives out, which are thereby confirmed."""
        rows = await self.admin.fetch(
            "SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL, "
            "'proto_version', '1', 'publication_names', $2::text)",
            self.name,
            self.name,
        )
        inserts = [row["data"] for row in rows if row["data"][:1] == b"I"]
        # Relation, 'N', number of columns, 't', length of the first column, which is the id.
        return [data[13 : 13 + int.from_bytes(data[9:13], "big")].decode() for data in inserts]

    async def heartbeat(self) -> None:
        """Something for the slot to confirm behind the last event, as a reader's heartbeat does."""
        await self.admin.execute("SELECT pg_logical_emit_message(true, 'test', '')")

    async def until_confirmed(self, seq: int) -> None:
        """Read the slot and record progress until rows up to `seq` are known to be sent."""
        async with asyncio.timeout(DEADLINE_S), self.slot.watched():
            while (await self.slot.advance()).confirmed_seq < seq:
                await self.heartbeat()
                await self.read()
                await asyncio.sleep(0.02)

    async def drop(self) -> None:
        await self.admin.execute("SELECT pg_drop_replication_slot($1)", self.name)

    async def last_seq(self) -> int:
        return int(await self.admin.fetchval("SELECT max(seq) FROM onceproof.outbox"))


@pytest.fixture
async def outbox(database_url: str) -> AsyncIterator[Outbox]:
    engine = create_engine(database_url, application_name="test")
    admin = await asyncpg.connect(database_url)
    if await admin.fetchval("SHOW wal_level") != "logical":
        pytest.skip("this server has no logical decoding")
    made = Outbox(engine, admin, f"test_{uuid4().hex[:12]}")
    yield made
    # A database with a slot cannot be dropped.
    await admin.execute(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots "
        "WHERE database = current_database()"
    )
    await admin.close()
    await engine.dispose()


def broker() -> MemoryBroker:
    made = MemoryBroker()
    made.create_queue("orders")
    return made


async def received(made: MemoryBroker) -> list[str]:
    messages = await made.subscriber("orders").receive(max_messages=1000, wait_s=0, visibility_s=60)
    return [Event.decode(message.body).id for message in messages]


async def test_a_slot_gives_out_inserts_of_its_destination_and_nothing_else(outbox: Outbox) -> None:
    status = await outbox.slot.create("orders")
    assert status.state is SlotState.IDLE
    wanted = await outbox.put("o-1", "o-2")
    await outbox.put("o-3", destination="refunds")
    await outbox.admin.execute("UPDATE onceproof.outbox SET attempts = 7")
    await outbox.admin.execute("DELETE FROM onceproof.outbox WHERE key = 'o-1'")
    assert await outbox.read() == wanted


async def test_to_create_may_be_repeated_and_not_for_something_else(outbox: Outbox) -> None:
    first = await outbox.slot.create("orders")
    await outbox.put("o-1")
    assert (await outbox.slot.create("orders")).from_seq == first.from_seq
    with pytest.raises(ConfigurationError, match="is for orders"):
        await outbox.slot.create("refunds")
    with pytest.raises(ConfigurationError, match="no name of a replication slot"):
        Slot(outbox.engine, 'x"; DROP')


async def test_a_destination_with_a_quote_is_only_a_name(outbox: Outbox) -> None:
    await outbox.slot.create("o'; DROP TABLE onceproof.outbox; --")
    await outbox.put("o-1", destination="o'; DROP TABLE onceproof.outbox; --")
    assert len(await outbox.read()) == 1


async def test_a_slot_that_somebody_else_made_is_registered_from_now_on(outbox: Outbox) -> None:
    await outbox.admin.execute(
        "SELECT pg_create_logical_replication_slot($1, 'pgoutput')", outbox.name
    )
    await outbox.put("o-1")
    assert (await outbox.slot.status()).state is SlotState.UNREGISTERED
    status = await outbox.slot.create("orders")
    assert (status.state, status.from_seq) == (SlotState.IDLE, await outbox.last_seq())


async def test_what_is_read_counts_as_sent_and_what_is_not_does_not(outbox: Outbox) -> None:
    await outbox.slot.create("orders")
    await outbox.put("o-1")
    await outbox.until_confirmed(await outbox.last_seq())
    sent = await outbox.last_seq()
    await outbox.put("o-2")
    async with outbox.slot.watched():
        status = await outbox.slot.advance()
        for _ in range(20):  # nobody reads
            status = await outbox.slot.advance()
            await asyncio.sleep(0.02)
    assert status.confirmed_seq == sent
    assert status.lag_bytes > 0
    await outbox.until_confirmed(await outbox.last_seq())


async def test_a_transaction_that_commits_late_does_not_count_before(
    outbox: Outbox, database_url: str
) -> None:
    await outbox.slot.create("orders")
    other = await asyncpg.connect(database_url)
    transaction = other.transaction()
    await transaction.start()
    await other.execute(
        "INSERT INTO onceproof.outbox (id, destination, type, payload) "
        "VALUES ('late', 'orders', 't', '')"
    )
    late = await other.fetchval("SELECT seq FROM onceproof.outbox WHERE id = 'late'")
    early = await outbox.put("o-1")
    async with outbox.slot.watched():
        status = await outbox.slot.advance()
        for _ in range(20):
            await outbox.heartbeat()
            early = [event for event in early if event not in await outbox.read()]
            status = await outbox.slot.advance()
            await asyncio.sleep(0.02)
    assert not early
    assert status.confirmed_seq < late
    await transaction.commit()
    await other.close()
    assert await outbox.read() == ["late"]
    await outbox.until_confirmed(await outbox.last_seq())


async def test_a_dropped_slot_is_lost_and_reconciling_sends_exactly_what_it_had_not(
    outbox: Outbox,
) -> None:
    await outbox.slot.create("orders")
    await outbox.put("o-1", "o-2")
    await outbox.until_confirmed(await outbox.last_seq())
    unsent = await outbox.put("o-3", "o-3", "o-4")
    await outbox.put("o-9", destination="refunds")
    await outbox.drop()
    assert (await outbox.slot.status()).state is SlotState.LOST
    with pytest.raises(asyncpg.RaiseError, match="is lost"):
        await outbox.admin.execute("SELECT onceproof.require_slot($1)", outbox.name)
    with pytest.raises(ConfigurationError, match="reconcile"):
        await outbox.slot.create("orders")
    unsent += await outbox.put("o-5")

    made = broker()
    reconciler = Reconciler(outbox.engine, outbox.slot, settings=QUICK)
    gap = await reconciler.gap()
    assert (gap.rows, gap.state) == (4, SlotState.LOST)
    done = await reconciler.run(made)
    assert (done.replaced, done.found, done.sent, done.left) == (True, 4, 4, 0)
    sent = await received(made)
    assert sorted(sent) == sorted(unsent)
    assert [event for event in sent if event in unsent[:2]] == unsent[:2]  # in order per key

    later = await outbox.put("o-6")
    assert await outbox.read() == later  # the new slot gives out what came after it
    await outbox.admin.execute("SELECT onceproof.require_slot($1)", outbox.name)
    again = await reconciler.run(made)
    assert (again.replaced, again.found, again.sent, again.left) == (False, 0, 0, 0)


async def test_a_new_slot_never_counts_for_what_the_old_one_lost(outbox: Outbox) -> None:
    """Killed between any two steps of the replacement: nothing unsent may look sent afterwards."""
    await outbox.slot.create("orders")
    unsent = await outbox.put("o-1")
    await outbox.drop()
    assert (await Reconciler(outbox.engine, outbox.slot).gap()).rows == 1
    await outbox.admin.execute(slot_statements.UNPLACE, outbox.name)
    assert (await Reconciler(outbox.engine, outbox.slot).gap()).rows == 1
    # Made anew, and killed before it was registered.
    await outbox.admin.execute(
        "SELECT pg_create_logical_replication_slot($1, 'pgoutput')", outbox.name
    )
    made = broker()
    with pytest.raises(ConfigurationError, match="slot create"):
        await Reconciler(outbox.engine, outbox.slot).run(made)
    await outbox.slot.create("orders")
    done = await Reconciler(outbox.engine, outbox.slot).run(made)
    assert (done.sent, done.left) == (1, 0)
    assert await received(made) == unsent


async def test_reconciling_that_is_killed_goes_on_and_the_broker_may_fail(outbox: Outbox) -> None:
    await outbox.slot.create()
    unsent = await outbox.put(*(f"o-{n % 7}" for n in range(60)))
    await outbox.drop()
    made = broker()
    settings = RelaySettings(batch_size=5, lease_s=0.3)
    reconciler = Reconciler(outbox.engine, outbox.slot, settings=settings)

    def kill(_sent: int) -> None:
        sending.cancel()

    sending = asyncio.create_task(reconciler.run(made, kill))
    with pytest.raises(asyncio.CancelledError):
        await sending
    left = (await reconciler.gap()).rows
    assert 0 < left < 60
    done = await reconciler.run(made)
    assert (done.left, done.found) == (0, left)
    counts = Counter(await received(made))
    assert set(counts) == set(unsent)


async def test_what_the_broker_does_not_take_is_left_and_told(outbox: Outbox) -> None:
    await outbox.slot.create()
    await outbox.put("o-1", destination="nowhere")
    await outbox.drop()
    done = await Reconciler(outbox.engine, outbox.slot, settings=QUICK, give_up_s=0.5).run(broker())
    assert (done.sent, done.left) == (0, 1)
    assert "nowhere" in done.why_left


async def test_a_polling_relay_beside_it_sends_the_same_rows_once(outbox: Outbox) -> None:
    await outbox.slot.create()
    unsent = await outbox.put(*(f"o-{n}" for n in range(40)))
    await outbox.drop()
    made = broker()
    relay = Relay(OutboxStore(outbox.engine, relay="other"), made, settings=QUICK)
    stop = asyncio.Event()
    running = asyncio.create_task(relay.run(stop))
    done = await Reconciler(outbox.engine, outbox.slot, settings=QUICK).run(made)
    stop.set()
    await running
    assert done.left == 0
    assert Counter(await received(made)) == Counter(unsent)


async def test_back_to_polling_sends_only_what_the_slot_had_not(outbox: Outbox) -> None:
    await outbox.slot.create("orders")
    await outbox.put(*(f"o-{n}" for n in range(7)))
    await outbox.until_confirmed(await outbox.last_seq())
    unsent = await outbox.put("o-7", "o-8")
    unsent += await outbox.put("o-9", destination="refunds")
    assert await outbox.slot.drop() == 7
    assert await outbox.slot.drop() == 0  # may be repeated
    assert (await outbox.slot.status()).state is SlotState.ABSENT
    assert await outbox.admin.fetchval("SELECT count(*) FROM pg_publication") == 0
    pending = await outbox.admin.fetch(
        "SELECT id FROM onceproof.outbox WHERE published_at IS NULL ORDER BY seq"
    )
    assert [row["id"] for row in pending] == unsent
    await outbox.slot.create("orders")  # and forth again
    assert (await outbox.slot.status()).state is SlotState.IDLE


async def test_only_what_was_sent_long_ago_is_deleted(outbox: Outbox) -> None:
    await outbox.put("o-0")  # before the slot: nobody has sent it
    await outbox.slot.create("orders")
    await outbox.put(*(f"o-{n}" for n in range(1, 8)))
    await outbox.put("o-8", destination="refunds")
    await outbox.until_confirmed(await outbox.last_seq())
    await outbox.admin.execute(
        "UPDATE onceproof.outbox SET created_at = created_at - interval '1 hour' WHERE key <> 'o-7'"
    )
    await outbox.put("o-9")  # not sent
    assert await outbox.slot.delete_sent(older_than_s=7200) == 0
    assert await outbox.slot.delete_sent(older_than_s=60, batch_size=2) == 6
    left = await outbox.admin.fetch("SELECT key FROM onceproof.outbox ORDER BY seq")
    assert [row["key"] for row in left] == ["o-0", "o-7", "o-8", "o-9"]


async def test_a_slot_over_its_wal_limit_is_lost(outbox: Outbox) -> None:
    await outbox.slot.create("orders")
    unsent = await outbox.put("o-1")
    await outbox.admin.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'")
    await outbox.admin.execute("SELECT pg_reload_conf()")
    try:
        async with asyncio.timeout(DEADLINE_S):
            while (await outbox.slot.status()).state is not SlotState.LOST:
                await outbox.admin.execute("SELECT pg_logical_emit_message(false, 't', '')")
                await outbox.admin.execute("SELECT pg_switch_wal()")
                await outbox.admin.execute("CHECKPOINT")
    finally:
        await outbox.admin.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
        await outbox.admin.execute("SELECT pg_reload_conf()")
    assert "max_slot_wal_keep_size" in (await outbox.slot.status()).why_lost
    made = broker()
    done = await Reconciler(outbox.engine, outbox.slot).run(made)
    assert (done.replaced, done.sent, done.left) == (True, 1, 0)
    assert await received(made) == unsent
    assert (await outbox.slot.status()).state is SlotState.IDLE


async def test_the_commands(
    outbox: Outbox, database_url: str, sqs_broker: SqsBroker, sqs_endpoint: str,
    queue_factory: QueueFactory, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    queue = await queue_factory()

    async def command(*words: str) -> tuple[int, dict[str, Any]]:
        words = ("outbox", *words, "--database-url", database_url, "--slot", outbox.name, "--json")
        result = await asyncio.to_thread(CliRunner().invoke, build(), words)
        return result.exit_code, json.loads(result.stdout or "{}")

    assert (await command("slot", "status"))[0] == 1
    assert (await command("reconcile"))[0] == 2
    code, status = await command("slot", "create", "--destination", queue.name)
    assert (code, status["state"]) == (0, "idle")
    await outbox.put("o-1", "o-2", destination=queue.name)
    await outbox.drop()
    code, status = await command("slot", "status")
    assert (code, status["state"], status["why_lost"]) == (1, "lost", "it was dropped")
    code, gap = await command("reconcile", "--dry-run")
    assert (code, gap["rows"]) == (1, 2)
    where = ("--endpoint-url", sqs_endpoint, "--region", EmbeddedSqs.region)
    code, done = await command("reconcile", *where)
    assert (code, done.pop("why_left")) == (0, "")
    assert done == {"replaced": True, "found": 2, "sent": 2, "left": 0}
    assert (await sqs_broker.subscriber(queue.name).depth()).total == 2
    assert (await command("slot", "status"))[0] == 0
    wrong = ("outbox", "reconcile", "--database-url", database_url, "--slot", outbox.name)
    monkeypatch.setenv("ONCEPROOF_KAFKA_SESSION_S", "never")
    result = await asyncio.to_thread(CliRunner().invoke, build(), wrong)
    assert result.exit_code == 2
    assert "ONCEPROOF_KAFKA_SESSION_S" in result.stderr
    assert "Traceback" not in result.output
    code, dropped = await command("slot", "drop")
    assert (code, dropped) == (0, {"slot": outbox.name, "marked": 0})
    assert (await command("slot", "status"))[0] == 1


async def test_debezium_is_prepared_for_once_there_is_a_slot(
    database_url: str, outbox: Outbox, tmp_path: Path
) -> None:
    environment = {
        "ONCEPROOF_DATABASE_URL": database_url,
        "ONCEPROOF_CDC_DATABASE_URL": "postgresql://reader@db.example:6432/shop",
        "ONCEPROOF_DEBEZIUM_DIRECTORY": str(tmp_path),
        "ONCEPROOF_SLOT": outbox.name,
        "ONCEPROOF_ADMIN_PORT": "0",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "onceproof_relay.cdc.configure",
        env=os.environ | environment, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(DEADLINE_S):
            assert process.stderr is not None
            while b"run onceproof outbox slot create" not in await process.stderr.readline():
                assert process.returncode is None
            await outbox.slot.create()
            await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    written = (tmp_path / "config" / "application.properties").read_text()
    assert "debezium.source.database.user=reader\n" in written
    assert f"debezium.source.slot.name={outbox.name}\n" in written
