"""A run on this machine: databases of its own, services as processes, clients in this process."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import aiohttp

from onceproof_chaos.admin_client import AdminClient
from onceproof_chaos.backend import Backend, ProcessBackend, Role
from onceproof_chaos.conduct import FaultLog, Progress, conclude, conduct, versions_of
from onceproof_chaos.drain import Drain
from onceproof_chaos.environment import Servers, Stage, broker_of, stage
from onceproof_chaos.history import HistoryWriter
from onceproof_chaos.nemesis import Nemesis
from onceproof_chaos.plan import Plan
from onceproof_chaos.runfolder import RunFolder
from onceproof_chaos.settings import CampaignSettings
from onceproof_chaos.verdict import Verdict
from onceproof_chaos.wiring import environments, modules
from onceproof_chaos.workload import Order, Workload, generate


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
        where: Postgres and the broker.
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
                transactions=settings.transactions,
                relay=settings.relay,
            )
        )
        broker = await stack.enter_async_context(broker_of(place))
        drain = Drain(place, broker, window_s=settings.visibility_s + 0.5)
        faults = stack.enter_context(FaultLog(run, progress))
        drain_reason: str | None = "the run was aborted"
        try:
            drain_reason = await carry_out(
                settings, plan, place, run, drain, faults, progress,
                lambda load: load.send(generate(settings.seed, settings.orders, settings.run)),
            )  # fmt: skip
        except Exception as error:
            drain_reason = f"the run was aborted: {error}"
            raise
        finally:
            # Also what an aborted run leaves can be looked at, and is never a pass.
            progress.phase("collecting evidence")
            verdict = await conclude_stage(
                run, settings, place, drain,
                drain_reason=drain_reason, began=began, command=command,
            )  # fmt: skip
    return run, verdict


@dataclass(frozen=True, slots=True)
class Load:
    """What places a run's orders.

    Args:
        send: gives orders to the producers, and returns when each has an outcome.
        nemesis: of the run.
        backend: what runs.
    """

    send: Callable[[Sequence[Order]], Awaitable[None]]
    nemesis: Nemesis
    backend: Backend


async def carry_out(
    settings: CampaignSettings,
    plan: Plan,
    place: Stage,
    run: RunFolder,
    drain: Drain,
    faults: FaultLog,
    progress: Progress,
    place_orders: Callable[[Load], Awaitable[None]],
    *,
    special: Mapping[Role, Mapping[str, str]] = MappingProxyType({}),
) -> str | None:
    """Start the services, load them under faults until all is quiet, and stop them.

    Args:
        settings: of the run.
        plan: its faults.
        place: its databases and queues.
        run: its folder, which gets history and logs.
        drain: of the same place.
        faults: gets what the nemesis sees and does.
        progress: told how it gets on.
        place_orders: places the orders, all at once or in its own way.
        special: environment by role, beside what `settings` say.

    Returns:
        Why the drain gave up, or None.

    Raises:
        BackendError: a service did not start.
    """
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        environment = {
            role: {**variables, **special.get(role, {})}
            for role, variables in environments(settings, place, run).items()
        }
        backend = ProcessBackend(environment, run.logs, http, modules=modules(settings))
        stack.push_async_callback(backend.stop)
        nemesis = Nemesis(plan, backend, settings.fixes, AdminClient(http), faults.append)

        async def place_and_record() -> None:
            with HistoryWriter(run.history_path) as history:

                async def send(orders: Sequence[Order]) -> None:
                    await Workload(
                        orders,
                        lambda: [
                            i.http_url for i in backend.instances(Role.PRODUCER) if i.http_url
                        ],
                        history,
                        rate_per_s=settings.rate_per_s,
                        concurrency=settings.clients,
                        seed=settings.seed,
                        on_finished=lambda _: progress.order_finished(),
                    ).run()

                await place_orders(Load(send, nemesis, backend))

        reason = await conduct(
            nemesis,
            drain,
            place_and_record,
            replicas=settings.replicas,
            drain_timeout_s=settings.drain_timeout_s,
            progress=progress,
        )
        progress.phase("stopping services")
        return reason


async def conclude_stage(
    run: RunFolder,
    settings: CampaignSettings,
    place: Stage,
    drain: Drain,
    *,
    drain_reason: str | None,
    began: float,
    command: str | None,
) -> Verdict:
    """Judge a run on databases and queues of its own; see `conclude`."""
    return await conclude(
        run,
        settings,
        database_url=place.database_url,
        provider_database_url=place.provider_database_url,
        dead_letters=await drain.dead_letters(),
        drain_reason=drain_reason,
        began=began,
        versions=versions_of(place.postgres_version),
        command=command,
    )


__all__ = ["Load", "Progress", "carry_out", "conclude_stage", "run_campaign"]
