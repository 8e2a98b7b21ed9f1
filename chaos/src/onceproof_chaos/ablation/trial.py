"""The orders of one cell under its fault, on processes of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from onceproof.brokers.sqs import SqsBroker
from onceproof_chaos.ablation.faults import AblationFault
from onceproof_chaos.ablation.pacing import Quiet, one_at_a_time
from onceproof_chaos.admin_client import AdminClient
from onceproof_chaos.backend import ProcessBackend, Role
from onceproof_chaos.conduct import FaultLog, conduct
from onceproof_chaos.drain import Drain
from onceproof_chaos.environment import Stage
from onceproof_chaos.faultlog import FaultEvent
from onceproof_chaos.history import HistoryWriter
from onceproof_chaos.nemesis import Nemesis
from onceproof_chaos.plan import Plan
from onceproof_chaos.runfolder import RunFolder
from onceproof_chaos.settings import CampaignSettings
from onceproof_chaos.wiring import environments
from onceproof_chaos.workload import Order, Workload, generate

_ALONE_TIMEOUT_S: Final = 30.0
"""For one order to come to its end; a kill takes a visibility timeout and a restart."""


class Unwatched:
    """Progress of a cell, of which there are hundreds: nobody looks at one."""

    def phase(self, text: str) -> None:
        """Nothing."""

    def order_finished(self) -> None:
        """Nothing."""

    def fault(self, event: FaultEvent) -> None:
        """Nothing; it is in the run folder."""


@dataclass(slots=True)
class Trial:
    """The orders of one cell under its fault. `crowded` are those that were not alone."""

    settings: CampaignSettings
    fault: AblationFault
    plan: Plan
    place: Stage
    run: RunFolder
    crowded: list[str] = field(default_factory=list)

    async def load(self, broker: SqsBroker, drain: Drain, log: FaultLog) -> str | None:
        """Place the orders, and wait until all is quiet; why the drain gave up, or None."""
        settings = self.settings
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(aiohttp.ClientSession())
            backend = ProcessBackend(self._environments(), self.run.logs, http)
            stack.push_async_callback(backend.stop)
            nemesis = Nemesis(self.plan, backend, settings.fixes, AdminClient(http), log.append)
            history = stack.enter_context(HistoryWriter(self.run.history_path))

            async def place(orders: Sequence[Order]) -> None:
                await Workload(
                    orders,
                    lambda: [i.http_url for i in backend.instances(Role.PRODUCER) if i.http_url],
                    history,
                    rate_per_s=settings.rate_per_s,
                    concurrency=settings.clients,
                    seed=settings.seed,
                ).run()

            async def place_orders() -> None:
                orders = generate(settings.seed, settings.orders)
                if self.fault.slow:
                    # Nobody is killed, so no bystander can be hurt; and slow ones take their time.
                    await place(orders)
                    return
                struck = {order for fault in self.plan.faults for order in fault.orders}

                async def place_one(order: Order) -> None:
                    if order.order_id in struck:
                        await asyncio.sleep(self.fault.rest_s)
                    await place([order])

                async with Quiet.of(self.place, broker, lambda: nemesis.idle) as quiet:
                    self.crowded += await one_at_a_time(
                        orders, place_one, quiet, timeout_s=_ALONE_TIMEOUT_S
                    )

            return await conduct(
                nemesis,
                drain,
                place_orders,
                replicas=settings.replicas,
                drain_timeout_s=settings.drain_timeout_s,
                progress=Unwatched(),
            )

    def _environments(self) -> dict[Role, dict[str, str]]:
        special = self.fault.environment(self.settings.seed)
        return {
            role: {**variables, **special.get(role, {})}
            for role, variables in environments(self.settings, self.place, self.run).items()
        }


__all__ = ["Trial", "Unwatched"]
