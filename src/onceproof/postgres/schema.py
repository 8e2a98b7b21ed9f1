"""Alembic migrations, packaged with the code that needs them, one history per component.

The library's tables live in the Postgres schema `onceproof`. A service that has tables of its own
registers its migrations under the entry point group `onceproof.schemas`; each component keeps its
revision in a version table of its own, so that they are upgraded independently.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine

from onceproof.errors import ConfigurationError, SchemaBehindError
from onceproof.postgres.engine import create_engine
from onceproof.postgres.failures import translated

_GROUP: Final = "onceproof.schemas"
_UPGRADE_LOCK: Final = 0x0DCE_9F00
"""Advisory lock: pods that start together must not migrate at the same time."""


@dataclass(frozen=True, slots=True)
class Component:
    """A set of migrations: its name and the folder with `env.py` and `versions/`."""

    name: str
    location: Path

    @property
    def version_table(self) -> str:
        """Where Alembic keeps the component's revision."""
        return f"{self.name}_schema_version"

    def head(self) -> str:
        """The newest revision: histories are linear and files are named `<revision>_<what>.py`.

        Read off the names, because a service needs only this at start and Alembic would cost it ten
        megabytes and a noticeable part of its start-up time.
        """
        return max(path.name.partition("_")[0] for path in self.location.glob("versions/*.py"))


def migrations() -> Path:
    """The library's own migrations."""
    return Path(__file__).parent / "migrations"


def components() -> dict[str, Component]:
    """Every installed component by name."""
    return {
        point.name: Component(point.name, point.load()()) for point in entry_points(group=_GROUP)
    }


def component(name: str) -> Component:
    """One installed component.

    Raises:
        ConfigurationError: no such component.
    """
    known = components()
    if name not in known:
        raise ConfigurationError(
            f"no schema {name!r} is installed; known: {', '.join(sorted(known))}"
        )
    return known[name]


async def upgrade(url: str, *names: str) -> dict[str, str]:
    """Bring components to their newest revision; the revisions they are at afterwards.

    Idempotent, and safe to run from several processes at once.
    """
    engine = create_engine(
        url, application_name="onceproof-schema", lock_timeout_s=60, statement_timeout_s=600
    )
    try:
        with translated():
            async with engine.begin() as connection:
                await connection.execute(
                    text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _UPGRADE_LOCK}
                )
                for name in names:
                    await connection.run_sync(_upgrade, component(name))
                return {
                    name: await connection.run_sync(_revision, component(name)) for name in names
                }
    finally:
        await engine.dispose()


async def check(engine: AsyncEngine, *names: str) -> None:
    """Compare the database's revisions with what the code needs.

    A newer revision passes: a roll-out migrates first, and pods of the old version start meanwhile.

    Raises:
        SchemaBehindError: a component is missing or older.
        DatabaseUnavailableError: it could not be asked.
    """
    with translated():
        async with engine.connect() as connection:
            for name in names:
                wanted = component(name)
                head = wanted.head()
                current = await connection.run_sync(_revision, wanted)
                if current < head:
                    raise SchemaBehindError(
                        f"schema {name!r} is at revision {current or 'none'}, this code needs "
                        f"{head}; run: onceproof schema upgrade {name}"
                    )


def _upgrade(connection: Connection, wanted: Component) -> None:
    if _revision(connection, wanted) >= wanted.head():
        return  # also when a newer version of the code has been here, whose revisions we do not know
    # Imported here: only who migrates needs Alembic in memory.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(wanted.location).replace("%", "%%"))
    config.attributes |= {"connection": connection, "version_table": wanted.version_table}
    command.upgrade(config, "head")


def _revision(connection: Connection, wanted: Component) -> str:
    if not inspect(connection).has_table(wanted.version_table):
        return ""
    table = connection.dialect.identifier_preparer.quote(wanted.version_table)
    # The name is an installed component's, quoted; identifiers cannot be bound as parameters.
    return str(connection.scalar(text(f"SELECT version_num FROM {table}")) or "")  # noqa: S608
