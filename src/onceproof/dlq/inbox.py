"""Ask the inbox which events a consumer has processed. Reads only."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from onceproof.postgres import check, translated

_PROCESSED: Final = text("""
    SELECT event_id FROM onceproof.inbox
    WHERE consumer = :consumer AND event_id = ANY(CAST(:event_ids AS text[]))
""")

_ANY: Final = text("SELECT EXISTS (SELECT FROM onceproof.inbox WHERE consumer = :consumer)")


class Inbox:
    """The inbox of one consumer.

    Args:
        engine: of its database.
        consumer: the name under which it claims events.
    """

    def __init__(self, engine: AsyncEngine, consumer: str) -> None:
        self._engine = engine
        self._consumer = consumer

    async def check(self) -> bool:
        """Whether the consumer has processed anything at all; a misspelt name has not.

        Raises:
            SchemaBehindError: this database has no inbox.
            DatabaseUnavailableError: it cannot be reached.
        """
        await check(self._engine, "onceproof")
        with translated():
            async with self._engine.connect() as connection:
                return bool(await connection.scalar(_ANY, {"consumer": self._consumer}))

    async def processed(self, event_ids: Collection[str]) -> set[str]:
        """Which of these events the consumer has processed.

        Raises:
            DatabaseUnavailableError: it cannot be reached.
        """
        with translated():
            async with self._engine.connect() as connection:
                rows = await connection.execute(
                    _PROCESSED, {"consumer": self._consumer, "event_ids": sorted(event_ids)}
                )
                return set(rows.scalars())
