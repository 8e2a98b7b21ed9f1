"""Extend the visibility of messages in hand while they wait or are worked on.

Best effort: it lowers the number of duplicates and never makes them impossible. What has lapsed is
not extended, because by then the message may be somebody else's.
"""

from __future__ import annotations

import asyncio
import logging
import time

from onceproof import metrics
from onceproof.consumer.inflight import InFlight
from onceproof.ports import Subscriber

logger = logging.getLogger(__name__)


async def heartbeat(
    subscriber: Subscriber, in_flight: InFlight, *, visibility_s: float, interval_s: float
) -> None:
    """Extend every `interval_s` seconds what was not extended since the last time; until cancelled."""
    while True:
        await asyncio.sleep(interval_s)
        await extend_due(subscriber, in_flight, visibility_s=visibility_s, interval_s=interval_s)


async def extend_due(
    subscriber: Subscriber, in_flight: InFlight, *, visibility_s: float, interval_s: float
) -> int:
    """Extend messages received or extended more than half an interval ago; how many succeeded.

    And those which would not see the next time but one, where the interval is most of the visibility.
    """
    now = time.monotonic()
    enough_s = max(visibility_s - interval_s / 2, interval_s * 1.5)
    due = [item for item in in_flight if not item.lapsed and item.visible_until - now < enough_s]
    if not due:
        return 0
    results = await subscriber.extend([item.message for item in due], visibility_s)
    extended = 0
    for item, result in zip(due, results, strict=True):
        if result.ok:
            item.visible_until = now + visibility_s
            extended += 1
        elif result.stale:
            item.visible_until = now
            logger.info("delivery of %s is no longer ours", item.delivery.event.id)
        else:
            logger.warning("visibility not extended: %s", result.error)
    metrics.visibility_extensions.inc(extended)
    return extended
