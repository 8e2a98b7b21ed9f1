"""The consumer's start: what it refuses, what it warns about, and what it does with foreign messages."""

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager

import pytest

from onceproof.brokers.dead_letter import REASON
from onceproof.ports import Outgoing, QueueInfo
from onceproof_consumer.__main__ import check_queue
from onceproof_consumer.settings import ConsumerServiceSettings

DEADLINE_S = 30


@asynccontextmanager
async def consumer(database_url, sqs_endpoint, queue, **settings):
    """A consumer process; killed at the end if it still runs."""
    environment = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "ONCEPROOF_DATABASE_URL": database_url,
        "ONCEPROOF_SQS_ENDPOINT_URL": sqs_endpoint,
        "ONCEPROOF_SQS_REGION": "us-east-1",
        "ONCEPROOF_QUEUE": queue,
        "ONCEPROOF_ADMIN_PORT": "0",
        "ONCEPROOF_ADMIN_HOST": "127.0.0.1",
        "ONCEPROOF_WAIT_S": "1",
        **{f"ONCEPROOF_{name.upper()}": str(value) for name, value in settings.items()},
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "onceproof_consumer", env=environment,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(DEADLINE_S):
                await process.communicate()


async def refused(process):
    async with asyncio.timeout(DEADLINE_S):
        _, errors = await process.communicate()
    return process.returncode, errors.decode()


async def test_a_schema_that_is_behind_is_refused_with_the_command_that_mends_it(
    empty_database_url, sqs_endpoint, queue_factory
):
    queue = await queue_factory()
    async with consumer(empty_database_url, sqs_endpoint, queue.name) as process:
        code, errors = await refused(process)
    assert code == 78
    assert "onceproof schema upgrade onceproof" in errors


async def test_a_queue_that_does_not_exist_is_refused(database_url, sqs_endpoint):
    async with consumer(database_url, sqs_endpoint, "no-such-queue") as process:
        code, errors = await refused(process)
    assert code == 78
    assert "no-such-queue" in errors.splitlines()[-1]


async def test_an_inbox_that_forgets_too_early_is_refused(
    database_url, sqs_endpoint, queue_factory
):
    queue = await queue_factory()
    async with consumer(database_url, sqs_endpoint, queue.name, inbox_retention_s=60) as process:
        code, errors = await refused(process)
    assert code == 78
    assert "Raise the inbox retention" in errors


def settings(**values):
    return ConsumerServiceSettings(database_url="postgresql://localhost/x", **values)


def queue(retention_s=3600.0, dead_letter=True):
    dlq = QueueInfo("orders-dlq", 30, retention_s) if dead_letter else None
    return QueueInfo("orders", 30, retention_s, 5, dlq)


def test_what_only_hurts_is_a_loud_warning(caplog):
    check_queue(queue(), settings())
    assert caplog.text == ""
    check_queue(queue(dead_letter=False), settings())
    assert "has no DLQ" in caplog.text
    caplog.clear()
    check_queue(queue(retention_s=float("inf")), settings())
    assert "does not report the retention" in caplog.text
    caplog.clear()
    check_queue(queue(), settings(inbox_retention_s=60, allow_short_inbox=True))
    assert "Raise the inbox retention" in caplog.text


FOREIGN = {
    "garbage": (b"not json at all", "not JSON"),
    "no-event": (b'{"hello":"world"}', "no specversion"),
    "other-type": (
        json.dumps(
            {"specversion": "1.0", "id": "e-1", "source": "/x", "type": "other", "data": {}}
        ).encode(),
        "not an order",
    ),
    "no-amount": (
        json.dumps(
            {
                "specversion": "1.0", "id": "e-2", "source": "/x", "subject": "o-1",
                "type": "dev.onceproof.order.placed", "data": {"order_id": "o-1", "currency": "EUR"},
            }
        ).encode(),
        "amount: Field required",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
async def test_a_message_that_is_not_ours_goes_to_the_dlq_with_its_reason(
    kind, database_url, sqs_endpoint, sqs_broker, queue_factory
):
    body, reason = FOREIGN[kind]
    queue = await queue_factory()
    [sent] = await sqs_broker.send(queue.name, [Outgoing("m-1", body)])
    assert sent.ok
    dead_letters = sqs_broker.subscriber(queue.dead_letter)
    async with consumer(database_url, sqs_endpoint, queue.name):
        async with asyncio.timeout(DEADLINE_S):
            while not (
                messages := await dead_letters.receive(max_messages=10, wait_s=1, visibility_s=60)
            ):
                pass
        assert messages[0].body == body
        assert reason in messages[0].attributes[REASON]
        assert len(messages) == 1
