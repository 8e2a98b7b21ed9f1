"""Renders the page: no script, no font, no request; it opens from a mail attachment years later."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from onceproof_chaos import jsonl
from onceproof_chaos.explain.reasons import short
from onceproof_chaos.report.model import RunView, comparison, fault_table, headline, view
from onceproof_chaos.runfolder import RunFolder


def render(run: RunFolder, others: Sequence[RunFolder] = ()) -> str:
    """The report as HTML, from the run folders alone; the first run comes first.

    Verdicts are computed again from the evidence, not copied from `verdict.json`.

    Raises:
        RunFolderError: a folder lacks a file or holds a corrupt one.
    """
    runs: list[RunView] = [view(one) for one in (run, *others)]
    environment = Environment(
        loader=PackageLoader("onceproof_chaos.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["moment"] = _moment
    environment.filters["cell"] = _cell
    environment.filters["short"] = short
    return environment.get_template("report.html.j2").render(
        runs=runs, headline=headline(runs), rows=comparison(runs), faults=fault_table(runs)
    )


def write_report(path: Path, runs: Sequence[RunFolder]) -> None:
    """Render `runs` (at least one) into the file `path`, atomically.

    Raises:
        RunFolderError: as `render`.
    """
    jsonl.write_atomic(path, render(runs[0], runs[1:]))


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _cell(value: object) -> str:
    if value is None:
        return "NULL"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
