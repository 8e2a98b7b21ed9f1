"""Progress while cells are measured, and the matrix on a terminal."""

from __future__ import annotations

from collections import Counter
from typing import Final

from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from onceproof_chaos.ablation.agreement import Agreement, judge
from onceproof_chaos.ablation.faults import FAULTS
from onceproof_chaos.ablation.markdown import head
from onceproof_chaos.ablation.matrix import Entry, Matrix
from onceproof_chaos.ablation.results import MAX_ATTEMPTS, Cell, CellResult
from onceproof_chaos.ablation.theory import predict

_COLOURS: Final = {
    Agreement.AGREES: "green",
    Agreement.INCONCLUSIVE: "yellow",
    Agreement.DISAGREES: "bold red",
}

_SHORT: Final = {
    "double-charged": "double",
    "mismatched": "differ",
    ", ": "\n",
    "visibility_heartbeat": "heart-\nbeat",
    "idempotency_key": "key",
    "dedup_on_event_id": "event\nid",
    " at ": " at\n",
    ".": ".\n",
}


class CellsBar:
    """A bar of cells; what disagrees is told at once. See `run.Watcher`.

    Args:
        bars: where the bar is shown.
        total: cells altogether.
        known: cells that were measured before.
    """

    def __init__(self, bars: Progress, *, total: int, known: int) -> None:
        self._bars = bars
        self._bar = bars.add_task("cells", total=total, completed=known, note="")
        self._running: list[Cell] = []
        self._found: Counter[Agreement] = Counter()

    def began(self, cell: Cell) -> None:
        """Show what is being measured."""
        self._running.append(cell)
        self._show()

    def ended(self, result: CellResult) -> None:
        """Advance, unless the cell will be repeated."""
        cell = result.cell
        self._running.remove(cell)
        judgement = judge(predict(cell.variant, cell.fault), result)
        if judgement.agreement is not Agreement.AGREES:
            colour = _COLOURS[judgement.agreement]
            text = escape(f"{cell}: {' '.join(judgement.findings)}")
            self._bars.console.print(
                f"[{colour}]{judgement.agreement}[/] {text}", highlight=False, soft_wrap=True
            )
        if result.final or result.attempt >= MAX_ATTEMPTS:
            self._found[judgement.agreement] += 1
            self._bars.advance(self._bar)
        self._show()

    def _show(self) -> None:
        counts = [
            f"{n} {word}"
            for word, n in (
                ("disagree", self._found[Agreement.DISAGREES]),
                ("inconclusive", self._found[Agreement.INCONCLUSIVE]),
            )
            if n
        ]
        running = str(self._running[0]) if self._running else ""
        self._bars.update(self._bar, note=", ".join((*counts, running)))


def breach_table(matrix: Matrix) -> Table:
    """Orders with a broken promise, of those that the fault struck; below: what is predicted."""
    table = _table(matrix, "Broken promises, of the orders that the fault struck; below: predicted")
    table.caption = (
        "double: charged more than once. differ: the ledgers of provider and pipeline do."
    )
    table.caption_justify = "left"
    for fault in matrix.faults:
        entries = [matrix.entries[variant, fault] for variant in matrix.variants]
        table.add_row(_narrow(FAULTS[fault].title), *map(_breaches, entries))
    return table


def again_table(matrix: Matrix) -> Table:
    """Deliveries beyond the first; below: whether they are predicted."""
    table = _table(matrix, "Deliveries beyond the first (absorbed by the inbox); below: predicted")
    for fault in matrix.faults:
        entries = [matrix.entries[variant, fault] for variant in matrix.variants]
        table.add_row(_narrow(FAULTS[fault].title), *map(_again, entries))
    return table


def _table(matrix: Matrix, title: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 1, 0))
    table.add_column("fault", min_width=15)
    for variant in matrix.variants:
        table.add_column(_narrow(head(variant)), justify="right", overflow="fold", min_width=6)
    return table


def _breaches(entry: Entry) -> str:
    measured, predicted = _narrow(entry.measured).replace(" ", "\n"), _narrow(entry.predicted)
    return f"[{_COLOURS[entry.agreement]}]{measured}[/]\n[dim]{predicted}[/]"


def _again(entry: Entry) -> str:
    absorbed = f" ({entry.deduplicated})" if entry.deduplicated else ""
    predicted = "yes" if entry.prediction.comes_again else "no"
    return f"{entry.redeliveries}{absorbed}\n[dim]{predicted}[/]"


def _narrow(text: str) -> str:
    """Eight columns must fit on a terminal of 80: long words are cut, and long titles broken."""
    for word, short in _SHORT.items():
        text = text.replace(word, short)
    return text


__all__ = ["CellsBar", "again_table", "breach_table"]
