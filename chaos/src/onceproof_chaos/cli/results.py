"""`onceproof verify` and `onceproof report`: from the run folder alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from onceproof_chaos.cli.display import verdict_table
from onceproof_chaos.cli.options import Exit, Json, errors, results
from onceproof_chaos.report import write_report
from onceproof_chaos.runfolder import RunFolder, RunFolderError

Runs = Annotated[list[Path], typer.Argument(help="Run folders, e.g. runs/latest.")]


def verify(
    run: Annotated[Path, typer.Argument(help="A run folder.")], as_json: Json = False
) -> None:
    """Judge a run again from its files, and compare with the verdict that it was given.

    Exit code: 0 pass, 1 fail, 3 inconclusive, 2 the folder cannot be judged or its stored verdict
    does not follow from its files.
    """
    try:
        folder = RunFolder.open(run)
        verdict = folder.judge()
        stored = folder.verdict()
    except RunFolderError as error:
        errors.print(f"[red]error:[/] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(Exit.USAGE) from None
    same = verdict.as_json() == stored.as_json()
    if as_json:
        typer.echo(json.dumps(verdict.as_json() | {"matches_stored": same}))
    else:
        results.print(verdict_table([(folder.info().variant, verdict)]))
        for reason in verdict.reasons:
            results.print(f"  {reason}", soft_wrap=True)
    if not same:
        errors.print("[red]error:[/] verdict.json does not follow from the other files")
        raise typer.Exit(Exit.USAGE)
    raise typer.Exit(Exit.of(verdict.verdict))


def report(
    runs: Runs,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Default: report.html in the last run folder."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the HTML report of one run, or of several side by side."""
    try:
        folders = [RunFolder.open(run) for run in runs]
        page = output or folders[-1].path / "report.html"
        write_report(page, folders)
    except RunFolderError as error:
        errors.print(f"[red]error:[/] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(Exit.USAGE) from None
    typer.echo(json.dumps({"report": str(page)}) if as_json else str(page))
