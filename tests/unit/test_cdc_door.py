"""The door that Debezium sends to: both protocols, heartbeats, drops, and what is no event."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from urllib.parse import urlencode

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
from onceproof_relay.cdc.door import Door
from onceproof_relay.cdc.properties import as_text, properties
from onceproof_relay.cdc.settings import CdcSettings

EVENT = Event(type="order.placed", data={"amount": 1}, key="o-1")
TEXT = EVENT.encode().decode()
JSON = {"x-amz-target": "AmazonSQS.SendMessage"}


class Rig:
    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.broker.create_queue("orders")
        self.health: list[tuple[str, str | None]] = []
        dispatcher = Dispatcher(self.broker, "aws_sqs", 0, 0, random.Random(1))
        self.door = Door(dispatcher, "orders", lambda *told: self.health.append(told))

    async def form(self, text: str, action: str = "SendMessage") -> tuple[int, str]:
        return await self.ask({}, urlencode({"Action": action, "MessageBody": text}))

    async def json(self, text: str) -> tuple[int, str]:
        return await self.ask(JSON, json.dumps({"QueueUrl": "q", "MessageBody": text}))

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


async def test_the_same_bytes_by_either_protocol(rig: Rig) -> None:
    digest = hashlib.md5(TEXT.encode(), usedforsecurity=False).hexdigest()
    status, answer = await rig.form(TEXT)
    assert status == 200
    assert f"<MD5OfMessageBody>{digest}</MD5OfMessageBody>" in answer
    status, answer = await rig.json(TEXT)
    assert status == 200
    assert json.loads(answer)["MD5OfMessageBody"] == digest
    assert await rig.bodies() == [TEXT, TEXT]
    assert rig.health == [("broker", None)] * 2


async def test_a_heartbeat_is_confirmed_and_goes_nowhere(rig: Rig) -> None:
    for status, _ in (await rig.form("Struct{ts_ms=1}"), await rig.json("Struct{ts_ms=1}")):
        assert status == 200
    assert await rig.bodies() == []


async def test_what_is_no_event_is_sent_for_the_consumer_to_refuse(rig: Rig) -> None:
    assert (await rig.form("Struct{id=1}"))[0] == 200
    assert await rig.bodies() == ["Struct{id=1}"]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, "Action=DeleteMessage&MessageBody=x"),
        ({}, "MessageBody=x"),
        ({"x-amz-target": "AmazonSQS.DeleteQueue"}, '{"MessageBody": "x"}'),
        (JSON, "[]"),
        (JSON, "{"),
        (JSON, '{"MessageBody": 1}'),
    ],
)
async def test_anything_else_is_refused_for_good(
    rig: Rig, headers: dict[str, str], body: str
) -> None:
    status, answer = await rig.ask(headers, body)
    assert status == 400
    assert "InvalidAction" in answer
    assert await rig.bodies() == []


async def test_a_broker_that_takes_nothing_is_a_503_and_told(rig: Rig) -> None:
    rig.broker.fail_next_send([EVENT.id], "throttled <&>")
    status, answer = await rig.form(TEXT)
    assert status == 503
    assert "throttled &lt;&amp;&gt;" in answer
    assert rig.health == [("broker", "throttled <&>")]
    assert await rig.bodies() == []


@pytest.mark.parametrize(
    ("point", "sent"), [(RELAY_BEFORE_PUBLISH, []), (RELAY_AFTER_PUBLISH, [TEXT])]
)
async def test_it_passes_the_crash_points_of_a_relay(rig: Rig, point: str, sent: list[str]) -> None:
    fault = Armed(f"drop-{point}", point, Action.DROP, frozenset({"o-1"}))
    crash_points.arm([fault])
    try:
        assert (await rig.form(TEXT))[0] == 503
        assert await rig.bodies() == sent
        assert (await rig.form(TEXT))[0] == 200  # it fires once
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
    assert "secret" not in json.dumps(settings.printable())
