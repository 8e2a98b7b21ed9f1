"""From one topic to another inside a Kafka transaction: what "exactly once" means there, and all of it.

The records that were read and the records that were written become visible together: the offsets go
into the producer's transaction, and readers with `read_committed` see all of it or nothing. Whoever
stood still too long and goes on is fenced, by the generation of the group and by the transactional id.

It ends where Kafka ends. A handler behind this stage that writes to a database, or asks a payment
provider, is called again after a crash like any other: that needs the inbox.

    poll -> transform -> produce ... (commit interval) ... offsets into the transaction -> commit
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.aio import AIOConsumer

from onceproof.brokers.dead_letter import dead_letter_attributes
from onceproof.brokers.kafka import headers
from onceproof.brokers.kafka.failures import describe, error_of
from onceproof.brokers.kafka.fetch import fetch
from onceproof.brokers.kafka.place import Place, places_of, record_id
from onceproof.brokers.kafka.settings import KafkaSettings
from onceproof.crashpoints import STAGE_AFTER_COMMIT, STAGE_BEFORE_COMMIT, crash_point, crash_points
from onceproof.errors import BrokerUnavailableError, ConfigurationError, MalformedEventError
from onceproof.events import Event
from onceproof.ports import HealthListener

logger = logging.getLogger(__name__)

Transform = Callable[[Event], Event]
"""What becomes of an event; a `MalformedEventError` sends it to the dead-letter topic."""

_POLL_S: Final = 0.05
_FETCH: Final = 500
_BACKOFF_S: Final = 0.5
_FENCED: Final = frozenset(
    {
        KafkaError._FENCED,  # noqa: SLF001 - the client's own codes begin with an underscore
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.TRANSACTION_COORDINATOR_FENCED,
    }
)


def stage_group(group: str) -> str:
    """The group of a stage, by that of the consumers behind it."""
    return f"{group}-stage"


class FencedError(BrokerUnavailableError):
    """Another process works under this transactional id; this one must end."""


@dataclass(frozen=True, slots=True)
class StageSettings:
    """What a stage does.

    Args:
        source: topic that is read.
        target: topic that is written.
        transactional_id: of this instance and no other; a successor under it fences its predecessor.
        dead_letter: topic for what cannot be transformed.
        commit_interval_s: seconds for which a transaction gathers. Longer is cheaper, and what is
            written is seen so much later.
        timeout_s: seconds after which the broker aborts a transaction whose producer is silent.
    """

    source: str
    target: str
    transactional_id: str
    dead_letter: str | None = None
    commit_interval_s: float = 0.1
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if not self.transactional_id:
            raise ConfigurationError("a stage needs a transactional id: it is what fences a zombie")
        if not 0 < self.commit_interval_s < self.timeout_s:
            raise ConfigurationError("commit_interval_s is above 0 and below timeout_s")


class Stage:
    """Moves events from `source` to `target`, each once inside Kafka.

    Args:
        kafka: of cluster and group.
        settings: what it does.
        transform: makes one event of another; must not have effects of its own.
        on_health: told when the broker goes away and comes back.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        settings: StageSettings,
        transform: Transform,
        on_health: HealthListener = lambda _dependency, _reason: None,
    ) -> None:
        self._kafka = kafka
        self._settings = settings
        self._transform = transform
        self._on_health = on_health
        self._producer = Producer(
            kafka.client()
            | {
                "transactional.id": settings.transactional_id,
                "transaction.timeout.ms": int(settings.timeout_s * 1000),
                "linger.ms": 5,
            }
        )
        self._next: dict[Place, int] = {}
        self._first: dict[Place, int] = {}
        self._orders: list[tuple[str, str]] = []
        self._since = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; what is in the transaction then is committed.

        Raises:
            FencedError: a successor has taken over.
            BrokerUnavailableError: the cluster was not there at the start.
        """
        await self._blocking(self._producer.init_transactions, self._kafka.request_timeout_s * 3)
        consumer = AIOConsumer(
            self._kafka.consumer() | {"enable.partition.eof": False}, max_workers=4
        )
        try:
            await consumer.subscribe(
                [self._settings.source], on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            while not stop.is_set():
                try:
                    await self._turn(consumer)
                except KafkaException as raised:
                    await self._recover(consumer, raised)
            await self._commit(consumer)
        finally:
            with contextlib.suppress(KafkaException, BrokerUnavailableError):
                await self._abort()
            await consumer.close()

    async def _turn(self, consumer: AIOConsumer) -> None:
        wait_s = self._settings.commit_interval_s / 4 if self._next else _POLL_S
        for message in await fetch(consumer, _FETCH, wait_s):
            if (error := message.error()) is not None:
                raise KafkaException(error)
            self._take(message)
        self._producer.poll(0)
        if self._next and time.monotonic() - self._since >= self._settings.commit_interval_s:
            await self._commit(consumer)

    def _take(self, message: Message) -> None:
        if not self._next:
            self._producer.begin_transaction()
            self._since = time.monotonic()
        place, offset = (message.topic() or "", message.partition() or 0), message.offset() or 0
        self._first.setdefault(place, offset)
        self._next[place] = offset + 1
        body, key = message.value() or b"", message.key()
        try:
            event = self._transform(Event.decode(body))
        except MalformedEventError as error:
            self._bury(message, body, key, str(error))
            return
        self._orders.append((event.key or event.id, event.id))
        self._produce(self._settings.target, event.encode(), key)

    def _bury(self, message: Message, body: bytes, key: bytes | None, reason: str) -> None:
        place = record_id(message.topic(), message.partition(), message.offset())
        if self._settings.dead_letter is None:
            logger.error("record %s is left out, there is no dead-letter topic: %s", place, reason)
            return
        logger.error("record %s goes to the DLQ: %s", place, reason)
        attributes, _ = headers.decode(message.headers())
        told = dead_letter_attributes(attributes, place, reason)
        self._produce(self._settings.dead_letter, body, key, told)

    def _produce(
        self, topic: str, body: bytes, key: bytes | None, attributes: dict[str, str] | None = None
    ) -> None:
        while True:
            try:
                self._producer.produce(topic, body, key, headers=headers.encode(attributes or {}))
            except BufferError:  # the queue is full: what is in it goes on its way meanwhile
                self._producer.poll(0.1)
            else:
                return

    async def _commit(self, consumer: AIOConsumer) -> None:
        """Offsets and records become visible together; nothing to do without a transaction."""
        if not self._next:
            return
        timeout_s = self._settings.timeout_s
        positions = [TopicPartition(*place, offset) for place, offset in self._next.items()]
        group = await consumer.consumer_group_metadata()
        await self._blocking(
            self._producer.send_offsets_to_transaction, positions, group, timeout_s
        )
        self._pass(STAGE_BEFORE_COMMIT)
        await self._blocking(self._producer.commit_transaction, timeout_s)
        self._pass(STAGE_AFTER_COMMIT)
        self._forget()
        self._on_health("broker", None)

    def _pass(self, point: str) -> None:
        if crash_points.is_armed(point):
            for order, event_id in self._orders:
                crash_point(point, order, 1, event_id)

    async def _recover(self, consumer: AIOConsumer, raised: KafkaException) -> None:
        """Abort, and read again what the transaction had read."""
        error = error_of(raised)
        if error is None or error.fatal() or error.code() in _FENCED:
            raise FencedError(f"transactional id {self._settings.transactional_id!r}: {raised}")
        logger.warning("transaction aborted, its records are read again: %s", describe(error))
        self._on_health("broker", describe(error))
        rewind = [TopicPartition(*place, offset) for place, offset in self._first.items()]
        await self._abort()
        await asyncio.sleep(_BACKOFF_S)
        owned = places_of(await consumer.assignment())
        for position in rewind:
            if (position.topic, position.partition) in owned:
                await consumer.seek(position)

    async def _abort(self) -> None:
        if self._next:
            self._forget()
            await self._blocking(self._producer.abort_transaction, self._settings.timeout_s)

    def _forget(self) -> None:
        self._next, self._first, self._orders = {}, {}, []

    async def _on_revoke(self, consumer: AIOConsumer, _revoked: list[TopicPartition]) -> None:
        """Commit before the partitions go: afterwards the group would refuse the offsets."""
        try:
            await self._commit(consumer)
        except KafkaException as raised:
            await self._recover(consumer, raised)

    async def _on_lost(self, _consumer: AIOConsumer, _lost: list[TopicPartition]) -> None:
        """The partitions are somebody else's already: what was read of them must not be written."""
        with contextlib.suppress(KafkaException, FencedError):
            await self._abort()

    async def _blocking(self, call: Callable[..., object], *arguments: object) -> None:
        """Run a call of the client that waits, again while the client says that this may help."""
        deadline = time.monotonic() + self._settings.timeout_s
        while True:
            try:
                await asyncio.to_thread(call, *arguments)
            except KafkaException as raised:
                error = error_of(raised)
                if error is None or not error.retriable() or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_BACKOFF_S)
            else:
                return
