"""The services' configuration for a run: as in production, with shorter times."""

from __future__ import annotations

from onceproof_chaos.backend import Role
from onceproof_chaos.backend.process import CDC_MODULE, MODULES
from onceproof_chaos.environment import Stage
from onceproof_chaos.ports import free_port
from onceproof_chaos.runfolder import RunFolder
from onceproof_chaos.settings import CDC, CampaignSettings


def modules(settings: CampaignSettings) -> dict[Role, str]:
    """Which module is run for each role."""
    return MODULES | ({Role.RELAY: CDC_MODULE} if settings.relay == CDC else {})


def environments(
    settings: CampaignSettings, place: Stage, run: RunFolder
) -> dict[Role, dict[str, str]]:
    """The services' configuration for a run: as in production, with shorter times."""
    shared = {
        **place.servers.aws,
        "ONCEPROOF_DATABASE_URL": place.database_url,
        "ONCEPROOF_VARIANT": settings.variant,
        "ONCEPROOF_SPANS_FILE": str(run.spans_path),
        "ONCEPROOF_QUEUE": place.queue,
        "ONCEPROOF_LOG_LEVEL": "INFO",
    }
    if place.servers.kafka is not None:
        shared |= {
            "ONCEPROOF_BROKER": "kafka",
            "ONCEPROOF_KAFKA_BOOTSTRAP": place.servers.kafka,
            "ONCEPROOF_KAFKA_GROUP": place.queue,
            "ONCEPROOF_KAFKA_SESSION_S": str(settings.visibility_s),
            "ONCEPROOF_KAFKA_MAX_DELIVERIES": str(settings.max_receive_count),
        }
    else:
        shared["ONCEPROOF_SQS_REGION"] = place.servers.region
        if place.servers.sqs_endpoint is not None:
            shared["ONCEPROOF_SQS_ENDPOINT_URL"] = place.servers.sqs_endpoint
    visibility_s = settings.visibility_s
    stage = shared | {
        "ONCEPROOF_TARGET": place.requests or "",
        "ONCEPROOF_TRANSACTIONAL_ID": f"{place.queue}-stage",
        "ONCEPROOF_TRANSACTION_TIMEOUT_S": str(visibility_s),
    }
    return {
        **({Role.STAGE: stage} if place.requests else {}),
        Role.PRODUCER: shared,
        Role.RELAY: shared | _relay(settings, place, run),
        Role.CONSUMER: shared
        | {
            "ONCEPROOF_QUEUE": place.consumed,
            "ONCEPROOF_VISIBILITY_S": str(visibility_s),
            "ONCEPROOF_WAIT_S": "5",
            "ONCEPROOF_BACKOFF_S": "0.2",
            "ONCEPROOF_BACKOFF_MAX_S": "2",
            "ONCEPROOF_PROVIDER_TIMEOUT_S": str(visibility_s / 2),
        },
        Role.PROVIDER: shared
        | {
            "ONCEPROOF_DATABASE_URL": place.provider_database_url,
            "ONCEPROOF_LATENCY_MS": "5",
            "ONCEPROOF_JITTER_MS": "10",
            "ONCEPROOF_WITHHOLD_S": str(visibility_s),
        },
    }


def _relay(settings: CampaignSettings, place: Stage, run: RunFolder) -> dict[str, str]:
    if place.capture is None:
        return {
            "ONCEPROOF_LEASE_S": str(settings.visibility_s),
            "ONCEPROOF_BACKOFF_S": "0.2",
            "ONCEPROOF_BACKOFF_MAX_S": "2",
        }
    return {
        "ONCEPROOF_SLOT": place.capture.slot,
        "ONCEPROOF_CDC_DATABASE_URL": place.capture.url,
        "ONCEPROOF_DEBEZIUM_HOME": str(place.capture.home),
        "ONCEPROOF_JAVA": place.capture.java,
        "ONCEPROOF_DEBEZIUM_DIRECTORY": str(run.path / "debezium"),
        "ONCEPROOF_DEBEZIUM_PORT": str(free_port()),
        "ONCEPROOF_DOOR_PORT": str(free_port()),
        "ONCEPROOF_HEARTBEAT_S": "1",
        "ONCEPROOF_WATCH_S": "0.5",
    }
