"""Each peer does the work once, and a run that does it wrongly is refused.

They are built on demand, one of them from a download of 0.8 GB, so they are only run where that was
asked for: `make bench-test`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# The benchmarks are scripts beside the packages, not installed.
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.bench import Scale, bench
from benchmarks.ceiling import find_pgbench
from benchmarks.contest import NotRunError
from benchmarks.database import database
from benchmarks.figures import InvalidRunError
from benchmarks.peers.debezium_server import DebeziumServer
from benchmarks.peers.queues import PEERS, QueuePeer
from benchmarks.peers.relay_kinds import FaststreamOutbox, OnceproofRelay, Outboxer
from benchmarks.peers.relays import RelayKind, relay_contenders

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        os.environ.get("ONCEPROOF_TEST_PEERS") != "1",
        reason="builds the benchmark's peers: make bench-test, or ONCEPROOF_TEST_PEERS=1",
    ),
]

KINDS: dict[str, Callable[[], RelayKind]] = {
    "onceproof": OnceproofRelay,
    "debezium": lambda: DebeziumServer(tuned=True),
    "faststream-outbox": lambda: FaststreamOutbox(tuned=True),
    "outboxer": lambda: Outboxer(tuned=True),
}


@pytest.fixture
async def at():
    async with (
        database(None) as where,
        bench(where, find_pgbench(), Scale(1, 1, 8), lambda _text: None) as servers,
    ):
        yield servers


@pytest.mark.parametrize("peer", PEERS)
async def test_a_queue_peer_charges_each_order_once(at, peer):
    contender = QueuePeer(at, peer, tuned=True)
    try:
        await contender.prepare()
    except NotRunError as error:
        pytest.skip(str(error))
    sample = await contender.run(100)
    assert sample.orders == 100
    assert sample.resources is not None
    assert sample.resources.cpu_s["worker"] > 0
    assert sample.resources.cpu_s["producer"] > 0


@pytest.mark.parametrize("peer", PEERS)
async def test_without_its_guard_a_queue_peers_run_is_refused(at, peer):
    contender = QueuePeer(at, peer, tuned=True, broken=True)
    try:
        with pytest.raises(InvalidRunError, match="60 distinct orders gave 63 charges"):
            await contender.prepare()
    except NotRunError as error:
        pytest.skip(str(error))


async def copy_a_message(client, url):
    """What a relay that sends one event twice leaves behind."""
    answer = await client.receive_message(QueueUrl=url, VisibilityTimeout=0)
    await client.send_message(QueueUrl=url, MessageBody=answer["Messages"][0]["Body"])


@pytest.mark.parametrize("kind", KINDS)
async def test_a_relay_sends_each_event_once_and_a_second_time_is_noticed(at, kind):
    try:
        async with relay_contenders(at, [KINDS[kind]()]) as [contender]:
            await contender.prepare()
            sample = await contender.run(100)
            assert sample.orders == 100
            with pytest.raises(InvalidRunError, match="in 51 messages"):
                await contender.run(50, meddle=copy_a_message)
    except NotRunError as error:
        pytest.skip(str(error))
