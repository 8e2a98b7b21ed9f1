"""The fault plan: which crash point fires on which order, fixed before the run starts.

A plan comes from its seed alone, so two variants meet the identical faults and a run can be repeated.
Faults are bound to orders, not to times: a time would hit another step on a slower machine. An order
can be overtaken, though: its process dies by somebody else's fault between the commit and the point,
and the redelivery never passes that point again. So each fault names spare orders from the later part
of the workload, and whichever of its orders comes first fires it. No order serves two faults.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from onceproof.crashpoints import (
    ALL_POINTS,
    CONSUMER_AFTER_CHARGE,
    CONSUMER_BEFORE_CHARGE,
    CRASH_POINTS,
    MAX_PARK_S,
    PROVIDER_AFTER_CAPTURE,
    RELAY_AFTER_PUBLISH,
    RELAY_BEFORE_PUBLISH,
    Action,
)

_STALL_POINTS: Final = (CONSUMER_AFTER_CHARGE, CONSUMER_BEFORE_CHARGE)
_PRIMARY_SHARE: Final = 0.8
"""Share of the workload over which first choices are spread; the rest gives time to recover."""
MAX_SPARES: Final = 2
_ORDER_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""What the producer takes."""


def order_id(seed: int, index: int, run: str = "") -> str:
    """The id of the workload's order number `index`, from 0.

    Args:
        seed: of the run.
        index: from 0.
        run: name of the run, where several share a database; without it each has its own.

    Raises:
        ValueError: the producer would refuse the id.
    """
    order = f"o-{seed}-{run}-{index:06d}" if run else f"o-{seed}-{index:06d}"
    if not _ORDER_ID.fullmatch(order):
        raise ValueError(
            f"{order!r} is no order id: at most 64 letters, digits, dots, underscores and hyphens"
        )
    return order


@dataclass(frozen=True, slots=True)
class Fault:
    """One planned fault; its JSON is what the admin port's `/crash-points` accepts.

    Args:
        id: name of the fault, unique in its plan.
        point: one of `onceproof.crashpoints.ALL_POINTS`.
        action: kill, stall or drop.
        orders: first choice first, then spares; empty matches any order.
        attempt: delivery attempt that must match; None matches any.
        park_s: seconds after which a park ends by itself; for a stall, how long it stands still.
    """

    id: str
    point: str
    action: Action
    orders: tuple[str, ...] = ()
    attempt: int | None = None
    park_s: float = 60.0

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types; `orders` keeps its sequence."""
        return asdict(self) | {"orders": list(self.orders), "action": self.action.value}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Fault:
        """What `as_json` gave.

        Raises:
            ValueError, KeyError, TypeError: it is not a fault.
        """
        attempt = document.get("attempt")
        return cls(
            id=str(document["id"]),
            point=str(document["point"]),
            action=Action(document["action"]),
            orders=tuple(str(order) for order in document.get("orders", ())),
            attempt=None if attempt is None else int(attempt),
            park_s=float(document.get("park_s", 60.0)),
        )

    def validate(self) -> None:
        """Refuse what no service would arm.

        Raises:
            ValueError: with the fault's id and what is wrong with it.
        """
        if self.point not in ALL_POINTS:
            raise ValueError(f"fault {self.id}: unknown crash point {self.point!r}")
        if self.point == PROVIDER_AFTER_CAPTURE and self.action is not Action.DROP:
            raise ValueError(f"fault {self.id}: only drop makes sense at {self.point}")
        if not 0 < self.park_s <= MAX_PARK_S:
            raise ValueError(f"fault {self.id}: park_s must be in (0, {MAX_PARK_S:.0f}] seconds")
        if self.attempt is not None and self.attempt < 1:
            raise ValueError(f"fault {self.id}: attempt counts from 1")


@dataclass(frozen=True, slots=True)
class Plan:
    """The faults of one run.

    Args:
        seed: of the run.
        orders: number of orders in the workload.
        faults: what happens to which of them.
        run: name of the run in its order ids, see `order_id`.
    """

    seed: int
    orders: int
    faults: tuple[Fault, ...] = ()
    run: str = ""

    def order_ids(self) -> list[str]:
        """The ids of the workload's orders."""
        return [order_id(self.seed, index, self.run) for index in range(self.orders)]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "seed": self.seed,
            "orders": self.orders,
            "run": self.run,
            "faults": [fault.as_json() for fault in self.faults],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Plan:
        """What `as_json` gave, validated.

        Raises:
            ValueError, KeyError, TypeError: it is not a plan.
        """
        plan = cls(
            seed=int(document["seed"]),
            orders=int(document["orders"]),
            faults=tuple(Fault.from_json(fault) for fault in document["faults"]),
            run=str(document.get("run", "")),
        )
        plan.validate()
        return plan

    def planned(self, action: Action | None = None) -> dict[str, int]:
        """Number of faults by crash point, in the pipeline's order; of one action or of all."""
        counts = Counter(f.point for f in self.faults if action is None or f.action is action)
        return {point: counts[point] for point in ALL_POINTS if counts[point]}

    def validate(self) -> None:
        """Refuse what could never be carried out as meant.

        Raises:
            ValueError: with the fault's id and what is wrong with it.
        """
        if self.orders < 1:
            raise ValueError(f"a workload needs at least one order, not {self.orders}")
        workload = set(self.order_ids())
        ids: set[str] = set()
        taken: dict[str, str] = {}
        for fault in self.faults:
            if not fault.id or fault.id in ids:
                raise ValueError(f"fault id {fault.id!r} is empty or used twice")
            ids.add(fault.id)
            fault.validate()
            for order in fault.orders:
                if order not in workload:
                    raise ValueError(f"fault {fault.id}: {order} is not in the workload")
                if order in taken:
                    raise ValueError(f"{order} serves two faults: {taken[order]} and {fault.id}")
                taken[order] = fault.id


