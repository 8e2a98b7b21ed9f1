"""What a process needs around the library: settings, signals, telemetry SDK, admin port."""

from onceproof.service.background import alongside, watch_database
from onceproof.service.runtime import Runtime, StopRequestedError, run_service
from onceproof.service.settings import ServiceSettings

__all__ = [
    "Runtime",
    "ServiceSettings",
    "StopRequestedError",
    "alongside",
    "run_service",
    "watch_database",
]
