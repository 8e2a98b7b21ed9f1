"""`onceproof explain`: why a message came again, and why the money moved once or twice."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Final

import aiohttp
import typer

from onceproof.errors import ConfigurationError
from onceproof_chaos.cli.explain_display import print_confusion, print_order
from onceproof_chaos.cli.options import Exit, Json, errors, results, run
from onceproof_chaos.explain import Index, Reason, Records, distribution, explain_all, explain_order
from onceproof_chaos.explain.confusion import Confusion, compare
from onceproof_chaos.explain.explanation import OrderExplanation
from onceproof_chaos.explain.sources import LiveSystem, of_run
from onceproof_chaos.explain.truth import Truth
from onceproof_chaos.runfolder import RunFolder
from onceproof_chaos.traces import TraceStore

_LATEST: Final = Path("runs/latest")
_LOOK_BACK_S: Final = 7 * 24 * 3600.0


def explain(
    name: Annotated[
        str | None, typer.Argument(help="Id of an order or of an event.", metavar="ORDER|EVENT")
    ] = None,
    run_folder: Annotated[
        Path | None,
        typer.Option("--run", help="Run folder to read.", show_default=str(_LATEST)),
    ] = None,
    every: Annotated[
        Path | None,
        typer.Option("--all", help="Run folder: every redelivery in it, against its fault plan."),
    ] = None,
    traces_url: Annotated[
        str | None,
        typer.Option(
            "--traces-url", "--traces", help="Jaeger's query API, e.g. http://localhost:16686."
        ),
    ] = None,
    database_url: Annotated[
        str | None, typer.Option(help="The pipeline's Postgres; it is only read.")
    ] = None,
    provider_database_url: Annotated[
        str | None, typer.Option(help="The payment provider's Postgres; it is only read.")
    ] = None,
    faults: Annotated[
        Path | None,
        typer.Option(help="Log of what ended processes, as faults.jsonl; for a living system."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say why messages came again: one reason for each redelivery, each with its evidence.

    For example

        onceproof explain o-1-000042
            from runs/latest, offline: what happened, why, and why the money moved once

        onceproof explain o-1-000042 --traces-url http://localhost:16686 --database-url postgresql://...
            a living system; what it cannot know without the rest, it says

        onceproof explain --all runs/latest
            how often each reason occurred, held against the faults that were injected

    The reasons are a closed list. Without the evidence for one, the reason is `unknown`, and what is
    missing is named.

    Exit code: 0; 3 when a reason is unknown or no traces were read (with --all: when not one injected
    redelivery was explained); 1 when, with --all, an explanation contradicts what was injected; 2 when
    there is nothing to explain.
    """
    live = (traces_url, database_url, provider_database_url)
    if "" in live:
        # Else an unset variable would mean a run on this machine, or that nobody need be asked.
        raise typer.BadParameter("a URL is empty: is its variable set?")
    if every is not None:
        if name is not None or run_folder is not None or any(live) or faults:
            raise typer.BadParameter("it stands alone", param_hint="--all")
        raise typer.Exit(_all(every, as_json=as_json))
    if name is None:
        raise typer.BadParameter(
            "name an order or an event, or give --all", param_hint="ORDER|EVENT"
        )
    if run_folder is not None and (any(live) or faults):
        raise typer.BadParameter(
            "a run folder has all of it; leave the URLs out", param_hint="--run"
        )
    if faults is not None and not any(live):
        raise typer.BadParameter("a run folder has its own log", param_hint="--faults")
    records = run(_live(name, *live, faults) if any(live) else _offline(run_folder or _LATEST))
    explained = run(_explained(records, name))
    if as_json:
        typer.echo(json.dumps(explained.as_json()))
    else:
        print_order(results, explained)
    unknown = any(e.reason is Reason.UNKNOWN for e in explained.redeliveries)
    unseen = not records.has_traces
    raise typer.Exit(Exit.INCONCLUSIVE if unknown or unseen else Exit.PASS)


async def _offline(path: Path) -> Records:
    return of_run(RunFolder.open(path))


async def _live(
    name: str,
    traces_url: str | None,
    database_url: str | None,
    provider_database_url: str | None,
    faults: Path | None,
) -> Records:
    async with aiohttp.ClientSession() as http:
        system = LiveSystem(
            store=TraceStore(http, traces_url) if traces_url else None,
            database_url=database_url,
            provider_database_url=provider_database_url,
            faults=faults,
            since=time.time() - _LOOK_BACK_S,
        )
        return await system.about(name)


async def _explained(records: Records, name: str) -> OrderExplanation:
    index = Index(records)
    order = index.order_named(name)
    if order is None:
        raise ConfigurationError(
            f"nothing is known of {name!r}: is it the id of an order or of an event, and of this run "
            "or system? Traces of the last week are looked for"
        )
    return explain_order(index, order)


def _all(path: Path, *, as_json: bool) -> Exit:
    explained, confusion = run(_compared(path))
    counts = distribution(explained)
    if as_json:
        open_ones = [
            explanation.as_json() | {"order_id": order.order_id}
            for order in explained
            for explanation in order.redeliveries
            if explanation.reason is Reason.UNKNOWN
        ]
        document = {
            "run": str(path),
            "orders": len(explained),
            "redeliveries": sum(counts.values()),
            "reasons": {reason.value: count for reason, count in counts.items()},
            **confusion.as_json(),
            "unexplained": open_ones,
        }
        typer.echo(json.dumps(document))
    else:
        print_confusion(results, explained, confusion)
    if confusion.wrong:
        errors.print(f"[red]wrong:[/] {len(confusion.wrong)} explanations contradict the faults")
        return Exit.FAIL
    return Exit.PASS if confusion.right else Exit.INCONCLUSIVE


async def _compared(path: Path) -> tuple[list[OrderExplanation], Confusion]:
    folder = RunFolder.open(path)
    records = of_run(folder)
    explained = explain_all(Index(records))
    truth = Truth(folder.plan(), records.faults, records.spans, records.rows)
    return explained, compare(explained, truth)


__all__ = ["explain"]
