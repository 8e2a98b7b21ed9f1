"""What the stage can be told from outside, validated at start."""

from __future__ import annotations

from pydantic import Field

from onceproof.service import BrokerSettings


class StageServiceSettings(BrokerSettings):
    """Environment variables `ONCEPROOF_*`. Times in seconds. `queue` is the topic that is read."""

    service_name: str = "stage"
    target: str = Field(default="payment-requests", min_length=1)
    """Topic that is written; its dead letters go to `<queue>.dlq`."""
    transactional_id: str = Field(min_length=1)
    """Of this instance and no other, and the same after a restart: it fences the predecessor."""
    commit_interval_s: float = Field(default=0.1, gt=0)
    transaction_timeout_s: float = Field(default=10.0, gt=0)
    """After so long the broker aborts a transaction whose producer is silent."""
