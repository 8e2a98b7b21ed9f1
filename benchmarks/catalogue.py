"""All contests, in the order in which they are run: without a broker, through one, and against peers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks import consuming, relaying
from benchmarks.bench import Bench
from benchmarks.contest import Contender, Contest, Question
from benchmarks.elasticmq import CREDENTIALS, REGION
from benchmarks.end_to_end import EndToEnd
from benchmarks.figures import InvalidRunError, Sample
from benchmarks.fsync import microseconds_per_sync
from benchmarks.memory import ConsumerMemory
from benchmarks.peers.debezium_server import DebeziumServer
from benchmarks.peers.queues import PEERS, QueuePeer
from benchmarks.peers.relay_kinds import FaststreamOutbox, OnceproofRelay, Outboxer
from benchmarks.peers.relays import relay_contenders
from benchmarks.producing import OrderWrite
from benchmarks.queue_ceiling import DirectPublisher, NoOpConsumer, RelayToQueue, ThroughQueue
from benchmarks.queue_content import sqs_client
from benchmarks.services_pipeline import ServicesPipeline
from benchmarks.sides import SideContender
from onceproof.brokers.sqs import SqsBroker
from onceproof.postgres import create_engine

OURS: Final = "onceproof"
_T1: Final = "pgbench T1"
_T10: Final = "pgbench T10"
_QUEUE: Final = "Postgres, ElasticMQ (docker)"
_RELAY_PEERS: Final = ("debezium server", "faststream-outbox", "outboxer")
MEMORY_MESSAGES: Final = 20_000


@asynccontextmanager
async def _engine(at: Bench) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(
        at.where.library_url(), application_name="onceproof-bench", pool_size=at.scale.clients
    )
    try:
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def _broker(at: Bench) -> AsyncIterator[tuple[SqsBroker, Any]]:
    """The library's broker, and a bare client, on the queue server."""
    server = await at.queue_server()
    async with (
        SqsBroker.connect(
            endpoint_url=server.endpoint,
            region=REGION,
            access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        ) as broker,
        sqs_client(server.endpoint) as client,
    ):
        yield broker, client


@dataclass(frozen=True, slots=True)
class _Sync:
    at: Bench
    name: str = "pg_test_fsync"

    async def prepare(self) -> None:
        """Nothing to get ready."""

    async def measure(self, repeat: int) -> Sample:
        """Microseconds of each method; the one that the server uses counts."""
        del repeat
        found = await microseconds_per_sync(self.at.pgbench, 1)
        used = self.at.where.settings["wal_sync_method"]
        if used not in found:
            raise InvalidRunError(f"pg_test_fsync did not measure {used}, which the server uses")
        return Sample(
            1, found[used] / 1e6, 0, 0,
            values={"sync_us": found[used], **{f"{name}_us": us for name, us in found.items()}},
        )  # fmt: skip


