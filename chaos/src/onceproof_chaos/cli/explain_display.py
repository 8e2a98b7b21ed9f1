"""Explanations on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onceproof_chaos.explain.confusion import NOT_INJECTED, Confusion
from onceproof_chaos.explain.explanation import OrderExplanation, distribution
from onceproof_chaos.explain.moments import Kind
from onceproof_chaos.explain.reasons import Explanation, Reason, short

_STYLES: Final = {
    Kind.CRASH_POINT: "red",
    Kind.KILLED: "red",
    Kind.RESUMED: "magenta",
    Kind.LAPSED: "magenta",
    Kind.COMMITTED: "green",
    Kind.CAPTURED: "bold",
}
_MOST: Final = 10
"""Explanations listed of one sort; all of them are in the JSON."""


def print_order(console: Console, explained: OrderExplanation) -> None:
    """What happened to one order, why each message came again, and what the money did."""
    title = (
        f"{explained.order_id}: {_number(explained.deliveries, 'delivery', 'deliveries')}, "
        f"{_number(len(explained.story.captures), 'capture')}"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("s", justify="right")
    table.add_column("who", overflow="fold")
    table.add_column("what", overflow="fold")
    for moment in explained.moments:
        table.add_row(
            f"{moment.at - explained.moments[0].at:.3f}",
            Text(moment.who),
            Text(moment.what, style=_STYLES.get(moment.kind, "")),
        )
    console.print(table)
    if not explained.deliveries:
        console.print("no delivery of it is known", highlight=False)
    if explained.gaps:
        text = f"not looked at: {', '.join(explained.gaps)}"
        console.print(text, style="yellow", highlight=False, soft_wrap=True)
    for explanation in explained.redeliveries:
        _print_explanation(console, explanation)
    console.print(Text(explained.money, style="bold"), soft_wrap=True)


def print_confusion(
    console: Console, explained: Sequence[OrderExplanation], confusion: Confusion
) -> None:
    """How often each reason occurred, and how that compares with what was injected."""
    counts = distribution(explained)
    table = Table(title="Why messages came again", title_justify="left")
    table.add_column("reason")
    table.add_column("redeliveries", justify="right")
    for reason, count in counts.items():
        table.add_row(reason.words, str(count), style="" if count else "dim")
    console.print(table)
    console.print(_matrix(confusion))
    for wrong in confusion.wrong[:_MOST]:
        rights = " or ".join(sorted(reason.words for reason in wrong.injected.expected))
        console.print(Text(f"wrong: {wrong.order_id}, {_name(wrong.explanation)}", style="red"))
        console.print(f"  explained: {wrong.explanation.text}", highlight=False, soft_wrap=True)
        console.print(f"  {wrong.injected.fault} makes it: {rights}", highlight=False)
    unknown = [e for order in explained for e in order.redeliveries if e.reason is Reason.UNKNOWN]
    for explanation in unknown[:_MOST]:
        _print_explanation(console, explanation)
    console.print(
        f"injected redeliveries: {confusion.injected}; right {confusion.right} "
        f"({confusion.share_right:.1%}), unknown {confusion.unknown}, wrong {len(confusion.wrong)}",
        highlight=False,
        style="bold",
    )


def _matrix(confusion: Confusion) -> Table:
    """The confusion matrix, its filled cells only: as a square it fits no terminal."""
    table = Table(title="Injected against explained", title_justify="left")
    table.add_column("injected", overflow="fold")
    table.add_column("explained", overflow="fold")
    table.add_column("redeliveries", justify="right")
    for cause, row in confusion.matrix.items():
        right = confusion.expected.get(cause, frozenset())
        name = cause
        for reason in Reason:
            if not row[reason]:
                continue
            style = "green" if reason in right else "yellow" if reason is Reason.UNKNOWN else "red"
            style = "" if cause == NOT_INJECTED else style
            table.add_row(Text(name), Text(reason.words, style=style), str(row[reason]))
            name = ""
    return table


def _print_explanation(console: Console, explanation: Explanation) -> None:
    style = "yellow" if explanation.reason is Reason.UNKNOWN else "bold"
    console.print(Text(f"{_name(explanation)}: {explanation.reason.words}", style=style))
    console.print(Text(f"  {explanation.text}"), soft_wrap=True)
    for clue in explanation.clues:
        console.print(Text(f"  - {clue.says}  [{clue.ref}]", style="dim"), soft_wrap=True)
    for missing in explanation.missing:
        console.print(Text(f"  ? missing: {missing}"), soft_wrap=True)


def _name(explanation: Explanation) -> str:
    return f"delivery {explanation.attempt} of message {short(explanation.message_id)}"


def _number(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


__all__ = ["print_confusion", "print_order"]
