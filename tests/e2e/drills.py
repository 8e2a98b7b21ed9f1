"""CrashDrills: made, watched and taken down, as a user would do it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.e2e.cluster import GROUP
from tests.e2e.expectations import component
from tests.e2e.installation import Installation
from tests.e2e.ledgers import Rows
from tests.e2e.orders import Placed, place
from tests.e2e.traces import OrderSpans
from tests.e2e.waiting import until

KIND = f"crashdrills.{GROUP}"
_ARM_WITHIN_S = 60.0


def manifest(
    name: str,
    *,
    point: str,
    action: str = "kill",
    order: str,
    selector: Mapping[str, Any] | None = None,
    deadline_s: int = 120,
    **fields: object,
) -> dict[str, Any]:
    """A CrashDrill. `selector` is a LabelSelector; without one, the crash point's own component."""
    if selector is None:
        labels = {"app.kubernetes.io/component": point.partition(".")[0]}
        selector = {"matchLabels": labels}
    return {
        "apiVersion": f"{GROUP}/v1alpha1",
        "kind": "CrashDrill",
        "metadata": {"name": name},
        "spec": {
            "target": {"selector": selector},
            "crashPoint": point,
            "action": action,
            "match": {"order": order},
            "deadlineSeconds": deadline_s,
            **fields,
        },
    }


@dataclass(frozen=True)
class Drill:
    """One CrashDrill in the cluster; `since` is Unix time in seconds before it was made."""

    installation: Installation
    name: str
    order: str
    since: float = field(default_factory=time.time)

    def status(self) -> dict[str, Any]:
        """Its status now."""
        return dict(self.installation.cluster.get(KIND, self.name).get("status", {}))

    def condition(self, kind: str, *, within_s: float = 20) -> dict[str, Any]:
        """A condition, as soon as it is known to be true or false."""
        return until(
            within_s, f"{kind} of {self.name}", lambda: decided(condition(self.status(), kind))
        )

    def armed(self, *, within_s: float = _ARM_WITHIN_S) -> None:
        """Wait until its order may be placed."""

        def settled() -> dict[str, Any] | None:
            status = self.status()
            done = status.get("verdict") or condition(status, "Armed").get("status") == "True"
            return status if done else None

        status = until(within_s, f"{self.name} armed", settled)
        assert not status.get("verdict"), f"{self.name} ended before it was armed: {status}"

    def place(self) -> Placed:
        """Place its order."""
        return place(self.installation.producer, self.order)

    def verdict(self, *, within_s: float = 130) -> dict[str, Any]:
        """Its status once it has a verdict."""
        self.installation.cluster.kubectl(
            "wait", f"{KIND}/{self.name}", "--for=jsonpath={.status.verdict}",
            f"--timeout={within_s:.0f}s", timeout_s=within_s + 10,
        )  # fmt: skip
        return self.status()

    def rows(self) -> Rows:
        """What both ledgers have of its order."""
        return self.installation.ledgers.of_order(self.order)

    def spans(self) -> OrderSpans:
        """What the trace store has of its order."""
        return self.installation.traces.of_order(self.order, self.since)

    def delete(self) -> None:
        """Delete it."""
        self.installation.cluster.delete(KIND, self.name)


def make(installation: Installation, stem: str, **spec: Any) -> Drill:
    """Make a drill on an order of its own, unless `order` says which."""
    name = installation.fresh(stem)
    order = spec.pop("order", name)
    drill = Drill(installation, name, order)
    installation.cluster.create(manifest(name, order=order, **spec))
    return drill


def condition(status: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """A condition of a status; empty when it is not there."""
    return next((dict(c) for c in status.get("conditions", ()) if c["type"] == kind), {})


def decided(found: dict[str, Any]) -> dict[str, Any] | None:
    """A condition that is known to be true or false; None until then."""
    return found if found.get("status") in {"True", "False"} else None


def unix(text: str) -> float:
    """A timestamp of the API server in Unix seconds."""
    return datetime.fromisoformat(text).timestamp()


@dataclass(frozen=True)
class Finished:
    """A drill that was carried out to its verdict.

    Args:
        drill: it.
        pods: uid of each pod of its component before it, by name.
        placed: what its client was promised.
        status: its status at the end.
        took_s: from its creation to its verdict.
    """

    drill: Drill
    pods: Mapping[str, str]
    placed: Placed
    status: Mapping[str, Any]
    took_s: float


def carry_out(installation: Installation, point: str, action: str) -> Finished:
    """Make a drill, place its order, and wait for the verdict."""
    installation.settled()
    target = component(installation.variant, point)
    pods = {pod.name: pod.uid for pod in installation.cluster.pods(target) if not pod.leaving}
    selector = {"matchLabels": {"app.kubernetes.io/component": target}}
    drill = make(installation, f"{point}-{action}", point=point, action=action, selector=selector)
    drill.armed()
    placed = drill.place()
    status = drill.verdict()
    return Finished(drill, pods, placed, status, time.time() - drill.since)
