"""What the operator is told by its Deployment, validated at start."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from onceproof.service import BrokerSettings


class OperatorSettings(BrokerSettings):
    """Environment variables `ONCEPROOF_*`. Times in seconds.

    `database_url` is the pipeline's; `variant` is what the installation runs.
    """

    service_name: str = "operator"
    namespace: str = Field(min_length=1)
    """The only namespace that the operator looks at, and kills in."""
    release: str = Field(min_length=1)
    """Label `app.kubernetes.io/instance` of the pods that a campaign takes its victims from."""
    relay: Literal["polling", "cdc"] = "polling"
    """What sends the outbox."""
    provider_database_url: SecretStr
    """The payment provider's own database, with its ledger."""
    dead_letter_queue: str = Field(default="orders-dlq", min_length=1)
    visibility_s: float = Field(default=30.0, ge=1, le=43200)
    """Visibility timeout of the queue: quiet windows and stalls must be longer."""
    traces_url: str = "http://127.0.0.1:16686"
    """Query API of the trace store."""
    producer_url: str = "http://127.0.0.1:8080"
    """Where the workload of a campaign places its orders."""
    image: str = ""
    """This operator's image, which also holds the workload."""
    image_pull_secrets: tuple[str, ...] = ()
    """Names, as a JSON list."""
    runs_dir: Path = Path("/runs")
    """Where run folders go."""
    http_port: int = Field(default=9000, ge=0, le=65535)
    """Health, metrics and run folders."""

    @property
    def relays_share(self) -> bool:
        """Whether another relay takes over what one that stalls has claimed."""
        return self.relay == "polling"
