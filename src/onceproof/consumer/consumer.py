"""The consumer's life: receive, hand to workers, keep visibility, drain.

    fetch -> queue -> workers -> Settler -> Acker
               ^--- heartbeat extends whatever is in hand

`capacity` messages are in hand at most, so memory and the damage of a crash are bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from onceproof import metrics
from onceproof.consumer import tracing
from onceproof.consumer.acker import Acker
from onceproof.consumer.effect import EffectTransaction, SqlEffect
from onceproof.consumer.gate import Gate
from onceproof.consumer.handler import BatchHandler, Handler, Transaction, Work
from onceproof.consumer.heartbeat import heartbeat
from onceproof.consumer.inflight import InFlight, InHand
from onceproof.consumer.settings import ConsumerSettings
from onceproof.consumer.settle import Settler
from onceproof.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    MalformedEventError,
    QueueNotFoundError,
    TransientError,
)
from onceproof.events import Event
from onceproof.linger import Linger
from onceproof.ports import Delivery, HealthListener, Message, Subscriber
from onceproof.postgres import Connections, translated
from onceproof.telemetry import holding, receiving

logger = logging.getLogger(__name__)

_RECEIVE_BATCH: Final = 10
"""Messages that one request can bring, on SQS."""
_AT_ONCE_S: Final = 0.05
_EMPTY_PAUSE_S: Final = 0.1
_LAST_CALL_S: Final = 5.0
"""For a last request to a broker that may be away."""
_PROBE_TIMEOUT_S: Final = 5.0


class Consumer:
    """Runs a handler for each event of a queue, effectively once for effects in its session.

    Args:
        subscriber: the queue.
        database: makes the session that a handler gets, whose engine should have a lock timeout; for
            an `effect`, the connections that it runs on.
        handle: `async def handle(session, delivery)`.
        handle_batch: `async def handle_batch(session, deliveries)`, several in one transaction; when
            that fails, its messages are tried one by one. Give one of the two, or both.
        effect: instead of a handler, what an event does as one SQL statement; by far the fastest.
        settings: how it works.
        on_health: told when broker or database go away and come back.

    Raises:
        ConfigurationError: there is no handler, or `database` is not what it needs.
    """

    def __init__(
        self,
        subscriber: Subscriber,
        database: async_sessionmaker[AsyncSession] | Connections,
        handle: Handler | None = None,
        *,
        handle_batch: BatchHandler | None = None,
        effect: SqlEffect | None = None,
        settings: ConsumerSettings,
        on_health: HealthListener = lambda _dependency, _reason: None,
    ) -> None:
        self._work = _work(database, handle, handle_batch, effect, settings)
        self._subscriber = subscriber
        self._settings = settings
        self._on_health = on_health
        self._batch_size = settings.batch_size if handle_batch or effect else 1
        # So much of what is prefetched may be worked off before a request is worth it: half of it, or
        # where several are worked off at once, all of it.
        spare = settings.prefetch if self._batch_size > 1 else settings.prefetch // 2
        self._in_flight = InFlight(
            settings.concurrency * self._batch_size + settings.prefetch,
            refill=min(_RECEIVE_BATCH, max(spare, 1)),
        )
        self._ready: asyncio.Queue[InHand] = asyncio.Queue()
        self._plenty = asyncio.Event()
        self._linger = Linger(settings.linger_s, fill=_RECEIVE_BATCH)
        self._receives = 0
        self._working = 0
        self._checked = False
        self._idle = asyncio.Event()
        self._gate = Gate(
            self._probe,
            interval_s=settings.unavailable_backoff_s,
            on_change=lambda reason: on_health("database", reason),
        )
        self._acker = Acker(subscriber, linger_s=settings.ack_linger_s, system=settings.system)
        self._settler = Settler(
            subscriber,
            self._work,
            self._acker,
            self._in_flight,
            self._gate,
            settings,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop` is set, then drain: finish what is in work, give back the rest.

        Raises:
            ConfigurationError: an effect is not a statement that can run, or does something for no
                events. Where the database cannot tell at the start, it is asked until it can.
        """
        settings = self._settings
        try:
            await self._check()
        except TransientError as error:  # again at the gate, before the first message
            self._gate.close(str(error))
        background = [
            asyncio.create_task(self._acker.run(), name="acker"),
            asyncio.create_task(self._gate.run(), name="gate"),
        ]
        if settings.fixes.visibility_heartbeat:
            beat = heartbeat(
                self._subscriber,
                self._in_flight,
                visibility_s=settings.visibility_s,
                interval_s=settings.heartbeat_interval_s,
            )
            background.append(asyncio.create_task(beat, name="heartbeat"))
        workers = [
            asyncio.create_task(self._worker(), name=f"worker-{i}")
            for i in range(settings.concurrency)
        ]
        fetchers = [
            asyncio.create_task(self._fetch(helps=i > 0), name=f"fetcher-{i}")
            for i in range(settings.receives)
        ]
        stopped = asyncio.create_task(stop.wait(), name="stop")
        tasks = {stopped, *fetchers, *workers, *background}
        with holding(self._holding):
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                await _cancel(*fetchers)
                await self._drain(workers)
                for task in done - {stopped}:
                    task.result()  # a task that ends by itself is a bug: raise what ended it
            finally:
                await _cancel(*tasks)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LAST_CALL_S):
                        await self._acker.flush()
                tracing.stopped(self._receives)

    def _holding(self) -> tuple[int, list[tracing.Attributes]]:
        """What a crash point tells of this consumer."""
        items = [*self._in_flight, *(ack.item for ack in self._acker.unacked)]
        return self._receives, [tracing.in_hand(item) for item in items]

    async def _drain(self, workers: list[asyncio.Task[None]]) -> None:
        """Give back what waits, finish what is in work, and give back what did not finish in time."""
        # Emptied before the first await, or the workers would go on taking from it.
        waiting = []
        while not self._ready.empty():
            waiting.append(self._ready.get_nowait())
        try:
            async with asyncio.timeout(self._settings.drain_timeout_s):
                await asyncio.gather(self._settler.release(waiting, 0), self._finished())
        except TimeoutError:
            logger.warning("%d messages still in work after the drain", len(self._in_flight))
        await _cancel(*workers)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_CALL_S):
                await self._settler.release(list(self._in_flight), 0)

    async def _finished(self) -> None:
        """Wait for the handlers at work; not for messages held at the gate, which did not start."""
        while self._working:
            self._idle.clear()
            await self._idle.wait()

    async def _fetch(self, *, helps: bool) -> None:
        """Receive for ever; a helper only while there is more than one request brings."""
        settings = self._settings
        while True:
            await self._gate.passed()
            if helps:
                await self._plenty.wait()
            await self._acker.keeps_up()
            if not self._plenty.is_set() and (pause_s := self._linger.delay_s(time.monotonic())):
                await asyncio.sleep(pause_s)
            wanted = min(await self._in_flight.room(), _RECEIVE_BATCH)
            started = time.time_ns()
            self._in_flight.expect(wanted)
            try:
                with receiving():
                    messages = await self._subscriber.receive(
                        max_messages=wanted,
                        wait_s=settings.wait_s,
                        visibility_s=settings.visibility_s,
                    )
            except (BrokerUnavailableError, QueueNotFoundError) as error:
                self._plenty.clear()
                logger.warning("broker away, trying again: %s", error)
                self._on_health("broker", str(error))
                await asyncio.sleep(settings.unavailable_backoff_s)
                continue
            finally:
                self._in_flight.expect(-wanted)
            self._on_health("broker", None)
            self._linger.took(len(messages), time.monotonic())
            if len(messages) < wanted:
                self._plenty.clear()
            else:
                self._plenty.set()
            if messages:
                await self._take(messages, started)
            elif time.time_ns() - started < _AT_ONCE_S * 1e9:
                # No long poll, by choice or by a broker that has none, must not become a spin.
                await asyncio.sleep(_EMPTY_PAUSE_S)

    async def _take(self, messages: list[Message], received_ns: int) -> None:
        self._receives += 1
        items = []
        malformed = []
        for message in messages:
            if message.attempt > 1:
                metrics.redeliveries.inc()
            try:
                event = Event.decode(message.body)
            except MalformedEventError as error:
                malformed.append((message, str(error)))
                continue
            by_event = self._settings.fixes.dedup_on_event_id
            key = event.id if by_event else message.message_id
            delivery = Delivery(event, message, key)
            items.append(InHand(delivery, message.visible_until, receive=self._receives))
        tracing.received(
            self._settings,
            self._subscriber.queue,
            items,
            count=len(messages),
            number=self._receives,
            since_ns=received_ns,
        )
        for item in items:
            self._in_flight.add(item)
            self._ready.put_nowait(item)
        # After the good ones are in hand: a stop that comes meanwhile must give them back.
        for message, reason in malformed:
            await self._settler.reject(message, reason)

    async def _worker(self) -> None:
        while True:
            batch = [await self._ready.get()]
            while len(batch) < self._batch_size and not self._ready.empty():
                batch.append(self._ready.get_nowait())
            await self._gate.passed()
            self._working += 1
            try:
                await self._settler.settle(batch)
            finally:
                self._working -= 1
                self._idle.set()

    async def _probe(self) -> None:
        with translated():
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                await self._work.probe()
        if not self._checked:
            await self._check()

    async def _check(self) -> None:
        await self._work.check()
        self._checked = True


def _work(
    database: async_sessionmaker[AsyncSession] | Connections,
    handle: Handler | None,
    handle_batch: BatchHandler | None,
    effect: SqlEffect | None,
    settings: ConsumerSettings,
) -> Work:
    if effect is not None:
        if handle is not None or handle_batch is not None:
            raise ConfigurationError("a consumer has either an effect or handlers")
        if not isinstance(database, Connections):
            raise ConfigurationError("an effect runs on onceproof.postgres.Connections")
        return EffectTransaction(settings.name, database, effect, settings.fixes)
    if handle is None and handle_batch is None:
        raise ConfigurationError("a consumer needs handle, handle_batch or effect")
    if isinstance(database, Connections):
        raise ConfigurationError("a handler gets a session: pass an async_sessionmaker")
    return Transaction(
        settings.name,
        database,
        handle,
        handle_batch,
        settings.fixes,
        settings.handler_timeout_s,
    )


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
