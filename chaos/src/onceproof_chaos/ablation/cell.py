"""One cell: a variant under one kind of fault, with databases, queues and processes of its own."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final
from uuid import uuid4

from onceproof_chaos.ablation.basis import Basis
from onceproof_chaos.ablation.faults import FAULTS, VISIBILITY_S, AblationFault
from onceproof_chaos.ablation.results import Cell, CellResult
from onceproof_chaos.ablation.trial import Trial
from onceproof_chaos.campaign import conclude_stage
from onceproof_chaos.conduct import FaultLog, Unwatched
from onceproof_chaos.drain import Drain
from onceproof_chaos.environment import Servers, Stage, broker_of, stage
from onceproof_chaos.explain.deliveries import deliveries_of, orders_of
from onceproof_chaos.faultlog import FaultEventKind
from onceproof_chaos.history import Outcome
from onceproof_chaos.plan import Plan
from onceproof_chaos.runfolder import RunFolder
from onceproof_chaos.settings import CampaignSettings
from onceproof_chaos.spans import Span
from onceproof_chaos.verdict import BreachKind, Verdict

_DRAIN_TIMEOUT_S: Final = 90.0
_RATE_PER_S: Final = 20.0
_NO_FAULTS: Final = "No fault was injected"
"""The checker's doubt about a run without a plan. Here that is meant: a slow provider is in no plan."""


class CellRunner:
    """Measures cells on the same servers; several may be at work at once.

    Args:
        where: Postgres and the broker.
        orders: size of each cell's workload.
        cells: folder that gets the run folders, which can be judged again like any other.
        basis: the broker.
        command: gives the command line that repeats a cell.
    """

    def __init__(
        self,
        where: Servers,
        *,
        orders: int,
        cells: Path,
        basis: Basis,
        command: Callable[[Cell], str],
    ) -> None:
        self._where = where
        self._orders = orders
        self._cells = cells
        self._basis = basis
        self._command = command
        # Alembic keeps the migration at work in a global of its module.
        self._migrating = asyncio.Lock()

    async def __call__(self, cell: Cell, attempt: int) -> CellResult:
        """Measure one cell; `attempt` is 1, or 2 for a repetition.

        Raises:
            BackendError: a service did not start.
            ConfigurationError: servers cannot be used.
        """
        began = time.time()
        fault = FAULTS[cell.fault]
        settings = _settings(cell, fault, self._orders, self._basis)
        plan = fault.plan(cell.seed, self._orders)
        run = _run_folder(self._cells, str(cell))
        run.write_plan(plan)
        async with AsyncExitStack() as stack:
            place = await self._stage(stack, settings)
            broker = await stack.enter_async_context(broker_of(place))
            drain = Drain(place, broker, window_s=VISIBILITY_S + 0.5)
            with FaultLog(run, Unwatched()) as log:
                trial = Trial(settings, fault, plan, place, run)
                drain_reason = await trial.load(broker, drain, log)
            verdict = await conclude_stage(
                run, settings, place, drain,
                drain_reason=drain_reason, began=began, command=self._command(cell),
            )  # fmt: skip
        struck = _struck(run, fault)
        return CellResult(
            cell=cell,
            attempt=attempt,
            orders=verdict.orders,
            struck=struck,
            breaches=_breaches(verdict),
            redeliveries=verdict.redeliveries,
            deduplicated=verdict.deduplicated,
            reasons=_reasons(verdict, plan, trial.crowded, _without_promise(run, plan, struck)),
            seconds=round(time.time() - began, 2),
            run=f"{self._cells.name}/{run.path.name}",
        )

    async def _stage(self, stack: AsyncExitStack, settings: CampaignSettings) -> Stage:
        async with self._migrating:
            return await stack.enter_async_context(
                stage(
                    self._where,
                    f"ablation_{uuid4().hex[:12]}",
                    visibility_s=settings.visibility_s,
                    max_receive_count=settings.max_receive_count,
                    transactions=settings.transactions,
                )
            )


def _settings(cell: Cell, fault: AblationFault, orders: int, basis: Basis) -> CampaignSettings:
    settings = CampaignSettings(
        variant=cell.variant,
        orders=orders,
        seed=cell.seed,
        kills_per_point={},
        stalls=0,
        dropped=0,
        unknown=0,
        provider_timeouts=0,
        rate_per_s=_RATE_PER_S,
        visibility_s=VISIBILITY_S,
        drain_timeout_s=_DRAIN_TIMEOUT_S,
        broker=basis.broker,
        transactions=basis.transactions,
    )
    return replace(settings, replicas=fault.replicas(outbox=settings.fixes.outbox))


def _run_folder(cells: Path, name: str) -> RunFolder:
    """A new folder; a repetition, or a cell that was aborted before, gets a number."""
    cells.mkdir(parents=True, exist_ok=True)
    number = 1
    while (path := cells / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    for folder in ("evidence", "logs"):
        (path / folder).mkdir(parents=True)
    return RunFolder(path)


def _struck(run: RunFolder, fault: AblationFault) -> tuple[str, ...]:
    """The orders that met the fault: reached its crash point, or were in hand for too long."""
    if fault.slow:
        late = _in_hand_for_too_long(list(run.spans()))
    else:
        late = {e.order for e in run.faults() if e.event is FaultEventKind.REACHED and e.order}
    return tuple(sorted(late))


def _in_hand_for_too_long(spans: Sequence[Span]) -> set[str]:
    """Orders that were handled for longer than the visibility, counted from their receipt.

    Slow handlers keep others waiting in the prefetch, whose visibility runs meanwhile.
    """
    orders = orders_of(spans)
    return {
        orders[event]
        for event, deliveries in deliveries_of(spans).items()
        for delivery in deliveries.values()
        if event in orders and delivery.handled is not None
        if delivery.handled.span.end - delivery.known_at > VISIBILITY_S
    }


def _breaches(verdict: Verdict) -> dict[BreachKind, tuple[str, ...]]:
    found: dict[BreachKind, list[str]] = defaultdict(list)
    for breach in verdict.breaches:
        found[breach.kind].append(breach.order_id)
    return {kind: tuple(sorted(orders)) for kind, orders in found.items()}


def _without_promise(run: RunFolder, plan: Plan, struck: Iterable[str]) -> list[str]:
    """Orders that count but were not accepted. They cannot be lost, whatever the variant is worth.

    Those are the struck ones, and all of them where nobody is killed: no client has a reason to leave.
    """
    finished = run.history().finished
    outcomes = {order: entry.outcome for order, entry in finished.items()}
    counted = struck if plan.faults else outcomes
    return sorted(order for order in counted if outcomes.get(order) is not Outcome.OK)


def _reasons(
    verdict: Verdict, plan: Plan, crowded: Sequence[str], without_promise: Sequence[str]
) -> tuple[str, ...]:
    reasons = [
        reason for reason in verdict.reasons if plan.faults or not reason.startswith(_NO_FAULTS)
    ]
    if crowded:
        reasons.append(
            f"Orders were not alone, the one before was still on its way: {', '.join(crowded)}."
        )
    if without_promise:
        reasons.append(f"Orders were not accepted by the producer: {', '.join(without_promise)}.")
    return tuple(reasons)


__all__ = ["CellRunner"]