def build_plan(
    seed: int,
    orders: int,
    *,
    kills_per_point: Mapping[str, int],
    stalls: int = 0,
    dropped: int = 0,
    unknown: int = 0,
    provider_timeouts: int = 0,
    park_s: float = 60.0,
    stall_s: float = 6.0,
    run: str = "",
    max_spares: int = MAX_SPARES,
) -> Plan:
    """The plan that belongs to these numbers and this seed; the same arguments give the same plan.

    Args:
        seed: of the run; the workload's order ids carry it.
        orders: size of the workload.
        kills_per_point: number of kills by crash point.
        stalls: consumers that stand still past the visibility timeout and go on as zombies.
        dropped: publishes that fail before anything is sent.
        unknown: publishes that are sent, but whose answer is lost.
        provider_timeouts: captures whose answer the payment provider never gives.
        park_s: seconds that a process waits for its kill.
        stall_s: seconds that a stall lasts; must exceed the visibility timeout.
        run: name of the run, in order and fault ids; the same faults meet the same orders without.
        max_spares: spare orders for each fault, as far as the workload has them.

    Raises:
        ValueError: more faults than orders, an unknown point, or a negative number.
    """
    kinds: list[tuple[str, Action, str, float]] = []
    for point, count in kills_per_point.items():
        if point not in CRASH_POINTS:
            raise ValueError(f"no kill at {point!r}; known: {', '.join(CRASH_POINTS)}")
        kinds += [(point, Action.KILL, "kill", park_s)] * _count(f"kills at {point}", count)
    for index in range(_count("stalls", stalls)):
        kinds.append((_STALL_POINTS[index % 2], Action.STALL, "stall", stall_s))
    for point, name, count in (
        (RELAY_BEFORE_PUBLISH, "drop", dropped),
        (RELAY_AFTER_PUBLISH, "unknown", unknown),
        (PROVIDER_AFTER_CAPTURE, "timeout", provider_timeouts),
    ):
        kinds += [(point, Action.DROP, name, park_s)] * _count(name, count)
    if len(kinds) > orders:
        raise ValueError(
            f"{len(kinds)} faults do not fit into {orders} orders, one order for each: "
            "use more orders or fewer faults"
        )

    rng = random.Random(f"plan-{seed}")
    rng.shuffle(kinds)
    choices = _choose(rng, orders, len(kinds), max_spares)
    numbers: Counter[tuple[str, str]] = Counter()
    faults = []
    prefix = f"{run}-" if run else ""
    for (point, action, name, park), chosen in zip(kinds, choices, strict=True):
        numbers[name, point] += 1
        faults.append(
            Fault(
                # A fault fires once in a process, by its id, and a pod outlives a run.
                id=f"{prefix}{name}-{point}-{numbers[name, point]:02d}",
                point=point,
                action=action,
                orders=tuple(order_id(seed, index, run) for index in chosen),
                park_s=park,
            )
        )
    plan = Plan(seed, orders, tuple(faults), run)
    plan.validate()
    return plan


def _count(what: str, value: int) -> int:
    if value < 0:
        raise ValueError(f"the number of {what} must not be negative")
    return value


def _choose(rng: random.Random, orders: int, faults: int, max_spares: int) -> list[list[int]]:
    """Order numbers for each fault: one in its own slot of the first part, then its spares."""
    if not faults:
        return []
    window = max(faults, int(orders * _PRIMARY_SHARE))
    primaries = [
        rng.randrange(slot * window // faults, (slot + 1) * window // faults)
        for slot in range(faults)
    ]
    spares_each = min(max_spares, orders // faults - 1)
    taken = set(primaries)
    free = [index for index in range(orders) if index not in taken]
    spares = free[len(free) - spares_each * faults :]
    # Both lists ascend: a spare is as far behind its first choice as the workload allows.
    return [[primary, *spares[slot::faults]] for slot, primary in enumerate(primaries)]
