"""Stored responses are forgotten after their retention, or the table would grow for ever."""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from onceproof.errors import TransientError
from onceproof.idempotency import delete_expired

logger = logging.getLogger(__name__)


async def expire_keys(engine: AsyncEngine, retention_s: float, interval_s: float) -> None:
    """Delete responses older than `retention_s` every `interval_s` seconds, until cancelled."""
    retention = timedelta(seconds=retention_s)
    while True:
        try:
            deleted = await delete_expired(engine, retention)
        except TransientError as error:
            logger.warning("expired idempotency keys stay until the next round: %s", error)
        else:
            if deleted:
                logger.info("deleted %d expired idempotency keys", deleted)
        # Several producers that started together must not delete together for ever.
        await asyncio.sleep(interval_s * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
