"""How the consumer of a run becomes a process: what it is told, and what runs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import aiohttp

from onceproof_chaos.backend import Backend, ProcessBackend, Role
from onceproof_chaos.prove.command import CommandBackend
from onceproof_chaos.prove.doors import Doors
from onceproof_chaos.prove.ground import Place
from onceproof_chaos.prove.points import Kind
from onceproof_chaos.prove.settings import ProveSettings

_SERVICE: Final = "onceproof_chaos.prove"


def environment(
    place: Place, doors: Doors, settings: ProveSettings, *, inbox: bool
) -> dict[str, str]:
    """What the consumer is told; the names without prefix are those that other clients know."""
    aws = {"AWS_REGION": place.servers.region, "AWS_DEFAULT_REGION": place.servers.region}
    variables = {
        **place.servers.aws,
        **{name: value for name, value in aws.items() if value},
        "DATABASE_URL": place.database_url,
        "ONCEPROOF_DATABASE_URL": place.database_url,
        "ONCEPROOF_EFFECTS_URL": doors.effects_url,
        "ONCEPROOF_QUEUE": place.queue,
        "ONCEPROOF_QUEUE_URL": doors.queue_url,
        "ONCEPROOF_SQS_REGION": place.servers.region,
        "ONCEPROOF_VISIBILITY_S": str(settings.visibility_s),
        "ONCEPROOF_PROVE_TARGET": settings.target,
        "ONCEPROOF_PROVE_KIND": settings.kind.value,
        "ONCEPROOF_PROVE_PATH": str(settings.path.resolve()),
        "ONCEPROOF_PROVE_INBOX": str(inbox).lower(),
    }
    if doors.sqs_endpoint is not None:
        variables["ONCEPROOF_SQS_ENDPOINT_URL"] = doors.sqs_endpoint
        variables["AWS_ENDPOINT_URL_SQS"] = doors.sqs_endpoint
    return variables


def backend_for(
    settings: ProveSettings, variables: Mapping[str, str], logs: Path, http: aiohttp.ClientSession
) -> Backend:
    """What runs the consumers of one run.

    Args:
        settings: of the proof.
        variables: the consumers' environment.
        logs: folder of their logs.
        http: client for the readiness probe.
    """
    if settings.kind is Kind.COMMAND:
        return CommandBackend(settings.target, settings.path, variables, logs)
    return ProcessBackend({Role.CONSUMER: variables}, logs, http, modules={Role.CONSUMER: _SERVICE})


__all__ = ["backend_for", "environment"]
