"""The end of a run in databases that outlive it: what belongs to older ones counts for nobody."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from onceproof.brokers.sqs import SqsBroker
from onceproof.crashpoints import CONSUMER_AFTER_COMMIT
from onceproof.ports import Outgoing
from onceproof_chaos.conduct import conclude, versions_of
from onceproof_chaos.drain import Drain
from onceproof_chaos.environment import Servers, Stage, asyncpg_url
from onceproof_chaos.faultlog import FaultEvent, FaultEventKind
from onceproof_chaos.history import Finished, HistoryWriter, Outcome
from onceproof_chaos.jsonl import Appender
from onceproof_chaos.runfolder import RunFolder
from onceproof_chaos.settings import KUBERNETES, CampaignSettings
from onceproof_chaos.verdict import Result, Verdict

SETTINGS = CampaignSettings(
    variant="hardened",
    orders=1,
    seed=3,
    kills_per_point={CONSUMER_AFTER_COMMIT: 1},
    stalls=0,
    dropped=0,
    unknown=0,
    provider_timeouts=0,
    run="b2",
    backend=KUBERNETES,
)
ORDER, OLD = "o-3-b2-000000", "o-3-a1-000000"
BEGAN = 1000.0


async def charge(pipeline: str, provider: str, order: str, at: float, times: int = 1) -> None:
    ledgers = [await asyncpg.connect(asyncpg_url(url)) for url in (pipeline, provider)]
    await ledgers[0].execute(
        "INSERT INTO orders VALUES ($1, 100, 'EUR', $1, to_timestamp($2))", order, at
    )
    for number in range(times):
        capture = f"ch-{order}-{number}"
        await ledgers[0].execute(
            """INSERT INTO charges
               (order_id, event_id, amount, currency, provider_charge_id, delivery_attempt, created_at)
               VALUES ($1, $1, 100, 'EUR', $2, 1, to_timestamp($3))""",
            order, capture, at,
        )  # fmt: skip
        await ledgers[1].execute(
            "INSERT INTO captures VALUES ($1, $2, 100, 'EUR', $1, '\\x00', to_timestamp($3))",
            capture, order, at,
        )  # fmt: skip
    for ledger in ledgers:
        await ledger.close()


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """What is in a run folder before its end: the plan, one kill, one accepted order."""
    run = RunFolder.create(tmp_path, SETTINGS.variant, SETTINGS.seed)
    plan = SETTINGS.plan()
    run.write_plan(plan)
    [fault] = plan.faults
    with Appender(run.faults_path) as log:
        for kind in (FaultEventKind.REACHED, FaultEventKind.KILLED):
            log.append(FaultEvent(kind, BEGAN + 2, fault.id, fault.point, uid="u-1").as_json())
    with HistoryWriter(run.history_path) as history:
        history.finished(
            Finished(
                ORDER, 100, "EUR", Outcome.OK, 201, 1, started_at=BEGAN + 1, ended_at=BEGAN + 2
            )
        )
    return run


async def end(
    run: RunFolder,
    databases: tuple[str, str],
    dead_letters: Sequence[dict[str, Any]] = (),
    reason: str | None = None,
) -> Verdict:
    return await conclude(
        run,
        SETTINGS,
        database_url=databases[0],
        provider_database_url=databases[1],
        dead_letters=dead_letters,
        drain_reason=reason,
        began=BEGAN,
        since=BEGAN,
        versions=versions_of("17.1", kubernetes="1.34"),
    )


async def test_what_older_runs_left_in_the_databases_is_not_this_runs(
    run: RunFolder, database_url: str, provider_database_url: str
) -> None:
    databases = (database_url, provider_database_url)
    await charge(*databases, OLD, BEGAN - 100, times=2)
    await charge(*databases, ORDER, BEGAN + 1)
    verdict = await end(run, databases)
    assert (verdict.verdict, verdict.double_charged, verdict.unexpected) == (Result.PASS, 0, 0)
    again = RunFolder.open(run.path)
    assert again.judge() == verdict == again.verdict()
    info = again.info()
    assert (info.settings["backend"], info.settings["run"]) == ("kubernetes", "b2")
    assert info.versions["kubernetes"] == "1.34"
    assert info.command.endswith("| kubectl create -f -")


async def test_the_same_rows_of_this_run_are_a_breach(
    run: RunFolder, database_url: str, provider_database_url: str
) -> None:
    databases = (database_url, provider_database_url)
    await charge(*databases, OLD, BEGAN + 1)
    await charge(*databases, ORDER, BEGAN + 1, times=2)
    verdict = await end(run, databases)
    assert (verdict.verdict, verdict.double_charged, verdict.unexpected) == (Result.FAIL, 1, 1)


async def test_older_runs_dead_letters_stay_out(
    run: RunFolder, database_url: str, provider_database_url: str
) -> None:
    letters = [
        {"message_id": f"m-{order}", "body": "{}", "attempt": 5, "order_id": order}
        for order in (OLD, ORDER, None)
    ]
    verdict = await end(run, (database_url, provider_database_url), letters)
    assert [row.order_id for row in run.evidence().dlq] == [ORDER, None]
    assert (verdict.verdict, verdict.dead_lettered) == (Result.INCONCLUSIVE, 1)


async def test_an_aborted_run_is_concluded_and_never_a_pass(
    run: RunFolder, database_url: str, provider_database_url: str
) -> None:
    await charge(database_url, provider_database_url, ORDER, BEGAN + 1)
    verdict = await end(run, (database_url, provider_database_url), reason="the run was aborted")
    assert verdict.verdict is Result.INCONCLUSIVE
    assert any("aborted" in reason for reason in verdict.reasons)


async def test_dead_letters_can_be_read_again(
    sqs_broker: SqsBroker,
    queue_factory: Any,
    database_url: str,
    provider_database_url: str,
) -> None:
    queue = await queue_factory()
    body = json.dumps({"subject": ORDER, "id": "e-1"}).encode()
    [sent] = await sqs_broker.send(queue.dead_letter, [Outgoing("e-1", body)])
    assert sent.ok
    servers = Servers(database_url, None, {})
    place = Stage(servers, database_url, provider_database_url, queue.name, queue.dead_letter, "17")
    drain = Drain(place, sqs_broker, window_s=1)
    began = time.monotonic()
    first = await drain.dead_letters()
    assert [(row["order_id"], row["event_id"]) for row in first] == [(ORDER, "e-1")]
    assert [row["message_id"] for row in await drain.dead_letters()] == [first[0]["message_id"]]
    assert time.monotonic() - began < 60
