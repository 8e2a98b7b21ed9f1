"""Named places at which a test may make this process die, stand still, or lose a publish.

A crash at a random moment rarely hits the few instructions that matter. A crash point is such a
moment with a name; a harness arms it for one order over the admin port, waits until it is reached,
and kills the process there. Nothing is armed in production: then a crash point is one dict look-up.

A reached `kill` or `stall` parks the whole process by blocking the calling thread, which is the event
loop's. That is the point: no other message in flight is acked meanwhile, and no SIGTERM handler
drains. The admin port answers from a thread of its own, so the harness still sees what happened.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final

from onceproof.errors import InjectedDropError
from onceproof.telemetry import record_crash_point


class Action(StrEnum):
    """What an armed crash point does."""

    KILL = "kill"
    STALL = "stall"
    DROP = "drop"


PRODUCER_AFTER_COMMIT: Final = "producer.after_commit"
RELAY_BEFORE_PUBLISH: Final = "relay.before_publish"
RELAY_AFTER_PUBLISH: Final = "relay.after_publish"
CONSUMER_BEFORE_CHARGE: Final = "consumer.before_charge"
CONSUMER_AFTER_CHARGE: Final = "consumer.after_charge"
CONSUMER_AFTER_COMMIT: Final = "consumer.after_commit"
CRASH_POINTS: Final = (
    PRODUCER_AFTER_COMMIT,
    RELAY_BEFORE_PUBLISH,
    RELAY_AFTER_PUBLISH,
    CONSUMER_BEFORE_CHARGE,
    CONSUMER_AFTER_CHARGE,
    CONSUMER_AFTER_COMMIT,
)
PROVIDER_AFTER_CAPTURE: Final = "provider.after_capture"
"""In the payment provider: captured, answer not sent. Only `drop` makes sense there."""
ALL_POINTS: Final = (*CRASH_POINTS, PROVIDER_AFTER_CAPTURE)
STAGE_BEFORE_COMMIT: Final = "stage.before_commit"
STAGE_AFTER_COMMIT: Final = "stage.after_commit"
STAGE_POINTS: Final = (STAGE_BEFORE_COMMIT, STAGE_AFTER_COMMIT)
"""In a stage between two Kafka topics: offsets are in the transaction, and it is or is not committed."""
KNOWN_POINTS: Final = (*ALL_POINTS, *STAGE_POINTS)

MAX_PARK_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Armed:
    """One fault that waits for its moment, and fires once.

    Args:
        id: the harness's name for the fault.
        point: one of `KNOWN_POINTS`.
        action: kill parks until killed, stall parks for `park_s` and goes on, drop raises.
        orders: whichever of these arrives first; empty matches any order.
        attempt: delivery attempt that must match; None matches any.
        park_s: seconds after which a park ends by itself, so that an abandoned one cannot wedge
            the service.
    """

    id: str
    point: str
    action: Action
    orders: frozenset[str] = frozenset()
    attempt: int | None = None
    park_s: float = 60.0

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Armed:
        """Parse and validate.

        Raises:
            ValueError: with what is wrong, in words for whoever sent it.
        """
        unknown = set(document) - {"id", "point", "action", "orders", "attempt", "park_s"}
        if unknown:
            raise ValueError(f"unknown fields: {', '.join(sorted(unknown))}")
        point = document.get("point")
        if point not in KNOWN_POINTS:
            raise ValueError(f"unknown crash point {point!r}; known: {', '.join(KNOWN_POINTS)}")
        action = document.get("action")
        if action not in list(Action):
            raise ValueError(f"unknown action {action!r}; known: {', '.join(Action)}")
        orders = document.get("orders", [])
        if not isinstance(orders, list) or not all(isinstance(o, str) and o for o in orders):
            raise ValueError("orders must be a list of non-empty strings")
        attempt = document.get("attempt")
        if attempt is not None and (type(attempt) is not int or attempt < 1):
            raise ValueError("attempt must be a whole number from 1")
        park_s = document.get("park_s", 60.0)
        if isinstance(park_s, bool) or not isinstance(park_s, int | float):
            raise ValueError("park_s must be a number of seconds")  # noqa: TRY004 - bad input
        if not 0 < park_s <= MAX_PARK_S:
            raise ValueError(f"park_s must be above 0 and at most {MAX_PARK_S:.0f} seconds")
        fault_id = document.get("id")
        if not isinstance(fault_id, str) or not fault_id:
            raise ValueError("id must be a non-empty string")
        return cls(fault_id, point, Action(action), frozenset(orders), attempt, float(park_s))

    def as_json(self) -> dict[str, Any]:
        """The form that `from_json` reads."""
        return asdict(self) | {"orders": sorted(self.orders)}

    def matches(self, order: str, attempt: int) -> bool:
        """Whether this passage is the one that the fault waits for."""
        return (not self.orders or order in self.orders) and self.attempt in (None, attempt)


@dataclass(frozen=True, slots=True)
class Reached:
    """What the harness learns about a crash point that fired. `at` is Unix time in seconds."""

    seq: int
    fault: str
    point: str
    action: Action
    order: str
    attempt: int
    event_id: str
    at: float
    trace_id: str
    span_id: str

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


@dataclass
class CrashPoints:
    """The faults armed in one process, and the log of those that were reached.

    Thread-safe: the admin thread arms and waits while the event loop's thread passes by.
    """

    _by_point: dict[str, dict[str, Armed]] = field(default_factory=dict)
    _reached: list[Reached] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def arm(self, faults: Iterable[Armed]) -> None:
        """Add faults, each replacing one of the same id. A fault that already fired stays fired."""
        with self._changed:
            fired = {reached.fault for reached in self._reached}
            for fault in faults:
                if fault.id not in fired:
                    self._remove(fault.id)
                    self._by_point.setdefault(fault.point, {})[fault.id] = fault

    def disarm(self, ids: Iterable[str] | None = None) -> None:
        """Remove faults by id, or all. A process that is already parked stays parked."""
        with self._changed:
            if ids is None:
                self._by_point.clear()
            else:
                for fault_id in ids:
                    self._remove(fault_id)
            self._changed.notify_all()

    def armed(self) -> list[Armed]:
        """Faults that have not fired."""
        with self._changed:
            return [fault for faults in self._by_point.values() for fault in faults.values()]

    def is_armed(self, *points: str) -> bool:
        """Whether a fault waits at any of these crash points."""
        return any(point in self._by_point for point in points)

    def reached(self, *, after: int = 0, wait_s: float = 0.0) -> list[Reached]:
        """Faults that fired with a sequence number above `after`; blocks up to `wait_s` for one."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._reached) > after, timeout=wait_s)
            return self._reached[after:]

    def hit(
        self, point: str, order: str, attempt: int = 1, event_id: str = "", message_id: str = ""
    ) -> None:
        """Pass a crash point.

        Raises:
            InjectedDropError: an armed `drop` matched.
        """
        if point not in self._by_point:
            return
        with self._changed:
            faults = self._by_point.get(point, {})
            fault = next((f for f in faults.values() if f.matches(order, attempt)), None)
            if fault is None:
                return
            self._remove(fault.id)
        # The span must be with the exporter before anyone may kill this process.
        trace_id, span_id = record_crash_point(
            point,
            action=fault.action,
            order=order,
            attempt=attempt,
            event_id=event_id,
            message_id=message_id,
        )
        with self._changed:
            self._reached.append(
                Reached(
                    seq=len(self._reached) + 1,
                    fault=fault.id,
                    point=point,
                    action=fault.action,
                    order=order,
                    attempt=attempt,
                    event_id=event_id,
                    at=time.time(),
                    trace_id=trace_id,
                    span_id=span_id,
                )
            )
            self._changed.notify_all()
        if fault.action is Action.DROP:
            raise InjectedDropError(f"dropped at {point} by fault {fault.id}")
        time.sleep(fault.park_s)

    def _remove(self, fault_id: str) -> None:
        for point, faults in list(self._by_point.items()):
            faults.pop(fault_id, None)
            if not faults:
                del self._by_point[point]


crash_points: Final = CrashPoints()
"""The process's own crash points: a process is what dies."""

crash_point: Final = crash_points.hit
"""Pass a crash point; see `CrashPoints.hit`."""