@asynccontextmanager
async def _fsync(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    yield [_Sync(at)]


@asynccontextmanager
async def _consumer(at: Bench, *, batched: bool) -> AsyncIterator[Sequence[Contender]]:
    clients = at.scale.clients
    async with _engine(at) as engine:
        yield [
            SideContender(
                at, OURS, consuming.Ours(at.where, engine, clients=clients, batched=batched),
                leave=engine.dispose,
            ),
            SideContender(
                at, _T10 if batched else _T1,
                consuming.Ceiling(at.where, at.pgbench, clients=clients, batched=batched),
                seconds=True,
            ),
        ]  # fmt: skip


@asynccontextmanager
async def _relay_store(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    async with _engine(at) as engine:
        yield [
            SideContender(at, OURS, relaying.Ours(at.where, engine), leave=engine.dispose),
            SideContender(at, "pgbench", relaying.Ceiling(at.where, at.pgbench)),
        ]


@asynccontextmanager
async def _producer(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    write = partial(OrderWrite, at.where, at.pgbench, clients=at.scale.clients)
    yield [
        SideContender(at, "with outbox row", write(outbox=True), seconds=True),
        SideContender(at, "without", write(outbox=False), seconds=True),
    ]


@asynccontextmanager
async def _through_queue(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    async with _broker(at) as (broker, client), _engine(at) as engine:
        ours = ThroughQueue(at.where, engine, broker, client, clients=at.scale.clients)
        yield [
            SideContender(at, OURS, ours, leave=engine.dispose),
            SideContender(at, "Q", NoOpConsumer(at.where, client)),
        ]


@asynccontextmanager
async def _relay_to_queue(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    async with _broker(at) as (broker, client), _engine(at) as engine:
        ours = RelayToQueue(at.where, engine, broker, client)
        yield [
            SideContender(at, OURS, ours, leave=engine.dispose),
            SideContender(at, "P", DirectPublisher(at.where, client)),
        ]


@asynccontextmanager
async def _relay_peers(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    kinds = [
        OnceproofRelay(),
        *(
            kind(tuned=tuned)
            for kind in (DebeziumServer, FaststreamOutbox, Outboxer)
            for tuned in (False, True)
        ),
    ]
    async with relay_contenders(at, kinds) as contenders:
        yield contenders


@asynccontextmanager
async def _variants(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    async with _broker(at) as (_, client):
        yield [ServicesPipeline(at, client, variant) for variant in ("hardened", "naive")]


@asynccontextmanager
async def _requests(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    async with _broker(at) as (_, client):
        yield [
            EndToEnd(at, client, count_requests=True),
            *(
                ServicesPipeline(at, client, variant, count_requests=True)
                for variant in ("hardened", "naive")
            ),
        ]


@asynccontextmanager
async def _memory(at: Bench, messages: int) -> AsyncIterator[Sequence[Contender]]:
    async with _broker(at) as (_, client):
        yield [ConsumerMemory(at, client, messages)]


@asynccontextmanager
async def _no_broker(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    async with _broker(at) as (_, client):
        yield [
            EndToEnd(at, client),
            *(QueuePeer(at, peer, tuned=tuned) for peer in PEERS for tuned in (False, True)),
        ]


def contests(memory_messages: int = MEMORY_MESSAGES) -> list[Contest]:
    """All of them.

    Args:
        memory_messages: how many messages the consumer's memory is watched over.
    """
    return [*_without_broker(), *_through_broker(memory_messages), *_against_peers()]


def _without_broker() -> list[Contest]:
    return [
        Contest(
            "fsync", "One durable 8 kB write on this disk", _fsync,
            [Question("one write by the server's method", "pg_test_fsync", None,
                      measure="sync_us", better="less", unit="us")],
            needs="pg_test_fsync", timed=False,
        ),
        Contest(
            "consumer-t1", "Consumer, one order a transaction, null broker",
            partial(_consumer, batched=False),
            [Question("consumer / T1", OURS, _T1, 0.5, figure=1)],
        ),
        Contest(
            "consumer-t10", "Consumer, set-based, ten orders a transaction, null broker",
            partial(_consumer, batched=True),
            [Question("consumer / T10", OURS, _T10, 0.5, figure=2)],
        ),
        Contest(
            "relay-sql", "Relay, its statements alone, null broker", _relay_store,
            [Question("relay / pgbench", OURS, "pgbench")],
        ),
        Contest(
            "producer-sql", "Producer's order write in SQL, with and without the outbox row", _producer,
            [Question("latency with / without the outbox row, mean", "with outbox row", "without", 1.1,
                      measure="latency_ms", better="less")],
        ),
    ]  # fmt: skip


def _through_broker(memory_messages: int) -> list[Contest]:
    return [
        Contest(
            "consumer-queue", "Consumer through ElasticMQ, set-based", _through_queue,
            [Question("consumer / Q", OURS, "Q", 0.7, figure=3)], needs=_QUEUE,
        ),
        Contest(
            "relay-queue", "Relay to ElasticMQ", _relay_to_queue,
            [Question("relay / P", OURS, "P", 0.9, figure=4)], needs=_QUEUE,
        ),
        Contest(
            "variants", "All services by HTTP, hardened and naive", _variants,
            [Question("hardened / naive, end to end", "hardened", "naive", 1.0, figure=6)],
            needs=_QUEUE,
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
            needs=_QUEUE, timed=False,
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
            needs=_QUEUE, timed=False,
        ),
    ]  # fmt: skip


def _against_peers() -> list[Contest]:
    return [
        Contest(
            "relay-peers", "Relays to ElasticMQ: ours and its peers", _relay_peers,
            [
                Question(f"relay / {peer}{mode}", "onceproof relay", f"{peer}{mode}",
                         1.5 if mode else None, figure=5 if mode else None)
                for peer in _RELAY_PEERS for mode in ("", ", tuned")
            ],
            needs=f"{_QUEUE}, Java 21 and Maven, Go",
        ),
        Contest(
            "no-broker", "End to end through a broker, and queues in Postgres as a bound", _no_broker,
            [
                Question(f"end to end / {peer}{mode}", "onceproof, end to end", f"{peer}{mode}",
                         1.0 if mode else None, figure=12 if mode else None)
                for peer in PEERS for mode in ("", ", tuned")
            ],
            needs=f"{_QUEUE}, Go",
        ),
    ]  # fmt: skip
