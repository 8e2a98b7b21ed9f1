"""The door that Debezium sends to: batches, order, heartbeats, drops, and what is no event."""

from __future__ import annotations

import json
import random
from base64 import b64encode
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.types import Message, Scope

from onceproof.brokers.memory import MemoryBroker
from onceproof.crashpoints import (
    RELAY_AFTER_PUBLISH,
    RELAY_BEFORE_PUBLISH,
    Action,
    Armed,
    crash_points,
)
from onceproof.events import Event
from onceproof.outbox.dispatch import Dispatcher
from onceproof_relay.cdc import configure
from onceproof_relay.cdc.door import HEARTBEATS, Door
from onceproof_relay.cdc.properties import as_text, properties
from onceproof_relay.cdc.settings import CdcSettings

EVENT = Event(type="order.placed", data={"amount": 1}, key="o-1")
TEXT = EVENT.encode().decode()
TARGET = {"x-amz-target": "Kinesis_20131202.PutRecords"}


class Rig:
    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.broker.create_queue("orders")
        self.health: list[tuple[str, str | None]] = []
        dispatcher = Dispatcher(self.broker, "aws_sqs", 0, 0, random.Random(1))
        self.door = Door(dispatcher, lambda *told: self.health.append(told))

    async def put(self, *texts: str, stream: str = "orders") -> list[str | None]:
        """Why each record was not sent, or None, as Debezium's client reads the answer."""
        records = [{"Data": b64encode(text.encode()).decode()} for text in texts]
        status, answer = await self.ask(
            TARGET, json.dumps({"StreamName": stream, "Records": records})
        )
        assert status == 200
        told = json.loads(answer)
        errors = [record.get("ErrorMessage") for record in told["Records"]]
        assert told["FailedRecordCount"] == len(texts) - errors.count(None)
        assert all(("ErrorCode" in record) != ("ShardId" in record) for record in told["Records"])
        return errors

    async def ask(self, headers: dict[str, str], body: str) -> tuple[int, str]:
        scope: Scope = {
            "type": "http", "method": "POST", "path": "/", "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }  # fmt: skip

        async def receive() -> Message:
            return {"type": "http.request", "body": body.encode(), "more_body": False}

        answer = await self.door.answer(Request(scope, receive))
        return answer.status_code, bytes(answer.body).decode()

    async def bodies(self) -> list[str]:
        subscriber = self.broker.subscriber("orders")
        found = await subscriber.receive(max_messages=10, wait_s=0, visibility_s=60)
        return [message.body.decode() for message in found]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def event(order: str) -> Event:
    return Event(type="order.placed", data={"amount": 1}, key=order)


async def test_a_batch_goes_out_with_the_same_bytes(rig: Rig) -> None:
    texts = [event(f"o-{number}").encode().decode() for number in range(3)]
    assert await rig.put(*texts) == [None] * 3
    assert await rig.bodies() == texts
    assert rig.health == [("broker", None)]


async def test_a_heartbeat_is_confirmed_and_goes_nowhere(rig: Rig) -> None:
    assert await rig.put("Struct{ts_ms=1}", stream=f"{HEARTBEATS}.onceproof") == [None]
    assert await rig.bodies() == []
    assert rig.health == []  # it says nothing about the broker


async def test_what_is_no_event_is_sent_for_the_consumer_to_refuse(rig: Rig) -> None:
    assert await rig.put("Struct{id=1}", TEXT) == [None, None]
    assert await rig.bodies() == ["Struct{id=1}", TEXT]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, '{"StreamName": "orders", "Records": []}'),
        ({"x-amz-target": "Kinesis_20131202.PutRecord"}, '{"StreamName": "s", "Records": []}'),
        (TARGET, "[]"),
        (TARGET, "{"),
        (TARGET, '{"StreamName": "orders", "Records": 1}'),
        (TARGET, '{"StreamName": "orders", "Records": [{"Data": "no base64"}]}'),
        (TARGET, '{"Records": []}'),
    ],
)
async def test_anything_else_is_refused(rig: Rig, headers: dict[str, str], body: str) -> None:
    status, answer = await rig.ask(headers, body)
    assert status == 400
    assert "CBOR_ENABLED=false" in answer
    assert await rig.bodies() == []


