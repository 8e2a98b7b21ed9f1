"""What every component's `env.py` does: migrate on the connection that `upgrade` opened.

There is no offline mode and no ini file; `onceproof schema upgrade` is the one way in.
"""

from __future__ import annotations

from alembic import context


def run() -> None:
    """Run the migrations of the component that Alembic was configured with."""
    attributes = context.config.attributes
    context.configure(
        connection=attributes["connection"],
        version_table=attributes["version_table"],
        transactional_ddl=True,
    )
    context.run_migrations()
