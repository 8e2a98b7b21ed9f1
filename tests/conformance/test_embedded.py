"""The embedded servers: nothing is lost under load, and none outlives the process that started it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import psutil
import pytest

from onceproof.brokers.sqs import SqsBroker
from onceproof.ports import Outgoing

if TYPE_CHECKING:
    from tests.conftest import QueueFactory

STARTS_BOTH = """
import json, os, sys
from pathlib import Path
from onceproof_chaos.embedded import EmbeddedPostgres, EmbeddedSqs
directory = Path(sys.argv[1])
sqs, postgres = EmbeddedSqs(directory), EmbeddedPostgres(directory)
sqs.start()
postgres.start()
pid = int((directory / "postgres" / "postmaster.pid").read_text().split()[0])
print(json.dumps([sqs.pid, pid, postgres._watcher.pid]), flush=True)
sys.stdin.read()
"""

POLLS = """
import asyncio, sys
from onceproof.brokers.sqs import SqsBroker
async def main():
    async with SqsBroker.connect(endpoint_url=sys.argv[1], region="us-east-1") as broker:
        subscriber = broker.subscriber(sys.argv[2])
        await subscriber.depth()
        print("polling", flush=True)
        await subscriber.receive(max_messages=10, wait_s=20, visibility_s=600)
asyncio.run(main())
"""


async def test_concurrent_clients_lose_and_double_nothing(
    sqs_broker: SqsBroker, queue_factory: QueueFactory
) -> None:
    queue = await queue_factory()
    total, clients = 2000, 10
    received: Counter[bytes] = Counter()

    async def produce(client: int) -> None:
        for start in range(0, total // clients, 10):
            batch = [Outgoing(f"e{i}", b"%d-%d" % (client, i)) for i in range(start, start + 10)]
            assert all(result.ok for result in await sqs_broker.send(queue.name, batch))

    async def consume() -> None:
        subscriber = sqs_broker.subscriber(queue.name)
        while received.total() < total:
            messages = await subscriber.receive(max_messages=10, wait_s=1, visibility_s=60)
            received.update(message.body for message in messages)
            assert all(result.ok for result in await subscriber.ack(messages))

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for client in range(clients):
            group.create_task(produce(client))
            group.create_task(consume())
    assert len(received) == total
    assert set(received.values()) == {1}
    assert (await sqs_broker.subscriber(queue.name).depth()).total == 0


async def test_a_killed_receiver_takes_no_message_with_it(
    sqs_broker: SqsBroker, queue_factory: QueueFactory, sqs_endpoint: str
) -> None:
    queue = await queue_factory()
    command = [sys.executable, "-c", POLLS, sqs_endpoint, queue.name]
    poller = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert poller.stdout is not None
    assert await poller.stdout.readline() == b"polling\n"
    subscriber = sqs_broker.subscriber(queue.name)
    # A poll of ours behind it: by its end the server has seen the other one's request.
    await subscriber.receive(max_messages=1, wait_s=1, visibility_s=2)
    poller.kill()
    await poller.wait()
    await sqs_broker.send(queue.name, [Outgoing("e1", b"body")])
    messages = await subscriber.receive(max_messages=1, wait_s=5, visibility_s=30)
    assert [message.attempt for message in messages] == [1]


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_servers_do_not_outlive_their_parent(server_directory: Path, way: int) -> None:
    directory = server_directory / f"abandoned-{int(way)}"
    command = [sys.executable, "-W", "error", "-c", STARTS_BOTH, str(directory)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        assert parent.stdout is not None
        servers = [psutil.Process(pid) for pid in json.loads(parent.stdout.readline())]
        parent.send_signal(way)
    _, alive = psutil.wait_procs(servers, timeout=20)
    assert alive == []
    # The watcher was the last of them, and it ends when the data is gone.
    assert not (directory / "postgres").exists()


async def test_real_settings(empty_database_url: str) -> None:
    connection = await asyncpg.connect(empty_database_url)
    try:
        shown = {
            name: await connection.fetchval(f"SHOW {name}")
            for name in ("fsync", "synchronous_commit", "full_page_writes")
        }
        assert int(await connection.fetchval("SHOW max_connections")) >= 100
    finally:
        await connection.close()
    assert shown == {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


async def test_fixtures_give_migrated_databases(
    database_url: str, provider_database_url: str
) -> None:
    tables = {}
    for url in (database_url, provider_database_url):
        connection = await asyncpg.connect(url)
        try:
            rows = await connection.fetch("SELECT relname FROM pg_class WHERE relkind = 'r'")
            tables[url] = {row[0] for row in rows}
        finally:
            await connection.close()
    assert {"orders", "charges", "outbox", "inbox"} <= tables[database_url]
    assert "captures" in tables[provider_database_url]
    assert "captures" not in tables[database_url]
