"""Over Kafka: what its guarantees cost, and relay and consumer beside those over SQS."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench
from benchmarks.contest import Contender, Contest, NotRunError, Question
from benchmarks.contests.opening import QUEUE, broker_of, connections_of, engine_of
from benchmarks.kafka_cost import GUARANTEES, IDEMPOTENT, PLAIN, Sent
from benchmarks.kafka_through import KafkaConsumed, KafkaRelayed
from benchmarks.relaying import Relayed
from benchmarks.sides import SideContender
from benchmarks.through_queue import ThroughQueue
from onceproof.errors import OnceproofError
from onceproof_chaos.embedded import EmbeddedKafka, kafka_jars

KAFKA: Final = "Java 17 and Maven"
_SIZES: Final = (100, 1_000, 10_000)
_OVER_KAFKA, _OVER_SQS = "over Kafka", "over SQS"


@asynccontextmanager
async def _kafka() -> AsyncIterator[str]:
    if (reason := kafka_jars.why_not()) is not None:
        raise NotRunError(f"needs {KAFKA}: {reason}")
    # Not in the temporary folder, which may be in memory.
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent.parent) as directory:
        server = EmbeddedKafka(Path(directory))
        try:
            yield await asyncio.to_thread(server.start)
        except OnceproofError as error:
            raise NotRunError(str(error)) from error
        finally:
            await asyncio.to_thread(server.stop)


@asynccontextmanager
async def _cost(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    async with _kafka() as bootstrap:
        yield [Sent(at, bootstrap, how, size) for size in _SIZES for how in GUARANTEES]


@asynccontextmanager
async def _relay(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    async with _kafka() as bootstrap, broker_of(at) as (broker, client), engine_of(at) as engine:
        over_kafka = KafkaRelayed(at.where, engine, bootstrap)
        over_sqs = Relayed(at.where, engine, broker, client)
        yield [
            SideContender(at, _OVER_KAFKA, over_kafka, leave=engine.dispose),
            SideContender(at, _OVER_SQS, over_sqs, leave=engine.dispose),
        ]


@asynccontextmanager
async def _consumer(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    async with (
        _kafka() as bootstrap,
        broker_of(at) as (broker, client),
        connections_of(at) as connections,
    ):
        clients = at.scale.clients
        over_kafka = KafkaConsumed(at.where, connections, bootstrap, clients=clients, batch=10)
        over_sqs = ThroughQueue(at.where, connections, broker, client, clients=clients)
        yield [
            SideContender(at, _OVER_KAFKA, over_kafka, leave=connections.close),
            SideContender(at, _OVER_SQS, over_sqs, leave=connections.close),
        ]


def _costs() -> list[Question]:
    questions = []
    for size in _SIZES:
        for how in GUARANTEES:
            name = f"{how.name}, {size} B"
            if how is not PLAIN:
                questions.append(Question(f"{name} / plain", name, f"{PLAIN.name}, {size} B"))
            questions.append(
                Question(f"{name}, until visible, p50", name, None, measure="visible_p50_ms",
                         better="less", unit="ms")
            )  # fmt: skip
            if how.commit_s is not None:
                questions.append(
                    Question(f"{name} / idempotent", name, f"{IDEMPOTENT.name}, {size} B")
                )
    return questions


def contests() -> list[Contest]:
    """Each of them."""
    both = f"{QUEUE}; {KAFKA}"
    return [
        Contest("kafka-cost", "Kafka: what its guarantees cost", _cost, _costs(), needs=KAFKA),
        Contest(
            "kafka-relay", "Relay over Kafka and over SQS", _relay,
            [Question("over Kafka / over SQS", _OVER_KAFKA, _OVER_SQS)], needs=both,
        ),
        Contest(
            "kafka-consumer", "Consumer over Kafka and over SQS, ten a transaction", _consumer,
            [Question("over Kafka / over SQS", _OVER_KAFKA, _OVER_SQS)], needs=both,
        ),
    ]  # fmt: skip
