"""What a CrashDrill asks for, and which of its combinations the pipeline answers how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from onceproof.crashpoints import (
    CONSUMER_AFTER_COMMIT,
    MAX_PARK_S,
    RELAY_AFTER_PUBLISH,
    Action,
)
from onceproof.variants import Fixes
from onceproof_chaos.plan import Fault
from onceproof_operator.cluster import selector_text
from onceproof_operator.conditions import unix

FAULT_PREFIX: Final = "drill-"
_PAST_THE_DEADLINE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class DrillSpec:
    """One CrashDrill. Times in seconds, `created` is Unix time.

    Args:
        name: of the object.
        uid: of the object; the fault carries it.
        created: when it was made; the deadline counts from here, also over operators' restarts.
        selector: of the target, as the API takes it.
        point: crash point.
        action: kill, stall or drop.
        order: the order that meets the fault.
        attempt: delivery attempt that must match, or None.
        deadline_s: until the drill gives up.
        stall_s: how long a stall lasts, or None for the installation's default.
    """

    name: str
    uid: str
    created: float
    selector: str
    point: str
    action: Action
    order: str
    attempt: int | None
    deadline_s: float
    stall_s: float | None

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """From an object that the schema admitted.

        Raises:
            ValueError: the selector is empty.
        """
        meta, spec = body["metadata"], body["spec"]
        return cls(
            name=meta["name"],
            uid=meta["uid"],
            created=unix(meta["creationTimestamp"]),
            selector=selector_text(spec["target"]["selector"]),
            point=spec["crashPoint"],
            action=Action(spec["action"]),
            order=spec["match"]["order"],
            attempt=spec["match"].get("deliveryAttempt"),
            deadline_s=float(spec.get("deadlineSeconds", 180)),
            stall_s=spec.get("stallSeconds"),
        )

    @property
    def fault_id(self) -> str:
        """The name under which pods are armed."""
        return f"{FAULT_PREFIX}{self.uid}"

    def stall_or(self, default_s: float) -> float:
        """How long a stall lasts."""
        return self.stall_s or default_s

    def fault(self, default_stall_s: float) -> Fault:
        """What the pods are armed with."""
        if self.action is Action.STALL:
            park_s = self.stall_or(default_stall_s)
        else:
            # Longer than the drill may last: a pod must not walk on before it is deleted.
            park_s = min(MAX_PARK_S, self.deadline_s + _PAST_THE_DEADLINE_S)
        return Fault(self.fault_id, self.point, self.action, (self.order,), self.attempt, park_s)

    def roles(self, fixes: Fixes) -> frozenset[str]:
        """Components that pass the crash point; without the outbox the producer publishes."""
        role = self.point.partition(".")[0]
        return frozenset({"producer" if role == "relay" and not fixes.outbox else role})

    def stalls_alone(self, *, relays_share: bool) -> bool:
        """Whether nobody sends while the relay stands still; see `dedup_expected`."""
        return not relays_share and self.action is Action.STALL and self.point.startswith("relay.")

    def dedup_expected(self, fixes: Fixes, *, relays_share: bool = True) -> bool:
        """Whether the same event must come twice to completion, so that the inbox has to absorb it.

        Args:
            fixes: of the installation.
            relays_share: whether another relay takes over what one that stalls has claimed. The single
                reader of a replication slot goes on where it stood.
        """
        if not (fixes.inbox and fixes.outbox and fixes.dedup_on_event_id):
            return False
        if self.stalls_alone(relays_share=relays_share):
            return False
        twice = self.point in {CONSUMER_AFTER_COMMIT, RELAY_AFTER_PUBLISH}
        zombie = self.action is Action.STALL and self.point.startswith(("consumer.", "relay."))
        return twice or zombie
