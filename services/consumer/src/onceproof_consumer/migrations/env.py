"""Alembic's entry; see `onceproof.postgres.alembic_env`."""

from onceproof.postgres.alembic_env import run

run()
