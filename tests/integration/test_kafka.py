"""A group's members on a real Kafka: takeover, counts across a death, poison, restarts, bad input."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from confluent_kafka import Producer
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from tests.receiving import received

from onceproof.brokers.dead_letter import REASON
from onceproof.brokers.kafka import KafkaBroker, KafkaSettings, TopicPolicy
from onceproof.consumer import Consumer, ConsumerSettings
from onceproof.errors import BrokerUnavailableError, ConfigurationError, QueueNotFoundError
from onceproof.events import Event
from onceproof.ports import Delivery, Message, Outgoing, Subscriber
from onceproof.postgres import create_engine
from onceproof_chaos.embedded import EmbeddedKafka

DEADLINE_S = 30.0


@pytest.fixture
def topic() -> str:
    return f"t-{uuid4().hex[:12]}"


@asynccontextmanager
async def member(
    bootstrap: str, topic: str, *, max_receive_count: int = 5, stall_s: float = 30.0
) -> AsyncIterator[KafkaBroker]:
    """A client in the topic's group, with the topic made."""
    settings = KafkaSettings(bootstrap, group=topic, session_s=3, stall_s=stall_s, revoke_s=2)
    policies = {topic: TopicPolicy.of(topic, max_receive_count)}
    async with KafkaBroker.connect(settings, policies) as broker:
        await broker.ensure_topic(topic, partitions=4, policy=policies[topic])
        yield broker


async def receive(subscriber: Subscriber, count: int) -> list[Message]:
    """Receive until there are `count` messages, to a deadline."""
    return await received(subscriber, count, deadline_s=DEADLINE_S)


