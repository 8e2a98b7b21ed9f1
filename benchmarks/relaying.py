"""Orders per second through the relay: without a broker against pgbench, with one against P.

`Ours` and `Ceiling` compare the database side alone: the library's relay with a broker that costs
nothing, and pgbench running the relay's claim and mark. `Relayed` is the relay as it is used, to be held
against P, see `benchmarks.queue_ceiling`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.ceiling import Script, run_pgbench, transaction
from benchmarks.database import Database
from benchmarks.figures import Sample
from benchmarks.null_broker import NullPublisher
from benchmarks.outbox_table import fill, require_all_published
from benchmarks.queue_content import fresh_queue, require_each_once
from onceproof.brokers.sqs import SqsBroker
from onceproof.outbox import OutboxStore, Relay, RelaySettings, statements
from onceproof.ports import Outgoing, Publisher, SendResult

BATCH: Final = 100
_RELAY: Final = "relay"


class Counted:
    """A publisher that sets `done` when it has been given so many messages.

    Args:
        inner: who sends.
        expected: messages.
    """

    def __init__(self, inner: Publisher, expected: int) -> None:
        self._inner = inner
        self._expected = expected
        self.sent = 0
        self.done = asyncio.Event()

    async def send(self, destination: str, messages: Sequence[Outgoing]) -> list[SendResult]:
        """Send and count."""
        results = await self._inner.send(destination, messages)
        self.sent += len(messages)
        if self.sent >= self._expected:
            self.done.set()
        return results


async def timed(engine: AsyncEngine, publisher: Publisher, rows: int) -> tuple[Sample, int]:
    """Relay `rows` rows; the sample, and how many messages the publisher was given."""
    counted = Counted(publisher, rows)
    store = OutboxStore(engine, relay=_RELAY)
    relay = Relay(store, counted, settings=RelaySettings(batch_size=BATCH))
    cpu, started = time.process_time(), time.perf_counter()
    await relay.run(counted.done)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return Sample(rows, seconds, cpu, 2 * -(-rows // BATCH)), counted.sent


class Ours:
    """The library's relay with a broker that costs nothing."""

    def __init__(self, where: Database, engine: AsyncEngine) -> None:
        self._where = where
        self._engine = engine

    async def measure(self, rows: int) -> Sample:
        """Relay `rows` pending rows.

        Raises:
            InvalidRunError: not every row was published exactly once.
        """
        await fill(self._where, rows)
        sample, sent = await timed(self._engine, NullPublisher(), rows)
        await require_all_published(self._where, rows, sent)
        return sample


class Relayed:
    """The library's relay to a real broker.

    Args:
        where: the database.
        engine: of the relay.
        broker: where to.
        client: a client for making and reading the queue.
    """

    def __init__(
        self,
        where: Database,
        engine: AsyncEngine,
        broker: SqsBroker,
        client: Any,  # noqa: ANN401 - aiobotocore has no types
    ) -> None:
        self._where = where
        self._engine = engine
        self._broker = broker
        self._client = client

    async def measure(self, rows: int) -> Sample:
        """Relay `rows` pending rows to a queue of their own.

        Raises:
            InvalidRunError: not every row was published exactly once, or is in the queue exactly once.
        """
        async with fresh_queue(self._client) as (queue, url):
            await fill(self._where, rows, destination=queue)
            sample, sent = await timed(self._engine, self._broker, rows)
            await require_all_published(self._where, rows, sent)
            await require_each_once(self._client, url, rows)
        return sample


class Ceiling:
    """The claim and the mark in pgbench, on one connection.

    pgbench can keep one row of a result, so the claim's rows are put into arrays by the server; the
    payloads are among them, because they have to be transferred as well.
    """

    def __init__(self, where: Database, pgbench: Path) -> None:
        self._where = where
        self._pgbench = pgbench
        self._script = Script(_script())

    async def measure(self, rows: int) -> Sample:
        """Mark `rows` pending rows as published.

        Raises:
            InvalidRunError: not every row was published exactly once.
        """
        await fill(self._where, rows)
        done = await run_pgbench(
            self._pgbench, self._where, [self._script], clients=1, limit=["-t", str(rows // BATCH)]
        )
        await require_all_published(self._where, rows, rows)
        return Sample(rows, done.seconds, done.cpu_s, 2 * done.transactions)


def with_numbers(statement: str, values: Mapping[int, str]) -> str:
    """A statement with an SQL expression for each of its positional parameters.

    Raises:
        KeyError: a parameter has no value: the statement was changed, and the script must follow.
    """
    return re.sub(r"\$(\d+)", lambda found: values[int(found[1])], statement).strip()


def _script() -> str:
    claim = with_numbers(
        statements.CLAIM,
        {1: "30", 2: f"'{_RELAY}'", 3: "0", 4: "0", 5: "9223372036854775807", 6: str(BATCH)},
    )
    # A WITH that writes must be the outermost, so the arrays are made in its last SELECT's place.
    head, _, _ = claim.rpartition("SELECT claimed.*")
    claim_as_arrays = head + (  # noqa: S608 - all of it is ours
        "SELECT array_agg(id ORDER BY seq) AS ids, array_agg(seq ORDER BY seq) AS seqs, "
        "array_agg(attempts ORDER BY seq) AS attempts, string_agg(payload, '') AS payloads, "
        "string_agg(key || traceparent || destination || created_at, '') AS others, "
        "min(setting.synchronous_commit) AS setting FROM claimed, setting"
    )
    mark = with_numbers(
        statements.MARK,
        {
            1: "CAST(:ids AS text[])",
            2: "CAST(:seqs AS bigint[])",
            3: "CAST(:attempts AS int[])",
            4: "CAST(:ids AS text[])",
            5: f"array_fill(CAST(NULL AS text), ARRAY[{BATCH}])",
            6: f"array_fill(CAST(0 AS double precision), ARRAY[{BATCH}])",
        },
    )
    return f"BEGIN;\n{claim_as_arrays} \\gset\nCOMMIT;\n" + transaction(mark)
