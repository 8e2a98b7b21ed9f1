"""What the consumer can be told from outside, validated at start."""

from __future__ import annotations

from pydantic import Field

from onceproof.service import BrokerSettings


class ConsumerServiceSettings(BrokerSettings):
    """Environment variables `ONCEPROOF_*`. Times in seconds."""

    service_name: str = "consumer"
    consumer_name: str = Field(default="payments", min_length=1)
    """Identity under which events are claimed in the inbox."""
    provider_url: str = "http://127.0.0.1:8081"
    provider_timeout_s: float = Field(default=10.0, gt=0)
    """For one request to the payment provider; below the visibility timeout."""
    concurrency: int = Field(default=10, ge=1)
    prefetch: int = Field(default=20, ge=0)
    receives: int = Field(default=8, ge=1)
    """Receive requests in flight at most, while they come back full."""
    wait_s: float = Field(default=20.0, ge=0, le=20)
    visibility_s: float = Field(default=30.0, ge=1, le=43200)
    handler_timeout_s: float = Field(default=300.0, gt=0)
    backoff_s: float = Field(default=1.0, gt=0)
    backoff_max_s: float = Field(default=300.0, gt=0)
    inbox_retention_s: float = Field(default=35 * 86400.0, gt=0)
    """Must exceed queue retention + DLQ retention + a redrive; checked at start."""
    inbox_cleanup_s: float = Field(default=600.0, gt=0)
    """Between two clean-ups of the inbox."""
    allow_short_inbox: bool = False
    """Start although the inbox forgets too early; a warning is logged instead."""
    queue_watch_s: float = Field(default=30.0, gt=0)
    """Between two looks at queue and DLQ for the metrics."""
