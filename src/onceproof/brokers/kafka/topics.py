"""Questions about topics and groups, and topics for tests, demos and local use."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Final, TypeVar

import tenacity
from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic

from onceproof.brokers.kafka.failures import error_of, moves, translated
from onceproof.brokers.kafka.settings import KafkaSettings, TopicPolicy
from onceproof.errors import QueueNotFoundError
from onceproof.ports import QueueInfo

T = TypeVar("T")
_CREATED_S: Final = 30.0
_POLL_S: Final = 0.05
_NEVER: Final = -1
"""`retention.ms` of a topic that keeps everything."""


class KafkaTopics:
    """The topics of one cluster.

    Args:
        settings: of the cluster.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._admin = AdminClient(settings.client())
        # Knows the group and does not join it. The admin client would be asked the same, but librdkafka
        # 2.16 ends the process with a segmentation fault when the coordinator answers it with an error.
        self._group: Consumer | None = None
        self._asking = threading.Lock()

    async def close(self) -> None:
        """Close what was opened to ask."""
        if self._group is not None:
            await asyncio.to_thread(self._group.close)

    async def partitions(self, topic: str) -> list[int]:
        """Numbers of a topic's partitions.

        Raises:
            QueueNotFoundError: it does not exist.
            BrokerUnavailableError: the cluster did not answer.
        """
        timeout_s = self._settings.request_timeout_s

        def ask() -> list[int]:
            found = self._admin.list_topics(topic, timeout=timeout_s).topics[topic]
            if found.error is not None:
                raise KafkaException(found.error)
            return sorted(found.partitions)

        return await self._ask(topic, ask)

    async def _with_leader(self, topic: str) -> list[int]:
        def ask() -> list[int]:
            found = self._admin.list_topics(topic, timeout=self._settings.request_timeout_s)
            return [number for number, p in found.topics[topic].partitions.items() if p.leader >= 0]

        return await self._ask(topic, ask)

    async def exists(self, topic: str) -> bool:
        """Whether there is such a topic."""
        try:
            await self.partitions(topic)
        except QueueNotFoundError:
            return False
        return True

    async def describe(self, topic: str, policy: TopicPolicy) -> QueueInfo:
        """Settings of a topic and its dead-letter topic; see `onceproof.ports.Subscriber.describe`."""
        dead_letter = None
        if policy.dead_letter is not None:
            with suppress(QueueNotFoundError):
                dead_letter = await self._info(policy.dead_letter)
        return await self._info(
            topic, policy.max_receive_count if dead_letter else None, dead_letter
        )

    async def lag(self, topic: str) -> int:
        """Records that the group has not settled.

        Raises:
            QueueNotFoundError: there is no such topic.
            BrokerUnavailableError: the cluster did not answer.
        """
        numbers = await self.partitions(topic)
        places = [TopicPartition(topic, number) for number in numbers]
        ends = await self._offsets(topic, places, OffsetSpec.latest())
        starts = await self._offsets(topic, places, OffsetSpec.earliest())
        done = await self._committed(topic, places)
        return sum(max(ends[n] - max(done.get(n, 0), starts[n]), 0) for n in numbers)

    async def ensure(self, topic: str, *, partitions: int, retention_s: float) -> None:
        """Create a topic with one replica, and wait until it can be used; one that exists stays."""
        new = NewTopic(
            topic,
            num_partitions=partitions,
            replication_factor=1,
            config={"retention.ms": str(int(retention_s * 1000))},
        )

        def create() -> None:
            created = self._admin.create_topics([new])[topic]
            self._done(created, unless=KafkaError.TOPIC_ALREADY_EXISTS)

        await self._ask(topic, create)
        async with asyncio.timeout(_CREATED_S):
            while len(await self._with_leader(topic)) < partitions:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(_POLL_S)

    async def delete(self, topic: str) -> None:
        """Delete a topic with its records; harmless when there is none."""

        def delete() -> None:
            deleted = self._admin.delete_topics([topic])[topic]
            self._done(deleted, unless=KafkaError.UNKNOWN_TOPIC_OR_PART)

        await self._ask(topic, delete)

    def _done(self, answer: Future[None], *, unless: int) -> None:
        """Wait for an answer; the error with this code means that it was so already."""
        try:
            answer.result(self._settings.request_timeout_s)
        except Exception as raised:
            error = error_of(raised)
            if error is None or error.code() != unless:
                raise

    async def _info(
        self, topic: str, max_receive_count: int | None = None, dead_letter: QueueInfo | None = None
    ) -> QueueInfo:
        await self.partitions(topic)
        resource = ConfigResource(ResourceType.TOPIC, topic)

        def ask() -> str:
            timeout_s = self._settings.request_timeout_s
            configs = self._admin.describe_configs([resource], request_timeout=timeout_s)
            return str(configs[resource].result(timeout_s)["retention.ms"].value)

        retention_ms = int(await self._ask(topic, ask))
        return QueueInfo(
            name=topic,
            visibility_timeout_s=self._settings.stall_s,
            retention_s=float("inf") if retention_ms == _NEVER else retention_ms / 1000,
            max_receive_count=max_receive_count,
            dead_letter=dead_letter,
            keeps_order=True,
        )

    async def _offsets(
        self, topic: str, places: Sequence[TopicPartition], spec: OffsetSpec
    ) -> dict[int, int]:
        def ask() -> dict[int, int]:
            timeout_s = self._settings.request_timeout_s
            asked = self._admin.list_offsets(
                dict.fromkeys(places, spec),
                # Up to the first transaction that is still open: nobody may read further.
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=timeout_s,
            )
            return {p.partition: f.result(timeout_s).offset for p, f in asked.items()}

        return await self._ask(topic, ask)

    async def _committed(self, topic: str, places: Sequence[TopicPartition]) -> dict[int, int]:
        def ask() -> dict[int, int]:
            with self._asking:
                if self._group is None:
                    self._group = Consumer(self._settings.consumer())
                timeout_s = self._settings.request_timeout_s
                found = self._group.committed(list(places), timeout=timeout_s)
            return {place.partition: place.offset for place in found if place.offset >= 0}

        return await self._ask(topic, ask)

    async def _ask(self, topic: str, question: Callable[[], T]) -> T:
        asking = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(moves),
            stop=tenacity.stop_after_delay(self._settings.request_timeout_s),
            wait=tenacity.wait_fixed(_POLL_S),
            reraise=True,
        )
        try:
            return await asking(asyncio.to_thread, question)
        except Exception as raised:
            if error_of(raised) is None and not isinstance(raised, TimeoutError):
                raise
            raise translated(raised, topic) from raised
