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
from onceproof_operator.handlers import registry
from onceproof_operator.http import serve
from onceproof_operator.settings import OperatorSettings
from onceproof_operator.sweep import disarm_orphans
from onceproof_operator.tasks import Tasks
from onceproof_operator.world import World

logger = logging.getLogger(__name__)

_EX_CONFIG = 78


def main() -> int:
    """Run the operator until it is told to stop; the exit code."""
    try:
        settings = OperatorSettings()
    except ValidationError as error:
        sys.stderr.write(f"error: {explain(error)}\n")
        return _EX_CONFIG
    configure_logging(settings.service_name, settings.log_level)
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
        if missing := await world.cluster.missing_rights():
            # It goes on: a drill then says which right it lacks, where its user looks.
            health.not_ready("rights", f"the ServiceAccount may not {', '.join(missing)}")
            logger.error("the operator's ServiceAccount may not %s", ", ".join(missing))
        else:
            await disarm_orphans(world)
        watch = asyncio.create_task(_when_ready(ready, health))
        try:
            await kopf.operator(
                registry=registry(world, tasks),
                namespaces=[settings.namespace],
                standalone=True,
                ready_flag=ready,
            )
        finally:
            watch.cancel()
            await tasks.stop()
            await asyncio.gather(watch, return_exceptions=True)


async def _when_ready(ready: asyncio.Event, health: Health) -> None:
    await ready.wait()
    health.ready("operator")


if __name__ == "__main__":
    sys.exit(main())
