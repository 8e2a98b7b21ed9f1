"""The workload of a campaign as a Job: clients outside of the system under test, and of the operator.

Its log is the history of what the clients were promised, one JSON line an event. The node keeps it
when the operator dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from onceproof_chaos import jsonl
from onceproof_chaos.settings import CampaignSettings
from onceproof_operator.api import ClusterError
from onceproof_operator.campaign_spec import CampaignSpec
from onceproof_operator.cluster import GROUP, VERSION, Cluster, Pod
from onceproof_operator.settings import OperatorSettings

logger = logging.getLogger(__name__)

_POLL_S: Final = 0.5
_ORDER: Final = "order_id"
_OUTCOME: Final = "outcome"
_SAVE_S: Final = 10.0
"""For the last lines of a log to get to the node's file, and to be read."""
_USER: Final = 65532


class WorkloadError(Exception):
    """The workload did not run to its end."""


class WorkloadJob:
    """Runs one workload.

    Args:
        cluster: where.
        settings: of the operator: image and producer.
        spec: of the campaign, which owns the Job.
    """

    def __init__(self, cluster: Cluster, settings: OperatorSettings, spec: CampaignSpec) -> None:
        self._cluster = cluster
        self._settings = settings
        self._spec = spec
        self.name = f"{spec.name[:40].rstrip('-.')}-workload-{spec.run}"

    async def run(
        self, campaign: CampaignSettings, history: Path, on_finished: Callable[[], None]
    ) -> None:
        """Place all orders, and write the history.

        Args:
            campaign: size, rate and seed.
            history: gets `history.jsonl`.
            on_finished: called for each order that has its outcome.

        Raises:
            WorkloadError: it failed, or its log is not complete; the history holds what there is.
        """
        await self._cluster.create_job(self._manifest(campaign))
        following = asyncio.create_task(self._follow(on_finished))
        try:
            while (succeeded := await self._cluster.job_finished(self.name)) is None:
                await asyncio.sleep(_POLL_S)
        except BaseException:
            await self._keep(history)
            raise
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        if not succeeded:
            await self._keep(history)
            raise WorkloadError(f"the workload failed: kubectl logs job/{self.name} says why")
        outcomes = await self._save_all(history, campaign.orders)
        if outcomes != campaign.orders:
            raise WorkloadError(
                f"the log of the workload has {outcomes} outcomes of {campaign.orders} orders: its "
                "pod is gone, or the node keeps less of a log (containerLogMaxSize)"
            )

    async def end(self) -> None:
        """Remove the Job with its pod if it still runs; else its log is there to be read."""
        if await self._cluster.job_finished(self.name) is None:
            await self.delete()

    async def delete(self) -> None:
        """Remove the Job with its pod."""
        await self._cluster.delete_job(self.name)

    async def _pod(self) -> Pod | None:
        pods = await self._cluster.pods(f"batch.kubernetes.io/job-name={self.name}")
        return pods[-1] if pods else None

    async def _follow(self, on_finished: Callable[[], None]) -> None:
        """Count outcomes as they are logged; for progress only, so a broken stream is harmless."""
        try:
            while (pod := await self._pod()) is None or pod.phase == "Pending":
                await asyncio.sleep(_POLL_S)
            async for line in self._cluster.log_lines(pod.name):
                if _OUTCOME in _history(line):
                    on_finished()
        except ClusterError as error:
            logger.info("progress of %s is not known any more: %s", self.name, error)

    async def _keep(self, history: Path) -> None:
        """Save what there is of a run that went wrong, if it can be had: why it did matters more."""
        with contextlib.suppress(ClusterError, OSError):
            async with asyncio.timeout(_SAVE_S):
                await self._save(history)

    async def _save_all(self, history: Path, outcomes: int) -> int:
        """Save the log, for a while again until it has so many outcomes; how many it has."""
        deadline = time.monotonic() + _SAVE_S
        while (saved := await self._save(history)) < outcomes and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_S)
        return saved

    async def _save(self, history: Path) -> int:
        pod = await self._pod()
        log = await self._cluster.log(pod.name) if pod else ""
        # Not `splitlines`, which also splits where JSON does not.
        rows = [(line, row) for line in log.split("\n") if (row := _history(line))]
        text = "".join(f"{line}\n" for line, _ in rows)
        await asyncio.to_thread(jsonl.write_atomic, history, text)
        return sum(_OUTCOME in row for _, row in rows)

    def _manifest(self, campaign: CampaignSettings) -> dict[str, Any]:
        settings = self._settings
        labels = {
            "app.kubernetes.io/name": "onceproof",
            "app.kubernetes.io/instance": settings.release,
            "app.kubernetes.io/component": "workload",
            "onceproof.dev/campaign": self._spec.name[:63].rstrip("-."),
        }
        arguments = {
            "--orders": campaign.orders,
            "--seed": campaign.seed,
            "--run": campaign.run,
            "--url": settings.producer_url,
            "--rate": campaign.rate_per_s,
            "--concurrency": campaign.clients,
        }
        container = {
            "name": "workload",
            "image": settings.image,
            "command": ["onceproof", "campaign", "workload"],
            "args": [word for name, value in arguments.items() for word in (name, str(value))],
            "resources": {
                "requests": {"cpu": "50m", "memory": "96Mi"},
                "limits": {"memory": "384Mi"},
            },
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
        }
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": self.name,
                "labels": labels,
                # Deleted with its campaign; no finalizer is waited for.
                "ownerReferences": [
                    {
                        "apiVersion": f"{GROUP}/{VERSION}",
                        "kind": "Campaign",
                        "name": self._spec.name,
                        "uid": self._spec.uid,
                        "controller": True,
                        "blockOwnerDeletion": False,
                    }
                ],
            },
            "spec": {
                "backoffLimit": 0,  # a second workload would place the same orders again
                "activeDeadlineSeconds": int(self._spec.deadline_s),
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "restartPolicy": "Never",
                        "automountServiceAccountToken": False,
                        "enableServiceLinks": False,
                        "imagePullSecrets": [{"name": n} for n in settings.image_pull_secrets],
                        "securityContext": {
                            "runAsNonRoot": True,
                            "runAsUser": _USER,
                            "runAsGroup": _USER,
                            "seccompProfile": {"type": "RuntimeDefault"},
                        },
                        "containers": [container],
                    },
                },
            },
        }


def _history(line: str) -> Mapping[str, Any]:
    """A line of the history; empty for others: standard error is in the same log, also as JSON."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    ours = isinstance(row, dict) and _ORDER in row and (_OUTCOME in row or "event" in row)
    return row if ours else {}
