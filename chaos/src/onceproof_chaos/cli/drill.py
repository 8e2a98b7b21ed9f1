"""`onceproof drill`: one fault on one order, told step by step."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table

from onceproof.cli.progress import progress_bars
from onceproof.crashpoints import ALL_POINTS, Action
from onceproof_chaos.campaign import run_campaign
from onceproof_chaos.cli.display import Display, verdict_table
from onceproof_chaos.cli.options import (
    BrokerKind,
    BrokerOption,
    DatabaseUrl,
    Exit,
    Json,
    KafkaBootstrap,
    RelayKind,
    RelayOption,
    RunDir,
    Seed,
    SqsEndpoint,
    Transactions,
    Variant,
    errors,
    opening,
    results,
    run,
)
from onceproof_chaos.environment import Open
from onceproof_chaos.plan import Fault, Plan, order_id
from onceproof_chaos.runfolder import RunFolder
from onceproof_chaos.settings import CampaignSettings, broker_words
from onceproof_chaos.story import summary, tell
from onceproof_chaos.verdict import Verdict

ORDERS: Final = 3
VISIBILITY_S: Final = 2.0


def drill(  # noqa: PLR0917 - Typer turns them into named options
    point: Annotated[str, typer.Argument(help=f"One of {', '.join(ALL_POINTS)}.")],
    action: Annotated[
        Action,
        typer.Option(
            help="kill the process, stall it past the visibility timeout, or drop what it publishes."
        ),
    ] = Action.KILL,
    variant: Variant = "hardened",
    broker: BrokerOption = BrokerKind.SQS,
    transactions: Transactions = False,
    relay: RelayOption = RelayKind.POLLING,
    seed: Seed = 1,
    run_dir: RunDir = Path("runs"),
    database_url: DatabaseUrl = None,
    sqs_endpoint: SqsEndpoint = None,
    kafka_bootstrap: KafkaBootstrap = None,
    as_json: Json = False,
) -> None:
    """Put one fault to one order, and tell what happened to it.

    For example

        onceproof drill consumer.after_commit
            committed, then killed before the ack: the redelivery hits the inbox

        onceproof drill relay.before_publish --action drop
            the publish fails: the row stays pending with its error, and is sent later

    Exit code: 0 pass, 1 a breach was found, 3 inconclusive, 2 the drill could not be run.
    """
    settings = CampaignSettings(
        variant=variant,
        orders=ORDERS,
        seed=seed,
        kills_per_point={},
        stalls=0,
        dropped=0,
        unknown=0,
        provider_timeouts=0,
        visibility_s=VISIBILITY_S,
        rate_per_s=10,
        broker=broker.value,
        transactions=transactions,
        relay=relay.value,
    )
    order = order_id(seed, 0)
    park_s = VISIBILITY_S + 2 if action is Action.STALL else 60.0
    plan = Plan(seed, ORDERS, (Fault("drill", point, action, (order,), park_s=park_s),))
    words = ["drill", point, "--action", action, "--variant", variant, "--seed", str(seed)]
    words += broker_words(broker, transactions=transactions, relay=relay)
    command = shlex.join(["onceproof", *words])
    where = opening(database_url, sqs_endpoint, broker, kafka_bootstrap, relay)
    folder, verdict = run(_run(settings, plan, command, run_dir, where))
    steps = tell(folder, order)
    if as_json:
        document = verdict.as_json() | {
            "run": str(folder.path),
            "order": order,
            "story": [asdict(step) for step in steps],
        }
        typer.echo(json.dumps(document))
    else:
        table = Table(title=f"{order}: {action} at {point}", title_justify="left")
        for column in ("s", "who", "what"):
            table.add_column(column, justify="right" if column == "s" else "left")
        for step in steps:
            table.add_row(f"{step.at - steps[0].at:.2f}", step.who, step.what)
        results.print(table)
        results.print(summary(folder, order), highlight=False, soft_wrap=True)
        results.print(verdict_table([(variant, verdict)]))
        for reason in verdict.reasons:
            results.print(f"  {reason}", soft_wrap=True)
    raise typer.Exit(Exit.of(verdict.verdict))


async def _run(
    settings: CampaignSettings,
    plan: Plan,
    command: str,
    run_dir: Path,
    opened: Open,
) -> tuple[RunFolder, Verdict]:
    plan.validate()
    with progress_bars(errors) as bars:
        async with opened() as where:
            display = Display(bars, settings.variant, plan)
            return await run_campaign(settings, where, run_dir, display, plan=plan, command=command)
