"""The orders of one cell under its fault, on processes of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from onceproof.service import Broker
from onceproof_chaos.ablation.faults import AblationFault
from onceproof_chaos.ablation.pacing import Quiet, one_at_a_time
from onceproof_chaos.backend import Role
from onceproof_chaos.campaign import Load, carry_out
from onceproof_chaos.conduct import FaultLog, Unwatched
from onceproof_chaos.drain import Drain
from onceproof_chaos.environment import Stage
from onceproof_chaos.kafka import until_shared
from onceproof_chaos.plan import Plan
from onceproof_chaos.runfolder import RunFolder
from onceproof_chaos.settings import CampaignSettings
from onceproof_chaos.workload import Order, generate

_ALONE_TIMEOUT_S: Final = 30.0
"""For one order to come to its end; a kill takes a visibility timeout and a restart."""


@dataclass(slots=True)
class Trial:
    """The orders of one cell under its fault. `crowded` are those that were not alone."""

    settings: CampaignSettings
    fault: AblationFault
    plan: Plan
    place: Stage
    run: RunFolder
    crowded: list[str] = field(default_factory=list)

    async def load(self, broker: Broker, drain: Drain, log: FaultLog) -> str | None:
        """Place the orders, and wait until all is quiet; why the drain gave up, or None."""
        settings = self.settings
        orders = generate(settings.seed, settings.orders)

        async def place_orders(load: Load) -> None:
            await self._until_shared()
            if self.fault.slow:
                # Nobody is killed, so no bystander can be hurt; and slow ones take their time.
                await load.send(orders)
            else:
                await self._one_at_a_time(orders, load, broker)

        return await carry_out(
            settings,
            self.plan,
            self.place,
            self.run,
            drain,
            log,
            Unwatched(),
            place_orders,
            special=self.fault.environment(settings.seed),
        )

    async def _until_shared(self) -> None:
        """On Kafka a consumer that starts later would take what the first one works on."""
        kafka, consumers = self.place.servers.kafka, self.settings.replicas[Role.CONSUMER]
        if kafka is not None:
            await until_shared(kafka, self.place.queue, consumers, timeout_s=_ALONE_TIMEOUT_S)

    async def _one_at_a_time(self, orders: Sequence[Order], load: Load, broker: Broker) -> None:
        struck = {order for fault in self.plan.faults for order in fault.orders}

        async def place_one(order: Order) -> None:
            if order.order_id in struck:
                await asyncio.sleep(self.fault.rest_s)
            await load.send([order])

        async with Quiet.of(self.place, broker, lambda: load.nemesis.idle) as quiet:
            self.crowded += await one_at_a_time(
                orders, place_one, quiet, timeout_s=_ALONE_TIMEOUT_S
            )


__all__ = ["Trial"]
