"""Carries out one Campaign: accept, load under faults, drain, count, and report in its status.

The run itself is the proving ground's, the same as on a laptop; here are its pods, its clients as a Job,
and its status. A campaign does not outlive its operator: what an operator that died saw of the faults is
lost, so its campaign is inconclusive, and says so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, Self

import asyncpg

from onceproof.errors import OnceproofError
from onceproof_chaos.admin_client import AdminError
from onceproof_chaos.backend import PIPELINE, Role
from onceproof_chaos.backend.base import BackendError
from onceproof_chaos.conduct import FaultLog, conclude, conduct, versions_of
from onceproof_chaos.drain import Drain
from onceproof_chaos.nemesis import Nemesis
from onceproof_chaos.recovery import median_and_max, recoveries
from onceproof_chaos.report import write_report
from onceproof_chaos.runfolder import RunFolder
from onceproof_chaos.settings import CampaignSettings
from onceproof_chaos.traces import TraceStoreError, write_spans
from onceproof_chaos.verdict import Result, Verdict
from onceproof_operator.api import ClusterError, ForbiddenError
from onceproof_operator.backend import KubernetesBackend
from onceproof_operator.campaign_progress import CampaignProgress
from onceproof_operator.campaign_spec import (
    OVER,
    CampaignSpec,
    as_status,
    is_running,
    recovery_as_status,
)
from onceproof_operator.conditions import State, Status, timestamp
from onceproof_operator.sweep import disarm_orphans
from onceproof_operator.workload_job import WorkloadError, WorkloadJob
from onceproof_operator.world import World

logger = logging.getLogger(__name__)

_EXPORT_S: Final = 1.0
"""Spans of the last delivery are on their way to the trace store for so long."""
_QUIET_S: Final = 60.0
_CONCLUDE_S: Final = 300.0
"""For gathering the evidence, whatever of it does not answer."""
_ABORTS: Final = (
    AdminError, BackendError, ClusterError, OnceproofError, OSError, WorkloadError,
)  # fmt: skip


class RefusedError(Exception):
    """The campaign cannot begin. `reason` is one word for the condition."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class CampaignWork:
    """One Campaign on its way.

    Args:
        spec: what it asks for.
        status: its status.
        world: everything outside.
    """

    def __init__(self, spec: CampaignSpec, status: Status, world: World) -> None:
        self._spec = spec
        self._status = status
        self._world = world
        self._job = WorkloadJob(world.cluster, world.settings, spec)

    @classmethod
    def of(cls, world: World, body: Mapping[str, Any]) -> Self:
        """From the object."""
        spec = CampaignSpec.of(body)
        write = partial(world.cluster.write_status, "campaigns", spec.name)
        return cls(spec, Status(body.get("status"), write), world)

    async def run(self) -> None:
        """Run it to its verdict, or say why not."""
        phase = self._status.get("phase")
        if phase in OVER:
            return
        if phase not in (None, "Pending"):
            await self._interrupted()
            return
        try:
            async with self._world.admission:
                settings = await self._accept()
            await self._carry_out(settings)
        except RefusedError as error:
            await self._refuse(error.reason, str(error))
        except Exception as error:
            if isinstance(error, ForbiddenError) and not self._status.holds("Accepted"):
                await self._refuse("Forbidden", str(error))
                return
            # Whatever broke in here is no verdict on the pipeline.
            logger.exception("campaign %s", self._spec.name)
            await self._clean_up()
            await self._finish("OperatorError", repr(error))

    async def abandon(self) -> None:
        """The Campaign is gone: its Job goes with it, and nothing stays armed."""
        await self._job.delete()
        await disarm_orphans(self._world)

    async def _accept(self) -> CampaignSettings:
        world, spec = self._world, self._spec
        variant = spec.fields["variant"]
        if variant != world.settings.variant:
            raise RefusedError(
                "VariantMismatch",
                f"the installation runs {world.settings.variant}, not {variant}; run "
                f"helm upgrade --reuse-values --set variant={variant} first",
            )
        for other in await world.cluster.objects("campaigns"):
            if other["metadata"]["uid"] != spec.uid and is_running(other):
                raise RefusedError(
                    "AnotherCampaignRuns",
                    f"campaign {other['metadata']['name']} is running; wait until it has finished",
                )
        for drill in await world.cluster.objects("crashdrills"):
            if not drill.get("status", {}).get("verdict"):
                raise RefusedError(
                    "DrillRuns",
                    f"drill {drill['metadata']['name']} has no verdict yet; its kill would not be the "
                    "campaign's own",
                )
        try:
            settings = spec.settings(
                visibility_s=world.settings.visibility_s,
                replicas=await self._replicas(),
                broker=world.settings.broker,
                relay=world.settings.relay,
            )
        except ValueError as error:
            raise RefusedError("PlanDoesNotFit", str(error)) from None
        planned = len(settings.plan().faults)
        await self._status.report(
            "Accepted",
            "True",
            "Accepted",
            f"{settings.orders} orders under {planned} faults",
            phase="Loading",
            startedAt=timestamp(),
            faultsPlanned=planned,
            faultsReached=0,
            kills=0,
        )
        return settings

    async def _replicas(self) -> dict[Role, int]:
        """How many pods of each role run now."""
        pods = await self._world.cluster.pods(self._selector)
        counts = Counter(pod.component for pod in pods if pod.ready and not pod.leaving)
        missing = [role.value for role in PIPELINE if not counts[role]]
        if missing:
            raise RefusedError(
                "NoPodsWithChaos",
                f"no ready pod with chaos enabled for {', '.join(missing)}; set chaos.enabled=true in "
                "the chart's values, or wait until the pods are ready",
            )
        return {role: counts[role] for role in PIPELINE}

    @property
    def _selector(self) -> str:
        release = self._world.settings.release
        return f"app.kubernetes.io/instance={release},onceproof.dev/chaos=enabled"

    async def _carry_out(self, settings: CampaignSettings) -> None:
        world = self._world
        drain = world.drain()
        # Orders of somebody else that come late would count as charged, but never asked for.
        if (busy := await drain.until_quiet(timeout_s=_QUIET_S, idle=lambda: True)) is not None:
            await self._refuse("NotQuiet", f"something else is at work: {busy}")
            return
        run = RunFolder.create(world.settings.runs_dir, settings.variant, settings.seed)
        run.write_plan(settings.plan())
        began = time.time()
        self._status.set(run=run.path.name)
        await self._status.write()
        reason = await self._load(settings, run, drain)
        if reason is not None:
            await self._clean_up()
        await self._status.report(
            "Drained",
            "True" if reason is None else "False",
            "Quiet" if reason is None else "NotQuiet",
            reason or "queue and outbox are empty, ledgers do not change",
            phase="Checking",
        )
        async with asyncio.timeout(_CONCLUDE_S):
            untraced = await self._save_spans(run, began)
            verdict = await conclude(
                run,
                settings,
                database_url=world.database_url,
                provider_database_url=world.provider_database_url,
                dead_letters=await drain.dead_letters(),
                drain_reason=reason or untraced,
                began=began,
                since=began,
                versions=versions_of(
                    await self._postgres_version(), kubernetes=await world.cluster.version()
                ),
            )
        await asyncio.to_thread(write_report, run.report_path, [run])
        self._status.set(
            **recovery_as_status(median_and_max(recoveries(run.faults(), run.spans())))
        )
        await self._report(verdict)

    async def _load(self, settings: CampaignSettings, run: RunFolder, drain: Drain) -> str | None:
        """Place the orders under faults until all is quiet; why that was given up, or None."""
        world = self._world
        async with CampaignProgress(self._status, world.cluster.namespace) as progress:
            with FaultLog(run, progress) as faults:
                backend = KubernetesBackend(world.cluster, self._selector, world.admin)
                nemesis = Nemesis(
                    settings.plan(), backend, settings.fixes, world.admin, faults.append
                )
                deadline = asyncio.timeout(self._spec.deadline_s)
                try:
                    async with deadline:
                        return await conduct(
                            nemesis,
                            drain,
                            lambda: self._place_orders(settings, run, progress),
                            replicas=settings.replicas,
                            drain_timeout_s=settings.drain_timeout_s,
                            progress=progress,
                        )
                except _ABORTS as error:
                    if isinstance(error, TimeoutError) and deadline.expired():
                        return f"the deadline of {self._spec.deadline_s:.0f} s has passed"
                    logger.exception("campaign %s", self._spec.name)
                    return f"the run was aborted: {str(error) or repr(error)}"
                finally:
                    await backend.stop()

    async def _place_orders(
        self, settings: CampaignSettings, run: RunFolder, progress: CampaignProgress
    ) -> None:
        await self._job.run(settings, run.history_path, progress.order_finished)
        self._status.set_condition(
            "Loaded", "True", "AllPlaced", f"{settings.orders} orders have their outcome"
        )
        await self._status.write()

    async def _clean_up(self) -> None:
        """After a run that did not come to its end: no clients, and no pod that is armed."""
        try:
            await self._job.end()
            await disarm_orphans(self._world)
        except Exception:
            # The campaign must come to its end all the same, or no other could begin.
            logger.exception("campaign %s left something behind", self._spec.name)

    async def _save_spans(self, run: RunFolder, began: float) -> str | None:
        """Copy the run's spans into its folder; why that failed, or None."""
        await asyncio.sleep(_EXPORT_S)
        try:
            spans = await self._world.traces.spans(began, time.time())
        except TraceStoreError as error:
            return f"the traces are missing: {error}"
        await asyncio.to_thread(write_spans, run.spans_path, spans)
        return None

    async def _postgres_version(self) -> str:
        connection = await asyncpg.connect(self._world.database_url, timeout=10)
        try:
            return str(await connection.fetchval("SHOW server_version"))
        finally:
            await connection.close()

    async def _report(self, verdict: Verdict) -> None:
        self._status.set(**as_status(verdict), phase="Finished", endedAt=timestamp())
        words: dict[Result, tuple[State, str, str]] = {
            Result.PASS: ("True", "Passed", "every accepted order was charged once"),
            Result.FAIL: ("True", "Breach", "orders were lost or charged more than once"),
        }
        state, reason, message = words.get(
            verdict.verdict, ("False", "Inconclusive", " ".join(verdict.reasons))
        )
        await self._status.report("Verified", state, reason, message)

    async def _interrupted(self) -> None:
        await self._clean_up()
        await self._finish(
            "OperatorRestarted",
            "the operator was restarted in the middle of the campaign; make it anew",
        )

    async def _finish(self, reason: str, message: str) -> None:
        self._status.set(
            phase="Finished", verdict="inconclusive", reasons=[message], endedAt=timestamp()
        )
        await self._status.report("Verified", "False", reason, message)

    async def _refuse(self, reason: str, message: str) -> None:
        self._status.set(
            phase="Refused", verdict="inconclusive", reasons=[message], endedAt=timestamp()
        )
        await self._status.report("Accepted", "False", reason, message)
