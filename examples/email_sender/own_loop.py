"""The same service as a consumer loop of its own, with nothing of the library in it.

`consume` is the way to do it: claim, effect and commit, and the ack last. `consume_ack_first` has the
planted bug: it deletes the message before the work is committed, so a crash in between loses the email.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

import asyncpg
from aiobotocore.session import get_session

from . import mail_service

_CLAIM = (
    "INSERT INTO emails (event_id, recipient) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING 1"
)


class Surroundings(Protocol):
    """What a loop is given, as far as this one uses it."""

    queue_url: str
    sqs_endpoint_url: str | None
    region: str
    database_url: str
    stop: Any


async def consume(runtime: Surroundings) -> None:
    """Work off the queue: the ack comes after the commit."""
    await _consume(runtime, ack_first=False)


async def consume_ack_first(runtime: Surroundings) -> None:
    """Work off the queue: the ack comes first, which is the bug."""
    await _consume(runtime, ack_first=True)


async def _consume(runtime: Surroundings, *, ack_first: bool) -> None:
    connection = await asyncpg.connect(runtime.database_url)
    client = get_session().create_client(
        "sqs", region_name=runtime.region, endpoint_url=runtime.sqs_endpoint_url
    )
    async with client as sqs:
        while not runtime.stop.is_set():
            reply = await sqs.receive_message(QueueUrl=runtime.queue_url, WaitTimeSeconds=1)
            for message in reply.get("Messages", []):
                ack = {"QueueUrl": runtime.queue_url, "ReceiptHandle": message["ReceiptHandle"]}
                if ack_first:
                    await sqs.delete_message(**ack)
                await _send(connection, json.loads(message["Body"]))
                if not ack_first:
                    await sqs.delete_message(**ack)


async def _send(connection: asyncpg.Connection, event: dict[str, Any]) -> None:
    email = event["data"]
    async with connection.transaction():
        if await connection.fetchval(_CLAIM, event["id"], email["recipient"]):
            await mail_service.send(email, idempotency_key=event["id"])
