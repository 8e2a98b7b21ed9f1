"""What an effect in SQL must return, and what is refused before the first message."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from onceproof.brokers.dead_letter import REASON
from onceproof.consumer import SqlEffect
from onceproof.errors import ConfigurationError
from onceproof.postgres import Connections, create_engine

if TYPE_CHECKING:
    from tests.integration.conftest import Rig

ONE: dict[str, Any] = {"concurrency": 1, "prefetch": 0}
# Two rows for the first order and none for the second: in a batch of both, the numbers even out.
UNEVEN = """
    INSERT INTO charges (order_id, event_id, amount, currency, provider_charge_id, delivery_attempt)
    SELECT key, event_id, 1, 'EUR', 'ch', attempt
    FROM events JOIN (VALUES ('o-0'), ('o-0'), ('o-2')) AS known (id) ON id = key
    RETURNING event_id
"""
STOCK = (
    "CREATE TABLE stock (sku text PRIMARY KEY, free int NOT NULL CHECK (free >= 0))",
    "INSERT INTO stock VALUES ('a', 0)",
)


async def execute(rig: Rig, *statements: str) -> list[Any]:
    """The rows of the last statement."""
    rows: list[Any] = []
    async with rig.engine.begin() as connection:
        for statement in statements:
            result = await connection.execute(text(statement))
            rows = [tuple(row) for row in result] if result.returns_rows else []
    return rows


async def consume(rig: Rig, **settings: Any) -> None:
    async with rig.running(rig.consumer("effect", **settings)):
        await rig.drained()


async def test_two_rows_for_one_event_do_not_stand_for_another_event(rig: Rig) -> None:
    rig.effect = SqlEffect(UNEVEN)
    await rig.send(*(rig.order(n) for n in range(3)))
    await consume(rig, **ONE)
    assert sorted(message.attributes[REASON] for message in await rig.dead()) == [
        "the effect returned 0 rows for 1 events",
        "the effect returned 2 rows for 1 events",
    ]
    assert await rig.charges() == [("o-2", 1)]


async def test_where_the_numbers_are_right_each_id_is_looked_for(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.effect = SqlEffect(UNEVEN)
    await rig.send(rig.order(0), rig.order(1))
    await consume(rig, **ONE)
    assert "2 rows for 2 events, but not one with the event_id of each" in caplog.text
    assert await rig.charges() == []
    assert len(await rig.dead()) == 2


async def test_numbers_alone_let_them_even_out(rig: Rig) -> None:
    """The negative control of the tests above, and why `count` is for what cannot go so wrong."""
    rig.effect = SqlEffect(UNEVEN, returns="count")
    await rig.send(rig.order(0), rig.order(1))
    await consume(rig, **ONE)
    assert await rig.charges() == [("o-0", 1), ("o-0", 1)]
    assert await rig.dead() == []


async def test_ids_come_back_in_any_order_and_type(rig: Rig) -> None:
    await execute(rig, "CREATE TABLE seen (n int, event_id uuid)")
    rig.effect = SqlEffect("""
        INSERT INTO seen SELECT CAST(data->>'n' AS int), CAST(event_id AS uuid)
        FROM events ORDER BY event_id DESC RETURNING event_id
    """)
    await rig.send(*(rig.order(n) for n in range(10)))
    await consume(rig, **ONE)
    assert await execute(rig, "SELECT count(*) FROM seen") == [(10,)]


@pytest.mark.parametrize(
    ("effect", "said"),
    [
        (SqlEffect("INSERT INTO nowhere SELECT FROM events RETURNING event_id"), "nowhere"),
        (SqlEffect("UPDATE charges SET amount = 1"), "RETURNING"),
        (SqlEffect("SELEKT 1"), "syntax error"),
        (SqlEffect("SELECT 1 FROM events"), "add RETURNING event_id"),
        (SqlEffect("SELECT max(event_id) AS event_id FROM events"), "must do nothing for none"),
        (SqlEffect("SELECT count(*) FROM events", returns="count"), "must do nothing for none"),
        (SqlEffect("SELECT count(*) FROM events", returns=None), "must do nothing for none"),
        (SqlEffect("SELECT 1 / count(*) FROM events", returns=None), "can run: division"),
    ],
)
async def test_an_effect_that_cannot_be_right_ends_the_start(
    rig: Rig, effect: SqlEffect, said: str
) -> None:
    rig.effect = effect
    await rig.send(rig.order(1))
    with pytest.raises(ConfigurationError, match=said):
        await asyncio.wait_for(rig.consumer("effect").run(asyncio.Event()), 10)
    assert (await rig.subscriber.depth()).visible == 1


async def test_a_check_at_the_start_is_taken_back(rig: Rig) -> None:
    await execute(
        rig,
        "CREATE TABLE touched (n int)",
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO touched VALUES (1); RETURN NULL; END $$",
        "CREATE TRIGGER touch BEFORE INSERT ON charges EXECUTE FUNCTION touch()",
    )
    async with rig.running(rig.consumer("effect")):
        await rig.until(lambda: rig.subscriber.receives > 0)
    assert await execute(rig, "SELECT * FROM touched") == []


@pytest.mark.parametrize("wrong", [False, True])
async def test_a_check_that_must_wait_for_a_lock_is_made_before_the_first_message(
    rig: Rig, database_url: str, wrong: bool
) -> None:
    if wrong:
        rig.effect = SqlEffect("INSERT INTO charges SELECT FROM events RETURNING amount")
    await rig.send(rig.order(1))
    engine = create_engine(database_url, application_name="test-locked", lock_timeout_s=0.05)
    rig.connections = Connections(engine)
    consumer, stop = rig.consumer("effect", unavailable_backoff_s=0.01), asyncio.Event()
    async with rig.engine.begin() as other:
        await other.execute(text("LOCK TABLE charges"))
        running = asyncio.create_task(consumer.run(stop))
        await rig.until(lambda: sum(reason is not None for _, reason in rig.health) > 1)
        assert rig.subscriber.received == 0
    if wrong:
        with pytest.raises(ConfigurationError, match="event_id"):
            await asyncio.wait_for(running, 10)
        assert (await rig.subscriber.depth()).total == 1
    else:
        await rig.drained()
        stop.set()
        await running
        assert await rig.charges() == [("o-1", 1)]
    await engine.dispose()


async def test_a_check_about_what_else_is_there_is_waited_for(rig: Rig) -> None:
    """A withdrawal before its deposit."""
    await execute(rig, *STOCK)
    rig.effect = SqlEffect(
        "UPDATE stock SET free = free - 1 FROM events WHERE sku = 'a' RETURNING event_id"
    )
    rig.broker.create_queue("orders", max_receive_count=50, dead_letter="dlq")
    await rig.send(rig.order(1))
    async with rig.running(rig.consumer("effect")):
        await rig.until(lambda: rig.subscriber.received >= 2)
        await execute(rig, "UPDATE stock SET free = 5")
        await rig.drained()
    assert await execute(rig, "SELECT free FROM stock") == [(4,)]
    assert await rig.dead() == []


@pytest.mark.parametrize("table", ["given", "claimed", "effect"])
async def test_no_table_is_hidden_but_events(rig: Rig, table: str) -> None:
    await execute(rig, f"CREATE TABLE {table} AS SELECT 'o-1' AS id")
    rig.effect = SqlEffect(
        f"SELECT event_id FROM events JOIN {table} ON id = key -- and a remark"  # noqa: S608
    )
    await rig.send(rig.order(1))
    await consume(rig)
    assert await rig.dead() == []
