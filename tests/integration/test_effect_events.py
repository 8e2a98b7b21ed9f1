"""An event is the same to an effect in SQL as to a handler, and what it holds is told to nobody."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import text

from onceproof import telemetry
from onceproof.brokers.dead_letter import REASON
from onceproof.consumer import SqlEffect
from onceproof.ports import Outgoing

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from tests.integration.conftest import Rig

    from onceproof.ports import Delivery

ONE: dict[str, Any] = {"concurrency": 1, "prefetch": 0}
CARD = "4111-1111"
SEEN = SqlEffect("""
    INSERT INTO seen SELECT event_id, key, time, data->>'text' FROM events RETURNING event_id
""")
INSERT = text("INSERT INTO seen VALUES (:id, :key, :time, :text)")


def body(number: int, **more: Any) -> str:
    event = {"specversion": "1.0", "id": f"e-{number}", "source": "/s", "type": "t"} | more
    return json.dumps(event | {"data": {"text": "é"}}, ensure_ascii=False)


async def execute(rig: Rig, *statements: str) -> list[Any]:
    """The rows of the last statement."""
    rows: list[Any] = []
    async with rig.engine.begin() as connection:
        for statement in statements:
            result = await connection.execute(text(statement))
            rows = [tuple(row) for row in result] if result.returns_rows else []
    return rows


@pytest.fixture
async def seeing(rig: Rig) -> Rig:
    """A rig whose handler and effect record what they see, in a server that is not on UTC."""

    async def handle(session: AsyncSession, delivery: Delivery) -> None:
        event = delivery.event
        seen = {"id": event.id, "key": event.key, "time": event.time, "text": event.data["text"]}
        await session.execute(INSERT, seen)

    rig.effect, rig.handle = SEEN, handle  # type: ignore[method-assign]
    await execute(
        rig,
        "CREATE TABLE seen (event_id text, key text NOT NULL, time timestamptz, data text)",
        """DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET timezone = ''Asia/Tokyo''',
            current_database()); END $$""",
    )
    await rig.engine.dispose()
    return rig


@pytest.mark.parametrize("path", ["handle", "effect"])
async def test_the_same_event_is_seen_whatever_its_bytes(seeing: Rig, path: str) -> None:
    rig, time = seeing, "2026-01-02T03:04:05.123457"
    bodies = [
        body(0, subject="k", time=f"{time}Z").encode(),
        body(1, subject="k", time=f"{time}").encode("utf-16"),
        body(2, subject="k", time=f"{time}").encode("utf-16-le"),
        body(3, subject="k", time=f"{time}").encode("utf-16-be"),
        body(4, subject="k", time=f"{time}").encode("utf-8-sig"),
        body(5, subject="k", time="2026-01-02T05:04:05.123457+02:00").encode(),
        body(6, subject="k", time=f"{time}").encode(),
        body(7, subject="k").encode(),
    ]
    before = datetime.now(UTC)
    await rig.broker.send("orders", [Outgoing(str(n), each) for n, each in enumerate(bodies)])
    async with rig.running(rig.consumer(path, **ONE)):
        await rig.drained()
    assert await rig.dead() == []
    *dated, (number, _, now, _) = await execute(rig, "SELECT * FROM seen ORDER BY event_id")
    moment = datetime.fromisoformat(f"{time}Z")
    assert dated == [(f"e-{n}", "k", moment, "é") for n in range(7)]
    assert number == "e-7"
    assert before <= now <= datetime.now(UTC)


async def test_what_cannot_be_encoded_goes_to_the_dlq_alone_and_costs_no_connection(
    seeing: Rig,
) -> None:
    rig, surrogate = seeing, b"\xed\xa0\x80"
    raw = body(1, subject="k").encode().replace("é".encode(), surrogate)
    bodies = [body(0, subject="k").encode(), raw, body(2, subject="k").encode()]
    await rig.broker.send("orders", [Outgoing(str(n), each) for n, each in enumerate(bodies)])
    async with rig.running(rig.consumer("effect", **ONE)):
        await rig.drained()
    (dead,) = await rig.dead()
    assert "lone surrogate" in dead.attributes[REASON]
    assert [row[0] for row in await execute(rig, "SELECT * FROM seen")] == ["e-0", "e-2"]
    assert rig.connections.opened == 1


@pytest.mark.parametrize("path", ["handle", "effect"])
@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("ADD CHECK (CAST(data AS int) > 0) NOT VALID", "22P02"),
        ("ADD CHECK (data = '') NOT VALID", "violates check constraint"),
        ("ALTER COLUMN key SET NOT NULL", "null value in column"),
        ("ADD UNIQUE (data)", "duplicate key value"),
    ],
)
async def test_what_postgres_says_of_a_row_is_in_no_log_no_trace_and_no_dead_letter(
    seeing: Rig,
    path: str,
    rule: str,
    said: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig, exporter, provider = seeing, InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("test"))
    known = f"INSERT INTO seen VALUES ('e', 'k', now(), '{CARD}')"  # noqa: S608
    await execute(rig, known, f"ALTER TABLE seen {rule}")
    rig.broker.create_queue("orders", max_receive_count=1, dead_letter="dlq")
    subject = {} if "NULL" in rule else {"subject": "k"}
    await rig.broker.send("orders", [Outgoing("1", body(1, **subject).replace("é", CARD).encode())])
    async with rig.running(rig.consumer(path, **ONE)):
        await rig.drained()
    (dead,) = await rig.dead()
    told = [event.attributes for span in exporter.get_finished_spans() for event in span.events]
    assert said in caplog.text
    assert said in str(told)
    assert CARD not in caplog.text + str(told) + str(dead.attributes)
