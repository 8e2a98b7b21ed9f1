"""What `onceproof prove` shows: bars while it works, the table at the end, and the findings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final, Self

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onceproof.cli.progress import progress_bars
from onceproof_chaos.prove.points import ADVICE, MEANING, WITHOUT_INBOX, Act
from onceproof_chaos.prove.verdict import Judged, ProveResult, Status

_COLOURS: Final = {
    Status.HELD: "green",
    Status.BROKEN: "bold red",
    Status.NOT_REACHED: "yellow",
    Status.INCONCLUSIVE: "yellow",
}
_ACTS: Final = (Act.KILL, Act.STALL, Act.DROP)
_ROWS_SHOWN: Final = 3


class ProveBars:
    """A bar of runs; see `prove.proof.Observer`."""

    def __init__(self, console: Console) -> None:
        self._bars = progress_bars(console)
        self._task = self._bars.add_task("runs", total=None, note="starting servers")
        self._any, self._broken = False, 0

    def planned(self, runs: int) -> None:
        """So many runs are to come, the control included."""
        note = "" if self._any else "the control: no fault"
        self._bars.update(self._task, total=runs, note=note)

    def finished(self, judged: Judged) -> None:
        """Advance."""
        self._any = True
        self._broken += judged.status is Status.BROKEN and judged.cell.point != WITHOUT_INBOX
        note = f"[red]{self._broken} broken[/]" if self._broken else ""
        self._bars.update(self._task, advance=1, note=note)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()


def result_tables(result: ProveResult) -> Iterator[Table]:
    """What was done at points, actions as columns; and what has no point: control and duplicates."""
    faults = Table(title="Faults, each alone", title_justify="left")
    for column in ("point", *(act.value for act in _ACTS)):
        faults.add_column(column)
    others = Table(title="Without a fault in the consumer", title_justify="left")
    for column in ("run", "outcome"):
        others.add_column(column)
    rows: dict[str, dict[Act, Judged]] = {}
    for judged in result.cells:
        cell = judged.cell
        if cell.act in _ACTS:
            rows.setdefault(cell.row, {})[cell.act] = judged
        elif cell.point != WITHOUT_INBOX:
            act = "" if cell.act is Act.NONE else f", {cell.act}"
            others.add_row(_label(cell.row, f"{MEANING[cell.point]}{act}"), _outcome(judged))
    for row, by_act in rows.items():
        meaning = MEANING[next(iter(by_act.values())).cell.point]
        faults.add_row(_label(row, meaning), *(_outcome(by_act[act]) for act in _ACTS))
    if rows:
        yield faults
    yield others


def findings(result: ProveResult) -> Iterator[str]:
    """What was found, line by line, with the evidence."""
    for judged in result.broken:
        what = "" if judged.cell.act is Act.NONE else f" x {judged.cell.act}"
        yield f"[bold red]broken[/] at {escape(judged.cell.row)}{what}: {MEANING[judged.cell.point]}"
        for violation in judged.violations:
            yield f"  [bold]{escape(violation.invariant)}[/] finds {violation.count}"
            for row in violation.rows[:_ROWS_SHOWN]:
                yield f"    {escape(json.dumps(row, ensure_ascii=False))}"
        for reason in judged.reasons:
            yield f"  {escape(reason)}"
        yield f"  {ADVICE[judged.cell.point]}"
    for reason in result.reasons:
        yield f"[yellow]inconclusive:[/] {escape(reason)}"
    for warning in result.warnings:
        yield f"[yellow]note:[/] {escape(warning)}"
    colour = "green" if result.held else "red" if result.broken else "yellow"
    yield f"[bold {colour}]{result.verdict.value}[/]  run folder {escape(result.run)}"


def _label(row: str, meaning: str) -> str:
    return f"{escape(row)}\n[dim]{meaning}[/]"


def _outcome(judged: Judged) -> str:
    found = sum(violation.count for violation in judged.violations)
    text = judged.status.value
    if judged.status is Status.BROKEN:
        text = f"{text} ({found})"
    return f"[{_COLOURS[judged.status]}]{text}[/]"


__all__ = ["ProveBars", "findings", "result_tables"]
