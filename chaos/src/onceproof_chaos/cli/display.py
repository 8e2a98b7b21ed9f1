"""Progress bars while a run goes on, and the table at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from onceproof.cli.progress import progress_bars
from onceproof.crashpoints import Action
from onceproof_chaos.faultlog import FaultEvent, FaultEventKind
from onceproof_chaos.plan import Plan
from onceproof_chaos.verdict import Result, Verdict

_ROWS = (
    ("orders", "orders placed"),
    ("accepted", "accepted (201)"),
    ("lost", "lost"),
    ("double_charged", "double-charged"),
    ("unexpected", "unexpected"),
    ("mismatched", "mismatched"),
    ("recovered", "recovered"),
    ("dead_lettered", "dead-lettered"),
    ("redeliveries", "redeliveries"),
    ("deduplicated", "deduplicated"),
)
_BREACHES = frozenset({"lost", "double_charged", "unexpected", "mismatched"})
_COLOURS = {Result.PASS: "green", Result.FAIL: "red"}


class Display:
    """Progress of one run on a terminal; see `campaign.Progress`."""

    def __init__(self, bars: Progress, variant: str, plan: Plan) -> None:
        self._bars = bars
        self._kills: Counter[str] = Counter()
        self._reached: set[str] = set()
        self._orders = bars.add_task(f"[bold]{variant}[/]", total=plan.orders, note="")
        self._faults = bars.add_task("  faults", total=len(plan.faults), note="")

    def phase(self, text: str) -> None:
        """Show what is being done."""
        self._bars.update(self._orders, note=text)

    def order_finished(self) -> None:
        """Advance the orders."""
        self._bars.advance(self._orders)

    def fault(self, event: FaultEvent) -> None:
        """Advance the faults and count kills."""
        if event.event is FaultEventKind.REACHED and event.fault is not None:
            self._reached.add(event.fault)
        if event.event is FaultEventKind.KILLED and event.action == Action.KILL:
            self._kills[event.point or ""] += 1
        note = f"{self._kills.total()} kills" if self._kills else ""
        self._bars.update(self._faults, completed=len(self._reached), note=note)


@contextmanager
def workload_bar(console: Console, orders: int) -> Iterator[Callable[[], None]]:
    """A bar of orders, to be advanced by what this gives; nothing at all where nobody watches."""
    if not console.is_terminal:
        yield lambda: None
        return
    with progress_bars(console) as bars:
        task = bars.add_task("orders", total=orders, note="")
        yield lambda: bars.advance(task)


def verdict_table(verdicts: Sequence[tuple[str, Verdict]]) -> Table:
    """Counts of one or more runs side by side."""
    table = Table(title="Charges against promises", title_justify="left")
    table.add_column("")
    for variant, _ in verdicts:
        table.add_column(variant, justify="right")
    for name, label in _ROWS:
        values = [getattr(verdict, name) for _, verdict in verdicts]
        table.add_row(label, *(_cell(name, value) for value in values))
    table.add_row("dedup_hit_rate", *(f"{v.dedup_hit_rate:.1%}" for _, v in verdicts))
    table.add_row("kills", *(str(sum(v.kills.values())) for _, v in verdicts), end_section=True)
    table.add_row("verdict", *(_verdict_cell(verdict) for _, verdict in verdicts))
    return table


def kills_table(verdicts: Sequence[tuple[str, Verdict]]) -> Table:
    """Kills by crash point."""
    table = Table(title="Kills by crash point", title_justify="left")
    table.add_column("")
    for variant, _ in verdicts:
        table.add_column(variant, justify="right")
    points = dict.fromkeys(point for _, verdict in verdicts for point in verdict.kills)
    for point in points:
        table.add_row(point, *(str(verdict.kills.get(point, 0)) for _, verdict in verdicts))
    return table


def _cell(name: str, value: int) -> str:
    if name in _BREACHES:
        return f"[bold red]{value}[/]" if value else f"[green]{value}[/]"
    return str(value)


def _verdict_cell(verdict: Verdict) -> str:
    colour = _COLOURS.get(verdict.verdict, "yellow")
    return f"[bold {colour}]{verdict.verdict.value}[/]"
