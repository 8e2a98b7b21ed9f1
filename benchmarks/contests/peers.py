"""Against what one would take instead."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from benchmarks.bench import Bench
from benchmarks.contest import Contender, Contest, Question
from benchmarks.contests.opening import QUEUE, broker_of
from benchmarks.end_to_end import EndToEnd
from benchmarks.peers.debezium_server import DebeziumServer
from benchmarks.peers.queues import PEERS, QueuePeer
from benchmarks.peers.relay_kinds import FaststreamOutbox, OnceproofRelay, Outboxer
from benchmarks.peers.relays import relay_contenders

_RELAYS: Final = ("debezium server", "faststream-outbox", "outboxer")


@asynccontextmanager
async def _relays(at: Bench) -> AsyncIterator[Sequence[Contender]]:
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
async def _no_broker(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    async with broker_of(at) as (_, client):
        yield [
            EndToEnd(at, client),
            *(QueuePeer(at, peer, tuned=tuned) for peer in PEERS for tuned in (False, True)),
        ]


def contests() -> list[Contest]:
    """Each of them."""
    return [
        Contest(
            "relay-peers", "Relays to ElasticMQ: ours and its peers", _relays,
            [
                Question(f"relay / {peer}{mode}", "onceproof relay", f"{peer}{mode}",
                         1.5 if mode else None, figure=5 if mode else None)
                for peer in _RELAYS for mode in ("", ", tuned")
            ],
            needs=f"{QUEUE}, Java 21 and Maven, Go",
        ),
        Contest(
            "no-broker", "End to end through a broker, and queues in Postgres as a bound", _no_broker,
            [
                Question(f"end to end / {peer}{mode}", "onceproof, end to end", f"{peer}{mode}",
                         1.0 if mode else None, figure=12 if mode else None)
                for peer in PEERS for mode in ("", ", tuned")
            ],
            needs=f"{QUEUE}, Go",
        ),
    ]  # fmt: skip
