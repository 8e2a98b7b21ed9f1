"""What the group knows of this member's partitions: offsets, delivery counts, and who waits for them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.aio import AIOConsumer

from onceproof.brokers.kafka.failures import error_of, is_not_ours
from onceproof.brokers.kafka.partition import Partition, Record
from onceproof.brokers.kafka.place import Place

logger = logging.getLogger(__name__)


class Offsets:
    """Commits with one request what has changed since the last one."""

    def __init__(self) -> None:
        self._told: dict[Place, tuple[int, str]] = {}
        self._waiting: list[asyncio.Future[str | None]] = []
        self._asked_at: float | None = None

    @property
    def unanswered_s(self) -> float:
        """For how long a commit has had no answer: the client waits for a broker that is away."""
        return 0.0 if self._asked_at is None else time.monotonic() - self._asked_at

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for a commit."""
        return bool(self._waiting)

    def committed(self) -> asyncio.Future[str | None]:
        """Done when what is settled now has been committed; the result is why it was not."""
        future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return future

    async def commit(
        self,
        consumer: AIOConsumer,
        partitions: Mapping[Place, Partition],
        about_to: Mapping[Place, list[Record]],
    ) -> bool:
        """Commit what is settled, and the counts of `about_to`; whether it was taken."""
        waiting, self._waiting = self._waiting, []
        offsets, told = self._changes(partitions, about_to)
        error: str | None = None
        try:
            if offsets:
                self._asked_at = time.monotonic()
                done = await consumer.commit(offsets=offsets, asynchronous=False)
                refused = [place.error for place in done or () if place.error is not None]
                error = _refused(refused[0]) if refused else None
        except KafkaException as raised:
            error = _refused(error_of(raised) or raised)
        finally:
            self._asked_at = None
            _answer(waiting, error)
        if error is None:
            self._told |= told
        return error is None

    def forget(self, places: Iterable[Place]) -> None:
        """These partitions are no longer ours."""
        for place in places:
            self._told.pop(place, None)

    def give_up(self, why: str) -> None:
        """There will be no more commits."""
        waiting, self._waiting = self._waiting, []
        _answer(waiting, why)

    def _changes(
        self, partitions: Mapping[Place, Partition], about_to: Mapping[Place, list[Record]]
    ) -> tuple[list[TopicPartition], dict[Place, tuple[int, str]]]:
        """What the group does not know yet of these partitions."""
        offsets, told = [], {}
        for place, partition in partitions.items():
            deliveries = partition.deliveries(about_to.get(place, ()))
            state = (deliveries.offset, deliveries.encode())
            if state != self._told.get(place):
                told[place] = state
                offsets.append(TopicPartition(*place, deliveries.offset, state[1]))
        return offsets, told


def _answer(waiting: list[asyncio.Future[str | None]], error: str | None) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(error)


def _refused(error: KafkaError | KafkaException) -> str:
    if not isinstance(error, KafkaError) or not is_not_ours(error):
        logger.warning("offsets not committed, trying again: %s", error)
    return str(error)
