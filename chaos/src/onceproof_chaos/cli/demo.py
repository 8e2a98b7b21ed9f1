"""`onceproof demo`: the naive and the hardened variant under the identical faults, side by side."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from onceproof.cli.progress import progress_bars
from onceproof_chaos.campaign import run_campaign
from onceproof_chaos.cli.display import Display, kills_table, verdict_table
from onceproof_chaos.cli.options import (
    BrokerKind,
    BrokerOption,
    DatabaseUrl,
    Exit,
    Json,
    KafkaBootstrap,
    RunDir,
    Seed,
    SqsEndpoint,
    errors,
    opening,
    results,
    run,
)
from onceproof_chaos.environment import Open
from onceproof_chaos.report import write_report
from onceproof_chaos.runfolder import RunFolder
from onceproof_chaos.settings import CampaignSettings
from onceproof_chaos.verdict import Result, Verdict

VARIANTS: Final = ("naive", "hardened")


def demo(
    orders: Annotated[int, typer.Option(help="Orders per variant.", min=50)] = 200,
    seed: Seed = 1,
    broker: BrokerOption = BrokerKind.SQS,
    run_dir: RunDir = Path("runs"),
    database_url: DatabaseUrl = None,
    sqs_endpoint: SqsEndpoint = None,
    kafka_bootstrap: KafkaBootstrap = None,
    as_json: Json = False,
) -> None:
    """Watch a naive payment pipeline double-charge and lose orders, and the hardened one not.

    Both variants get the same orders and the same faults: kills at six crash points, consumers that
    stall past the visibility timeout, dropped publishes, publishes and charges whose answer is lost.
    Nothing else is needed on the machine: Postgres and an SQS server are embedded. `--broker kafka` runs
    it over Kafka, embedded where Java and Maven are installed, or the one of `--kafka-bootstrap`.

    Exit code: 0 when naive failed and hardened passed, else 1.
    """
    where = opening(database_url, sqs_endpoint, broker, kafka_bootstrap)
    runs = run(_both(orders, seed, broker, run_dir, where))
    verdicts = [(folder.info().variant, verdict) for folder, verdict in runs]
    folders = [folder for folder, _ in runs]
    page = folders[-1].path / "report.html"
    write_report(page, folders)
    if as_json:
        typer.echo(json.dumps({folder.info().variant: _as_json(folder, v) for folder, v in runs}))
    else:
        results.print(verdict_table(verdicts), kills_table(verdicts))
        results.print(f"[bold]report[/]  {page}", soft_wrap=True)
        for folder in folders:
            results.print(f"run     {folder.path}", soft_wrap=True)
    outcome = {variant: verdict.verdict for variant, verdict in verdicts}
    proved = outcome == {"naive": Result.FAIL, "hardened": Result.PASS}
    if not proved:
        errors.print("[red]not proved:[/] naive should fail and hardened pass")
        for variant, verdict in verdicts:
            for reason in verdict.reasons:
                errors.print(f"  {variant}: {reason}", soft_wrap=True)
    raise typer.Exit(Exit.PASS if proved else Exit.FAIL)


async def _both(
    orders: int, seed: int, broker: BrokerKind, run_dir: Path, opened: Open
) -> list[tuple[RunFolder, Verdict]]:
    runs = []
    began = time.monotonic()
    with progress_bars(errors) as bars:
        async with opened() as where:
            for variant in VARIANTS:
                settings = CampaignSettings.demo(variant, orders, seed, broker.value)
                display = Display(bars, variant, settings.plan())
                runs.append(await run_campaign(settings, where, run_dir, display))
                display.phase("done")
    errors.print(f"both variants took {time.monotonic() - began:.0f} s")
    return runs


def _as_json(folder: RunFolder, verdict: Verdict) -> dict[str, Any]:
    info = folder.info()
    document = verdict.as_json()
    return {
        **{
            name: document[name]
            for name in (
                "orders", "accepted", "lost", "double_charged", "unexpected", "mismatched",
                "recovered", "dead_lettered", "redeliveries", "deduplicated", "dedup_hit_rate",
                "kills", "verdict", "reasons",
            )
        },
        "seed": info.seed,
        "duration_s": info.duration_s,
        "run": str(folder.path),
    }  # fmt: skip


__all__ = ["demo"]
