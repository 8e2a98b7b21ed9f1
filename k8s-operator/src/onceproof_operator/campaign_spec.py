"""What a Campaign asks for, and how a verdict reads in its status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from onceproof_chaos.backend import Role
from onceproof_chaos.settings import KUBERNETES, POLLING, CampaignSettings
from onceproof_chaos.verdict import Verdict
from onceproof_operator.conditions import unix

_UID_CHARS = 8
OVER: Final = frozenset({"Refused", "Finished"})
"""Phases after which nothing more happens."""


def is_running(body: Mapping[str, Any]) -> bool:
    """Whether a Campaign is at work: it was begun, and is not over."""
    return body.get("status", {}).get("phase", "Pending") not in {"Pending", *OVER}


@dataclass(frozen=True, slots=True)
class CampaignSpec:
    """One Campaign. Times in seconds, `created` is Unix time."""

    name: str
    uid: str
    created: float
    deadline_s: float
    fields: Mapping[str, Any]

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """From an object that the schema admitted."""
        meta, spec = body["metadata"], body["spec"]
        return cls(
            name=meta["name"],
            uid=meta["uid"],
            created=unix(meta["creationTimestamp"]),
            deadline_s=float(spec.get("deadlineSeconds", 1800)),
            fields=spec,
        )

    @property
    def run(self) -> str:
        """In the ids of orders and faults: the database and the pods outlive a campaign."""
        return self.uid[:_UID_CHARS]

    def settings(
        self,
        *,
        visibility_s: float,
        replicas: Mapping[Role, int],
        broker: str = "sqs",
        relay: str = POLLING,
    ) -> CampaignSettings:
        """What the proving ground does for it.

        Raises:
            ValueError: the faults do not fit into the workload.
        """
        faults = self.fields["faults"]
        settings = CampaignSettings(
            variant=self.fields["variant"],
            orders=self.fields["orders"],
            seed=self.fields["seed"],
            kills_per_point=faults.get("kills", {}),
            stalls=faults.get("stalls", 0),
            dropped=faults.get("dropped", 0),
            unknown=faults.get("unknown", 0),
            provider_timeouts=faults.get("providerTimeouts", 0),
            rate_per_s=float(self.fields["ratePerSecond"]),
            clients=self.fields["concurrency"],
            replicas=replicas,
            visibility_s=visibility_s,
            run=self.run,
            backend=KUBERNETES,
            broker=broker,
            relay=relay,
        )
        settings.plan()
        return settings


def as_status(verdict: Verdict) -> dict[str, Any]:
    """The counts of a verdict under the names of the status."""
    return {
        "orders": verdict.orders,
        "accepted": verdict.accepted,
        "lost": verdict.lost,
        "doubleCharged": verdict.double_charged,
        "unexpected": verdict.unexpected,
        "mismatched": verdict.mismatched,
        "recovered": verdict.recovered,
        "deadLettered": verdict.dead_lettered,
        "redeliveries": verdict.redeliveries,
        "deduplicated": verdict.deduplicated,
        "dedupHitRate": round(verdict.dedup_hit_rate, 4),
        "kills": sum(verdict.kills.values()),
        "killsByPoint": dict(verdict.kills),
        "verdict": verdict.verdict.value,
        "reasons": list(verdict.reasons),
    }


def recovery_as_status(seconds: tuple[float, float] | None) -> dict[str, Any]:
    """Median and maximum until a killed delivery was handled again, under the names of the status."""
    if seconds is None:
        return {}
    median, longest = seconds
    return {"recoveryMedianSeconds": round(median, 3), "recoveryMaxSeconds": round(longest, 3)}
