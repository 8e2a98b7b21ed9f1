"""Which broker a service works on, and how to reach it: `ONCEPROOF_BROKER=sqs|kafka`.

Only the client that is chosen is imported: each needs its extra, and memory.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from pydantic import Field, SecretStr

from onceproof.ports import Publisher, Subscriber
from onceproof.service.settings import ServiceSettings

if TYPE_CHECKING:
    from onceproof.brokers.kafka import KafkaSettings

SYSTEMS: Final = {"sqs": "aws_sqs", "kafka": "kafka"}
"""`messaging.system` of a broker in spans."""


class Broker(Publisher, Protocol):
    """A client of the broker: sends, and makes subscribers."""

    def subscriber(self, queue: str) -> Subscriber:
        """A subscriber of a queue or topic."""
        ...


class BrokerSettings(ServiceSettings):
    """What a service that talks to a broker is told: `ONCEPROOF_<FIELD>`. Times in seconds."""

    broker: Literal["sqs", "kafka"] = "sqs"
    queue: str = Field(default="orders", min_length=1)
    """Queue, or topic; a topic's `<queue>.retry` and `<queue>.dlq` belong to it."""
    sqs_endpoint_url: str | None = None
    """Of an SQS-compatible server; None is AWS."""
    sqs_region: str = "eu-central-1"
    kafka_bootstrap: str = "127.0.0.1:9092"
    """`host:port`, several with commas."""
    kafka_group: str = Field(default="payments", min_length=1)
    kafka_session_s: float = Field(default=10.0, ge=1, le=300)
    """Without a heartbeat for so long a consumer's partitions go to others."""
    kafka_max_deliveries: int = Field(default=5, ge=1, le=1000)
    """Deliveries after which a record goes to the DLQ topic."""
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    kafka_ca_file: Path | None = None
    """Certificate authority of the brokers; None takes the system's."""

    @property
    def messaging_system(self) -> str:
        """`messaging.system` in spans."""
        return SYSTEMS[self.broker]

    def kafka(self, *, stall_s: float = 30.0, revoke_s: float = 10.0) -> KafkaSettings:
        """How to reach Kafka.

        Args:
            stall_s: seconds after which a consumer that lives and does not work loses its partitions.
            revoke_s: seconds that work in hand gets to finish when its partition is taken away.

        Raises:
            ConfigurationError: the settings contradict one another.
        """
        from onceproof.brokers.kafka import KafkaSettings  # noqa: PLC0415

        return KafkaSettings(
            self.kafka_bootstrap,
            group=self.kafka_group,
            session_s=self.kafka_session_s,
            stall_s=stall_s,
            revoke_s=revoke_s,
            security=self._security(),
        )

    def _security(self) -> dict[str, Any]:
        security: dict[str, Any] = {"security.protocol": self.kafka_security_protocol}
        if self.kafka_security_protocol.startswith("SASL") and self.kafka_sasl_password is not None:
            security |= {
                "sasl.mechanism": self.kafka_sasl_mechanism,
                "sasl.username": self.kafka_sasl_username or "",
                "sasl.password": self.kafka_sasl_password.get_secret_value(),
            }
        if self.kafka_ca_file is not None:
            security["ssl.ca.location"] = str(self.kafka_ca_file)
        return security


@asynccontextmanager
async def connect_broker(
    settings: BrokerSettings, *, stall_s: float = 30.0
) -> AsyncGenerator[Broker]:
    """A client of the broker that the settings name.

    Args:
        settings: of the service.
        stall_s: see `BrokerSettings.kafka`.

    Raises:
        ConfigurationError: no client can be made of these settings.
    """
    if settings.broker == "kafka":
        from onceproof.brokers.kafka import KafkaBroker, TopicPolicy  # noqa: PLC0415

        policy = TopicPolicy.of(settings.queue, settings.kafka_max_deliveries)
        kafka = settings.kafka(stall_s=stall_s, revoke_s=min(10.0, stall_s / 2))
        async with KafkaBroker.connect(kafka, {settings.queue: policy}) as broker:
            yield broker
    else:
        from onceproof.brokers.sqs import SqsBroker  # noqa: PLC0415

        async with SqsBroker.connect(
            endpoint_url=settings.sqs_endpoint_url, region=settings.sqs_region
        ) as queue_broker:
            yield queue_broker
