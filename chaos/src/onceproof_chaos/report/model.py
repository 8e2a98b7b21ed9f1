"""What the page says, computed from run folders: words and numbers, no markup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from onceproof.crashpoints import ALL_POINTS, Action
from onceproof_chaos.faultlog import FaultEventKind
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
class FaultRow:
    """Faults of one action at one crash point; `killed` is None where nothing is to be killed."""

    point: str
    meaning: str
    action: str
    planned: int
    reached: int
    killed: int | None

    @property
    def complete(self) -> bool:
        """Whether every planned fault did what it was meant to."""
        return self.reached >= self.planned and self.killed in (None, self.planned)


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
    faults: Sequence[FaultRow]
    kills: int
    buckets: Sequence[Bucket]
    strip: Strip
    timeline: Timeline
    groups: Sequence[BreachGroup]
    queries: str

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
        faults=_fault_rows(run),
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
        return f"Of {verdict.orders} orders, {_harm(verdict)}."
    return "No order was harmed, but the run does not prove that none would have been."


def headline(runs: Sequence[RunView]) -> str:
    """The page's title line: what happened, in words."""
    failed = [run for run in runs if run.verdict.verdict is Result.FAIL]
    passed = [run for run in runs if run.verdict.verdict is Result.PASS]
    if len(runs) == 1:
        return runs[0].summary
    if failed and passed:
        return (
            f"Under the same faults, the {failed[0].variant} pipeline did harm: "
            f"{_harm(failed[0].verdict)}. The {passed[0].variant} one charged every order once."
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


def _harm(verdict: Verdict) -> str:
    parts = [
        (verdict.double_charged, "charged twice or more"),
        (verdict.lost, "accepted but lost"),
        (verdict.unexpected, "charged unasked"),
        (verdict.mismatched, "booked differently from what the provider took"),
    ]
    said = [f"{count} {'was' if count == 1 else 'were'} {what}" for count, what in parts if count]
    # Mismatches follow from the other harms; they matter in words only when they stand alone.
    said = said[:-1] if verdict.mismatched and len(said) > 1 else said
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"


def _number(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _fault_rows(run: RunFolder) -> list[FaultRow]:
    plan, faults = run.plan(), run.faults()
    reached = {event.fault for event in faults if event.event is FaultEventKind.REACHED}
    killed = {event.fault for event in faults if event.event is FaultEventKind.KILLED}
    rows = []
    for action in Action:
        for point in ALL_POINTS:
            ids = {f.id for f in plan.faults if f.point == point and f.action is action}
            if ids:
                rows.append(
                    FaultRow(
                        point=point,
                        meaning=LEGS[point],
                        action=action.value,
                        planned=len(ids),
                        reached=len(ids & (reached | killed)),
                        killed=len(ids & killed) if action is Action.KILL else None,
                    )
                )
    return rows


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
