"""Queues of the benchmark: made for a run, filled, counted, and read to the last message."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from aiobotocore.session import get_session

from benchmarks.elasticmq import CREDENTIALS, REGION
from benchmarks.figures import InvalidRunError
from onceproof.brokers.sqs.broker import client_config

IN_FLIGHT: Final = 8
"""Requests at once, as the library's own."""
BATCH: Final = 10
_VISIBILITY_S: Final = 600
_POLL_S: Final = 0.05
_EMPTY_TWICE: Final = 2
_numbers: Final = itertools.count()


@asynccontextmanager
async def sqs_client(endpoint: str, region: str = REGION) -> AsyncIterator[Any]:
    """The client that the library uses, with its settings, and nothing on top."""
    async with get_session().create_client(
        "sqs",
        region_name=region,
        endpoint_url=endpoint,
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        config=client_config(),
    ) as client:
        yield client


@asynccontextmanager
async def fresh_queue(client: Any) -> AsyncIterator[tuple[str, str]]:  # noqa: ANN401 - no types
    """A queue for one run; its name and URL."""
    name = f"bench-{os.getpid()}-{next(_numbers)}"
    made = await client.create_queue(
        QueueName=name, Attributes={"VisibilityTimeout": str(_VISIBILITY_S)}
    )
    url = made["QueueUrl"]
    try:
        yield name, url
    finally:
        await client.delete_queue(QueueUrl=url)


async def until_filled(
    client: Any,  # noqa: ANN401 - aiobotocore has no types
    url: str,
    messages: int,
    within_s: float,
) -> list[tuple[float, int]]:
    """Wait until a queue that nobody reads has so many messages.

    Returns:
        How it filled: moments of `time.perf_counter`, and how many messages it had.

    Raises:
        InvalidRunError: it did not get them in time.
    """
    filled: list[tuple[float, int]] = []
    found = 0
    try:
        async with asyncio.timeout(within_s):
            while found < messages:
                await asyncio.sleep(_POLL_S)
                answer = await client.get_queue_attributes(
                    QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"]
                )
                found = int(answer["Attributes"]["ApproximateNumberOfMessages"])
                filled.append((time.perf_counter(), found))
    except TimeoutError:
        raise InvalidRunError(
            f"{found} of {messages} messages were in the queue after {within_s:.0f} s"
        ) from None
    return filled


async def require_each_once(client: Any, url: str, events: int) -> None:  # noqa: ANN401
    """Read the whole queue and refuse the run if an event is missing or there twice.

    Raises:
        InvalidRunError: with what is wrong.
    """
    seen: Counter[str] = Counter()

    async def read() -> None:
        empty = 0
        while empty < _EMPTY_TWICE:
            answer = await client.receive_message(
                QueueUrl=url, MaxNumberOfMessages=BATCH, WaitTimeSeconds=0
            )
            messages = answer.get("Messages", [])
            empty = 0 if messages else empty + 1
            seen.update(json.loads(message["Body"])["id"] for message in messages)

    await asyncio.gather(*(read() for _ in range(IN_FLIGHT)))
    judge_events(seen, events)


def judge_events(seen: Counter[str], events: int) -> None:
    """Refuse what was not sent exactly once.

    Raises:
        InvalidRunError: with what is wrong.
    """
    if len(seen) == seen.total() == events:
        return
    raise InvalidRunError(
        f"{events} events, of which {len(seen)} were in the queue, in {seen.total()} messages"
    )