async def until(true: Callable[[], bool]) -> None:
    """Wait until it is so, to a deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not true():  # noqa: ASYNC110 - what is looked at tells nobody
            await asyncio.sleep(0.02)


def events(number: int) -> list[Outgoing]:
    made = [Event("dev.onceproof.order.placed", {"n": n}, key=f"o-{n}") for n in range(number)]
    return [Outgoing(event.id, event.encode(), event.key) for event in made]


async def test_a_successor_goes_on_where_the_other_died_and_knows_the_attempts(
    kafka_bootstrap: str, topic: str
) -> None:
    async with member(kafka_bootstrap, topic) as first:
        await first.send(topic, events(20))
        received = await receive(first.subscriber(topic), 20)
        assert all(result.ok for result in await first.subscriber(topic).ack(received[:5]))
        # Its heart beats on, but it does not poll: to the group it is dead, and nothing is committed.
        dead = first.subscriber(topic)._member
        assert dead is not None
        assert dead._task is not None
        assert dead._consumer is not None
        dead._task.cancel()
        async with member(kafka_bootstrap, topic) as second:
            await dead._consumer.close()
            dead._task = None
            again = await receive(second.subscriber(topic), 20 - settled_prefix(received))
            unsettled = {message.body for message in received[5:]}
            assert {m.body for m in again if m.attempt == 2} >= unsettled


def settled_prefix(received: list[Message]) -> int:
    """How many of the first five lie before everything else of their partitions."""
    places = [message.receipt.split("/") for message in received]
    acked = {(p[1], int(p[2])) for p in places[:5]}
    count = 0
    for number in {p[1] for p in places}:
        for offset in sorted(int(p[2]) for p in places if p[1] == number):
            if (number, offset) not in acked:
                break
            count += 1
    return count


async def test_a_revoked_partition_drains_before_it_goes(kafka_bootstrap: str, topic: str) -> None:
    async with member(kafka_bootstrap, topic) as first:
        await first.send(topic, events(40))
        received = await receive(first.subscriber(topic), 40)
        async with member(kafka_bootstrap, topic) as second:
            joining = asyncio.create_task(second.subscriber(topic).join())
            # The newcomer waits until what is in hand is settled, and then gets nothing of it.
            acked = await first.subscriber(topic).ack(received)
            await joining
            assert all(result.ok for result in acked)
            assert (
                await second.subscriber(topic).receive(max_messages=10, wait_s=1, visibility_s=30)
                == []
            )
            assert (await second.subscriber(topic).depth()).total == 0


async def test_a_member_that_stands_still_loses_its_partitions_and_its_receipts(
    kafka_bootstrap: str, topic: str
) -> None:
    async with (
        member(kafka_bootstrap, topic, stall_s=3) as zombie,
        member(kafka_bootstrap, topic, stall_s=3) as other,
    ):
        await zombie.send(topic, events(8))
        received = await receive(zombie.subscriber(topic), 8)
        await other.subscriber(topic).join()  # no partition yet, or some without records
        held = zombie.subscriber(topic)._member
        assert held is not None
        mine = [m for m in received if held.partitions.get(place(m))]
        turn = held._turn
        stands = asyncio.Event()

        async def stand_still(consumer: object) -> None:
            del consumer
            await stands.wait()

        held._turn = stand_still  # type: ignore[method-assign]
        again = await receive(other.subscriber(topic), len(received))
        held._turn = turn  # type: ignore[method-assign]
        stands.set()
        await until(lambda: not any(held.partitions.get(place(m)) for m in mine))
        results = await zombie.subscriber(topic).ack(mine)
        assert all(result.stale and not result.ok for result in results)
        assert all(result.ok for result in await other.subscriber(topic).ack(again))


def place(message: Message) -> tuple[str, int]:
    name, number, *_ = message.receipt.split("/")
    return name, int(number)


async def test_what_kills_each_time_goes_to_the_dlq_without_being_handed_out_again(
    kafka_bootstrap: str, topic: str
) -> None:
    body = b""
    for attempt in (1, 2):
        async with member(kafka_bootstrap, topic, max_receive_count=2) as victim:
            if attempt == 1:
                await victim.send(topic, events(1))
            (message,) = await receive(victim.subscriber(topic), 1)
            assert message.attempt == attempt
            body = message.body
    async with member(kafka_bootstrap, topic, max_receive_count=2) as survivor:
        assert (
            await survivor.subscriber(topic).receive(max_messages=1, wait_s=5, visibility_s=30)
            == []
        )
        (buried,) = await receive(survivor.subscriber(f"{topic}.dlq"), 1)
        assert buried.body == body
        assert (await survivor.subscriber(topic).depth()).total == 0


async def test_a_delay_goes_through_the_retry_topic_and_the_partition_goes_on(
    kafka_bootstrap: str, topic: str
) -> None:
    async with member(kafka_bootstrap, topic) as broker:
        subscriber = broker.subscriber(topic)
        await broker.send(topic, events(3))
        first, *others = await receive(subscriber, 3)
        released = time.time()
        assert [r.ok for r in await subscriber.release([first], 1.5)] == [True]
        assert all(result.ok for result in await subscriber.ack(others))
        (again,) = await receive(subscriber, 1)
        assert time.time() - released >= 1.4
        assert (again.body, again.attempt) == (first.body, 2)
        assert again.message_id == first.message_id
        assert again.receipt.startswith(f"{topic}.retry/")
        assert all(result.ok for result in await subscriber.ack([again]))
        assert (await subscriber.depth()).total == 0


async def test_a_topic_that_is_missing(kafka_bootstrap: str, topic: str) -> None:
    async with KafkaBroker.connect(KafkaSettings(kafka_bootstrap)) as broker:
        with pytest.raises(QueueNotFoundError, match=f"{topic}.*create it"):
            await broker.subscriber(topic).receive(max_messages=1, wait_s=1, visibility_s=30)
        with pytest.raises(QueueNotFoundError):
            await broker.subscriber(topic).describe()


@pytest.mark.parametrize("name", ["isolation.level", "enable.auto.commit", "auto.offset.reset"])
def test_what_the_promise_rests_on_cannot_be_set(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}.*aborted"):
        KafkaSettings("kafka:9092", security={name: "read_uncommitted"})


async def test_settings_that_the_client_does_not_know() -> None:
    settings = KafkaSettings("kafka:9092", security={"sasl.mechanisms.typo": "PLAIN"})
    with pytest.raises(ConfigurationError, match=r"no Kafka client can be made.*typo"):
        async with KafkaBroker.connect(settings):
            pass


async def test_too_few_partitions_are_told(
    kafka_bootstrap: str, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = KafkaSettings(kafka_bootstrap, group=topic, session_s=3)
    async with KafkaBroker.connect(settings) as one, KafkaBroker.connect(settings) as two:
        await one.ensure_topic(topic, partitions=1)
        await asyncio.gather(one.subscriber(topic).join(), two.subscriber(topic).join())
        await until(lambda: "more members than partitions" in caplog.text)


@pytest.mark.usefixtures("kafka_jars_installed")
async def test_the_broker_restarts_in_the_middle(
    tmp_path: Path, database_url: str, topic: str
) -> None:
    server = EmbeddedKafka(tmp_path / "kafka")
    await asyncio.to_thread(server.start)
    engine = create_engine(database_url, application_name="test")
    seen: list[str] = []
    health: list[str | None] = []
    try:
        async with member(server.bootstrap, topic) as broker:
            await broker.send(topic, events(10))
            stop = asyncio.Event()
            consuming = asyncio.create_task(
                consumer(broker.subscriber(topic), engine, seen, health).run(stop)
            )
            await until(lambda: len(seen) == 10)
            await asyncio.to_thread(server.stop)
            await until(lambda: any(health))
            await asyncio.to_thread(server.start)
            deadline = time.monotonic() + DEADLINE_S
            more = events(10)
            while more and time.monotonic() < deadline:
                results = await broker.send(topic, more)
                more = [m for m, result in zip(more, results, strict=True) if not result.ok]
            await until(lambda: len(set(seen)) == 20)
            await until(lambda: health[-1] is None)
            stop.set()
            await consuming
    finally:
        await engine.dispose()
        await asyncio.to_thread(server.stop)
    assert len(set(seen)) == len(seen)


async def test_records_that_are_no_events_go_to_the_dlq_and_nothing_stops(
    kafka_bootstrap: str, database_url: str, topic: str
) -> None:
    engine = create_engine(database_url, application_name="test")
    seen: list[str] = []
    async with member(kafka_bootstrap, topic) as broker:
        foreign = Producer({"bootstrap.servers": kafka_bootstrap})
        for body in (b"", b"\x00\xff", b'{"id": 1}', None):
            foreign.produce(topic, body, headers={"binary": b"\xff\xfe", "empty": None})
        foreign.close()
        await broker.send(topic, events(3))
        stop = asyncio.Event()
        consuming = asyncio.create_task(
            consumer(broker.subscriber(topic), engine, seen, []).run(stop)
        )
        buried = await receive(broker.subscriber(f"{topic}.dlq"), 4)
        await until(lambda: len(seen) == 3)
        stop.set()
        await consuming
        assert all(message.attributes[REASON] for message in buried)
        assert (await broker.subscriber(topic).depth()).total == 0
    await engine.dispose()


def consumer(
    subscriber: Subscriber, engine: AsyncEngine, seen: list[str], health: list[str | None]
) -> Consumer:
    async def handle(_session: object, delivery: Delivery) -> None:
        seen.append(delivery.event.id)

    return Consumer(
        subscriber,
        async_sessionmaker(engine),
        handle,
        settings=ConsumerSettings("test", wait_s=1, unavailable_backoff_s=0.2, system="kafka"),
        on_health=lambda dependency, why: health.append(why) if dependency == "broker" else None,
    )


async def test_a_broker_that_is_away_from_the_start(topic: str) -> None:
    settings = KafkaSettings("127.0.0.1:9", request_timeout_s=1, send_timeout_s=1)
    async with KafkaBroker.connect(settings) as broker:
        with pytest.raises(BrokerUnavailableError, match=topic):
            await broker.subscriber(topic).receive(max_messages=1, wait_s=1, visibility_s=30)
