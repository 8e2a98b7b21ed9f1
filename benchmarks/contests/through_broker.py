"""Through ElasticMQ: what the broker and its client allow, and what the guarantees cost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from benchmarks.bench import Bench
from benchmarks.contest import Contender, Contest, Question
from benchmarks.contests.opening import OURS, QUEUE, broker_of, connections_of, engine_of
from benchmarks.end_to_end import EndToEnd
from benchmarks.memory import ConsumerMemory
from benchmarks.outbox_latency import AddedLatency
from benchmarks.queue_ceiling import DirectPublisher, NoOpConsumer
from benchmarks.relaying import Relayed
from benchmarks.services_pipeline import ServicesPipeline
from benchmarks.sides import SideContender
from benchmarks.through_queue import ThroughQueue

_FIFTY: Final = "onceproof, fifty"
_FEW_CLIENTS: Final = 2
"""With fewer statements in flight more messages wait for the next one, so it takes more of them."""


@asynccontextmanager
async def _consumer(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    async with broker_of(at) as (broker, client), connections_of(at) as connections:
        ours = partial(ThroughQueue, at.where, connections, broker, client)
        ten, fifty = ours(clients=at.scale.clients), ours(clients=_FEW_CLIENTS, batch=50)
        yield [
            SideContender(at, OURS, ten, leave=connections.close),
            SideContender(at, "Q", NoOpConsumer(at.where, client)),
            SideContender(at, _FIFTY, fifty, leave=connections.close),
        ]


@asynccontextmanager
async def _relay(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    async with broker_of(at) as (broker, client), engine_of(at) as engine:
        ours = Relayed(at.where, engine, broker, client)
        yield [
            SideContender(at, OURS, ours, leave=engine.dispose),
            SideContender(at, "P", DirectPublisher(at.where, client)),
        ]


@asynccontextmanager
async def _latency(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    async with broker_of(at) as (broker, client), engine_of(at) as engine:
        yield [AddedLatency(at, engine, broker, client)]


@asynccontextmanager
async def _variants(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    async with broker_of(at) as (_, client):
        yield [ServicesPipeline(at, client, variant) for variant in ("hardened", "naive")]


@asynccontextmanager
async def _requests(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    async with broker_of(at) as (_, client):
        yield [
            EndToEnd(at, client, count_requests=True),
            *(
                ServicesPipeline(at, client, variant, count_requests=True)
                for variant in ("hardened", "naive")
            ),
        ]


@asynccontextmanager
async def _memory(at: Bench, messages: int) -> AsyncIterator[Sequence[Contender]]:
    async with broker_of(at) as (_, client):
        yield [ConsumerMemory(at, client, messages)]


def contests(memory_messages: int) -> list[Contest]:
    """Each of them.

    Args:
        memory_messages: how many messages the consumer's memory is watched over.
    """
    latency = partial(Question, of=AddedLatency.name, to=None, better="less", unit="ms")
    return [
        Contest(
            "consumer-queue", "Consumer through ElasticMQ, set-based", _consumer,
            [
                Question("consumer, ten a transaction / Q", OURS, "Q", 0.7, figure=3),
                Question("consumer, fifty a transaction / Q", _FIFTY, "Q", 0.7, figure=3),
            ],
            needs=QUEUE,
        ),
        Contest(
            "relay-queue", "Relay to ElasticMQ", _relay,
            [Question("relay / P", OURS, "P", 0.9, figure=4)], needs=QUEUE,
        ),
        Contest(
            "outbox-latency", "What the outbox adds from commit to confirmation, at half load", _latency,
            [
                latency("added by the outbox, p50", goal=5, figure=8, measure="added_p50_ms"),
                latency("added by the outbox, p99", goal=25, figure=8, measure="added_p99_ms"),
                latency("through the outbox, p50", measure="outbox_p50_ms"),
                latency("directly, p50", measure="direct_p50_ms"),
            ],
            needs=QUEUE, timed=False,
        ),
        Contest(
            "variants", "All services by HTTP, hardened and naive", _variants,
            [Question("hardened / naive, end to end", "hardened", "naive", 1.0, figure=6)],
            needs=QUEUE,
        ),
        Contest(
            "requests", "SQS requests per order, counted by a proxy (its times are not used)", _requests,
            [
                Question("library end to end", "onceproof, end to end", None, 0.35, figure=10,
                         measure="sqs_requests_per_order", better="less"),
                *(Question(f"services, {variant}", variant, None, goal, figure=10,
                           measure="sqs_requests_per_order", better="less")
                  for variant, goal in (("hardened", 0.35), ("naive", None))),
            ],
            needs=QUEUE, timed=False,
        ),
        Contest(
            "memory", f"Memory of one consumer over {memory_messages} messages",
            partial(_memory, messages=memory_messages),
            [
                Question("RSS, largest", "consumer", None, 110, figure=11,
                         measure="consumer_rss_mb", better="less", unit="MB"),
                Question(f"growth over {memory_messages} messages", "consumer", None, 5, figure=11,
                         measure="growth_percent", better="less", unit="%"),
            ],
            needs=QUEUE, timed=False,
        ),
    ]  # fmt: skip
