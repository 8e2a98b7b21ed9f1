"""What the payment provider can be told from outside: its ledger, and how badly it behaves."""

from __future__ import annotations

from pydantic import Field

from onceproof.service import ServiceSettings


class ProviderSettings(ServiceSettings):
    """Environment variables `ONCEPROOF_*`. `database_url` is the provider's own database."""

    service_name: str = "provider"
    http_host: str = "0.0.0.0"
    http_port: int = Field(default=8081, ge=0, le=65535)
    pool_size: int = Field(default=10, ge=1)
    """Database connections, and so the captures that are written at the same time."""
    max_body_bytes: int = Field(default=65536, ge=1)
    latency_ms: float = Field(default=0, ge=0, le=60_000)
    """Milliseconds before each capture, as a real provider takes them."""
    jitter_ms: float = Field(default=0, ge=0, le=60_000)
    """Up to so many milliseconds more, evenly distributed."""
    fault_rate: float = Field(default=0, ge=0, le=1)
    """Share of charges that are refused with 503 before anything is captured."""
    fault_seed: int | None = None
    """Makes jitter and faults the same in each run; None takes new ones."""
    withhold_s: float = Field(default=30, gt=0)
    """Seconds for which an answer dropped at `provider.after_capture` is held back. Must exceed the
    client's time-out, or the client sees an answer instead of a time-out."""
