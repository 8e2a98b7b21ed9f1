"""What the relay beside Debezium can be told from outside, validated at start."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from onceproof.outbox.slot import DEFAULT_SLOT
from onceproof.service import BrokerSettings


class CdcSettings(BrokerSettings):
    """Environment variables `ONCEPROOF_*`. Times in seconds."""

    service_name: str = "relay"
    slot: str = DEFAULT_SLOT
    """Replication slot and publication; `onceproof outbox slot create` makes them."""
    cdc_database_url: SecretStr
    """For Debezium: the same database by TCP, as a role that may only replicate and read the outbox."""
    debezium_home: Path | None = None
    """Unpacked distribution of Debezium Server, to be run from here; None: it runs elsewhere."""
    java: str = "java"
    """Version 21 or newer."""
    debezium_directory: Path = Path("/tmp/debezium")  # noqa: S108 - in a container; the pod's own
    """Gets its `config/application.properties`."""
    debezium_port: int = Field(default=8080, ge=1, le=65535)
    """Of its own health endpoint."""
    door_host: str = "127.0.0.1"
    door_port: int = Field(default=9324, ge=1, le=65535)
    """Where Debezium sends to."""
    heartbeat_s: float = Field(default=5.0, gt=0)
    """Between records that move the slot on while other tables write and the outbox is quiet."""
    batch_size: int = Field(default=50, ge=1, le=10_000)
    """Events after which the position may be confirmed, and of a request to the door."""
    flush_s: float = Field(default=0.1, gt=0)
    """Between confirmations of the position; after a crash what was sent since is sent again."""
    poll_s: float = Field(default=0.01, gt=0)
    """Between Debezium's looks at what it has decoded."""
    watch_s: float = Field(default=1.0, gt=0)
    """Between looks at the slot."""
    retention_s: float = Field(default=86400.0, ge=0)
    """How long rows that were sent are kept: a lost slot is reconciled from them."""
    cleanup_s: float = Field(default=60.0, gt=0)
    """Between two clean-ups of them."""
    idle_grace_s: float = Field(default=30.0, ge=0)
    """How long nobody may read the slot, as while Debezium starts, before this is not ready."""
    backoff_s: float = Field(default=0.5, gt=0)
    """Until Debezium is started again after it ended."""
