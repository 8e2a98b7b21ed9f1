"""kopf's part: which objects there are, and what happened to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import kopf

from onceproof_operator.campaign import CampaignWork
from onceproof_operator.cluster import GROUP, VERSION
from onceproof_operator.conditions import Status
from onceproof_operator.drill import Drill
from onceproof_operator.drill_spec import DrillSpec
from onceproof_operator.tasks import Tasks, Work
from onceproof_operator.world import World


def registry(world: World, tasks: Tasks) -> kopf.OperatorRegistry:
    """The handlers of one operator."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    def login(**given: Any) -> Any:  # noqa: ANN401 - kopf's credentials
        return kopf.login_with_service_account(**given) or kopf.login_with_kubeconfig(**given)

    @kopf.on.startup(registry=handlers)
    def configure(settings: kopf.OperatorSettings, **_: Any) -> None:  # noqa: ANN401
        # A Role in one namespace: neither the cluster's CRDs nor its namespaces may be watched.
        settings.scanning.disabled = True
        settings.posting.enabled = False
        settings.watching.server_timeout = 300
        # A connection that died without a word would be watched for ever.
        settings.watching.client_timeout = 330
        settings.networking.request_timeout = 60

    @kopf.on.event(GROUP, VERSION, "crashdrills", registry=handlers)
    async def drill_seen(type: str | None, body: kopf.Body, **_: Any) -> None:  # noqa: A002, ANN401
        await _seen(tasks, type, body, partial(_drill, world, dict(body)))

    @kopf.on.event(GROUP, VERSION, "campaigns", registry=handlers)
    async def campaign_seen(type: str | None, body: kopf.Body, **_: Any) -> None:  # noqa: A002, ANN401
        await _seen(tasks, type, body, partial(CampaignWork.of, world, dict(body)))

    return handlers


async def _seen(
    tasks: Tasks,
    event: str | None,
    body: Mapping[str, Any],
    make: Callable[[], Work],
) -> None:
    uid = body["metadata"]["uid"]
    if event == "DELETED":
        await tasks.deleted(uid)
    else:
        tasks.start(uid, make)


def _drill(world: World, body: Mapping[str, Any]) -> Work:
    spec = DrillSpec.of(body)
    write = partial(world.cluster.write_status, "crashdrills", spec.name)
    return Drill(spec, Status(body.get("status"), write), world)
