"""What a process needs around the library: settings, signals, telemetry SDK, admin port."""

from onceproof.service.background import alongside, clean_up, watch_database
from onceproof.service.broker import Broker, BrokerSettings, connect_broker
from onceproof.service.runtime import Runtime, StopRequestedError, run_service
from onceproof.service.settings import ServiceSettings

__all__ = [
    "Broker",
    "BrokerSettings",
    "Runtime",
    "ServiceSettings",
    "StopRequestedError",
    "alongside",
    "clean_up",
    "connect_broker",
    "run_service",
    "watch_database",
]
