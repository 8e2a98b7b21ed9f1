"""What is particular to an effect in SQL; what it has in common with handlers is in `test_consumer*`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from sqlalchemy import text

from onceproof.brokers.dead_letter import REASON
from onceproof.consumer import SqlEffect
from onceproof.events import Event
from onceproof.ports import Outgoing
from onceproof.postgres import Connections

if TYPE_CHECKING:
    from tests.integration.conftest import Rig

ONE: dict[str, Any] = {"concurrency": 1, "prefetch": 0}


async def execute(rig: Rig, *statements: str) -> list[Any]:
    """The rows of the last statement."""
    rows: list[Any] = []
    async with rig.engine.begin() as connection:
        for statement in statements:
            result = await connection.execute(text(statement))
            rows = [tuple(row) for row in result] if result.returns_rows else []
    return rows


async def test_the_effect_sees_each_part_of_the_event(rig: Rig) -> None:
    await execute(
        rig,
        "CREATE TABLE seen (event_id text, key text, type text, time timestamptz, data jsonb, "
        "attempt int, source text)",
    )
    rig.effect = SqlEffect("""
        INSERT INTO seen
        SELECT event_id, key, type, time, data, attempt, event->>'source' FROM events
        RETURNING event_id -- and a remark""")
    numbers = b'{"amount":12345678901234567.89,"text":"\xc3\xa9"}'
    await rig.broker.send(
        "orders",
        [
            Outgoing(
                "1",
                b'{"specversion":"1.0","id":"e-1","source":"/s","type":"t","subject":"k",'
                b'"time":"2026-01-02T03:04:05Z","data":' + numbers + b"}",
            ),
            Outgoing(
                "2", '{"specversion":"1.0","id":"e-2","source":"/s","type":"t"}'.encode("utf-16")
            ),
        ],
    )
    async with rig.running(rig.consumer("effect")):
        await rig.drained()
    first, second = await execute(
        rig, "SELECT event_id, key, type, source, attempt, extract(epoch FROM time)::bigint, "
        "data->>'amount', data->>'text' FROM seen ORDER BY event_id"
    )  # fmt: skip
    assert first == (
        "e-1", "k", "t", "/s", 1, 1767323045, "12345678901234567.89", "é",
    )  # fmt: skip
    assert second[:5] == ("e-2", None, "t", "/s", 1)


async def test_an_update_of_one_row_by_several_events_of_a_batch_takes_each(rig: Rig) -> None:
    await execute(
        rig,
        "CREATE TABLE stock (sku text PRIMARY KEY, sold int NOT NULL)",
        "INSERT INTO stock VALUES ('a', 0), ('b', 0)",
    )
    rig.effect = SqlEffect("""
        UPDATE stock SET sold = sold + 1 FROM events WHERE sku = data->>'sku' RETURNING event_id
    """)
    await rig.send(*(rig.order(n, sku="a" if n % 3 else "b") for n in range(30)))
    async with rig.running(rig.consumer("effect", **ONE)):
        await rig.drained()
    assert await execute(rig, "SELECT * FROM stock ORDER BY sku") == [("a", 20), ("b", 10)]


async def test_without_the_guard_such_an_update_loses_all_but_one(rig: Rig) -> None:
    """The negative control of the test above: the trap is real."""
    await execute(
        rig,
        "CREATE TABLE stock (sku text PRIMARY KEY, sold int NOT NULL)",
        "INSERT INTO stock VALUES ('a', 0)",
    )
    rig.effect = SqlEffect(
        "UPDATE stock SET sold = sold + 1 FROM events WHERE sku = data->>'sku' RETURNING 1",
        returns=None,
    )
    await rig.send(*(rig.order(n, sku="a") for n in range(10)))
    async with rig.running(rig.consumer("effect", **ONE)):
        await rig.drained()
    ((_, sold),) = await execute(rig, "SELECT * FROM stock")
    assert sold == 1


async def test_an_event_without_an_effect_goes_to_the_dlq_unless_it_may_have_none(
    rig: Rig,
) -> None:
    statement = (
        f"{rig.effect.statement.split('RETURNING')[0]} WHERE key <> 'o-2' RETURNING event_id"
    )
    rig.effect = SqlEffect(statement)
    await rig.send(*(rig.order(n) for n in range(4)))
    async with rig.running(rig.consumer("effect", **ONE)):
        await rig.drained()
    (dead,) = await rig.dead()
    assert dead.attributes[REASON] == "the effect returned 0 rows for 1 events"
    assert [order for order, _ in await rig.charges()] == ["o-0", "o-1", "o-3"]
    rig.effect = SqlEffect(statement, returns=None)
    await rig.send(rig.order(2), rig.order(4))
    async with rig.running(rig.consumer("effect", **ONE)):
        await rig.drained()
    assert await rig.dead() == []
    assert [order for order, _ in await rig.charges()][-1] == "o-4"


async def test_overlapping_batches_that_change_the_same_rows_do_not_lock_each_other_out(
    rig: Rig,
) -> None:
    await execute(
        rig,
        "CREATE TABLE totals (id int PRIMARY KEY, n int NOT NULL)",
        "INSERT INTO totals VALUES (1, 0)",
    )
    rig.effect = SqlEffect("""
        UPDATE totals SET n = n + taken FROM (SELECT count(*) AS taken FROM events) AS c
        WHERE id = 1 AND taken > 0 RETURNING 1
    """, returns=None)  # fmt: skip
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    events = [rig.order(n) for n in range(120)]
    await rig.send(*events, *reversed(events), *events)
    async with rig.running(*(rig.consumer("effect", concurrency=4) for _ in range(3))):
        await rig.drained()
    assert await execute(rig, "SELECT n FROM totals") == [(120,)]
    assert await execute(rig, "SELECT pg_stat_force_next_flush()", deadlocks) == [(0,)]


async def test_an_error_at_the_commit_itself_is_an_error(rig: Rig) -> None:
    """The server answers the statement first, and commits at the end of the round trip."""
    await execute(
        rig,
        "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION 'late' USING ERRCODE = '40001'; END $$",
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON charges DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW WHEN (NEW.delivery_attempt = 1) EXECUTE FUNCTION late()",
    )
    await rig.send(rig.order(1))
    async with rig.running(rig.consumer("effect")):
        await rig.drained()
    assert await rig.charges() == [("o-1", 2)]


class LosesOneReply(Connections):
    """The server has committed, and the connection dies before its reply arrives."""

    lost = False

    async def run(self, use: Callable[[Any], Awaitable[Any]]) -> Any:
        result = await super().run(use)
        if result and not self.lost:  # neither the check at the start nor a probe
            self.lost = True
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle")
        return result


@pytest.mark.parametrize("orders", [1, 5])
async def test_a_lost_reply_is_decided_by_the_redelivery(rig: Rig, orders: int) -> None:
    hits = rig.count("onceproof_dedup_hits_total")
    await rig.send(*(rig.order(n) for n in range(orders)))
    async with LosesOneReply(rig.engine) as connections:
        rig.connections = connections
        async with rig.running(rig.consumer("effect")):
            await rig.drained()
        assert connections.lost
    assert await rig.charges() == [(f"o-{n}", 1) for n in range(orders)]
    assert rig.count("onceproof_dedup_hits_total") - hits == orders


async def test_what_postgres_cannot_hold_goes_to_the_dlq_without_the_customers_data(
    rig: Rig,
) -> None:
    nul = Event(type="t", key="o-1", data={"card": "4111\x00"})
    nothing = Event(type="t", data={"card": "4111"})  # no key: order_id is NOT NULL
    await rig.send(nul, nothing)
    async with rig.running(rig.consumer("effect")):
        await rig.drained()
    reasons = sorted(message.attributes[REASON] for message in await rig.dead())
    assert "null value in column" in reasons[0]
    assert "untranslatable character (22P05)" in reasons[1]
    assert not any("4111" in reason for reason in reasons)


async def test_a_key_that_is_not_there_yet_is_waited_for(rig: Rig) -> None:
    await execute(
        rig,
        "CREATE TABLE customers (id text PRIMARY KEY)",
        "CREATE TABLE visits (customer text REFERENCES customers)",
    )
    rig.effect = SqlEffect("INSERT INTO visits SELECT key FROM events RETURNING 1", returns="count")
    rig.broker.create_queue("orders", max_receive_count=50, dead_letter="dlq")
    await rig.send(rig.order(1))
    async with rig.running(rig.consumer("effect", backoff_s=0.01, backoff_max_s=0.05)):
        await rig.until(lambda: rig.subscriber.received >= 2)
        await execute(rig, "INSERT INTO customers VALUES ('o-1')")
        await rig.drained()
    assert await execute(rig, "SELECT * FROM visits") == [("o-1",)]
    assert await rig.dead() == []


async def test_an_idle_connection_that_the_server_ended_is_not_used(rig: Rig) -> None:
    async with rig.running(rig.consumer("effect")):
        await rig.send(rig.order(1))
        await rig.drained()
        await execute(
            rig,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'test-effect'",
        )
        await rig.until(lambda: all(c.driver.is_closed() for c in rig.connections._idle))
        await rig.send(rig.order(2))
        await rig.drained()
    assert await rig.charges() == [("o-1", 1), ("o-2", 1)]