async def test_a_broker_that_takes_nothing_is_told(rig: Rig) -> None:
    rig.broker.fail_next_send([EVENT.id], "throttled <&>")
    assert await rig.put(TEXT) == ["throttled <&>"]
    assert rig.health == [("broker", "throttled <&>")]
    assert await rig.bodies() == []


async def test_one_failed_event_of_a_batch_holds_back_those_of_its_key(rig: Rig) -> None:
    first, second, third, other = event("o-1"), event("o-1"), event("o-1"), event("o-2")
    texts = [each.encode().decode() for each in (first, other, second, third)]
    rig.broker.fail_next_send([second.id], "throttled")
    behind = "an event of its key before it was not sent: throttled"
    assert await rig.put(*texts) == [None, None, "throttled", behind]
    assert rig.health == [("broker", None)]  # it took something
    assert await rig.put(*texts[2:]) == [None, None]
    assert await rig.bodies() == [texts[0], texts[1], texts[2], texts[3]]


@pytest.mark.parametrize(
    ("point", "sent"), [(RELAY_BEFORE_PUBLISH, []), (RELAY_AFTER_PUBLISH, [TEXT])]
)
async def test_it_passes_the_crash_points_of_a_relay(rig: Rig, point: str, sent: list[str]) -> None:
    fault = Armed(f"drop-{point}", point, Action.DROP, frozenset({"o-1"}))
    crash_points.arm([fault])
    other = event("o-2").encode().decode()
    try:
        errors = await rig.put(TEXT, other)
        assert errors[0] is not None
        assert errors[1] is None
        assert set(await rig.bodies()) == {*sent, other}
        assert await rig.put(TEXT) == [None]  # it fires once
    finally:
        crash_points.disarm()


def test_the_configuration_holds_no_password_and_the_guard(tmp_path: Path) -> None:
    settings = CdcSettings.model_validate(
        {
            "database_url": "postgresql://app:apppass@db/shop",
            "cdc_database_url": "postgresql://reader:secret@db.example:6432/shop",
            "slot": "shop_outbox",
            "queue": "orders",
            "debezium_directory": tmp_path,
        }
    )
    lines = properties(settings)
    text = as_text(lines)
    assert "secret" not in text
    assert "apppass" not in text
    assert lines["debezium.source.database.port"] == "6432"
    assert lines["debezium.source.database.user"] == "reader"
    assert "require_slot('shop_outbox')" in lines["debezium.source.database.initial.statements"]
    assert "\n" not in "".join(lines.values())
    assert r"replacement=\\${routedByValue}" in text
    assert "secret" not in json.dumps(settings.printable())


def test_what_prepares_for_debezium_is_not_taken_for_the_relay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ONCEPROOF_DATABASE_URL", "postgresql://app:apppass@db/shop")
    monkeypatch.setenv("ONCEPROOF_CDC_DATABASE_URL", "postgresql://reader@db/shop")
    monkeypatch.setenv("ONCEPROOF_ADMIN_PORT", "9000")
    monkeypatch.setenv("ONCEPROOF_CHAOS_ENABLED", "true")
    monkeypatch.setenv("ONCEPROOF_DEBEZIUM_DIRECTORY", str(tmp_path))
    found = configure.own_settings()
    assert (found.admin_port, found.admin_host, found.chaos_enabled) == (0, "127.0.0.1", False)
    assert found.debezium_directory == tmp_path


def test_nothing_is_prepared_without_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONCEPROOF_DATABASE_URL", "postgresql://app:apppass@db/shop")
    monkeypatch.setenv("ONCEPROOF_DEBEZIUM_DIRECTORY", str(tmp_path))
    assert configure.main() == 78
    assert "ONCEPROOF_CDC_DATABASE_URL" in capsys.readouterr().err
    assert not (tmp_path / "config").exists()
