"""Drills for the stage: killed before and after the commit of its transaction, and fenced as a zombie.

What was done twice is there for a reader of uncommitted records, and that is asserted, too: else a drill
that struck nothing would pass.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest
from confluent_kafka import Consumer

from onceproof.brokers.kafka import KafkaBroker, KafkaSettings, TopicPolicy
from onceproof.crashpoints import STAGE_AFTER_COMMIT, STAGE_BEFORE_COMMIT, Action
from onceproof.events import ORDER_PLACED, Event
from onceproof.ports import Outgoing
from onceproof_chaos.admin_client import AdminClient
from onceproof_chaos.backend import Instance, ProcessBackend, Role
from onceproof_chaos.plan import Fault

ORDERS = 40
TIMEOUT_S = 3.0
DEADLINE_S = 40.0
STRUCK = tuple(f"o-{n}" for n in range(10, 20))


@dataclass
class Ground:
    bootstrap: str
    topic: str
    broker: KafkaBroker
    backend: ProcessBackend
    admin: AdminClient

    @property
    def target(self) -> str:
        return f"{self.topic}-requests"

    async def start(self, name: str, *faults: Fault) -> Instance:
        return await self.backend.start(Role.STAGE, name, faults)

    async def place(self, numbers: range) -> None:
        made = [Event(ORDER_PLACED, {"n": n}, key=f"o-{n}") for n in numbers]
        results = await self.broker.send(
            self.topic, [Outgoing(event.id, event.encode(), event.key) for event in made]
        )
        assert all(result.ok for result in results)

    async def reached(self, instance: Instance) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not await self.admin.reached(instance.admin_url, after=0, wait_s=10):
                pass

    async def seen(self, *, committed: bool) -> Counter[str]:
        """Every order behind the stage, once all that was placed is there and nothing more comes."""
        return await asyncio.to_thread(self._read, committed)

    def _read(self, committed: bool) -> Counter[str]:
        reader = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": uuid4().hex,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed" if committed else "read_uncommitted",
            }
        )
        reader.subscribe([self.target])
        found: Counter[str] = Counter()
        deadline = time.monotonic() + DEADLINE_S
        quiet_since = time.monotonic()
        while time.monotonic() < deadline:
            for message in reader.consume(100, 0.2):
                if message.error() is None:
                    found[Event.decode(message.value() or b"").key or ""] += 1
                    quiet_since = time.monotonic()
            if len(found) == ORDERS and time.monotonic() - quiet_since > TIMEOUT_S:
                break
        reader.close()
        return found


@pytest.fixture
async def ground(kafka_bootstrap: str, tmp_path: Path) -> AsyncIterator[Ground]:
    topic = f"stage-{uuid4().hex[:12]}"
    environment = {
        "ONCEPROOF_DATABASE_URL": "postgresql://nobody@127.0.0.1/none",
        "ONCEPROOF_BROKER": "kafka",
        "ONCEPROOF_KAFKA_BOOTSTRAP": kafka_bootstrap,
        "ONCEPROOF_KAFKA_GROUP": topic,
        "ONCEPROOF_KAFKA_SESSION_S": str(TIMEOUT_S),
        "ONCEPROOF_QUEUE": topic,
        "ONCEPROOF_TARGET": f"{topic}-requests",
        "ONCEPROOF_TRANSACTIONAL_ID": topic,
        "ONCEPROOF_TRANSACTION_TIMEOUT_S": str(TIMEOUT_S),
        "ONCEPROOF_COMMIT_INTERVAL_S": "0.05",
    }
    async with (
        KafkaBroker.connect(KafkaSettings(kafka_bootstrap)) as broker,
        aiohttp.ClientSession() as http,
        running({Role.STAGE: environment}, tmp_path, http) as backend,
    ):
        await broker.ensure_topic(topic, partitions=2, policy=TopicPolicy.of(topic))
        await broker.ensure_topic(f"{topic}-requests", partitions=2)
        yield Ground(kafka_bootstrap, topic, broker, backend, AdminClient(http))


@asynccontextmanager
async def running(
    environment: dict[Role, dict[str, str]], logs: Path, http: aiohttp.ClientSession
) -> AsyncIterator[ProcessBackend]:
    backend = ProcessBackend(environment, logs, http)
    try:
        yield backend
    finally:
        await backend.stop()


def once() -> Counter[str]:
    return Counter(f"o-{n}" for n in range(ORDERS))


@pytest.mark.parametrize("point", [STAGE_BEFORE_COMMIT, STAGE_AFTER_COMMIT])
async def test_a_kill_loses_and_doubles_nothing_inside_kafka(ground: Ground, point: str) -> None:
    fault = Fault("kill", point, Action.KILL, STRUCK)
    victim = await ground.start("stage-0", fault)
    await ground.place(range(ORDERS // 2))
    await ground.reached(victim)
    assert await ground.backend.kill(victim) == -9
    await ground.start("stage-0")
    await ground.place(range(ORDERS // 2, ORDERS))
    assert await ground.seen(committed=True) == once()
    written = await ground.seen(committed=False)
    if point == STAGE_BEFORE_COMMIT:
        assert written > once()  # the aborted transaction had written some of them
    else:
        assert written == once()


async def test_a_zombie_is_fenced(ground: Ground) -> None:
    fault = Fault("stall", STAGE_BEFORE_COMMIT, Action.STALL, STRUCK, park_s=2 * TIMEOUT_S)
    zombie = await ground.start("stage-0", fault)
    await ground.place(range(ORDERS // 2))
    await ground.reached(zombie)
    await ground.start("stage-1")  # under the same transactional id
    await ground.place(range(ORDERS // 2, ORDERS))
    async with asyncio.timeout(DEADLINE_S):
        assert await ground.backend.died(zombie) == 0
    assert await ground.seen(committed=True) == once()
    assert await ground.seen(committed=False) > once()


async def test_what_is_no_order_goes_to_the_dlq_in_the_same_transaction(ground: Ground) -> None:
    await ground.start("stage-0")
    await ground.broker.send(ground.topic, [Outgoing("x", b"not an event", "k")])
    await ground.place(range(ORDERS))
    assert await ground.seen(committed=True) == once()
    assert (await ground.broker.subscriber(f"{ground.topic}.dlq").depth()).total >= 1
