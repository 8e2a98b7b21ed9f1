"""A process ends although its broker does not answer: no thread that waits for it holds it up."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from onceproof.brokers.kafka import KafkaBroker, KafkaSettings
from onceproof.ports import Outgoing
from onceproof_chaos.embedded import EmbeddedKafka

pytestmark = pytest.mark.slow

TOPIC = "orders"
ENDS_WITHIN_S = 60.0
PROGRAM = f"""
import asyncio, sys
from onceproof.brokers.kafka import KafkaBroker, KafkaSettings

async def main():
    async with KafkaBroker.connect(KafkaSettings(sys.argv[1], send_timeout_s=2)) as broker:
        subscriber = broker.subscriber({TOPIC!r})
        messages = await subscriber.receive(max_messages=1, wait_s=60, visibility_s=60)
        print("received", len(messages), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        print("without the broker", flush=True)
        try:
            async with asyncio.timeout(2):
                await subscriber.ack(messages)
            print("acked")
        except TimeoutError:
            print("no answer")

asyncio.run(main())
"""


@pytest.fixture
def server(kafka_jars_installed: None, tmp_path: Path) -> Iterator[EmbeddedKafka]:
    del kafka_jars_installed  # only to skip
    with EmbeddedKafka(tmp_path / "kafka") as running:
        yield running


async def one_event(bootstrap: str) -> None:
    async with KafkaBroker.connect(KafkaSettings(bootstrap)) as broker:
        await broker.ensure_topic(TOPIC, partitions=1)
        await broker.send(TOPIC, [Outgoing("e1", b"body")])


def test_the_end_of_a_process_does_not_wait_for_a_commit(server: EmbeddedKafka) -> None:
    asyncio.run(one_event(server.bootstrap))
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, server.bootstrap],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "received 1\n"
        server.pause()
        output, told = program.communicate("go on\n", timeout=ENDS_WITHIN_S)
    finally:
        program.kill()
        program.wait()
    assert output.splitlines() == ["without the broker", "no answer"], told
    assert program.returncode == 0, told
