"""What the relay can be told from outside, validated at start."""

from __future__ import annotations

from pydantic import Field

from onceproof.service import BrokerSettings


class RelayServiceSettings(BrokerSettings):
    """Environment variables `ONCEPROOF_*`. Times in seconds.

    `queue` must exist at start; further destinations in the outbox are looked up when they occur.
    """

    service_name: str = "relay"
    batch_size: int = Field(default=100, ge=1, le=10_000)
    batches_in_flight: int = Field(default=4, ge=1, le=64)
    """Claimed batches that are sent and marked at the same time."""
    lease_s: float = Field(default=30.0, gt=0)
    poll_s: float = Field(default=1.0, gt=0)
    linger_s: float = Field(default=0.01, ge=0, le=60)
    """How long rows may gather at most when they come in a steady stream; 0: never."""
    backoff_s: float = Field(default=0.5, gt=0)
    backoff_max_s: float = Field(default=60.0, gt=0)
    retention_s: float = Field(default=86400.0, ge=0)
    """How long published rows are kept for questions."""
    cleanup_s: float = Field(default=60.0, gt=0)
    """Between two clean-ups of published rows."""
