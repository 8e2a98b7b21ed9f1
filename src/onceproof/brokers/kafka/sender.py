"""Sending with the idempotent producer: each record is judged by its own delivery report.

confluent-kafka's asyncio producer carries no headers, and a record in the retry or dead-letter topic
says in its headers why it is there. So this is the plain producer, whose `produce` does not block, and
a thread for each batch that waits for its reports.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException

from onceproof.brokers.kafka import headers
from onceproof.brokers.kafka.failures import (
    UNKNOWN,
    error_of,
    is_missing_topic,
    send_error,
    told,
)
from onceproof.brokers.kafka.place import record_id
from onceproof.brokers.kafka.settings import KafkaSettings
from onceproof.ports import Outgoing, SendResult

_BATCHES: Final = 8
"""Batches that wait for their reports at the same time."""
_POLL_S: Final = 0.1
_GRACE_S: Final = 5.0
"""For a report that should have come by its own time-out."""


class _Batch:
    """The records of one call, and the reports on them as they come, in any thread."""

    def __init__(self, topic: str, messages: Sequence[Outgoing]) -> None:
        self._topic = topic
        self._messages = messages
        self.results: dict[int, SendResult] = {}
        self.topic_is_missing = False

    @property
    def complete(self) -> bool:
        return len(self.results) == len(self._messages)

    def failed(self, index: int, error: str) -> None:
        self.results[index] = SendResult(self._messages[index].id, error=error)

    def report(self, index: int, error: KafkaError | None, record: confluent_kafka.Message) -> None:
        if error is not None:
            self.topic_is_missing |= is_missing_topic(error)
            self.failed(index, send_error(error, self._topic))
            return
        place = record_id(record.topic(), record.partition(), record.offset())
        self.results[index] = SendResult(self._messages[index].id, message_id=place)

    def give_up(self) -> None:
        """The reports that are missing will not come."""
        for index in range(len(self._messages)):
            if index not in self.results:
                self.failed(index, f"{UNKNOWN}the client reported nothing")

    def ordered(self) -> list[SendResult]:
        return [self.results[index] for index in range(len(self._messages))]


class KafkaSender:
    """One idempotent producer of a process.

    Args:
        settings: of the cluster.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._timeout_s = settings.send_timeout_s + _GRACE_S
        self._request_timeout_s = settings.request_timeout_s
        self._producer = confluent_kafka.Producer(settings.producer())
        self._threads = ThreadPoolExecutor(_BATCHES, thread_name_prefix="kafka-send")
        self._known: set[str] = set()

    async def close(self) -> None:
        """Wait for what is being sent; what is left by then has failed already."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._threads.shutdown, True)
        await loop.run_in_executor(None, self._producer.flush, self._request_timeout_s)

    async def send(self, topic: str, messages: Sequence[Outgoing]) -> list[SendResult]:
        """Send to one topic; see `onceproof.ports.Publisher.send`.

        Behind a message that cannot be sent none of the same key is sent in this call. One that failed
        at the broker cannot hold back those that were on their way with it.
        """
        if not messages:
            return []
        loop = asyncio.get_running_loop()
        if topic not in self._known:
            error = await loop.run_in_executor(self._threads, self._look_up, topic)
            if error is not None:
                return [SendResult(message.id, error=error) for message in messages]
            self._known.add(topic)
        batch = _Batch(topic, messages)
        failed: set[str] = set()
        for index, message in enumerate(messages):
            if message.key is not None and message.key in failed:
                batch.failed(index, "not sent: an earlier message of its key failed")
                continue
            error = await self._produce(topic, message, batch, index)
            if error is not None:
                batch.failed(index, error)
                if message.key is not None:
                    failed.add(message.key)
        await loop.run_in_executor(self._threads, self._wait, batch)
        if batch.topic_is_missing:
            self._known.discard(topic)
        return batch.ordered()

    async def _produce(
        self, topic: str, message: Outgoing, batch: _Batch, index: int
    ) -> str | None:
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                self._producer.produce(
                    topic,
                    value=message.body,
                    key=message.key,
                    headers=headers.encode(message.attributes),
                    on_delivery=lambda error, record: batch.report(index, error, record),
                )
            except BufferError:  # the queue is full: the broker is slower than we are
                if time.monotonic() > deadline:
                    return "broker unavailable: what was sent before it is not confirmed"
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._threads, self._producer.poll, _POLL_S)
            except KafkaException as raised:
                error = error_of(raised)
                return send_error(error, topic) if error else f"not sent: {raised}"
            else:
                return None

    def _wait(self, batch: _Batch) -> None:
        """Serve reports, this batch's and others', until this one is complete."""
        deadline = time.monotonic() + self._timeout_s
        while not batch.complete:
            if time.monotonic() > deadline:
                batch.give_up()
                return
            self._producer.poll(_POLL_S)

    def _look_up(self, topic: str) -> str | None:
        """Why nothing can be sent to a topic: by itself the client would try for its whole time-out."""
        try:
            found = self._producer.list_topics(topic, timeout=self._request_timeout_s).topics[topic]
        except KafkaException as raised:
            return told(raised)
        return send_error(found.error, topic) if found.error is not None else None
