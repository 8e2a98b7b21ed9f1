"""Debezium as the relay: kills at its crash points, and a slot that is lost in the middle."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from tests.programs import ONCEPROOF, run_program

from onceproof.errors import ConfigurationError
from onceproof.outbox import Reconciler, Slot, SlotState
from onceproof.postgres import create_engine
from onceproof_chaos.backend import Role
from onceproof_chaos.campaign import Load, carry_out, conclude_stage
from onceproof_chaos.conduct import FaultLog, Unwatched
from onceproof_chaos.drain import Drain
from onceproof_chaos.embedded import debezium, kafka_jars
from onceproof_chaos.environment import (
    Stage,
    asyncpg_url,
    broker_of,
    connect,
    servers,
    stage,
)
from onceproof_chaos.plan import Plan
from onceproof_chaos.runfolder import RunFolder
from onceproof_chaos.settings import CDC, CampaignSettings
from onceproof_chaos.verdict import Verdict
from onceproof_chaos.workload import generate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(debezium.installed() is None, reason="Debezium Server was not fetched"),
]

ORDERS = 60
DETECTED_WITHIN_S = 30.0


NEEDS_KAFKA = pytest.mark.skipif(
    kafka_jars.why_not() is not None, reason=f"no Kafka: {kafka_jars.why_not()}"
)


@pytest.mark.parametrize("broker", ["sqs", pytest.param("kafka", marks=NEEDS_KAFKA)])
def test_kills_before_and_after_debezium_sends(tmp_path: Path, broker: str) -> None:
    done = run_program(
        *ONCEPROOF, "campaign", "run", "--relay", "cdc", "--broker", broker,
        "--orders", "60", "--points", "relay",
        "--kills-per-point", "1", "--dropped", "1", "--unknown", "1",
        "--run-dir", str(tmp_path), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = json.loads(done.stdout)
    assert (verdict["verdict"], verdict["lost"], verdict["double_charged"]) == ("pass", 0, 0)
    assert verdict["redeliveries"] >= 1  # what was sent and not confirmed came again


async def refuses_to_drop(place: Stage) -> None:
    """As long as Debezium reads it."""
    assert place.capture is not None
    engine = create_engine(place.database_url, application_name="test")
    try:
        slot = Slot(engine, place.capture.slot)
        async with asyncio.timeout(DETECTED_WITHIN_S):
            while (await slot.status()).state is not SlotState.READ:  # noqa: ASYNC110 - no event to wait for
                await asyncio.sleep(0.1)
        with pytest.raises(ConfigurationError, match="stop Debezium first"):
            await slot.drop()
    finally:
        await engine.dispose()


async def drop_slot(place: Stage) -> None:
    """As a failover does, or somebody who wants the disk back."""
    assert place.capture is not None
    admin = await asyncpg.connect(asyncpg_url(place.database_url))
    try:
        while True:
            await admin.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots "
                "WHERE slot_name = $1 AND active",
                place.capture.slot,
            )
            try:
                await admin.execute("SELECT pg_drop_replication_slot($1)", place.capture.slot)
            except asyncpg.ObjectInUseError:
                continue
            return
    finally:
        await admin.close()


async def until_told(admin_url: str) -> float:
    """Seconds until the relay says that it cannot work."""
    began = time.monotonic()
    async with aiohttp.ClientSession() as http, asyncio.timeout(DETECTED_WITHIN_S):
        while True:
            async with http.get(f"{admin_url}/readyz") as answer:
                if answer.status == 503 and "is lost" in await answer.text():
                    break
            await asyncio.sleep(0.05)
        async with http.get(f"{admin_url}/metrics") as answer:
            assert "onceproof_slot_lost 1.0" in await answer.text()
    return time.monotonic() - began


Script = Callable[[Load, Stage], Coroutine[Any, Any, None]]


async def carried_out(tmp_path: Path, name: str, script: Script) -> tuple[Verdict, RunFolder]:
    """Orders over Debezium, sent by a script that meddles meanwhile, to the verdict."""
    settings = CampaignSettings("hardened", ORDERS, 1, relay=CDC)
    plan = Plan(1, ORDERS)
    run = RunFolder.create(tmp_path, "hardened", 1)
    run.write_plan(plan)
    async with (
        servers(relay=CDC) as where,
        stage(where, name, visibility_s=3, max_receive_count=50, relay=CDC) as place,
        broker_of(place) as broker,
    ):
        drain = Drain(place, broker, window_s=3.5)
        with FaultLog(run, Unwatched()) as faults:
            reason = await carry_out(
                settings,
                plan,
                place,
                run,
                drain,
                faults,
                Unwatched(),
                lambda load: script(load, place),
            )
        verdict = await conclude_stage(
            run, settings, place, drain, drain_reason=reason, began=time.time(), command=None
        )
    assert reason is None
    return verdict, run


async def test_a_server_that_crashes_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    orders = generate(1, ORDERS)

    async def crash_the_server(load: Load, place: Stage) -> None:
        await load.send(orders[:20])
        await crash(place.database_url)
        await load.send(orders[20:])

    verdict, _ = await carried_out(tmp_path, "cdc_crash", crash_the_server)
    assert (verdict.lost, verdict.double_charged) == (0, 0)
    assert verdict.accepted >= 20


async def crash(database_url: str) -> None:
    """Kill one backend: the server ends all the others, recovers from the WAL, and takes new ones."""
    victim = await asyncpg.connect(asyncpg_url(database_url))
    ended = asyncio.Event()
    victim.add_termination_listener(lambda _: ended.set())
    os.kill(await victim.fetchval("SELECT pg_backend_pid()"), signal.SIGKILL)
    await asyncio.wait_for(ended.wait(), DETECTED_WITHIN_S)


async def test_a_lost_slot_is_told_and_nothing_is_lost_after_reconciling(tmp_path: Path) -> None:
    orders = generate(1, ORDERS)
    told_after_s: list[float] = []
    found: list[int] = []

    async def lose_the_slot(load: Load, place: Stage) -> None:
        assert place.capture is not None
        await load.send(orders[:20])
        await refuses_to_drop(place)
        [relay] = load.backend.instances(Role.RELAY)
        await drop_slot(place)
        told_after_s.append(await until_told(relay.admin_url))
        await load.send(orders[20:40])
        engine = create_engine(place.database_url, application_name="test")
        try:
            reconciler = Reconciler(engine, Slot(engine, place.capture.slot))
            found.append((await reconciler.gap()).rows)
            async with connect(place.servers) as publisher:
                done = await reconciler.run(publisher)
        finally:
            await engine.dispose()
        assert done.left == 0
        await load.send(orders[40:])

    verdict, run = await carried_out(tmp_path, "cdc_loss", lose_the_slot)
    assert found[0] >= 20  # Debezium made no slot of its own meanwhile
    assert told_after_s[0] < DETECTED_WITHIN_S
    assert (verdict.lost, verdict.double_charged, verdict.accepted) == (0, 0, ORDERS)
    charged = Counter(row.order_id for row in run.evidence().charges)
    assert set(charged.values()) == {1}
    assert len(charged) == ORDERS
