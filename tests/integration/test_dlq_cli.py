"""`onceproof dlq` against the embedded SQS and Postgres, as the engineer on call uses it."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from typer.testing import CliRunner, Result

from onceproof.cli.app import build
from onceproof.consumer import Consumer, ConsumerSettings
from onceproof.errors import PermanentError
from onceproof.events import Event
from onceproof.ports import Delivery, Outgoing
from onceproof.postgres import create_engine

DAY = 86400.0
_CHARGE = text("""
    INSERT INTO charges (order_id, event_id, amount, currency, provider_charge_id, delivery_attempt)
    VALUES (:order_id, :event_id, 100, 'EUR', 'ch', :attempt)
""")


def order(number: int, *, age_s: float = 60) -> Event:
    time = datetime.now(UTC) - timedelta(seconds=age_s)
    return Event(
        type="dev.onceproof.order.placed", data={"n": number}, key=f"o-{number}", time=time
    )


class Rig:
    """A queue, a consumer that can be told to refuse everything, and the command line."""

    def __init__(self, broker, queue, engine, endpoint, database_url, folder) -> None:
        self.broker = broker
        self.queue = queue
        self.engine = engine
        self.folder = folder
        self.broken = False
        self.where = {
            "ONCEPROOF_QUEUE": queue.name,
            "ONCEPROOF_SQS_ENDPOINT_URL": endpoint,
            "ONCEPROOF_SQS_REGION": "us-east-1",
            "ONCEPROOF_DATABASE_URL": database_url,
            "ONCEPROOF_DLQ_AUDIT": str(folder / "audit.jsonl"),
        }

    async def dlq(self, *arguments: str, **environment: str) -> Result:
        return await asyncio.to_thread(
            CliRunner().invoke, build(), ["dlq", *arguments], env=self.where | environment
        )

    async def json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        result = await self.dlq(*arguments, "--json")
        assert result.exit_code == code, result.output
        return dict(json.loads(result.stdout))

    async def send(self, *bodies: bytes, queue: str | None = None) -> None:
        results = await self.broker.send(
            queue or self.queue.name, [Outgoing(f"m-{i}", body) for i, body in enumerate(bodies)]
        )
        assert all(result.ok for result in results)

    async def handle(self, session: AsyncSession, delivery: Delivery) -> None:
        if self.broken:
            raise PermanentError(f"no such merchant: {delivery.event.key}")
        event = delivery.event
        await session.execute(
            _CHARGE, {"order_id": event.key, "event_id": event.id, "attempt": delivery.attempt}
        )

    async def consume(self) -> None:
        """Consume until the queue is empty."""
        subscriber = self.broker.subscriber(self.queue.name)
        consumer = Consumer(
            subscriber,
            async_sessionmaker(self.engine, expire_on_commit=False),
            self.handle,
            settings=ConsumerSettings("payments", wait_s=1, drain_timeout_s=5),
        )
        stop = asyncio.Event()
        running = asyncio.create_task(consumer.run(stop))
        async with asyncio.timeout(30):
            while (await subscriber.depth()).total:  # noqa: ASYNC110 - a broker has no event for it
                await asyncio.sleep(0.05)
        stop.set()
        await running

    async def charges(self) -> list[str]:
        async with self.engine.connect() as connection:
            return list(await connection.scalars(text("SELECT order_id FROM charges")))

    async def depth(self, queue: str) -> tuple[int, int]:
        depth = await self.broker.subscriber(queue).depth()
        return depth.visible, depth.in_flight


@pytest.fixture
async def rig(sqs_broker, queue_factory, sqs_endpoint, database_url, tmp_path: Path):
    engine = create_engine(database_url, application_name="test-dlq", pool_size=15)
    yield Rig(sqs_broker, await queue_factory(), engine, sqs_endpoint, database_url, tmp_path)
    await engine.dispose()


async def test_a_night_on_call(rig: Rig) -> None:
    charged = [order(n) for n in range(5)]
    await rig.send(*(event.encode() for event in charged))
    await rig.consume()
    rig.broken = True
    await rig.send(*(order(n).encode() for n in range(5, 40)), b"not json")
    await rig.consume()
    # Five that were charged are in the DLQ as well, as after a lost ack and a bad deployment.
    await rig.send(*(event.encode() for event in charged), queue=rig.queue.dead_letter)
    rig.broken = False

    found = await rig.json("list")
    assert (found["looked_at"], found["malformed"], found["complete"]) == (41, 1, True)
    assert found["groups"][0]["reason"] == "no such merchant: o-<n>"
    assert found["groups"][0]["count"] == 35

    copy = rig.folder / "before.jsonl"
    assert (await rig.json("snapshot", str(copy)))["messages"] == 41
    assert len(copy.read_text().splitlines()) == 43

    sampled = (await rig.json("sample", "100"))["sample"]
    fates = [one["fate"] for one in sampled]
    assert {fate: fates.count(fate) for fate in fates} == {
        "would_charge": 35, "already_charged": 5, "malformed": 1,
    }  # fmt: skip

    shown = await rig.json("show", "o-17")
    assert (shown["key"], shown["fate"]) == ("o-17", "would_charge")
    assert json.loads(shown["body"])["data"] == {"n": 17}

    foretold = await rig.json("redrive", "--dry-run", "--only", "not-charged")
    assert foretold["would_send"] == {"would_charge": 35}
    assert foretold["left"] == {"malformed": 1, "already_charged": 5}
    assert await rig.depth(rig.queue.dead_letter) == (41, 0)
    assert not (rig.folder / "audit.jsonl").exists()

    few = await rig.json("redrive", "--rate", "100", "--max", "4", "--yes")
    assert (few["sent"], few["deleted"]) == (4, 4)
    rest = await rig.json("redrive", "--rate", "1000", "--yes")
    assert (few["sent"] + rest["sent"], rest["left"]) == (40, {"malformed": 1})
    assert await rig.depth(rig.queue.dead_letter) == (1, 0)
    await rig.consume()
    assert sorted(await rig.charges()) == sorted(f"o-{n}" for n in range(40))


async def test_what_people_see(rig: Rig) -> None:
    await rig.send(
        order(1).encode(), "\u009b31mnot json".encode(), order(2, age_s=60 * DAY).encode(),
        queue=rig.queue.dead_letter,
    )  # fmt: skip
    listed = await rig.dlq("list")
    assert listed.exit_code == 0
    assert "3 messages" in listed.output
    assert "older than the inbox remembers: 1" in listed.output
    sampled = await rig.dlq("sample")
    for fate in ("would_charge", "past_dedup_window", "malformed"):
        assert fate in sampled.output
    shown = await rig.dlq("show", "o-1")
    assert '"n": 1' in shown.output
    message = next(
        one["message_id"]
        for one in (await rig.json("sample"))["sample"]
        if one["fate"] == "malformed"
    )
    shown = await rig.dlq("show", message)
    assert "\u009b" not in shown.output
    assert "not json" in shown.output
    dry = await rig.dlq("redrive", "--dry-run")
    assert dry.exit_code == 1
    assert "--past-dedup-window" in dry.stderr
    done = await rig.dlq("redrive", "--yes", "--rate", "100")
    assert done.exit_code == 1
    assert "left: past_dedup_window" in done.stdout
    done = await rig.dlq("redrive", "--yes", "--rate", "100", "--past-dedup-window")
    assert done.exit_code == 0
    assert (await rig.dlq("show", "o-2")).exit_code == 1


async def test_a_repeated_redrive_of_everything_charges_nothing_twice(rig: Rig) -> None:
    events = [order(n) for n in range(12)]
    for _ in range(3):
        await rig.send(*(event.encode() for event in events), queue=rig.queue.dead_letter)
        assert (await rig.json("redrive", "--rate", "1000", "--yes"))["sent"] == 12
        await rig.consume()
    assert sorted(await rig.charges()) == sorted(f"o-{n}" for n in range(12))


async def test_messages_held_by_somebody_else(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onceproof.cli.dlq.PATIENCE_S", 0.0)
    monkeypatch.setattr("onceproof.cli.dlq_redrive.PATIENCE_S", 0.0)
    await rig.send(*(order(n).encode() for n in range(4)), queue=rig.queue.dead_letter)
    [held] = await rig.broker.subscriber(rig.queue.dead_letter).receive(
        max_messages=1, wait_s=1, visibility_s=600
    )
    snapshot = await rig.dlq("snapshot", str(rig.folder / "s"), "--hold", "1")
    assert snapshot.exit_code == 3
    assert "--allow-incomplete" in snapshot.stderr
    assert not (rig.folder / "s").exists()
    shown = await rig.dlq("show", held.message_id)
    assert shown.exit_code == 3
    redriven = await rig.dlq("redrive", "--yes", "--rate", "100", "--hold", "1")
    assert redriven.exit_code == 3
    assert "held by somebody else" in redriven.stdout
    await rig.broker.subscriber(rig.queue.dead_letter).release([held], 0)
    assert (await rig.json("redrive", "--yes", "--rate", "100"))["sent"] == 4


async def test_a_fifo_queue_does_not_swallow_what_it_saw_a_minute_ago(
    rig: Rig, queue_factory
) -> None:
    queue = await queue_factory(fifo=True)
    rig.where["ONCEPROOF_QUEUE"] = queue.name
    events = [order(n) for n in range(3)]
    source, dead = rig.broker.subscriber(queue.name), rig.broker.subscriber(queue.dead_letter)
    await rig.broker.send(queue.name, [Outgoing(e.id, e.encode(), e.key) for e in events])
    for _ in events:
        [message] = await source.receive(max_messages=1, wait_s=5, visibility_s=30)
        await source.reject(message, "why")
    assert (await rig.json("redrive", "--yes", "--rate", "100"))["sent"] == 3
    received = []
    for _ in events:
        received += await source.receive(max_messages=1, wait_s=5, visibility_s=30)
    assert {m.body for m in received} == {event.encode() for event in events}
    assert (await dead.depth()).total == 0


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["list"], {"ONCEPROOF_QUEUE": "absent"}, "'absent' does not exist"),
        (["list"], {"ONCEPROOF_SQS_ENDPOINT_URL": "http://127.0.0.1:9"}, "broker unavailable"),
        (["list"], {"ONCEPROOF_SQS_ENDPOINT_URL": "nonsense"}, "no SQS client can be made"),
        (["sample"], {"ONCEPROOF_DATABASE_URL": ""}, "--database-url"),
        (["sample"], {"ONCEPROOF_DATABASE_URL": "postgresql://u:s3cret@127.0.0.1:1/d"}, "database"),
        (["redrive"], {}, "--yes"),
        (
            ["redrive", "--yes", "--only", "not-charged"],
            {"ONCEPROOF_DATABASE_URL": ""},
            "--only not-charged needs the inbox",
        ),
        (["redrive", "--yes"], {"ONCEPROOF_DLQ_AUDIT": "/dev/null/x"}, "audit log"),
        (["redrive", "--rate", "0"], {}, "--rate"),
        (["snapshot", "/dev/null/x"], {}, "cannot be written"),
    ],
)  # fmt: skip
async def test_clear_errors(rig: Rig, arguments, environment, words) -> None:
    result = await rig.dlq(*arguments, **environment)
    assert result.exit_code == 2, result.output
    assert words in result.output
    assert "Traceback" not in result.output
    assert "s3cret" not in result.output


async def test_a_queue_without_a_dlq(rig: Rig) -> None:
    result = await rig.dlq("list", ONCEPROOF_QUEUE=rig.queue.dead_letter)
    assert result.exit_code == 2
    assert "no dead-letter queue" in result.output


async def test_a_database_without_an_inbox_and_a_wrong_name(
    rig: Rig, empty_database_url: str
) -> None:
    await rig.send(order(1).encode(), queue=rig.queue.dead_letter)
    result = await rig.dlq("sample", ONCEPROOF_DATABASE_URL=empty_database_url)
    assert result.exit_code == 2
    assert "onceproof schema upgrade" in result.output
    result = await rig.dlq("sample", "--consumer", "paymemts")
    assert result.exit_code == 0
    assert "'paymemts' has no event in this inbox" in result.stderr
