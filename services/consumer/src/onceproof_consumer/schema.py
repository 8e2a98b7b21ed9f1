"""The consumer's table `charges`, migrated as the component `consumer`."""

from __future__ import annotations

from pathlib import Path


def migrations() -> Path:
    """The folder that Alembic reads; the entry point of the group `onceproof.schemas`."""
    return Path(__file__).parent / "migrations"
