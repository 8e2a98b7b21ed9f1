"""One suite for all brokers: what differs between them is in the features table, and only there.

ONCEPROOF_TEST_SQS_ENDPOINT adds an ElasticMQ that runs elsewhere. Kafka is started where Java and its
jars are to be had, or is the one of ONCEPROOF_TEST_KAFKA.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from uuid import uuid4

import pytest
from tests.receiving import received

from onceproof.brokers import MemoryBroker
from onceproof.brokers.kafka import KafkaBroker, KafkaSettings, TopicPolicy
from onceproof.brokers.sqs import SqsBroker
from onceproof.ports import Message, Outgoing, Publisher, SettleResult, Subscriber

ENDPOINT_VARIABLE = "ONCEPROOF_TEST_SQS_ENDPOINT"
DEADLINE_S = 10.0
UNREACHABLE = "http://127.0.0.1:9"
ANY_KEY = "any"
"""Neither the embedded server nor ElasticMQ looks at credentials."""


@dataclass(frozen=True)
class Features:
    """What a broker promises beyond the ports.

    Args:
        endpoint: `memory`, `embedded` or `external`.
        keeps_order: messages of one key come in the order in which they were sent.
        reports_retention: the broker tells how long it keeps a message; ElasticMQ does not.
        refuses_stale_receipts: an ack after another delivery is refused and the message stays.
        visibility_per_queue: a queue has a visibility timeout of its own; a partition has an owner.
    """

    endpoint: str
    keeps_order: bool = False
    reports_retention: bool = True
    refuses_stale_receipts: bool = True
    visibility_per_queue: bool = True


BROKERS = {
    "memory": Features("memory"),
    "sqs": Features("embedded"),
    "sqs-fifo": Features("embedded", keeps_order=True),
    "kafka": Features("kafka", keeps_order=True, visibility_per_queue=False),
}
if os.environ.get(ENDPOINT_VARIABLE):
    BROKERS |= {
        "external": Features("external", reports_retention=False),
        "external-fifo": Features("external", keeps_order=True, reports_retention=False),
    }


@dataclass
class Harness:
    """A broker under test; every queue that it makes has a name of its own."""

    features: Features
    broker: MemoryBroker | SqsBroker | KafkaBroker
    policies: dict[str, TopicPolicy] = field(default_factory=dict)

    @property
    def publisher(self) -> Publisher:
        return self.broker

    async def queue(
        self,
        *,
        visibility_timeout_s: float = 30.0,
        retention_s: float = 3600.0,
        max_receive_count: int = 5,
        dead_letter: str | None = None,
    ) -> str:
        name = self.new_name()
        if isinstance(self.broker, MemoryBroker):
            self.broker.create_queue(
                name,
                visibility_timeout_s=visibility_timeout_s,
                retention_s=retention_s,
                max_receive_count=max_receive_count if dead_letter else None,
                dead_letter=dead_letter,
            )
        elif isinstance(self.broker, KafkaBroker):
            policy = TopicPolicy(f"{name}.retry", dead_letter, max_receive_count)
            self.policies[name] = policy
            await self.broker.ensure_topic(
                name, partitions=3, retention_s=retention_s, policy=policy
            )
        else:
            await self.broker.ensure_queue(
                name,
                visibility_timeout_s=visibility_timeout_s,
                retention_s=retention_s,
                max_receive_count=max_receive_count,
                dead_letter=dead_letter,
            )
        return name

    def new_name(self) -> str:
        fifo = self.features.keeps_order and isinstance(self.broker, SqsBroker)
        return f"conformance-{uuid4().hex[:12]}" + (".fifo" if fifo else "")

    def subscriber(self, queue: str) -> Subscriber:
        return self.broker.subscriber(queue)

    def spoiled(self, message: Outgoing) -> list[Outgoing]:
        """Messages like this one of which the broker refuses each."""
        if isinstance(self.broker, MemoryBroker):
            self.broker.fail_next_send([message.id], "refused")
            return [message]
        if isinstance(self.broker, KafkaBroker):
            return [replace(message, body=b"x" * 1_100_000)]
        bodies = (b"nul \x00", b"\xff\xfe", b"", b"\xef\xbf\xbf", b"x" * (256 * 1024 + 1))
        return [Outgoing(id=f"{message.id}-{i}", body=body) for i, body in enumerate(bodies)]

    @asynccontextmanager
    async def unavailable(self) -> AsyncIterator[MemoryBroker | SqsBroker | KafkaBroker]:
        if isinstance(self.broker, MemoryBroker):
            self.broker.set_unavailable("switched off")
            yield self.broker
            return
        if isinstance(self.broker, KafkaBroker):
            nobody = KafkaSettings("127.0.0.1:9", request_timeout_s=1, send_timeout_s=1)
            policies = {name: TopicPolicy.of(name) for name in self.policies}
            async with KafkaBroker.connect(nobody, policies) as away:
                yield away
            return
        async with SqsBroker.connect(
            endpoint_url=UNREACHABLE,
            region="us-east-1",
            access_key_id=ANY_KEY,
            secret_access_key=ANY_KEY,
        ) as broker:
            yield broker


@pytest.fixture(params=BROKERS)
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    features = BROKERS[request.param]
    if features.endpoint == "memory":
        yield Harness(features, MemoryBroker())
        return
    if features.endpoint == "kafka":
        settings = KafkaSettings(
            request.getfixturevalue("kafka_bootstrap"), group=f"g-{uuid4().hex[:12]}", session_s=3
        )
        async with KafkaBroker.connect(settings) as kafka:
            yield Harness(features, kafka)
        return
    url = (
        request.getfixturevalue("sqs_endpoint")
        if features.endpoint == "embedded"
        else os.environ[ENDPOINT_VARIABLE]
    )
    async with SqsBroker.connect(
        endpoint_url=url, region="us-east-1", access_key_id=ANY_KEY, secret_access_key=ANY_KEY
    ) as broker:
        yield Harness(features, broker)


class ForgetfulBroker(MemoryBroker):
    """Breaks the contract: acks are confirmed and not carried out, visibility is not kept."""

    def subscriber(self, queue: str) -> ForgetfulSubscriber:  # type: ignore[override]
        return ForgetfulSubscriber(super().subscriber(queue))


class ForgetfulSubscriber:
    def __init__(self, inner: Subscriber) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    async def receive(
        self, *, max_messages: int, wait_s: float, visibility_s: float
    ) -> list[Message]:
        del visibility_s
        return await self._inner.receive(max_messages=max_messages, wait_s=wait_s, visibility_s=0.0)

    async def ack(self, messages: Sequence[Message]) -> list[SettleResult]:
        return [SettleResult(message.message_id) for message in messages]


@pytest.fixture
def forgetful() -> Harness:
    """The negative control of the suite."""
    return Harness(Features("memory"), ForgetfulBroker())


class Receiving:
    """Receives to a deadline, so that no test sleeps."""

    @staticmethod
    async def until(
        subscriber: Subscriber, count: int, *, visibility_s: float = 30.0
    ) -> list[Message]:
        """Receive until there are `count` messages."""
        return await received(subscriber, count, deadline_s=DEADLINE_S, visibility_s=visibility_s)

    @staticmethod
    async def nothing(subscriber: Subscriber) -> None:
        """Fail if there is anything to receive now."""
        assert await subscriber.receive(max_messages=10, wait_s=0, visibility_s=30) == []


@pytest.fixture
def receiving() -> type[Receiving]:
    return Receiving
