"""The faults of the ablation, each alone, so that what breaks can only be its doing.

A fault strikes a few orders of a small workload. They belong to patient clients: a client that leaves
after an unknown answer was promised nothing, and its order cannot count as lost.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from onceproof.crashpoints import (
    CONSUMER_AFTER_CHARGE,
    CONSUMER_AFTER_COMMIT,
    CONSUMER_BEFORE_CHARGE,
    CRASH_POINTS,
    PRODUCER_AFTER_COMMIT,
    PROVIDER_AFTER_CAPTURE,
    RELAY_AFTER_PUBLISH,
    RELAY_BEFORE_PUBLISH,
    Action,
)
from onceproof_chaos.backend import Role
from onceproof_chaos.plan import Fault, Plan
from onceproof_chaos.workload import generate

VISIBILITY_S: Final = 2.0
"""Visibility timeout of every cell: short, because most faults end with it."""
STRIKES: Final = 2
"""Orders that a fault strikes in one cell; each costs about a visibility timeout."""
MIN_ORDERS: Final = 4
_REST_S: Final = 6.0
"""Longer than an HTTP server keeps an idle connection (5 s). A zombie that wakes with a connection
which the provider has closed meanwhile fails by that accident; with none in its pool it opens one."""
_PARK_S: Final = 60.0
_STALL_S: Final = VISIBILITY_S + 2
_SLOW_FROM_S: Final = 0.5 * VISIBILITY_S
_SLOW_UP_TO_S: Final = 1.75 * VISIBILITY_S
"""Seconds that a slow provider takes, evenly distributed. Some answers must be faster than the
visibility timeout: without a heartbeat, an order whose handler is always slower is never acked, and
circles until it is dead-lettered."""
_SLOW_TIMEOUT_S: Final = 10.0
"""The consumer must wait for a slow answer, and not give it up."""


class Leg(StrEnum):
    """Where on an order's way the fault is."""

    NONE = "none"
    DUAL_WRITE = "dual write"
    DUPLICATE_PUBLISH = "duplicate publish"
    LEG_1 = "Leg 1"
    LEG_3 = "Leg 3"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class AblationFault:
    """One column of theory: a single kind of fault.

    Args:
        name: on the command line, in files and folders.
        title: in tables.
        leg: the failure leg that it is about.
        point: crash point that is armed; None where none is.
        action: what it does there; None with `point`.
        slow: the payment provider takes longer than the visibility timeout, for some orders.
        rest_s: seconds without any traffic before an order that is struck.
    """

    name: str
    title: str
    leg: Leg
    point: str | None = None
    action: Action | None = None
    slow: bool = False
    rest_s: float = 0.0

    @property
    def strikes(self) -> bool:
        """Whether anything is injected; not so in the negative control."""
        return self.point is not None or self.slow

    @property
    def certain(self) -> bool:
        """Whether every struck order must show the breach that is predicted.

        A slow handler is too late by chance: its ack may still come before the next receive.
        """
        return self.point is not None

    def plan(self, seed: int, orders: int) -> Plan:
        """The same faults on the same orders for every variant.

        Raises:
            ValueError: the workload is too small.
        """
        if self.point is None or self.action is None:
            return Plan(seed, orders)
        patient = [order.order_id for order in generate(seed, orders) if not order.impatient]
        if len(patient) < STRIKES:
            raise ValueError(
                f"{orders} orders are too few with seed {seed}: {STRIKES} patient clients are needed"
            )
        struck = sorted(random.Random(f"ablation-{seed}-{self.name}").sample(patient, STRIKES))
        plan = Plan(
            seed,
            orders,
            tuple(
                Fault(
                    f"{self.name}-{number:02d}",
                    self.point,
                    self.action,
                    (order,),
                    park_s=_STALL_S if self.action is Action.STALL else _PARK_S,
                )
                for number, order in enumerate(struck, start=1)
            ),
        )
        plan.validate()
        return plan

    def replicas(self, *, outbox: bool) -> dict[Role, int]:
        """Processes of each service: one, and a second consumer where the first keeps its message."""
        keeps = self.slow or self.action is Action.STALL
        return {
            Role.PROVIDER: 1,
            Role.CONSUMER: 2 if keeps else 1,
            Role.RELAY: 1 if outbox else 0,
            Role.PRODUCER: 1,
        }

    def environment(self, seed: int) -> Mapping[Role, Mapping[str, str]]:
        """What the fault needs in the services' configuration, by role."""
        if not self.slow:
            return {}
        return {
            Role.PROVIDER: {
                "ONCEPROOF_LATENCY_MS": f"{1000 * _SLOW_FROM_S:.0f}",
                "ONCEPROOF_JITTER_MS": f"{1000 * (_SLOW_UP_TO_S - _SLOW_FROM_S):.0f}",
                "ONCEPROOF_FAULT_SEED": str(seed),
            },
            Role.CONSUMER: {"ONCEPROOF_PROVIDER_TIMEOUT_S": f"{_SLOW_TIMEOUT_S:.0f}"},
        }


_LEG_OF_KILL: Final = {
    PRODUCER_AFTER_COMMIT: Leg.DUAL_WRITE,
    RELAY_BEFORE_PUBLISH: Leg.DUAL_WRITE,
    RELAY_AFTER_PUBLISH: Leg.DUPLICATE_PUBLISH,
    CONSUMER_BEFORE_CHARGE: Leg.LEG_1,
    CONSUMER_AFTER_CHARGE: Leg.LEG_1,
    CONSUMER_AFTER_COMMIT: Leg.LEG_3,
}


def _at(action: Action, point: str, leg: Leg, title: str | None = None) -> AblationFault:
    return AblationFault(f"{action}-{point}", title or f"{action} at {point}", leg, point, action)


NONE: Final = AblationFault("none", "no fault", Leg.NONE)
KILLS: Final = {point: _at(Action.KILL, point, _LEG_OF_KILL[point]) for point in CRASH_POINTS}
DROPPED: Final = _at(Action.DROP, RELAY_BEFORE_PUBLISH, Leg.DUAL_WRITE, "publish fails")
UNKNOWN: Final = _at(
    Action.DROP, RELAY_AFTER_PUBLISH, Leg.DUPLICATE_PUBLISH, "publish with unknown outcome"
)
STALLS: Final = {
    point: replace(_at(Action.STALL, point, Leg.TIMEOUT), rest_s=rest_s)
    for point, rest_s in (
        (CONSUMER_BEFORE_CHARGE, _REST_S),
        (CONSUMER_AFTER_CHARGE, 0.0),
        (CONSUMER_AFTER_COMMIT, 0.0),
    )
}
PROVIDER_TIMEOUT: Final = _at(
    Action.DROP, PROVIDER_AFTER_CAPTURE, Leg.LEG_1, "provider times out after its capture"
)
SLOW: Final = AblationFault(
    "slow-handler", "handler slower than the visibility timeout", Leg.TIMEOUT, slow=True
)

FAULTS: Final = {
    fault.name: fault
    for fault in (
        NONE,
        KILLS[PRODUCER_AFTER_COMMIT],
        KILLS[RELAY_BEFORE_PUBLISH],
        DROPPED,
        KILLS[RELAY_AFTER_PUBLISH],
        UNKNOWN,
        KILLS[CONSUMER_BEFORE_CHARGE],
        KILLS[CONSUMER_AFTER_CHARGE],
        PROVIDER_TIMEOUT,
        KILLS[CONSUMER_AFTER_COMMIT],
        *STALLS.values(),
        SLOW,
    )
}
"""By name, in an order's own sequence."""
