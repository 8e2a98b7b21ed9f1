"""How `onceproof dlq` shows what it found. What a producer wrote is never trusted by the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from onceproof.cli.progress import progress_bars
from onceproof.dlq import Fate, Forecast, Judged, Letter, Summary, Survey, Trail
from onceproof.ports import QueueDepth

_COLOURS: Final = {
    Fate.WOULD_CHARGE: "yellow",
    Fate.ALREADY_CHARGED: "green",
    Fate.PAST_WINDOW: "red",
    Fate.MALFORMED: "red",
}
MEANINGS: Final[Mapping[str, str]] = {
    Fate.WOULD_CHARGE: "not in the inbox: a redrive charges it",
    Fate.ALREADY_CHARGED: "in the inbox: a redrive is absorbed",
    Fate.PAST_WINDOW: "older than the inbox remembers: may have been charged, cannot be told",
    Fate.MALFORMED: "no event: no consumer can process it",
    Fate.UNCHECKED: "the inbox was not asked (no --database-url); it absorbs what was charged",
    "came_again": "failed again, or a second copy of an event that was sent; another redrive takes it",
    "beyond_max": "more than --max",
}
_UNITS: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


@contextmanager
def looking(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    """A bar over messages that are looked at; nothing at all where nobody watches."""
    with _bars(console) as bars:
        if bars is None:
            yield lambda _count: None
            return
        task = bars.add_task("messages", total=total, note="")
        yield lambda count: bars.advance(task, count)


@contextmanager
def redriving(console: Console, total: int) -> Iterator[Callable[[Trail], None]]:
    """A bar over messages that are sent back; nothing at all where nobody watches."""
    with _bars(console) as bars:
        if bars is None:
            yield lambda _trail: None
            return
        task = bars.add_task("redriven", total=total, note="")

        def show(trail: Trail) -> None:
            left = sum(trail.reasons().values())
            note = f"{left} left" if left else ""
            if trail.not_sent:
                note += f" {len(trail.not_sent)} not sent"
            bars.update(task, completed=len(trail.sent & trail.deleted), note=note)

        yield show


@contextmanager
def _bars(console: Console) -> Iterator[Progress | None]:
    if not console.is_terminal:
        yield None
        return
    with progress_bars(console) as bars:
        yield bars


def survey_view(name: str, depth: QueueDepth, found: Survey, now: datetime) -> RenderableType:
    """Counts, ages and reasons."""
    head = f"{name}: {counted(depth.total)}"
    if depth.in_flight:
        head += f", held by somebody else when this began: {depth.in_flight}"
    table = Table(title_justify="left")
    table.add_column("messages", justify="right")
    table.add_column("age", no_wrap=True)
    for column in ("type", "reason"):
        table.add_column(column, overflow="fold")
    table.add_column("e.g. message", no_wrap=True)
    for group in found.groups:
        table.add_row(
            str(group.count),
            Text(_ages(group.oldest, group.newest, now)),
            safe(group.type or "-"),
            safe(group.reason),
            safe(group.example),
        )
    notes = [head]
    if found.malformed:
        notes.append(f"no events, can never be processed: {found.malformed}")
    if found.past_window:
        notes.append(f"older than the inbox remembers: {found.past_window}")
    return Group(table, *notes) if found.groups else Group(*notes)


def sample_view(sampled: Sequence[Judged], now: datetime) -> RenderableType:
    """Each message of a sample with its fate."""
    table = Table(title_justify="left")
    table.add_column("message", no_wrap=True)  # to be copied
    for column in ("key", "age", "if redriven", "reason"):
        table.add_column(column, overflow="fold")
    for judged in sampled:
        letter = judged.letter
        table.add_row(
            safe(letter.id),
            safe(letter.key or "-"),
            Text(_age(letter.age_s(now))),
            Text(judged.fate, style=_COLOURS.get(judged.fate, "")),
            safe(letter.reason),
        )
    return Group(table, *_legend({judged.fate for judged in sampled}))


def letter_view(judged: Judged, now: datetime) -> RenderableType:
    """One message with everything that is known of it."""
    letter = judged.letter
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in letter.as_json(body=False).items():
        if value is not None:
            text = json.dumps(value, ensure_ascii=False) if name == "attributes" else str(value)
            table.add_row(name, safe(text))
    table.add_row("age", _age(letter.age_s(now)))
    fate = Text(judged.fate, style=_COLOURS.get(judged.fate, ""))
    table.add_row("if redriven", fate.append(f": {MEANINGS[judged.fate]}", style=""))
    return Group(table, Text(), safe(_body(letter)))


def forecast_view(found: Forecast) -> RenderableType:
    """What a redrive would do."""
    table = Table(title="dry run: nothing was changed", title_justify="left")
    table.add_column("messages", justify="right")
    table.add_column("")
    table.add_column("", overflow="fold")
    for fate, count in sorted(found.would_send.items()):
        table.add_row(str(count), f"would be sent: {fate}", MEANINGS.get(fate, ""))
    for why, count in sorted(found.left.items()):
        table.add_row(str(count), f"would be left: {why}", MEANINGS.get(why, ""))
    return Group(table, f"sending takes {_age(found.takes_s)} at this rate")


def summary_view(summary: Summary, audit: str) -> RenderableType:
    """What a redrive did."""
    table = Table(title=f"redrive {summary.redrive}", title_justify="left")
    table.add_column("messages", justify="right")
    table.add_column("")
    table.add_column("", overflow="fold")
    table.add_row(str(summary.sent), "sent", "confirmed by the source queue")
    table.add_row(str(summary.deleted), "deleted", "of these, from the DLQ")
    if summary.unconfirmed:
        table.add_row(str(summary.unconfirmed), "to delete", "sent; the next redrive deletes them")
    if summary.not_sent:
        table.add_row(str(summary.not_sent), "not sent", "still in the DLQ; see the audit log")
    for why, count in sorted(summary.left.items()):
        table.add_row(str(count), f"left: {why}", MEANINGS.get(why, ""))
    notes = [f"audit log: {audit}"]
    if summary.stopped:
        notes.append(f"stopped: {summary.stopped}. The same command again goes on from here")
    return Group(table, *(Text(note) for note in notes))


def counted(messages: int) -> str:
    """A number of messages in words."""
    return "1 message" if messages == 1 else f"{messages} messages"


def safe(text: str) -> Text:
    """Text without what a terminal would obey."""
    return Text("".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text))


def _body(letter: Letter) -> str:
    document: Any = letter.message.body.decode(errors="replace")
    try:
        return json.dumps(json.loads(document), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return str(document)


def _legend(fates: set[Fate]) -> list[Text]:
    return [Text(f"{fate}: {MEANINGS[fate]}", style="dim") for fate in sorted(fates)]


def _ages(oldest: datetime | None, newest: datetime | None, now: datetime) -> str:
    if oldest is None or newest is None:
        return "unknown"
    low, high = _age((now - newest).total_seconds()), _age((now - oldest).total_seconds())
    return low if low == high else f"{low} .. {high}"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return "0 s"
