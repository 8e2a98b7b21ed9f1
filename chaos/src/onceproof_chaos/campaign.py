"""One run: arm -> load -> disarm -> drain -> check, and a run folder that holds all of it."""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Protocol, Self

import aiohttp

from onceproof_chaos import jsonl
from onceproof_chaos.backend import ProcessBackend, Role
from onceproof_chaos.drain import Drain
from onceproof_chaos.environment import Servers, Stage, asyncpg_url, connect, stage
from onceproof_chaos.evidence import collect
from onceproof_chaos.faultlog import FaultEvent
from onceproof_chaos.history import HistoryWriter
from onceproof_chaos.nemesis import Nemesis
from onceproof_chaos.plan import Plan
from onceproof_chaos.runfolder import RunFolder, RunInfo
from onceproof_chaos.settings import CampaignSettings
from onceproof_chaos.verdict import Verdict
from onceproof_chaos.wiring import environments
from onceproof_chaos.workload import Workload, generate

_PACKAGES: Final = ("onceproof", "sqlalchemy", "asyncpg", "aiobotocore", "moto")


class Progress(Protocol):
    """Told how a run gets on; every method may be called often."""

    def phase(self, text: str) -> None:
        """What is being done now."""

    def order_finished(self) -> None:
        """A client is done with its order."""

    def fault(self, event: FaultEvent) -> None:
        """The nemesis saw or did something."""


async def run_campaign(
    settings: CampaignSettings,
    where: Servers,
    root: Path,
    progress: Progress,
    *,
    plan: Plan | None = None,
    command: str | None = None,
) -> tuple[RunFolder, Verdict]:
    """Run once, and judge it from the run folder.

    Args:
        settings: of the run.
        where: Postgres and SQS.
        root: folder that gets the run folder.
        progress: told how it gets on.
        plan: the faults, where they are not those of `settings`.
        command: the command line that repeats the run, where it is not that of `settings`.

    Raises:
        BackendError: a service did not start.
        ConfigurationError: servers cannot be used.
        ValueError: the faults do not fit into the workload.
    """
    plan = plan or settings.plan()
    run = RunFolder.create(root, settings.variant, settings.seed)
    run.write_plan(plan)
    began = time.time()
    progress.phase("creating databases and queues")
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(
            stage(
                where,
                run.path.name.replace("-", "_").lower(),
                visibility_s=settings.visibility_s,
                max_receive_count=settings.max_receive_count,
            )
        )
        broker = await stack.enter_async_context(connect(where))
        drain = Drain(place, broker, window_s=settings.visibility_s + 0.5)
        faults = stack.enter_context(_FaultLog(run, progress))
        drain_reason: str | None = "the run was aborted"
        try:
            drain_reason = await _carry_out(settings, plan, place, run, drain, faults, progress)
        except Exception as error:
            drain_reason = f"the run was aborted: {error}"
            raise
        finally:
            # Also what an aborted run leaves can be looked at, and is never a pass.
            ended = time.time()
            progress.phase("collecting evidence")
            await collect(
                run.evidence_dir,
                database_url=asyncpg_url(place.database_url),
                provider_database_url=asyncpg_url(place.provider_database_url),
                dlq=await drain.dead_letters(),
            )
            run.spans_path.touch()
            run.history_path.touch()
            run.write_info(
                RunInfo(
                    seed=settings.seed,
                    variant=settings.variant,
                    fixes=settings.fixes.as_dict(),
                    orders=settings.orders,
                    settings=_printable(settings),
                    versions=_versions(place.postgres_version),
                    command=command or settings.command(),
                    started_at=_load_began(run, began),
                    ended_at=ended,
                    duration_s=time.time() - began,
                    drained=drain_reason is None,
                    drain_reason=drain_reason,
                )
            )
            verdict = run.judge()
            run.write_verdict(verdict)
    return run, verdict


async def _carry_out(
    settings: CampaignSettings,
    plan: Plan,
    place: Stage,
    run: RunFolder,
    drain: Drain,
    faults: _FaultLog,
    progress: Progress,
) -> str | None:
    """Load under faults until all is quiet; why the drain gave up, or None."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        backend = ProcessBackend(environments(settings, place, run), run.logs, http)
        stack.push_async_callback(backend.stop)
        nemesis = Nemesis(plan, backend, settings.fixes, http, faults.append)
        stack.push_async_callback(nemesis.stop)
        progress.phase("starting services")
        await nemesis.start(settings.replicas)
        progress.phase("placing orders under faults")
        with HistoryWriter(run.history_path) as history:
            workload = Workload(
                generate(settings.seed, settings.orders),
                lambda: [i.http_url for i in backend.instances(Role.PRODUCER) if i.http_url],
                history,
                rate_per_s=settings.rate_per_s,
                concurrency=settings.clients,
                seed=settings.seed,
                on_finished=lambda _: progress.order_finished(),
            )
            async with _guarded(nemesis):
                await workload.run()
                progress.phase("waiting for the last faults")
                await drain.until_quiet(
                    timeout_s=settings.drain_timeout_s,
                    idle=lambda: nemesis.idle,
                    enough=lambda: not nemesis.pending and nemesis.idle,
                )
                await nemesis.disarm()
                progress.phase("draining")
                reason = await drain.until_quiet(
                    timeout_s=settings.drain_timeout_s, idle=lambda: nemesis.idle
                )
        progress.phase("stopping services")
        return reason


@asynccontextmanager
async def _guarded(nemesis: Nemesis) -> AsyncIterator[None]:
    """Cancel the block when the nemesis itself fails: what it does not see proves nothing."""
    try:
        async with asyncio.TaskGroup() as group:
            guard = group.create_task(nemesis.supervise())
            yield
            guard.cancel()
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


class _FaultLog:
    """Writes the nemesis' events to the run folder and to the progress display."""

    def __init__(self, run: RunFolder, progress: Progress) -> None:
        self._lines = jsonl.Appender(run.faults_path)
        self._progress = progress

    def append(self, event: FaultEvent) -> None:
        self._lines.append(event.as_json())
        self._progress.fault(event)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()


def _load_began(run: RunFolder, otherwise: float) -> float:
    """When the first client sent its first request."""
    return min((entry.started_at for entry in run.history().finished.values()), default=otherwise)


def _printable(settings: CampaignSettings) -> dict[str, Any]:
    document = asdict(settings)
    document["replicas"] = {role.value: count for role, count in settings.replicas.items()}
    return document


def _versions(postgres: str) -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "postgres": postgres,
        **{name: version(name) for name in _PACKAGES},
    }
