"""The SQS client of a process, and sending through it.

`SendMessageBatch` answers 200 with failed entries in it, so each entry is judged by its own result.
botocore's retries are off: a repeated request after a lost reply is a duplicate that nobody was told
of, and relay and consumer have a backoff of their own that knows more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Final

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from onceproof.brokers.sqs.encoding import UnsendableError, batches, entry
from onceproof.brokers.sqs.failures import CALL_FAILURES, UNKNOWN, error_text
from onceproof.brokers.sqs.queues import SqsQueues
from onceproof.brokers.sqs.subscriber import MAX_WAIT_S, SqsSubscriber
from onceproof.errors import ConfigurationError, OnceproofError
from onceproof.ports import Outgoing, SendResult

_CONNECT_TIMEOUT_S: Final = 3.0
_READ_TIMEOUT_S: Final = MAX_WAIT_S + 10.0
"""Longer than the longest poll, or every quiet queue would look like a lost reply."""
_REQUESTS_IN_FLIGHT: Final = 8
_USER_AGENT: Final = f"onceproof/{version('onceproof')} aiobotocore/{version('aiobotocore')}"


def client_config(max_pool_connections: int = 32) -> AioConfig:
    """Settings of the client that sends and receives."""
    return AioConfig(
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
        max_pool_connections=max_pool_connections,
        retries={"total_max_attempts": 1, "mode": "standard"},
        # Both are worked out anew for each request otherwise, a tenth of its CPU: what we send is
        # checked in `encoding`, or is ours.
        parameter_validation=False,
        user_agent=_USER_AGENT,
    )


class SqsBroker:
    """SQS in one region; implements `onceproof.ports.Publisher`. Open it with `connect`.

    Args:
        client: an open aiobotocore SQS client.
    """

    def __init__(self, client: Any) -> None:  # noqa: ANN401 - aiobotocore ships no types
        self._client = client
        self._queues = SqsQueues(client)
        self._in_flight = asyncio.Semaphore(_REQUESTS_IN_FLIGHT)

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        *,
        endpoint_url: str | None = None,
        region: str | None = None,
        max_pool_connections: int = 32,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
    ) -> AsyncGenerator[SqsBroker]:
        """One shared client; nothing is sent yet.

        Args:
            endpoint_url: of an SQS implementation other than AWS.
            region: AWS region; None takes it from the environment.
            max_pool_connections: every long poll holds one for its duration.
            access_key_id: with `secret_access_key`; None takes the usual AWS chain.
            secret_access_key: see `access_key_id`.

        Raises:
            ConfigurationError: no region, or the endpoint URL is not one.
        """
        opening = get_session().create_client(
            "sqs",
            region_name=region,
            endpoint_url=endpoint_url,
            aws_access_key_id=access_key_id,
            aws_secret_access_key=secret_access_key,
            config=client_config(max_pool_connections),
        )
        try:
            client = await opening.__aenter__()
        except (*CALL_FAILURES, ValueError) as error:
            raise ConfigurationError(f"no SQS client can be made: {error}") from error
        try:
            yield cls(client)
        finally:
            await opening.__aexit__(None, None, None)

    def subscriber(self, queue: str) -> SqsSubscriber:
        """A subscriber that shares the client; the queue is looked up when it is first used."""
        return SqsSubscriber(self._client, self._queues, queue, self._in_flight)

    async def ensure_queue(
        self,
        name: str,
        *,
        visibility_timeout_s: float = 30.0,
        retention_s: float = 345_600.0,
        max_receive_count: int = 5,
        dead_letter: str | None = None,
    ) -> None:
        """Create a queue or change an existing one; for tests, demos and local use.

        Args:
            name: of the queue; a FIFO queue's ends in `.fifo`.
            visibility_timeout_s: rounded up to whole seconds, as AWS counts them.
            retention_s: 60 seconds to 14 days, rounded up.
            max_receive_count: deliveries before the redrive; only with `dead_letter`.
            dead_letter: name of an existing queue.

        Raises:
            QueueNotFoundError: `dead_letter` does not exist.
            BrokerUnavailableError: the broker did not answer, or refused the settings.
        """
        await self._queues.ensure(
            name,
            visibility_timeout_s=visibility_timeout_s,
            retention_s=retention_s,
            max_receive_count=max_receive_count,
            dead_letter=dead_letter,
        )

    async def delete_queue(self, name: str) -> None:
        """Delete a queue with all of its messages; for tests, demos and local use.

        Raises:
            BrokerUnavailableError: the broker did not answer.
        """
        await self._queues.delete(name)

    async def send(self, destination: str, messages: Sequence[Outgoing]) -> list[SendResult]:
        """Send messages in batches; see `onceproof.ports.Publisher.send`.

        An error that begins with "outcome unknown: " may have been sent. To a FIFO queue the
        batches go one after the other, and behind a failed message none of the same key is sent in
        a later batch.
        """
        try:
            url = await self._queues.url(destination)
        except OnceproofError as error:
            return [SendResult(message.id, error=str(error)) for message in messages]
        fifo = destination.endswith(".fifo")
        results: dict[int, SendResult] = {}
        sendable: list[tuple[int, Outgoing]] = []
        entries: dict[int, dict[str, Any]] = {}
        for index, message in enumerate(messages):
            try:
                entries[index] = entry(message, fifo=fifo)
            except UnsendableError as error:
                results[index] = SendResult(message.id, error=f"not sent: {error}")
            else:
                sendable.append((index, message))
        requests = [
            [(index, message, entries[index]) for index, message in batch]
            for batch in batches(sendable)
        ]
        if fifo:
            failed = {messages[index].key for index in results}
            for request in requests:
                results |= await self._send_in_order(destination, url, request, failed)
                failed |= {messages[i].key for i, result in results.items() if not result.ok}
        else:
            for done in await asyncio.gather(
                *(self._send_batch(destination, url, request) for request in requests)
            ):
                results |= done
        return [results[index] for index in range(len(messages))]

    async def _send_in_order(
        self, destination: str, url: str, request: list[_Entry], failed: set[str | None]
    ) -> dict[int, SendResult]:
        held = {
            index: SendResult(message.id, error="not sent: an earlier message of its key failed")
            for index, message, _ in request
            if message.key is not None and message.key in failed
        }
        free = [item for item in request if item[0] not in held]
        return held | (await self._send_batch(destination, url, free) if free else {})

    async def _send_batch(
        self, destination: str, url: str, request: list[_Entry]
    ) -> dict[int, SendResult]:
        async with self._in_flight:
            try:
                reply = await self._client.send_message_batch(
                    QueueUrl=url,
                    Entries=[{"Id": str(i), **parameters} for i, _, parameters in request],
                )
            except CALL_FAILURES as error:
                self._queues.forget_if_missing(destination, error)
                text = error_text(error, destination)
                return {i: SendResult(message.id, error=text) for i, message, _ in request}
        sent = {item["Id"]: item["MessageId"] for item in reply.get("Successful", [])}
        refused = {item["Id"]: item for item in reply.get("Failed", [])}
        results = {}
        for i, message, _ in request:
            if str(i) in sent:
                results[i] = SendResult(message.id, message_id=sent[str(i)])
            elif str(i) in refused:
                item = refused[str(i)]
                text = f"{item.get('Code')}: {item.get('Message') or 'no message'}"
                results[i] = SendResult(message.id, error=text)
            else:
                text = f"{UNKNOWN}the broker's reply does not mention the entry"
                results[i] = SendResult(message.id, error=text)
        return results


_Entry = tuple[int, Outgoing, dict[str, Any]]
