"""What the page says, computed from run folders: words and numbers, no markup."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from onceproof.crashpoints import ALL_POINTS, Action
from onceproof_chaos.faultlog import FaultEventKind
from onceproof_chaos.report.again import AgainView, again_of
from onceproof_chaos.report.charts import Bucket, Strip, Timeline, buckets, strip, timeline
from onceproof_chaos.runfolder import RunFolder, RunInfo
from onceproof_chaos.verdict import Breach, BreachKind, Result, Verdict

MOST_BREACHES: Final = 10
"""Breaches shown in full for each kind; all of them are in `verdict.json`."""

LEGS: Final = {
    "producer.after_commit": "order committed, not yet published",
    "relay.before_publish": "claimed from the outbox, not yet sent",
    "relay.after_publish": "sent, not yet marked as sent",
    "consumer.before_charge": "received, nothing done yet",
    "consumer.after_charge": "charged at the provider, not committed",
    "consumer.after_commit": "committed, message not acknowledged",
    "provider.after_capture": "captured, answer not given",
}
_COUNTS: Final = (
    ("orders", "Orders placed", "by the seeded workload", False),
    ("accepted", "Accepted", "the client saw a 201", False),
    ("lost", "Lost", "accepted, never charged, in no dead-letter queue", True),
    ("double_charged", "Charged twice or more", "more than one capture at the provider", True),
    ("unexpected", "Charged unasked", "never asked for, or refused", True),
    ("mismatched", "Ledgers disagree", "provider's ledger against charges table", True),
    ("recovered", "Recovered", "outcome unknown to the client, charged once after all", False),
    ("dead_lettered", "Dead-lettered", "accepted, waiting in the dead-letter queue", False),
    ("redeliveries", "Redeliveries", "messages that came again", False),
    ("deduplicated", "Absorbed duplicates", "redeliveries that the inbox recognised", False),
    ("dedup_hit_rate", "Dedup hit rate", "absorbed by settled deliveries", False),
)
KIND_TITLES: Final = {
    BreachKind.LOST: "Lost",
    BreachKind.DOUBLE_CHARGED: "Charged twice or more",
    BreachKind.UNEXPECTED: "Charged unasked",
    BreachKind.MISMATCHED: "Ledgers disagree",
}


@dataclass(frozen=True, slots=True)
class Tally:
    """Faults of one action at one crash point in one run; `killed` is None for other actions."""

    planned: int
    reached: int
    killed: int | None


@dataclass(frozen=True, slots=True)
class FaultRow:
    """The same faults in all runs."""

    point: str
    meaning: str
    action: str
    tallies: Sequence[Tally]


@dataclass(frozen=True, slots=True)
class BreachGroup:
    """Breaches of one kind: `shown` of them in full, `more` only counted."""

    title: str
    count: int
    shown: Sequence[Breach]
    more: int


@dataclass(frozen=True, slots=True)
class RunView:
    """One run as the page shows it."""

    name: str
    info: RunInfo
    verdict: Verdict
    summary: str
    faults: Mapping[tuple[str, Action], Tally]
    kills: int
    buckets: Sequence[Bucket]
    strip: Strip
    timeline: Timeline
    groups: Sequence[BreachGroup]
    queries: str
    again: AgainView

    @property
    def variant(self) -> str:
        """Name of the variant."""
        return self.info.variant


@dataclass(frozen=True, slots=True)
class CountRow:
    """One count over all runs; a value above 0 is a breach where `is_breach`."""

    title: str
    meaning: str
    is_breach: bool
    values: Sequence[str]
    bad: Sequence[bool]


def view(run: RunFolder) -> RunView:
    """Read and judge one run.

    Raises:
        RunFolderError: a file is missing or corrupt.
    """
    info, verdict = run.info(), run.judge()
    history, evidence, faults = run.history(), run.evidence(), run.faults()
    last = max([info.ended_at or info.started_at, *(event.at for event in faults)])
    return RunView(
        name=run.path.name,
        info=info,
        verdict=verdict,
        summary=summary(verdict),
        faults=_tallies(run),
        kills=sum(verdict.kills.values()),
        buckets=buckets(history, evidence),
        strip=strip(info.seed, history, evidence, verdict),
        timeline=timeline(
            info.started_at,
            last,
            (row.created_at for row in evidence.captures),
            run.spans_summary().redelivered_at,
            faults,
        ),
        groups=_groups(verdict),
        queries=run.queries(),
        again=again_of(run, verdict),
    )


def summary(verdict: Verdict) -> str:
    """The verdict of one run in a sentence that needs no glossary."""
    if verdict.verdict is Result.PASS:
        text = f"Every accepted order was charged exactly once: {verdict.accepted} of them"
        if verdict.dead_lettered:
            text = (
                f"No order was lost or charged twice; {verdict.dead_lettered} of "
                f"{verdict.accepted} wait in the dead-letter queue"
            )
        return (
            f"{text}, through {_number(sum(verdict.kills.values()), 'kill')} "
            f"and {_number(verdict.redeliveries, 'redelivery', 'redeliveries')}."
        )
    if verdict.verdict is Result.FAIL:
        return f"Of {_number(verdict.orders, 'order')}, this run {_harm(verdict)}."
    return "No order was harmed, but the run does not prove that none would have been."


def headline(runs: Sequence[RunView]) -> str:
    """The page's title line: what happened, in words."""
    failed = [run for run in runs if run.verdict.verdict is Result.FAIL]
    passed = [run for run in runs if run.verdict.verdict is Result.PASS]
    if len(runs) == 1:
        return runs[0].summary
    if failed and passed:
        return (
            f"Same orders, same faults: {failed[0].variant} {_harm(failed[0].verdict)}. "
            f"{passed[0].variant.capitalize()} {_kept(passed[0].verdict)}."
        )
    return " ".join(f"{run.variant.capitalize()}: {run.summary}" for run in runs)


