"""The Postgres side of the library: engine, named SQL, schema, and translation of driver errors."""

from onceproof.postgres.connections import Connection, Connections
from onceproof.postgres.engine import create_engine, normalise_url
from onceproof.postgres.failures import DRIVER_ERRORS, is_connection_failure, translated
from onceproof.postgres.schema import Component, check, component, components, migrations, upgrade

__all__ = [
    "DRIVER_ERRORS",
    "Component",
    "Connection",
    "Connections",
    "check",
    "component",
    "components",
    "create_engine",
    "is_connection_failure",
    "migrations",
    "normalise_url",
    "translated",
    "upgrade",
]
