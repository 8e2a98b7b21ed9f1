"""This process as a member of a consumer group: one task that polls, and commits between polls.

The client admits one call at a time, so a commit waits for the poll before it. Therefore a poll is
short, and everything that is to be committed meanwhile goes with one request: what was settled, and
the delivery counts of what was fetched, which must be there before anybody gets to see it.

- **A rebalance is cooperative**: partitions that stay are worked on meanwhile. From one that is taken
  away nothing more is handed out; what is in hand may finish, and is committed, before it goes.
- **A member that stands still** loses its partitions after `stall_s`, because it does not poll. When it
  goes on, its receipts are stale and its commits are refused. What stops its database transaction is the
  inbox.
- **A member with full hands** pauses its partitions and goes on polling, so that slow work is no stall.
- **Counts are of what was handed out**: only what a receiver waits for is counted, and what was not
  fetched after all is uncounted before the partition goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.aio import AIOConsumer

from onceproof.brokers.kafka import headers
from onceproof.brokers.kafka.deliveries import Deliveries
from onceproof.brokers.kafka.failures import describe, is_refused, told
from onceproof.brokers.kafka.fetch import fetch
from onceproof.brokers.kafka.offsets import Offsets
from onceproof.brokers.kafka.partition import Partition, Record
from onceproof.brokers.kafka.place import Place, places_of
from onceproof.brokers.kafka.settings import KafkaSettings
from onceproof.brokers.kafka.threads import DaemonThreads

logger = logging.getLogger(__name__)

_IDLE_POLL_S: Final = 0.05
_BUSY_POLL_S: Final = 0.02
"""While something is in hand, whose settling must not wait long for its commit."""
_FETCH: Final = 100
"""Records that one look takes."""
_BACKOFF_S: Final = 0.5
_UNANSWERED_S: Final = 3.0
_CLOSE_S: Final = 10.0
_THREADS: Final = 4
"""A call, and those that it makes from within its callbacks."""
_EXHAUSTED: Final = 50
"""Records that have been tried too often, moved at once."""


class Member:
    """Fetches from the partitions that the group gives it.

    Args:
        settings: of cluster and group.
        topics: what is subscribed to.
        max_receive_count: deliveries after which a record is given to `bury`; None: never.
        bury: moves records that were delivered too often; returns those that it moved.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topics: Sequence[str],
        *,
        max_receive_count: int | None = None,
        bury: Callable[[Partition, list[Record]], Awaitable[list[Record]]] | None = None,
    ) -> None:
        self._settings = settings
        self._topics = list(topics)
        self._max_receive_count = max_receive_count
        self._bury = bury
        self.partitions: dict[Place, Partition] = {}
        self.down: str | None = None
        self.assigned = asyncio.Event()
        self._leaving: set[Place] = set()
        self._paused: set[Place] = set()
        self._epoch = 0
        self._offsets = Offsets()
        self._changed = asyncio.Event()
        self._nudged = asyncio.Event()
        self._wanted = 0
        self._turns = 0
        self._settled = asyncio.Event()
        self._threads = DaemonThreads(_THREADS, "kafka-member")
        self._consumer: AIOConsumer | None = None
        self._task: asyncio.Task[None] | None = None
        self._idle_since = float("inf")
        self._warned_idle = False
        self._closing = False

    def start(self) -> None:
        """Join the group; harmless when it was called before."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="kafka-member")
            self._task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Commit what is settled and leave the group, so that others go on at once."""
        if self._task is None:
            return
        self._closing = True
        self._task.cancel()
        await asyncio.wait((self._task,), timeout=_CLOSE_S)
        self._offsets.give_up("the consumer was closed")
        try:
            if self._consumer is not None:
                async with asyncio.timeout(_CLOSE_S):
                    await self._consumer.close()
        except TimeoutError:
            logger.warning("the group was not left: the broker does not answer")
        finally:
            self._threads.shutdown()

    @property
    def away(self) -> str | None:
        """Why nothing can be received now; None where nothing is known against it."""
        if self._offsets.unanswered_s > _UNANSWERED_S:
            return "broker unavailable: a commit is not answered"
        return self.down

    @property
    def ended(self) -> bool:
        """Whether it cannot go on; whoever wants to receive makes another."""
        return self._task is not None and self._task.done()

    async def changed(self, wanted: int, timeout_s: float) -> None:
        """Wait until there may be something to receive, up to `wanted` records."""
        self._changed.clear()
        self._wanted += wanted
        self._nudged.set()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait()
        finally:
            self._wanted -= wanted

    def handing_out(self) -> list[Partition]:
        """The partitions from which may be handed out."""
        return [p for place, p in self.partitions.items() if place not in self._leaving]

    def committed(self) -> asyncio.Future[str | None]:
        """Done when what is settled now has been committed; the result is why it was not."""
        self._settled.set()
        self._nudged.set()
        return self._offsets.committed()

    async def _run(self) -> None:
        # The client wraps callbacks for the loop that it is made on, and changes its settings.
        conf = self._settings.consumer() | {"error_cb": self._on_error}
        self._consumer = consumer = AIOConsumer(conf, executor=self._threads)
        try:
            await consumer.subscribe(
                self._topics,
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_lost,
            )
            while True:
                try:
                    await self._turn(consumer)
                except KafkaException as raised:
                    self._away(told(raised))
                    await asyncio.sleep(_BACKOFF_S)
        finally:
            for partition in self.partitions.values():
                partition.withdraw()
            with contextlib.suppress(KafkaException, asyncio.CancelledError):
                await self._offsets.commit(consumer, self.partitions, {})

    async def _turn(self, consumer: AIOConsumer) -> None:
        await self._make_room(consumer)
        for message in await fetch(consumer, _FETCH, await self._pause_s()):
            self._take(message)
        await self._announce(consumer)
        self._warn_if_idle()
        if self.down is not None:
            await self._look_again(consumer)

    async def _pause_s(self) -> float:
        """How long the next poll may wait: it cannot be woken, so not at all where records wait."""
        now_s = time.time()
        window = self._settings.window
        if any(held.out < window and held.due(now_s, 1) for held in self.handing_out()):
            self._nudged.clear()
            if not self._wanted and not self._offsets.awaited:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_BUSY_POLL_S):
                        await self._nudged.wait()
            return 0
        busy = any(held.in_hand for held in self.partitions.values()) or self._offsets.awaited
        return _BUSY_POLL_S if busy else _IDLE_POLL_S

    async def _announce(self, consumer: AIOConsumer) -> None:
        """Commit what is settled, and the counts of what is about to be handed out."""
        now, now_s = time.monotonic(), time.time()
        about_to: dict[Place, list[Record]] = {}
        wanted = self._wanted - sum(held.ready for held in self.partitions.values())
        # The next one begins where this one ended, so that none waits for a busier one.
        self._turns += 1
        places = deque(self.partitions)
        places.rotate(-self._turns)
        for place in places:
            partition = self.partitions[place]
            partition.lapse(now)
            if place in self._leaving:
                continue
            await self._bury_exhausted(partition)
            due = partition.due(now_s, min(wanted, self._settings.window - partition.out))
            if due:
                about_to[place] = due
                wanted -= len(due)
        if await self._offsets.commit(consumer, self.partitions, about_to):
            for place, records in about_to.items():
                if place in self.partitions:
                    self.partitions[place].announced(records)
            if about_to:
                self._changed.set()

    async def _bury_exhausted(self, partition: Partition) -> None:
        if self._max_receive_count is None or self._bury is None:
            return
        if spent := partition.exhausted(self._max_receive_count, _EXHAUSTED):
            for record in await self._bury(partition, spent):
                partition.settle(record)

    def _take(self, message: Message) -> None:
        place = (message.topic() or "", message.partition() or 0)
        error = message.error()
        partition = self.partitions.get(place)
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the client's own code
                if partition is not None:
                    partition.ended(message.offset() or 0)
            else:
                self._away(describe(error))
            return
        if partition is None:  # fetched before the partition was taken away
            return
        attributes, retry = headers.decode(message.headers())
        kind, milliseconds = message.timestamp()
        partition.fetched(
            Record(
                offset=message.offset() or 0,
                key=message.key(),
                body=message.value() or b"",
                attributes=attributes,
                sent_at=datetime.fromtimestamp(milliseconds / 1000, UTC) if kind else None,
                retry=retry,
            )
        )
        self.down = None

    async def _make_room(self, consumer: AIOConsumer) -> None:
        # Paused when full, and resumed when half of it is gone: to resume is to fetch anew.
        most = self._settings.buffer
        full = {
            place
            for place, held in self.partitions.items()
            if len(held) >= (most // 2 if place in self._paused else most)
        }
        pause, resume = full - self._paused, self._paused - full
        if pause:
            await consumer.pause([TopicPartition(*place) for place in pause])
        if resume:
            await consumer.resume([TopicPartition(*place) for place in resume])
        self._paused = full

    async def _look_again(self, consumer: AIOConsumer) -> None:
        """Ask an idle cluster whether it is back: where nothing is to be fetched, nothing would tell."""
        await consumer.list_topics(self._topics[0], timeout=1)
        self.down = None

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            logger.error("the member of the consumer group ended", exc_info=error)
            self._away(f"the member of the consumer group ended: {error}")

    def _away(self, why: str) -> None:
        if self.down is None:
            logger.warning("%s", why)
        self.down = why
        self._changed.set()

    async def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN or is_refused(error):  # noqa: SLF001
            self._away(describe(error))

    async def _on_assign(self, consumer: AIOConsumer, assigned: list[TopicPartition]) -> None:
        self._epoch += 1
        found = await self._committed_at(consumer, assigned)
        for place in found:
            key = (place.topic, place.partition)
            committed = Deliveries.decode(place.offset, place.metadata)
            self.partitions[key] = Partition(*key, committed, self._epoch)
        await consumer.incremental_assign(
            [TopicPartition(place.topic, place.partition, place.offset) for place in found]
        )
        self.assigned.set()
        self._idle_since = float("inf") if self.partitions else time.monotonic()

    async def _committed_at(
        self, consumer: AIOConsumer, assigned: list[TopicPartition]
    ) -> list[TopicPartition]:
        """Where the group left off; asked until there is an answer, since a guess would lose records."""
        if not assigned:
            return []
        timeout_s = self._settings.request_timeout_s
        while True:
            try:
                found: list[TopicPartition] = await consumer.committed(assigned, timeout=timeout_s)
                for place in found:
                    if place.error is not None:
                        raise KafkaException(place.error)  # noqa: TRY301 - one way for both kinds
                    if place.offset < 0:  # nothing was committed
                        low, _ = await consumer.get_watermark_offsets(place, timeout=timeout_s)
                        place.offset = low
            except KafkaException as raised:
                self._away(told(raised))
                await asyncio.sleep(_BACKOFF_S)
            else:
                return found

    def _warn_if_idle(self) -> None:
        # The partitions of one that has just joined come with the next assignment, when others let go.
        idle_s = time.monotonic() - self._idle_since
        if idle_s > self._settings.session_s and not self._warned_idle:
            self._warned_idle = True
            logger.warning(
                "this member of group %r has no partition of %s: there are more members than "
                "partitions. Add partitions, or it stays idle until another member leaves.",
                self._settings.group, ", ".join(self._topics),
            )  # fmt: skip

    async def _on_revoke(self, consumer: AIOConsumer, revoked: list[TopicPartition]) -> None:
        places = places_of(revoked)
        self._leaving |= places
        for place in places & self.partitions.keys():
            self.partitions[place].withdraw()
        deadline = time.monotonic() + self._settings.revoke_s
        try:
            while True:
                self._settled.clear()
                going = {k: held for k, held in self.partitions.items() if k in places}
                await self._offsets.commit(consumer, going, {})
                left = sum(held.in_hand for held in going.values())
                remaining = deadline - time.monotonic()
                if not left or remaining <= 0 or self._closing:
                    break
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(remaining):
                        await self._settled.wait()
            if left and not self._closing:
                logger.warning("%d records still in work when their partition was taken away", left)
        finally:
            self._forget(places)

    async def _on_lost(self, _consumer: AIOConsumer, lost: list[TopicPartition]) -> None:
        places = places_of(lost)
        logger.warning("%d partitions lost: this member stood still, or was cut off", len(places))
        self._forget(places)
        self._idle_since = float("inf")

    def _forget(self, places: set[Place]) -> None:
        for place in places:
            self.partitions.pop(place, None)
        self._offsets.forget(places)
        self._leaving -= places
        self._paused -= places