def comparison(runs: Sequence[RunView]) -> list[CountRow]:
    """The counts of all runs side by side."""
    rows = []
    for name, title, meaning, is_breach in _COUNTS:
        values: list[Any] = [getattr(run.verdict, name) for run in runs]
        texts = [f"{v:.1%}" if isinstance(v, float) else f"{v:,}" for v in values]
        rows.append(
            CountRow(title, meaning, is_breach, texts, [is_breach and v > 0 for v in values])
        )
    return rows


def fault_table(runs: Sequence[RunView]) -> list[FaultRow]:
    """Faults by action and crash point, in the pipeline's order, of all runs side by side."""
    return [
        FaultRow(
            point,
            LEGS[point],
            action.value,
            [run.faults.get((point, action), Tally(0, 0, None)) for run in runs],
        )
        for action in Action
        for point in ALL_POINTS
        if any((point, action) in run.faults for run in runs)
    ]


def _harm(verdict: Verdict) -> str:
    harms = [
        (verdict.double_charged, "charged {} twice or more"),
        (verdict.lost, "lost {}"),
        (verdict.unexpected, "charged {} unasked"),
        (verdict.mismatched, "booked {} differently from what the provider took"),
    ]
    said = [text.format(_number(count, "order")) for count, text in harms if count]
    # Mismatches follow from the other harms; they matter in words only when they stand alone.
    said = said[:-1] if verdict.mismatched and len(said) > 1 else said
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"


def _kept(verdict: Verdict) -> str:
    if verdict.dead_lettered:
        return f"lost none, charged none twice and dead-lettered {verdict.dead_lettered}"
    return "charged every accepted order exactly once"


def _number(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _tallies(run: RunFolder) -> dict[tuple[str, Action], Tally]:
    faults = run.faults()
    reached = {event.fault for event in faults if event.event is FaultEventKind.REACHED}
    killed = {event.fault for event in faults if event.event is FaultEventKind.KILLED}
    ids: dict[tuple[str, Action], set[str | None]] = defaultdict(set)
    for fault in run.plan().faults:
        ids[fault.point, fault.action].add(fault.id)
    return {
        (point, action): Tally(
            planned=len(planned),
            reached=len(planned & (reached | killed)),
            killed=len(planned & killed) if action is Action.KILL else None,
        )
        for (point, action), planned in ids.items()
    }


def _groups(verdict: Verdict) -> list[BreachGroup]:
    groups = []
    for kind in BreachKind:
        breaches = [breach for breach in verdict.breaches if breach.kind is kind]
        if breaches:
            shown = breaches[:MOST_BREACHES]
            groups.append(
                BreachGroup(KIND_TITLES[kind], len(breaches), shown, len(breaches) - len(shown))
            )
    return groups
