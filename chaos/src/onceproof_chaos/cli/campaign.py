"""`onceproof campaign run`: one variant under as many faults as asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Final

import typer

from onceproof.cli.progress import progress_bars
from onceproof.crashpoints import CRASH_POINTS
from onceproof_chaos.campaign import run_campaign
from onceproof_chaos.cli.display import Display, kills_table, verdict_table
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
from onceproof_chaos.report import write_report
from onceproof_chaos.runfolder import RunFolder
from onceproof_chaos.settings import CampaignSettings
from onceproof_chaos.verdict import Verdict

campaign_app = typer.Typer(help="Run one variant under a fault plan.", no_args_is_help=True)

_GROUPS: Final = {
    "all": CRASH_POINTS,
    "none": (),
    **{
        group: tuple(point for point in CRASH_POINTS if point.startswith(f"{group}."))
        for group in ("producer", "relay", "consumer")
    },
}


@campaign_app.callback()
def _group() -> None:
    """Run one variant under a fault plan."""


@campaign_app.command("run")
def run_command(  # noqa: PLR0917 - Typer turns them into named options
    variant: Variant = "hardened",
    orders: Annotated[int, typer.Option(help="Orders to place.", min=1)] = 1000,
    seed: Seed = 1,
    kills_per_point: Annotated[
        int, typer.Option(help="Kills at each of the chosen crash points.", min=0)
    ] = 30,
    points: Annotated[
        str,
        typer.Option(
            help="Crash points of the kills, separated by commas: names, or producer, relay, "
            "consumer, all, none."
        ),
    ] = "consumer",
    stalls: Annotated[int, typer.Option(help="Stalls past the visibility timeout.", min=0)] = 0,
    dropped: Annotated[int, typer.Option(help="Publishes that fail.", min=0)] = 0,
    unknown: Annotated[int, typer.Option(help="Publishes with unknown outcome.", min=0)] = 0,
    provider_timeouts: Annotated[
        int, typer.Option(help="Captures whose answer never comes.", min=0)
    ] = 0,
    broker: BrokerOption = BrokerKind.SQS,
    transactions: Transactions = False,
    relay: RelayOption = RelayKind.POLLING,
    rate: Annotated[float, typer.Option(help="Orders per second.", min=0.1)] = 25.0,
    run_dir: RunDir = Path("runs"),
    database_url: DatabaseUrl = None,
    sqs_endpoint: SqsEndpoint = None,
    kafka_bootstrap: KafkaBootstrap = None,
    as_json: Json = False,
) -> None:
    """Place orders, kill processes at crash points, drain, and count the charges.

    Exit code: 0 pass, 1 a breach was found, 3 inconclusive, 2 the campaign could not be run.
    """
    settings = run(
        _settings(
            variant=variant,
            orders=orders,
            seed=seed,
            kills_per_point=dict.fromkeys(_points(points), kills_per_point),
            stalls=stalls,
            dropped=dropped,
            unknown=unknown,
            provider_timeouts=provider_timeouts,
            rate_per_s=rate,
            broker=broker.value,
            transactions=transactions,
            relay=relay.value,
        )
    )
    where = opening(database_url, sqs_endpoint, broker, kafka_bootstrap, relay)
    folder, verdict = run(_run(settings, run_dir, where))
    write_report(folder.path / "report.html", [folder])
    if as_json:
        document = verdict.as_json() | {
            "seed": seed,
            "variant": variant,
            "duration_s": folder.info().duration_s,
            "run": str(folder.path),
        }
        typer.echo(json.dumps(document))
    else:
        results.print(verdict_table([(variant, verdict)]), kills_table([(variant, verdict)]))
        for reason in verdict.reasons:
            results.print(f"  {reason}", soft_wrap=True)
        results.print(f"[bold]report[/]  {folder.path / 'report.html'}", soft_wrap=True)
    raise typer.Exit(Exit.of(verdict.verdict))


async def _settings(**values: object) -> CampaignSettings:
    """Settings whose plan fits; bad ones are errors like any other."""
    settings = CampaignSettings(**values)  # type: ignore[arg-type]
    settings.plan()
    return settings


async def _run(
    settings: CampaignSettings, run_dir: Path, opened: Open
) -> tuple[RunFolder, Verdict]:
    with progress_bars(errors) as bars:
        display = Display(bars, settings.variant, settings.plan())
        async with opened() as where:
            return await run_campaign(settings, where, run_dir, display)


def _points(text: str) -> list[str]:
    chosen: dict[str, None] = {}
    for name in (part.strip() for part in text.split(",")):
        if name not in _GROUPS and name not in CRASH_POINTS:
            raise typer.BadParameter(
                f"unknown crash point {name!r}; known: {', '.join((*_GROUPS, *CRASH_POINTS))}",
                param_hint="--points",
            )
        chosen |= dict.fromkeys(_GROUPS.get(name, (name,)))
    return list(chosen)
