"""What the order API can be told from outside, validated at start."""

from __future__ import annotations

from pydantic import Field

from onceproof.service import BrokerSettings


class ProducerSettings(BrokerSettings):
    """Environment variables `ONCEPROOF_*`. Times in seconds, sizes in bytes.

    Only a producer without the outbox talks to the broker.
    """

    service_name: str = "producer"
    http_host: str = "0.0.0.0"
    http_port: int = Field(default=8080, ge=0, le=65535)
    pool_size: int = Field(default=10, ge=1)
    """Database connections, and so the orders that are written at the same time."""
    max_body_bytes: int = Field(default=65536, ge=1)
    notify: bool = True
    """Wake the relay after a commit. Without it an order waits for the relay's next poll."""
    idempotency_retention_s: float = Field(default=24 * 3600, gt=0)
    """How long a response is kept for replay. A client must not repeat a request after that."""
    idempotency_cleanup_s: float = Field(default=600, gt=0)
    """Seconds between clean-ups of older responses."""
