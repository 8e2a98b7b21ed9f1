"""`onceproof dlq redrive` as a process that is killed with SIGKILL, while a consumer charges."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from tests.programs import ONCEPROOF

from onceproof.consumer import Consumer, ConsumerSettings
from onceproof.events import Event
from onceproof.ports import Delivery, Outgoing
from onceproof.postgres import create_engine

# The checker is beside the packages, not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.dlq_audit import audit_problems, resumptions
from benchmarks.dlq_process import finished, killed

MESSAGES = 200
MOMENTS = ("sending", "sent", "deleted")
RATE = 150
HOLD_S = 2.0
_CHARGE = text("""
    INSERT INTO charges (order_id, event_id, amount, currency, provider_charge_id, delivery_attempt)
    VALUES (:order_id, :event_id, 100, 'EUR', 'ch', :attempt)
""")


class Charging:
    """A handler that charges, and what it charged."""

    def __init__(self, engine) -> None:
        self.engine = engine

    async def handle(self, session: AsyncSession, delivery: Delivery) -> None:
        await session.execute(
            _CHARGE,
            {
                "order_id": delivery.event.key,
                "event_id": delivery.event.id,
                "attempt": delivery.attempt,
            },
        )

    async def charges(self) -> Counter[str]:
        async with self.engine.connect() as connection:
            return Counter(await connection.scalars(text("SELECT order_id FROM charges")))


@pytest.mark.slow
async def test_killed_three_times_nothing_is_lost_and_nothing_charged_twice(
    sqs_broker, queue_factory, sqs_endpoint, database_url, tmp_path: Path
) -> None:
    queue = await queue_factory()
    log = tmp_path / "audit.jsonl"
    events = [Event(type="dev.test", data={"n": n}, key=f"o-{n}") for n in range(MESSAGES)]
    sent = await sqs_broker.send(
        queue.dead_letter, [Outgoing(e.id, e.encode(), e.key) for e in events]
    )
    before = {str(result.message_id) for result in sent}
    environment = {
        "ONCEPROOF_QUEUE": queue.name,
        "ONCEPROOF_SQS_ENDPOINT_URL": sqs_endpoint,
        "ONCEPROOF_SQS_REGION": "us-east-1",
        "ONCEPROOF_DATABASE_URL": database_url,
    }
    engine = create_engine(database_url, application_name="test-dlq-kill", pool_size=15)
    charging = Charging(engine)
    consumer = Consumer(
        sqs_broker.subscriber(queue.name),
        async_sessionmaker(engine, expire_on_commit=False),
        charging.handle,
        settings=ConsumerSettings("payments", wait_s=1, drain_timeout_s=5),
    )
    stop = asyncio.Event()
    consuming = asyncio.create_task(consumer.run(stop))
    try:
        for kill, moment in enumerate(MOMENTS, start=1):
            enough = MESSAGES * kill // (len(MOMENTS) + 1)
            await killed(
                log, environment, rate=RATE, hold_s=HOLD_S, deletions=enough, within=moment
            )
        summary = await finished(log, environment, rate=RATE, hold_s=HOLD_S)
        source = sqs_broker.subscriber(queue.name)
        async with asyncio.timeout(30):
            while (await source.depth()).total:  # noqa: ASYNC110 - a broker has no event for it
                await asyncio.sleep(0.05)
    finally:
        stop.set()
        await consuming
    assert summary["resumed"]
    assert (summary["sent"], summary["deleted"], summary["unconfirmed"]) == (MESSAGES, MESSAGES, 0)
    assert (await sqs_broker.subscriber(queue.dead_letter).depth()).total == 0
    assert await charging.charges() == Counter({str(event.key): 1 for event in events})
    await engine.dispose()
    assert audit_problems(log, before=before, after=set()) == []
    assert resumptions(log) == len(MOMENTS)


async def test_ctrl_c_finishes_what_is_in_hand_and_gives_back_the_rest(
    sqs_broker, queue_factory, sqs_endpoint, tmp_path: Path
) -> None:
    queue = await queue_factory()
    log = tmp_path / "audit.jsonl"
    events = [Event(type="dev.test", data={"n": n}, key=f"o-{n}") for n in range(30)]
    await sqs_broker.send(queue.dead_letter, [Outgoing(e.id, e.encode(), e.key) for e in events])
    process = await asyncio.create_subprocess_exec(
        *ONCEPROOF, "dlq", "redrive", "--queue", queue.name, "--endpoint-url", sqs_endpoint,
        "--region", "us-east-1", "--yes", "--rate", "4", "--audit", str(log), "--json",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    source = sqs_broker.subscriber(queue.name)
    async with asyncio.timeout(30):
        while not await source.receive(max_messages=1, wait_s=20, visibility_s=600):
            pass
        process.send_signal(signal.SIGINT)
        output, _ = await process.communicate()
    summary = json.loads(output)
    assert process.returncode == 3
    assert summary["stopped"] == "on request"
    assert summary["sent"] == summary["deleted"]
    depth = await sqs_broker.subscriber(queue.dead_letter).depth()
    assert (depth.visible, depth.in_flight) == (30 - summary["sent"], 0)
    assert audit_problems(log, finished=False) == []
