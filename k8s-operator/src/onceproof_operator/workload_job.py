"""The workload of a campaign as a Job: clients outside of the system under test, and of the operator.

Its log is the history of what the clients were promised, one JSON line an event. The node keeps it
when the operator dies.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from aiohttp import ClientError

from onceproof_chaos import jsonl
from onceproof_chaos.settings import CampaignSettings
from onceproof_operator.campaign_spec import CampaignSpec
from onceproof_operator.cluster import GROUP, VERSION, Cluster, Pod
from onceproof_operator.settings import OperatorSettings

logger = logging.getLogger(__name__)

_POLL_S: Final = 0.5
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
        self.name = f"{spec.name[:40]}-workload-{spec.run}"

    async def run(
        self, campaign: CampaignSettings, history: Path, on_finished: Callable[[], None]
    ) -> None:
        """Place all orders, and write the history.

        Args:
            campaign: size, rate and seed.
            history: gets `history.jsonl`.
            on_finished: called for each order that has its outcome.

        Raises:
            WorkloadError: it failed; the history holds what it did before.
        """
        await self._cluster.create_job(self._manifest(campaign))
        following = asyncio.create_task(self._follow(on_finished))
        try:
            while (succeeded := await self._cluster.job_finished(self.name)) is None:
                await asyncio.sleep(_POLL_S)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await self._save(history)
        if not succeeded:
            raise WorkloadError(f"the workload failed: kubectl logs job/{self.name} says why")

    async def delete(self) -> None:
        """Remove the Job with its pod."""
        await self._cluster.delete_job(self.name)

    async def _pod(self) -> Pod | None:
        pods = await self._cluster.pods(f"batch.kubernetes.io/job-name={self.name}")
        return pods[-1] if pods else None

    async def _follow(self, on_finished: Callable[[], None]) -> None:
        """Count outcomes as they are logged; for progress only, so a broken stream is harmless."""
        while (pod := await self._pod()) is None or pod.phase == "Pending":
            await asyncio.sleep(_POLL_S)
        try:
            async for line in self._cluster.log_lines(pod.name):
                if _is_history(line) and "outcome" in json.loads(line):
                    on_finished()
        except (ClientError, ValueError) as error:
            logger.info("progress of %s is not known any more: %s", self.name, error)

    async def _save(self, history: Path) -> None:
        pod = await self._pod()
        log = await self._cluster.log(pod.name) if pod else ""
        lines = [line for line in log.splitlines() if _is_history(line)]
        await asyncio.to_thread(jsonl.write_atomic, history, "".join(f"{line}\n" for line in lines))

    def _manifest(self, campaign: CampaignSettings) -> dict[str, Any]:
        settings = self._settings
        labels = {
            "app.kubernetes.io/name": "onceproof",
            "app.kubernetes.io/instance": settings.release,
            "app.kubernetes.io/component": "workload",
            "onceproof.dev/campaign": self._spec.name[:63],
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


def _is_history(line: str) -> bool:
    """Standard error is in the same log, and does not begin with a brace."""
    return line.startswith('{"')
