"""The producer's table `orders`, migrated as the component `producer`."""

from __future__ import annotations

from pathlib import Path


def migrations() -> Path:
    """The folder that Alembic reads; the entry point of the group `onceproof.schemas`."""
    return Path(__file__).parent / "migrations"
