"""Debezium Server's configuration, each setting that is not obvious with its reason."""

from __future__ import annotations

from typing import Final

from sqlalchemy.engine import make_url

from onceproof_relay.cdc.door import HEARTBEATS
from onceproof_relay.cdc.settings import CdcSettings

PASSWORD_VARIABLE: Final = "DEBEZIUM_SOURCE_DATABASE_PASSWORD"  # noqa: S105 - a name
_TOPIC_PREFIX: Final = "onceproof"
_MESSAGE_PREFIX: Final = "onceproof-heartbeat"
_MOST_RECORDS: Final = 500
"""Of a PutRecords."""


def properties(settings: CdcSettings) -> dict[str, str]:
    """Everything but the database password, which comes by `PASSWORD_VARIABLE`."""
    url = make_url(settings.cdc_database_url.get_secret_value())
    return {
        # Its sink for SQS sends one message a request; this one sends batches. They go to the door.
        "debezium.sink.type": "kinesis",
        "debezium.sink.kinesis.region": settings.sqs_region,
        "debezium.sink.kinesis.endpoint": f"http://{settings.door_host}:{settings.door_port}",
        "debezium.sink.kinesis.batch.size": str(min(settings.batch_size, _MOST_RECORDS)),
        # Each second. It would give up after five and end.
        "debezium.sink.kinesis.default.retries": str(2**31 - 1),
        "debezium.source.connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "debezium.source.database.hostname": url.host or "127.0.0.1",
        "debezium.source.database.port": str(url.port or 5432),
        "debezium.source.database.user": url.username or "",
        "debezium.source.database.dbname": url.database or "",
        # It would make a slot that is not there anew, and what was committed meanwhile would be lost
        # without a word. This makes it fail instead, on every connection.
        "debezium.source.database.initial.statements":
            f"SELECT onceproof.require_slot('{settings.slot}')",
        "debezium.source.plugin.name": "pgoutput",
        "debezium.source.slot.name": settings.slot,
        # A reader that was killed may hold the slot for a moment longer.
        "debezium.source.slot.max.retries": "60",
        "debezium.source.slot.retry.delay.ms": "500",
        "debezium.source.errors.retry.delay.initial.ms": "500",
        # After a restart of the server, too: the default is ten seconds.
        "debezium.source.retriable.restart.connector.wait.ms": "500",
        "debezium.source.publication.name": settings.slot,
        "debezium.source.publication.autocreate.mode": "disabled",
        "debezium.source.table.include.list": "onceproof.outbox",
        "debezium.source.topic.prefix": _TOPIC_PREFIX,
        "debezium.source.snapshot.mode": "no_data",
        # The slot is the one position: with a second one, kept in a file, they can contradict each
        # other, and a pod would need a disk. Without an offset it goes on where the slot is.
        "debezium.source.offset.storage": "org.apache.kafka.connect.storage.MemoryOffsetBackingStore",
        "debezium.source.offset.flush.interval.ms": _ms(settings.flush_s),
        # Writes to other tables move the WAL and not the slot, unless something comes through it. A
        # heartbeat does, when it is confirmed like an event: dropped by a transformation, it is not.
        "debezium.source.heartbeat.interval.ms": _ms(settings.heartbeat_s),
        "debezium.source.heartbeat.action.query":
            f"SELECT pg_logical_emit_message(false, '{_MESSAGE_PREFIX}', '')",
        "debezium.source.message.prefix.exclude.list": _MESSAGE_PREFIX,
        "debezium.source.poll.interval.ms": _ms(settings.poll_s),
        "debezium.source.topic.heartbeat.prefix": HEARTBEATS,
        # The position is confirmed between batches only, and a crash sends all since then again.
        "debezium.source.max.batch.size": str(settings.batch_size),
        "debezium.source.max.queue.size": str(4 * settings.batch_size),
        "debezium.transforms": "outbox",
        "debezium.transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
        "debezium.transforms.outbox.table.field.event.key": "key",
        "debezium.transforms.outbox.route.by.field": "destination",
        # The stream's name is the queue's or topic's. With \\ before it, or it is taken for a setting.
        "debezium.transforms.outbox.route.topic.replacement": r"\\${routedByValue}",
        # The payload as it is: it is the event's JSON already.
        "debezium.format.value": "simplestring",
        "debezium.format.key": "simplestring",
        "quarkus.http.port": str(settings.debezium_port),
        # Its sink logs each message at INFO.
        "quarkus.log.level": "WARN",
        # It warns of the default of a column that it need not know.
        'quarkus.log.category."io.debezium.connector.postgresql.connection".level': "ERROR",
    }  # fmt: skip


def as_text(lines: dict[str, str]) -> str:
    """The content of `application.properties`."""
    return "".join(f"{name}={value}\n" for name, value in lines.items())


def _ms(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))
