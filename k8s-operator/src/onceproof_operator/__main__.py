"""`onceproof-operator`: kopf's operator, its HTTP port, and the sweep that an earlier one may owe."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys

import kopf
from pydantic import ValidationError

from onceproof.admin import Health
from onceproof.errors import ConfigurationError
from onceproof.service.logs import configure_logging
from onceproof.service.settings import explain
from onceproof.service.tracing import configure_tracing
from onceproof_operator.api import ClusterError
from onceproof_operator.handlers import registry
from onceproof_operator.http import serve
from onceproof_operator.settings import OperatorSettings
from onceproof_operator.sweep import disarm_orphans
from onceproof_operator.tasks import Tasks
from onceproof_operator.world import World

logger = logging.getLogger(__name__)

_EX_CONFIG = 78
_ASK_AGAIN_S = 30.0


def main() -> int:
    """Run the operator until it is told to stop; the exit code."""
    try:
        settings = OperatorSettings()
    except ValidationError as error:
        sys.stderr.write(f"error: {explain(error)}\n")
        return _EX_CONFIG
    configure_logging(settings.service_name, settings.log_level)
    # One line for each event of each object, and a drill's status is an event.
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    provider = configure_tracing(
        settings.service_name,
        socket.gethostname(),
        spans_file=settings.spans_file,
        otlp_endpoint=settings.otlp_endpoint,
    )
    logger.info("starting with %s", json.dumps(settings.printable()))
    try:
        asyncio.run(operate(settings))
    except ConfigurationError as error:
        sys.stderr.write(f"error: {error}\n")
        return _EX_CONFIG
    finally:
        if provider is not None:
            provider.shutdown()
    return 0


async def operate(settings: OperatorSettings) -> None:
    """Serve HTTP and carry out drills and campaigns until SIGTERM."""
    health = Health()
    health.not_ready("operator", "starting")
    tasks = Tasks()
    ready = asyncio.Event()
    # kopf would name itself after the user, and a uid without an entry in passwd has no name.
    os.environ.setdefault("POD_ID", socket.gethostname())
    async with World.open(settings) as world, serve(settings, health):
        watching = [asyncio.create_task(_when_ready(ready, health))]
        if await lacks_rights(world, health):
            # It goes on: a drill then says which right it lacks, where its user looks.
            watching.append(asyncio.create_task(_until_granted(world, health)))
        else:
            await disarm_orphans(world)
        try:
            await kopf.operator(
                registry=registry(world, tasks),
                namespaces=[settings.namespace],
                standalone=True,
                ready_flag=ready,
            )
        finally:
            for task in watching:
                task.cancel()
            await tasks.stop()
            await asyncio.gather(*watching, return_exceptions=True)


async def lacks_rights(world: World, health: Health) -> bool:
    """Whether the ServiceAccount lacks rights; readiness says which."""
    missing = ", ".join(await world.cluster.missing_rights())
    if not missing:
        health.ready("rights")
        return False
    logger.error("the operator's ServiceAccount may not %s", missing)
    health.not_ready("rights", f"the ServiceAccount may not {missing}")
    return True


async def _until_granted(world: World, health: Health) -> None:
    while True:
        await asyncio.sleep(_ASK_AGAIN_S)
        try:
            if not await lacks_rights(world, health):
                return
        except ClusterError as error:
            logger.warning("rights not known: %s", error)


async def _when_ready(ready: asyncio.Event, health: Health) -> None:
    await ready.wait()
    health.ready("operator")


if __name__ == "__main__":
    sys.exit(main())
