"""How to reach a Kafka and how a member of a group behaves; each field with its unit and reason."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from onceproof.errors import ConfigurationError

logger = logging.getLogger("onceproof.kafka")
"""Gets what the client itself says."""

_OURS: Final = frozenset(
    {
        "auto.offset.reset",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.idempotence",
        "enable.partition.eof",
        "group.id",
        "isolation.level",
        "partition.assignment.strategy",
    }
)
"""What delivery and order rest on. Another value of one of these would lose or reorder events."""


@dataclass(frozen=True, slots=True)
class TopicPolicy:
    """What belongs to a topic; Kafka itself knows nothing of it.

    Args:
        retry: topic for what failed and waits to be tried again; must exist.
        dead_letter: topic for what cannot be processed; None where there is none.
        max_receive_count: deliveries after which a record goes to `dead_letter`.
    """

    retry: str | None = None
    dead_letter: str | None = None
    max_receive_count: int = 5

    @classmethod
    def of(cls, topic: str, max_receive_count: int = 5) -> TopicPolicy:
        """The names that chart and services use: `<topic>.retry` and `<topic>.dlq`."""
        return cls(f"{topic}.retry", f"{topic}.dlq", max_receive_count)


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """A cluster, and this process as a client of it.

    Args:
        bootstrap: `host:port`, several with commas.
        group: consumer group; its offsets say what is done.
        session_s: seconds without a heartbeat after which the broker gives a dead member's partitions
            to others. Brokers refuse less than their `group.min.session.timeout.ms`, 6 s by default.
        stall_s: seconds after which a member that lives and does not work loses its partitions
            (`max.poll.interval.ms`): what the visibility timeout is to a queue.
        revoke_s: seconds that work in hand gets to finish when its partition is taken away.
        send_timeout_s: seconds after which a record that the broker did not confirm has failed; its
            outcome is unknown then.
        request_timeout_s: seconds for one question to the cluster.
        window: records of one partition handed out at most. The delivery counts of so many fit into
            an offset's metadata.
        buffer: records of one partition in memory at most, those that wait for their turn included.
        security: further librdkafka settings, such as `security.protocol`, `sasl.*` and `ssl.*`.
    """

    bootstrap: str
    group: str = "payments"
    session_s: float = 10.0
    stall_s: float = 30.0
    revoke_s: float = 10.0
    send_timeout_s: float = 10.0
    request_timeout_s: float = 5.0
    window: int = 250
    buffer: int = 1000
    security: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.bootstrap:
            raise ConfigurationError("Kafka needs bootstrap servers, e.g. kafka:9092")
        if not self.group:
            raise ConfigurationError("a Kafka consumer needs a group: its offsets say what is done")
        if not 1 <= self.window <= 250:
            raise ConfigurationError("window is between 1 and 250: more do not fit into metadata")
        if self.buffer < self.window:
            raise ConfigurationError("buffer is at least as large as window")
        if forbidden := sorted(_OURS & set(self.security)):
            raise ConfigurationError(
                f"{', '.join(forbidden)}: set by onceproof, because what it promises rests on it. "
                "`isolation.level`, for one, must be read_committed, or events of transactions that "
                "were aborted are charged"
            )

    def client(self) -> dict[str, Any]:
        """Librdkafka's settings for any client."""
        return {
            "bootstrap.servers": self.bootstrap,
            "client.id": "onceproof",
            "socket.keepalive.enable": True,
            "logger": logger,
            "log.connection.close": False,  # brokers close idle connections, which is no news
            # A broker that is away is asked again soon: the backoff of its callers knows more.
            "reconnect.backoff.max.ms": 1000,
            **self.security,
        }

    def producer(self) -> dict[str, Any]:
        """Librdkafka's settings for sending: idempotent, so that its own retries double nothing."""
        return self.client() | {
            "enable.idempotence": True,  # implies acks=all and order per partition
            "linger.ms": 1,
            "message.timeout.ms": int(self.send_timeout_s * 1000),
        }

    def consumer(self) -> dict[str, Any]:
        """Librdkafka's settings for a member of the group."""
        session_ms = int(self.session_s * 1000)
        return self.client() | {
            "group.id": self.group,
            # A group that starts at `latest` loses what was sent before it joined.
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            # Records of transactions that are aborted or still open are not events.
            "isolation.level": "read_committed",
            # Behind the last record of a partition may be a transaction's mark, which counts as lag.
            "enable.partition.eof": True,
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": session_ms,
            "heartbeat.interval.ms": max(session_ms // 5, 100),
            "max.poll.interval.ms": max(int(self.stall_s * 1000), session_ms),
            # A partition that is paused has its fetched records thrown away: let it be few.
            "fetch.message.max.bytes": 256 * 1024,
            "queued.max.messages.kbytes": 8 * 1024,
            "fetch.wait.max.ms": 500,
        }
