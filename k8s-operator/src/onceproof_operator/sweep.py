"""Disarms what nobody waits for: a drill deleted while no operator ran left its faults armed."""

from __future__ import annotations

import logging

from onceproof_chaos.admin_client import AdminError
from onceproof_operator.drill_spec import FAULT_PREFIX
from onceproof_operator.world import World

logger = logging.getLogger(__name__)


async def disarm_orphans(world: World) -> None:
    """Take back every armed fault that belongs to no unfinished drill.

    A campaign does not outlive its operator, so its faults are orphans too.
    """
    drills = {
        f"{FAULT_PREFIX}{drill['metadata']['uid']}"
        for drill in await world.cluster.objects("crashdrills")
        if not drill.get("status", {}).get("verdict")
    }
    for pod in await world.cluster.pods("onceproof.dev/chaos=enabled"):
        if not pod.ip:
            continue
        try:
            orphans = [
                fault for fault in await world.admin.armed(pod.admin_url) if fault not in drills
            ]
            if orphans:
                logger.info("%s: disarming %s", pod.name, ", ".join(orphans))
                await world.admin.disarm(pod.admin_url, orphans)
        except AdminError as error:
            # One pod that does not answer must not keep the operator from the others.
            logger.warning("%s not swept: %s", pod.name, error)
