"""Redrive a full DLQ while the redrive is killed: none lost, none charged twice, the log complete.

    python benchmarks/dlq_redrive.py --messages 10000 --kills 3

`onceproof dlq redrive` runs as a process and is killed with SIGKILL in the middle, again and again;
`onceproof-consumer` and the payment provider run beside it, as they do in production. A fifth of the
messages was charged before and some are no events. What counts is the provider's own ledger.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

# Run as a script, so the folder above is not on the path yet.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import aiohttp
import asyncpg
import typer

from benchmarks.dlq_audit import audit_problems, resumptions
from benchmarks.dlq_outcome import Outcome
from benchmarks.dlq_process import finished, killed
from benchmarks.figures import InvalidRunError
from benchmarks.null_broker import order_event
from benchmarks.ports import free_port
from benchmarks.service_process import service
from onceproof.brokers.sqs import SqsBroker
from onceproof.ports import Message, Outgoing
from onceproof_chaos.environment import Stage, asyncpg_url, connect, servers, stage

_RESULTS: Final = Path(__file__).parent / "results"
_MOMENTS: Final = ("sending", "sent", "deleted")
"""Where the kills strike, in turn: around the send, between send and delete, after the delete."""
_MALFORMED: Final = 10
_CHARGED_SHARE: Final = 0.2
_WORK_S: Final = 1800.0
_POLL_S: Final = 0.02
_HITS: Final = re.compile(r"^onceproof_dedup_hits_total ([\d.]+)", re.MULTILINE)


@dataclass(slots=True)
class Figures:
    """What a run is reported as."""

    messages: int
    kills: int
    rate_per_s: float
    seconds: float
    charged_before: int
    lost: int
    double_charged: int
    sent_again: int
    absorbed_by_inbox: int
    audit_records: int
    problems: list[str] = field(default_factory=list)


async def measure(
    messages: int, kills: int, rate: float, database_url: str | None, folder: Path
) -> Figures:
    """Run it.

    Raises:
        InvalidRunError: a service or a redrive did not do its part.
    """
    log = folder / "audit.jsonl"
    async with (
        servers(database_url=database_url) as where,
        stage(where, f"dlq_{os.getpid()}", visibility_s=30, max_receive_count=5) as at,
        connect(where) as broker,
        _pipeline(at) as admin_port,
    ):
        events = [order_event(number) for number in range(messages - _MALFORMED)]
        orders = [str(event.key) for event in events]
        malformed = [b"not an event %d" % number for number in range(_MALFORMED)]
        charged = round(len(events) * _CHARGED_SHARE)
        bodies = [event.encode() for event in events]
        await _send(broker, at.queue, bodies[:charged])
        await _until_charged(at, charged)
        before = await _send(broker, at.dead_letter_queue, bodies + malformed)
        started = time.monotonic()
        environment = {
            **where.aws,
            "ONCEPROOF_QUEUE": at.queue,
            "ONCEPROOF_SQS_ENDPOINT_URL": where.sqs_endpoint or "",
            "ONCEPROOF_SQS_REGION": where.region,
            "ONCEPROOF_DATABASE_URL": at.database_url,
        }
        for kill in range(kills):
            caught = await killed(
                log,
                environment,
                rate=rate,
                deletions=messages * (kill + 1) // (kills + 1),
                within=_MOMENTS[kill % len(_MOMENTS)],
            )
            typer.echo(f"killed in {caught!r}", err=True)
        summary = await finished(log, environment, rate=rate)
        typer.echo(json.dumps(summary), err=True)
        await _until_charged(at, len(events))
        await _until_empty(broker, at.queue)
        seconds = time.monotonic() - started
        left = await _all(broker, at.dead_letter_queue)
        after = {message.message_id for message in left}
        outcome = Outcome(
            asked=orders,
            captures=await _by_order(at.provider_database_url, "captures"),
            charges=await _by_order(at.database_url, "charges"),
            left=[message.body for message in left],
            malformed=malformed,
            audit=audit_problems(log, before=before, after=after),
            kills=kills,
            resumed=resumptions(log),
        )
        absorbed = await _dedup_hits(admin_port)
    lines = log.read_text().splitlines()
    sends = Counter(json.loads(line)["message_id"] for line in lines if '"step":"sending"' in line)
    return Figures(
        messages=messages,
        kills=kills,
        rate_per_s=rate,
        seconds=round(seconds, 1),
        charged_before=charged,
        lost=outcome.lost,
        double_charged=outcome.double_charged,
        sent_again=sum(count > 1 for count in sends.values()),
        absorbed_by_inbox=absorbed,
        audit_records=len(lines),
        problems=outcome.problems(),
    )


@asynccontextmanager
async def _pipeline(at: Stage) -> AsyncIterator[int]:
    """Provider and consumer; the consumer's admin port."""
    http_port, provider_admin, consumer_admin = free_port(), free_port(), free_port()
    provider = {
        "ONCEPROOF_DATABASE_URL": at.provider_database_url,
        "ONCEPROOF_HTTP_HOST": "127.0.0.1",
        "ONCEPROOF_HTTP_PORT": str(http_port),
    }
    consumer = {
        **at.servers.aws,
        "ONCEPROOF_DATABASE_URL": at.database_url,
        "ONCEPROOF_SQS_ENDPOINT_URL": at.servers.sqs_endpoint or "",
        "ONCEPROOF_SQS_REGION": at.servers.region,
        "ONCEPROOF_QUEUE": at.queue,
        "ONCEPROOF_WAIT_S": "1",
        "ONCEPROOF_PROVIDER_URL": f"http://127.0.0.1:{http_port}",
    }
    async with (
        service("onceproof_provider", provider_admin, provider),
        service("onceproof_consumer", consumer_admin, consumer),
    ):
        yield consumer_admin


