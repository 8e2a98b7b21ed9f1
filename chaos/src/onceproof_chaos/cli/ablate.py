"""`onceproof ablate`: what each fix is for, by taking it away."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from onceproof.cli.progress import progress_bars
from onceproof_chaos.ablation.ablation import DEFAULT_ORDERS, Place, Wanted
from onceproof_chaos.ablation.ablation import ablate as run_ablation
from onceproof_chaos.ablation.agreement import Agreement
from onceproof_chaos.ablation.basis import Basis
from onceproof_chaos.ablation.display import CellsBar, again_table, breach_table
from onceproof_chaos.ablation.faults import FAULTS, MIN_ORDERS
from onceproof_chaos.ablation.markdown import BEGIN, END
from onceproof_chaos.ablation.matrix import Matrix
from onceproof_chaos.ablation.prediction import VARIANTS
from onceproof_chaos.ablation.results import AblationFolder
from onceproof_chaos.ablation.run import MAX_PARALLEL, default_parallel
from onceproof_chaos.cli.options import (
    BrokerKind,
    BrokerOption,
    DatabaseUrl,
    Exit,
    Json,
    KafkaBootstrap,
    RunDir,
    SqsEndpoint,
    Transactions,
    errors,
    results,
    run,
)
from onceproof_chaos.settings import TRANSACTIONS

_EXIT: Final = {
    Agreement.AGREES: Exit.PASS,
    Agreement.DISAGREES: Exit.FAIL,
    Agreement.INCONCLUSIVE: Exit.INCONCLUSIVE,
}


def ablate(  # noqa: PLR0917 - Typer turns them into named options
    seeds: Annotated[int, typer.Option(help="Seeds of each cell, counted up.", min=1)] = 5,
    orders: Annotated[
        int | None,
        typer.Option(help="Orders of each cell.", min=MIN_ORDERS, show_default=str(DEFAULT_ORDERS)),
    ] = None,
    first_seed: Annotated[int, typer.Option(help="The first of the seeds.")] = 1,
    variants: Annotated[
        str,
        typer.Option(
            help=f"Separated by commas: {', '.join(VARIANTS)}, over Kafka {TRANSACTIONS}, or all."
        ),
    ] = "all",
    faults: Annotated[
        str, typer.Option(help=f"Separated by commas: {', '.join(FAULTS)}, or all.")
    ] = "all",
    parallel: Annotated[
        int | None,
        typer.Option(
            help="Cells at a time.", min=1, max=MAX_PARALLEL, show_default="two for each core"
        ),
    ] = None,
    run_dir: RunDir = Path("runs"),
    resume: Annotated[
        Path | None,
        typer.Option(help="Folder of an earlier ablation: its cells are not measured again."),
    ] = None,
    pages: Annotated[
        list[Path] | None,
        typer.Option(
            "--markdown",
            help="Write the matrix to this page; into a page that was not generated, between the "
            f"lines {BEGIN} and {END}. May be given several times.",
            dir_okay=False,
        ),
    ] = None,
    database_url: DatabaseUrl = None,
    sqs_endpoint: SqsEndpoint = None,
    broker: BrokerOption = BrokerKind.SQS,
    kafka_bootstrap: KafkaBootstrap = None,
    transactions: Transactions = False,
    as_json: Json = False,
) -> None:
    """Take away one fix at a time, inject one fault at a time, and hold what breaks against theory.

    Runs naive, hardened, and hardened minus each fix under every kind of fault alone. Theory says
    beforehand which orders must be lost, double-charged or mismatched, and whether a message must come
    again; every cell must agree with it, in both directions.

    For example

        onceproof ablate --seeds 1 --variants hardened,hardened-inbox --faults kill-consumer.after_commit
            the inbox is what absorbs the redelivery after a lost ack

        onceproof ablate --resume runs/20260101-120000-ablation --markdown docs/ablation.md
            goes on with an aborted ablation, and writes its page

        onceproof ablate --broker kafka --transactions --variants transactions,hardened
            where Kafka's transactions end: the same stage before a consumer without and with an inbox

    Exit code: 0 all cells agree, 1 one disagrees, 3 one is inconclusive, 2 it could not be run.
    """
    try:
        basis = Basis(broker.value, transactions)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--transactions") from None
    wanted = Wanted(
        seeds,
        first_seed,
        _chosen(variants, basis.variants, "--variants"),
        _chosen(faults, tuple(FAULTS), "--faults"),
        orders,
        basis,
    )
    place = Place(
        run_dir,
        resume,
        pages or (),
        parallel or default_parallel(),
        database_url,
        sqs_endpoint,
        kafka_bootstrap,
    )
    began = time.monotonic()
    folder, matrix = run(run_ablation(wanted, place, _watching))
    if as_json:
        typer.echo(json.dumps(_as_json(folder, matrix, time.monotonic() - began)))
    else:
        results.print(breach_table(matrix), again_table(matrix))
        for finding in matrix.findings:
            results.print(f"  {finding}", soft_wrap=True, highlight=False, markup=False)
        counts = ", ".join(f"{n} {agreement}" for agreement, n in matrix.cells.items())
        results.print(f"[bold]cells[/]   {counts}", highlight=False)
        results.print(f"[bold]folder[/]  {folder.path}", soft_wrap=True, highlight=False)
    raise typer.Exit(_EXIT[matrix.agreement])


@contextmanager
def _watching(folder: AblationFolder, total: int, known: int) -> Iterator[CellsBar]:
    """A bar on standard error, and how to go on when this is stopped."""
    errors.print(
        f"results go to {folder.path}; when stopped, go on with --resume {folder.path}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    with progress_bars(errors) as bars:
        yield CellsBar(bars, total=total, known=known)


def _chosen(text: str, known: Sequence[str], option: str) -> tuple[str, ...]:
    """The named ones, in their own sequence."""
    names = {name.strip() for name in text.split(",") if name.strip()}
    if unknown := sorted(names - {*known, "all"}):
        raise typer.BadParameter(
            f"unknown: {', '.join(unknown)}; known: all, {', '.join(known)}", param_hint=option
        )
    if not names:
        raise typer.BadParameter("name at least one, or all", param_hint=option)
    return tuple(name for name in known if name in names or "all" in names)


def _as_json(folder: AblationFolder, matrix: Matrix, seconds: float) -> dict[str, Any]:
    return {
        "agreement": matrix.agreement.value,
        "cells": {agreement.value: n for agreement, n in matrix.cells.items()},
        "matrix": [entry.as_json() for entry in matrix.entries.values()],
        "findings": matrix.findings,
        "versions": dict(folder.versions),
        "orders": folder.orders,
        "duration_s": round(seconds, 1),
        "folder": str(folder.path),
    }


__all__ = ["ablate"]
