"""The admin port of a service: health, metrics and, with chaos enabled, crash points."""

from onceproof.admin.server import AdminServer, Health

__all__ = ["AdminServer", "Health"]