async def _send(broker: SqsBroker, queue: str, bodies: Sequence[bytes]) -> set[str]:
    results = await broker.send(queue, [Outgoing(f"m{i}", body) for i, body in enumerate(bodies)])
    if not all(result.ok for result in results):
        raise InvalidRunError("the queue could not be filled")
    return {str(result.message_id) for result in results}


async def _until_charged(at: Stage, orders: int) -> None:
    connection = await asyncpg.connect(asyncpg_url(at.database_url))
    try:
        async with asyncio.timeout(_WORK_S):
            # Asked again and again: the table has no event for it.
            while await connection.fetchval("SELECT count(*) FROM charges") < orders:  # noqa: ASYNC110
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise InvalidRunError(f"{orders} orders were not charged in time") from None
    finally:
        await connection.close()


async def _until_empty(broker: SqsBroker, queue: str) -> None:
    async with asyncio.timeout(_WORK_S):
        while (await broker.subscriber(queue).depth()).total:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(_POLL_S)


async def _all(broker: SqsBroker, queue: str) -> list[Message]:
    found: list[Message] = []
    subscriber = broker.subscriber(queue)
    while messages := await subscriber.receive(max_messages=10, wait_s=1, visibility_s=600):
        found += messages
    return found


async def _by_order(database_url: str, table: str) -> dict[str, int]:
    connection = await asyncpg.connect(asyncpg_url(database_url))
    try:
        statement = f"SELECT order_id, count(*) AS n FROM {table} GROUP BY order_id"  # noqa: S608
        return {row["order_id"]: row["n"] for row in await connection.fetch(statement)}
    finally:
        await connection.close()


async def _dedup_hits(admin_port: int) -> int:
    url = f"http://127.0.0.1:{admin_port}/metrics"
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        found = _HITS.search(await response.text())
    return int(float(found[1])) if found else 0


def main(
    *,
    messages: Annotated[int, typer.Option(min=100, help="In the DLQ.")] = 10_000,
    kills: Annotated[int, typer.Option(min=0, help="Of the redrive, evenly spread.")] = 3,
    rate: Annotated[float, typer.Option(min=1, help="Messages per second.")] = 300.0,
    database_url: Annotated[
        str | None,
        typer.Option(envvar="ONCEPROOF_BENCH_DATABASE_URL", help="Default: an embedded Postgres."),
    ] = None,
) -> None:
    """Redrive a DLQ under kills. Exit code 1: the promise was broken, or the run was invalid."""
    folder = _RESULTS / f"dlq-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    folder.mkdir(parents=True)
    try:
        figures = asyncio.run(measure(messages, kills, rate, database_url, folder))
    except InvalidRunError as error:
        typer.echo(f"invalid: {error}", err=True)
        raise typer.Exit(1) from None
    document = json.dumps(asdict(figures), indent=2)
    (folder / "figures.json").write_text(document + "\n")
    typer.echo(document)
    raise typer.Exit(1 if figures.problems else 0)


if __name__ == "__main__":
    typer.run(main)
