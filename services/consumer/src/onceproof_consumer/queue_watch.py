"""What only the broker knows: how much waits, what died, and how long it can bring an event back.

The redrive policy moves messages to the DLQ without telling any consumer, and a queue's retention can
be raised while consumers run that checked it when they started.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from onceproof import metrics
from onceproof.errors import OnceproofError
from onceproof.inbox import DedupWindow
from onceproof.ports import Subscriber

logger = logging.getLogger(__name__)


SubscriberOf = Callable[[str], Subscriber]
"""A subscriber of the queue with this name."""


async def watch_queue(
    subscriber_of: SubscriberOf, queue: str, *, inbox_retention_s: float | None, interval_s: float
) -> None:
    """Tell the metrics about `queue` and its DLQ every `interval_s` seconds, until cancelled.

    Args:
        subscriber_of: where the queues are.
        queue: name of the one that is consumed.
        inbox_retention_s: how long the inbox remembers; None without an inbox.
        interval_s: seconds between two looks; a look is four requests on SQS.
    """
    while True:
        try:
            await observe_queue(subscriber_of, queue, inbox_retention_s=inbox_retention_s)
        except OnceproofError as error:
            # Not the consumer's trouble: what it needs of the broker it notices itself.
            logger.warning("queue %r was not looked at, trying again later: %s", queue, error)
        await asyncio.sleep(interval_s)


async def observe_queue(
    subscriber_of: SubscriberOf, queue: str, *, inbox_retention_s: float | None
) -> None:
    """Look once; see `watch_queue`.

    Raises:
        BrokerUnavailableError: the gauges keep what they had.
        QueueNotFoundError: as above.
    """
    subscriber = subscriber_of(queue)
    info = await subscriber.describe()
    metrics.queue_messages.set((await subscriber.depth()).total)
    if info.dead_letter is not None:
        depth = await subscriber_of(info.dead_letter.name).depth()
        metrics.dead_letters.set(depth.total)
    window = DedupWindow.of(info)
    if inbox_retention_s is not None and window.known:
        metrics.inbox_retention.set(inbox_retention_s)
        metrics.dedup_window.set(window.total_s)
